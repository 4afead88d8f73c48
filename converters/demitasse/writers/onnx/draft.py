"""Draft an ONNX graph: nodes with unique names, typed values, constants, and the weights that they read.

A `Draft` is filled one graph node at a time through a `Site`, which knows the node's names and shapes. It holds
everything of the artifact that is small; weights are only listed, for `stream` to fetch one by one.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from demitasse.errors import InvalidGraph
from demitasse.ir.graph import Graph, Node, infer_types
from demitasse.ir.ops import Activation, AveragePool, DType, Op, Pad, Padding, Recurrent, Shape, ShapeError, TensorType
from demitasse.ir.weights import Array

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

__all__ = ["BATCH", "Dims", "Draft", "Initializer", "Site", "element_type"]

BATCH = "batch"
"""The name of the dimension that a runtime is free to choose."""

Dims: TypeAlias = "tuple[int | str, ...]"


class Initializer(NamedTuple):
    """A weight as the artifact holds it: under which name, of which type, its axes in which order.

    `view` is another shape for the same elements, where the artifact's isn't that of the ordered axes. `content` holds
    the elements where they aren't the weight's own: rounded ones, of an element type of their own.
    """

    name: str
    type: TensorType
    axes: tuple[int, ...] | None = None
    content: Array | None = None
    view: Shape | None = None

    def ordered(self, weight: Array) -> Array:
        """View a weight in the shape and order in which the artifact holds it."""
        turned = weight if self.axes is None else weight.transpose(self.axes)
        return turned if self.view is None else turned.reshape(self.view)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type that is stored."""
        return np.dtype(self.type.dtype.value) if self.content is None else self.content.dtype

    @property
    def size(self) -> int:
        """The bytes that are stored."""
        return self.type.size * self.dtype.itemsize


def element_type(dtype: DType | np.dtype[Any]) -> int:
    """Returns ONNX's number (`TensorProto.DataType`) of an element type."""
    from onnx.helper import np_dtype_to_tensor_dtype

    return int(np_dtype_to_tensor_dtype(np.dtype(dtype.value) if isinstance(dtype, DType) else dtype))


def value_info(name: str, dtype: DType, dims: Dims) -> ValueInfoProto:
    """Describe a value."""
    from onnx.helper import make_tensor_value_info

    return make_tensor_value_info(name, element_type(dtype), dims)


class CountedPad(NamedTuple):
    """Zeros that an average pooling adds around its input itself, and counts."""

    source: str
    pads: tuple[Padding, ...]


class Draft:
    """Collects what an ONNX graph is made of.

    Args:
        graph: the graph to write.
        opset: the version of ONNX's operator set to spell it in.
        named: values that the artifact's document speaks of, which therefore must exist in it.

    Attributes:
        nodes: ONNX nodes in run order.
        constants: shapes, axes, limits and the like that nodes read and no weight holds.
        initializers: for each weight that some node reads, how the artifact holds it.
        internal: values that the graph doesn't know, made while one of its nodes was composed.
        dims: the dimensions of each value of the graph, the batch by name.
        stored: inputs and outputs of the graph that the artifact holds as integers, with ONNX's number of their type.
        omitted: further results of nodes that nobody reads or speaks of.
    """

    def __init__(self, graph: Graph, opset: int, named: Container[str | None] = ()) -> None:
        self.graph = graph
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.initializers: dict[str, list[Initializer]] = {}
        self.internal: list[ValueInfoProto] = []
        self.dims = _dims(graph)
        self.stored: dict[str, int] = {}
        self.consumers = graph.consumers()
        self.counted_pads = self._find_counted_pads(named)
        self.omitted = {
            name
            for node in graph.nodes
            if isinstance(node.op, Recurrent)
            for name in node.outputs
            if name not in self.consumers and name not in graph.outputs and name not in named
        }
        self._names = dict.fromkeys([*graph.values, *graph.weights], 1)
        self._node_names: dict[str, int] = {}

    def value_infos(self) -> list[ValueInfoProto]:
        """Describe every value that is neither an input nor an output of the graph."""
        ports = {*self.graph.inputs, *self.graph.outputs, *self.counted_pads, *self.omitted}
        own = [self.describe(name) for name in self.graph.values if name not in ports]
        return own + self.internal

    def describe(self, name: str) -> ValueInfoProto:
        """Describe a value of the graph."""
        if name in self.stored:
            from onnx.helper import make_tensor_value_info

            return make_tensor_value_info(name, self.stored[name], self.dims[name])
        return value_info(name, self.graph.type(name).dtype, self.dims[name])

    def fresh(self, name: str) -> str:
        """Claim a name for a value or constant, numbered where it is taken."""
        return _claim(name, self._names)

    def node_name(self, layer: str, operator: str) -> str:
        """Claim a name for a node: its layer's, for a layer's further nodes with the operator added."""
        name = layer or operator
        return _claim(name if name not in self._node_names else f"{name}/{operator}", self._node_names)

    def read(self, weight: str, axes: tuple[int, ...] | None = None, view: Shape | None = None) -> str:
        """Have a weight in the artifact, its axes reordered or viewed otherwise, and return its name there."""
        held = self.initializers.setdefault(weight, [])
        for initializer in held:
            if (initializer.axes, initializer.view) == (axes, view):
                return initializer.name
        shape, dtype = self.graph.weights.type(weight)
        if view is not None:
            held.append(Initializer(self.fresh(f"{weight}/viewed"), TensorType(view, dtype), axes, view=view))
        elif axes is None:
            held.append(Initializer(weight, TensorType(shape, dtype)))
        else:
            turned = TensorType(tuple(shape[axis] for axis in axes), dtype)
            held.append(Initializer(self.fresh(f"{weight}/transposed"), turned, axes))
        return held[-1].name

    def _find_counted_pads(self, named: Container[str | None]) -> dict[str, CountedPad]:
        """Find the padding that an average pooling can do itself, by the value that the pooling reads.

        `AveragePool` with `count_include_pad` divides by the whole window, which is what a `Pad` with zeros and a
        pooling without pads of its own come to. It must be the only reader, and the value must not be asked for.
        """
        counted = {}
        for node in self.graph.nodes:
            value = node.outputs[0]
            readers = self.consumers.get(value, [])
            if len(readers) == 1 and value not in self.graph.outputs and value not in named:
                pads = _spatial_pads(node.op, readers[0].op)
                if pads is not None:
                    counted[value] = CountedPad(node.inputs[0], pads)
        return counted


class Site:
    """The place of one graph node in a draft, where its ONNX nodes are added."""

    def __init__(self, draft: Draft, node: Node) -> None:
        self.draft = draft
        self.node = node
        self.opset = draft.opset

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.node.inputs

    @property
    def output(self) -> str:
        """The first result."""
        return self.node.outputs[0]

    def type(self, name: str) -> TensorType:
        return self.draft.graph.type(name)

    def is_weight(self, name: str) -> bool:
        return name in self.draft.graph.weights

    def readers(self, name: str) -> Sequence[Node]:
        """Return the graph's nodes that read a value."""
        return self.draft.consumers.get(name, ())

    def dims(self, name: str) -> Dims:
        """Return a value's or weight's dimensions, the batch by name."""
        return self.draft.dims[name] if name in self.draft.dims else self.type(name).shape

    def emit(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """Add a node; an attribute of None is left out, and so is an input named `""` (an optional one)."""
        from onnx.helper import make_node

        for name in inputs:
            if self.is_weight(name):
                self.draft.read(name)
        given = {name: value for name, value in attributes.items() if value is not None}
        name = self.draft.node_name(self.node.origin.layer, operator)
        self.draft.nodes.append(make_node(operator, inputs, outputs, name, **given))

    def value(self, what: str, dims: Dims | None = None, dtype: DType | None = None) -> str:
        """Declare an internal value, of the same type as the first result where nothing else is said."""
        name = self.draft.fresh(f"{self.output}/{what}")
        described = dtype or self.type(self.output).dtype, self.dims(self.output) if dims is None else dims
        self.draft.internal.append(value_info(name, *described))
        return name

    def step(
        self,
        what: str,
        operator: str,
        inputs: Sequence[str],
        dims: Dims | None = None,
        dtype: DType | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node that gives an internal value, and return the value's name."""
        name = self.value(what, dims, dtype)
        self.emit(operator, inputs, [name], **attributes)
        return name

    def finish(
        self,
        operator: str,
        inputs: Sequence[str],
        activation: Activation = Activation.NONE,
        **attributes: Any,
    ) -> None:
        """Add the node, and one for the activation if there is one, that gives the first result."""
        result = self.output if activation is Activation.NONE else self.value("linear")
        self.emit(operator, inputs, [result], **attributes)
        self.activate(result, activation)

    def activate(self, value: str, activation: Activation) -> None:
        """Add the node that makes the first result from its value before the activation."""
        match activation:
            case Activation.RELU:
                self.emit("Relu", [value], [self.output])
            case Activation.RELU6:
                self.emit("Clip", [value, self.scalar("low", 0.0), self.scalar("high", 6.0)], [self.output])
            case Activation.NONE:
                pass

    def constant(self, what: str, elements: Sequence[int] | Sequence[float], dtype: DType) -> str:
        """Add a constant of rank 1 and return its name."""
        return self._constant(what, np.array(elements, dtype.value))

    def integers(self, what: str, elements: Sequence[int]) -> str:
        """Add an int64 constant of rank 1, as ONNX wants shapes, axes and the like, and return its name."""
        return self.constant(what, elements, DType.INT64)

    def scalar(self, what: str, number: float, dtype: DType | None = None) -> str:
        """Add a constant of rank 0, of the first result's element type if nothing else is said."""
        chosen = dtype or self.type(self.output).dtype
        return self._constant(what, np.array(number, chosen.value))

    def _constant(self, what: str, array: np.ndarray[Any, Any]) -> str:
        from onnx.numpy_helper import from_array

        name = self.draft.fresh(f"{self.output}/{what}")
        self.draft.constants.append(from_array(array, name))
        return name

    def viewed(self, weight: str, shape: Shape) -> str:
        """Return a weight whose elements have another shape in the artifact."""
        return self.draft.read(weight, view=shape)

    def transposed(self, name: str, axes: tuple[int, ...]) -> str:
        """Return a value with its axes reordered; a weight is reordered when it is written, at no cost later."""
        if self.is_weight(name):
            return self.draft.read(name, axes)
        dims = self.dims(name)
        turned = tuple(dims[axis] for axis in axes)
        return self.step("transposed", "Transpose", [name], turned, self.type(name).dtype, perm=axes)


def _claim(name: str, taken: dict[str, int]) -> str:
    """Take a name, numbered where it is taken; for each name, `taken` holds the last number that was tried."""
    candidate, count = name, taken.get(name, 1)
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    taken[name] = count
    taken.setdefault(candidate, 1)
    return candidate


def _dims(graph: Graph) -> dict[str, Dims]:
    """Tell the dimensions of every value; those that grow with the batch are named, by what two batches give."""
    if not graph.batch_is_dynamic:
        return {name: value.type.shape for name, value in graph.values.items()}
    two, three = (_types_at(graph, batch) for batch in (2, 3))
    return {
        name: tuple(_dim(*pair) for pair in zip(two[name].shape, three[name].shape, strict=True))
        for name in graph.values
    }


def _types_at(graph: Graph, batch: int) -> dict[str, TensorType]:
    shapes = {name: graph.values[name].type.shape for name in graph.inputs}
    try:
        return infer_types(graph, {name: (batch, *shape[1:]) for name, shape in shapes.items() if shape})
    except ShapeError as error:
        raise InvalidGraph(f"the batch of {graph.name!r} isn't free: with {batch} samples, {error}") from error


def _dim(at_two: int, at_three: int) -> int | str:
    """Spell a dimension from its sizes for batches of two and three samples."""
    if at_two == at_three:
        return at_two
    grown = at_three - at_two
    constant = at_two - 2 * grown
    product = BATCH if grown == 1 else f"{grown}*{BATCH}"
    return product if constant == 0 else f"{product}{constant:+}"


def _spatial_pads(pad: Op, reader: Op) -> tuple[Padding, ...] | None:
    """Return the zeros that the reader can add itself; None if it can't: runtimes refuse to add a whole window."""
    if not isinstance(pad, Pad) or not isinstance(reader, AveragePool) or pad.value != 0 or any(map(any, reader.pads)):
        return None
    spatial = reader.layout.spatial_axes(len(pad.pads))
    if any(any(padding) for axis, padding in enumerate(pad.pads) if axis not in spatial):
        return None
    pads = tuple(pad.pads[axis] for axis in spatial)
    fits = all(max(padding) < window for padding, window in zip(pads, reader.kernel, strict=True))
    return pads if fits else None
