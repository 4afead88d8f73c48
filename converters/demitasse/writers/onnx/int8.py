"""Write 8-bit models as `QuantizeLinear` and `DequantizeLinear` pairs around operators (QDQ), with ranges of our own.

A runtime joins the pairs to the operator between them and computes with integers; one that doesn't know how computes
the same with real numbers. Weights are signed, with a step a channel; activations have one step a tensor and are
unsigned unless signed ones are asked for: on x86 the processor multiplies unsigned by signed bytes, and ONNX Runtime is
three times slower without. Values keep their names and are real numbers, as they come out of `DequantizeLinear`.

Where each operator may be joined: onnxruntime/core/optimizer/qdq_transformer/selectors_actions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.writers.onnx.assemble import DEFAULT_OPSET, assemble, parts
from demitasse.writers.onnx.draft import Draft, Initializer
from demitasse.writers.onnx.stream import write_model

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["Range", "write_int8"]

Range: TypeAlias = tuple[float, float]

STEPS = 255
LARGEST_WEIGHT = 127
# Biases use half of what 32 bits hold; sums of products need the rest.
LARGEST_BIAS = 2.0**30

# Operators that compute with integers: all data inputs and the result have steps of their own.
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
COMBINED = frozenset({"Add", "Mul", "Concat", "AveragePool", "LeakyRelu"})
# Operators that move or choose elements: the result has the step of the first input.
MOVED = frozenset({"MaxPool", "Reshape", "Transpose"})
# What a quantization with a range from zero does anyway, and runtimes drop before it.
CUTS = frozenset({"Relu", "Clip"})
# Results of these may stay real: the sums are 32-bit integers, which are worth more than 8 bits.
REAL_RESULTS = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Steps:
    """How a tensor is stored: `real = scale * (integer - zero)`."""

    scale: np.float32
    zero: np.generic

    @classmethod
    def of(cls, range: Range, dtype: np.dtype[Any]) -> Steps:
        """Return the steps for a range, which is widened to hold zero; an empty one gets a step of its own."""
        low, high = min(range[0], 0.0), max(range[1], 0.0)
        scale = np.float32((high - low) / STEPS) or np.float32(1 / STEPS)
        zero = np.iinfo(dtype).min + int(np.rint(-low / float(scale)))
        return cls(scale, dtype.type(np.clip(zero, np.iinfo(dtype).min, np.iinfo(dtype).max)))


def write_int8(
    graph: Graph,
    path: Path,
    document: Document,
    ranges: Mapping[str, Range],
    *,
    real: Collection[str] = (),
    opset: int = DEFAULT_OPSET,
    int8_io: bool = False,
    signed: bool = False,
) -> None:
    """Write an 8-bit model to `path`.

    Args:
        graph: channels-first, without offences.
        path: where the file goes.
        document: what the model says about itself.
        ranges: the smallest and the largest element of each value, as `demitasse.quantize.calibrate` finds them.
        real: values of the graph whose nodes compute with real numbers.
        opset: see `demitasse.writers.onnx.write`.
        int8_io: whether inputs and outputs are integers too, of the type that activations have: what stood between
            them and the net, a `QuantizeLinear` or `DequantizeLinear`, is left to the caller.
        signed: whether activations are signed integers (S8S8) instead of unsigned ones (U8S8).

    Raises:
        UsageError: the ranges aren't those of this graph.
    """
    draft = assemble(graph, document, opset)
    dtype = np.dtype(np.int8 if signed else np.uint8)
    quantization = _Quantization(draft, ranges, dtype, frozenset(real))
    quantization.apply()
    if int8_io:
        quantization.open_ports()
    write_model(path, parts(draft, document), draft.initializers, graph.weights)


class _Quantization:
    """Puts pairs of `QuantizeLinear` and `DequantizeLinear` into a draft."""

    def __init__(
        self,
        draft: Draft,
        ranges: Mapping[str, Range],
        dtype: np.dtype[Any],
        real: Collection[str],
    ) -> None:
        self.draft, self.ranges, self.dtype, self.real = draft, ranges, dtype, real
        self._readers: dict[str, list[NodeProto]] = {}
        for node in draft.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._held = {held.name: weight for weight, every in draft.initializers.items() for held in every}
        self._constants = {constant.name for constant in draft.constants} | self._held.keys()
        self._roots: dict[str, str] = {}
        integer = self._integer_nodes()
        self._integer = set(map(id, integer))
        self._join_parts(integer)
        self.stored = self._stored_values(integer)
        self._check_ranges()
        self._made: list[NodeProto] = []
        self._parameters: dict[bytes, str] = {}

    # --- what is quantized ------------------------------------------------------------------------------------

    def _integer_nodes(self) -> list[NodeProto]:
        """List the nodes that compute with integers: products, and what leads from one to another."""
        leads: set[str] = set()  # values that a product depends on
        needed = set()
        for node in reversed(self.draft.nodes):
            if self._is_product(node) or not leads.isdisjoint(node.output):
                leads.update(node.input)
                needed.add(id(node))
        integer, made = [], set()
        for node in self.draft.nodes:
            if id(node) not in needed or self._is_real(node.output[0]):
                continue
            moved = node.op_type in MOVED and len(node.output) == 1 and node.input[0] in made
            combined = node.op_type in COMBINED and self._constants.isdisjoint(node.input)
            if self._is_product(node) or moved or combined:
                integer.append(node)
                made.add(node.output[0])
                if moved:
                    self._roots[node.output[0]] = self._root(node.input[0])
            elif node.op_type in CUTS and node.input[0] in made:
                made.add(node.output[0])
        return integer

    def _join_parts(self, integer: list[NodeProto]) -> None:
        """Give what is read by a concatenation alone the step of its result, so that it is rounded once."""
        for node in reversed([each for each in integer if each.op_type == "Concat"]):
            for name in node.input:
                alone = len(self._readers[name]) == 1 and name not in self.draft.graph.outputs
                if alone and name not in self._roots and name not in self.draft.graph.inputs:
                    self._roots[name] = self._root(node.output[0])

    def _is_product(self, node: NodeProto) -> bool:
        """Tell whether a node sums products of a value and a constant kernel, in a form that has an 8-bit kernel."""
        if node.op_type not in PRODUCTS or self._is_real(node.output[0]):
            return False
        if node.input[0] in self._constants or node.input[1] not in self._held:
            return False
        if any(name and name not in self._held for name in node.input[2:]):
            return False
        if node.op_type == "MatMul":
            return len(self._initializer(node.input[1]).type.shape) == 2
        return not any(attribute.name == "transA" and attribute.i for attribute in node.attribute)

    def _is_real(self, value: str) -> bool:
        return value in self.real or any(value.startswith(f"{name}/") for name in self.real)

    def _root(self, value: str) -> str:
        """Return the value whose step a value has."""
        return self._roots.get(value, value)

    def _stored_values(self, integer: list[NodeProto]) -> set[str]:
        """Collect the values that are stored as integers between nodes."""
        stored = {name for node in integer for name in self._data(node)}
        outputs = set(self.draft.graph.outputs)
        for node in integer:
            result = node.output[0]
            readers = self._readers.get(result, [])
            if len(readers) == 1 and readers[0].op_type in CUTS and result not in outputs and result not in stored:
                result = readers[0].output[0]
            if node.op_type not in REAL_RESULTS:
                stored.add(result)
        return stored

    def _data(self, node: NodeProto) -> list[str]:
        """Return the inputs of an integer node that are values."""
        several = node.op_type in ("Add", "Mul", "Concat")
        return list(node.input) if several else [node.input[0]]

    def _check_ranges(self) -> None:
        missing = sorted(name for name in self.stored if self._root(name) not in self.ranges)
        if missing:
            raise UsageError(f"{len(missing)} tensors have no range, {missing[0]!r} for one: calibrate this net anew")

    # --- the new nodes ----------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Rewrite the draft's nodes and initializers."""
        for name in self.draft.graph.inputs:
            if name in self.stored:
                self._pair(name, name, self._dequantized(name))
        for node in self.draft.nodes:
            if id(node) in self._integer:
                self._rewrite(node)
            stored = [name for name in node.output if name in self.stored]
            for place, name in enumerate(node.output):
                if name in stored:
                    node.output[place] = self.draft.fresh(f"{name}/real")
            self._made.append(node)
            for name in stored:
                self._pair(node.output[0], name, name)
        self.draft.nodes[:] = self._made
        read = {name for node in self._made for name in node.input}
        for every in self.draft.initializers.values():
            every[:] = [held for held in every if held.name in read]

    def open_ports(self) -> None:
        """Let the net take and give the integers themselves.

        An input is read through its `DequantizeLinear` alone; what an output is made of goes through a `QuantizeLinear`
        of its own, or that which it has.
        """
        from onnx.helper import np_dtype_to_tensor_dtype

        graph = self.draft.graph
        ports = [name for name in (*graph.inputs, *graph.outputs) if graph.type(name).dtype.is_float]
        missing = sorted(name for name in ports if self._root(name) not in self.ranges)
        if missing:
            raise UsageError(f"{len(missing)} tensors have no range, {missing[0]!r} for one: calibrate this net anew")
        nodes = self.draft.nodes
        for name in graph.inputs:
            if name in ports:
                self._open_input(name, nodes)
        for name in graph.outputs:
            if name in ports and name not in graph.inputs:
                self._open_output(name, nodes)
        self.draft.stored = dict.fromkeys(ports, np_dtype_to_tensor_dtype(self.dtype))

    def _open_input(self, name: str, nodes: list[NodeProto]) -> None:
        maker = next((node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == name), None)
        if maker is None or name not in self.stored:
            real = self.draft.fresh(f"{name}/dequantized")
            _rename(nodes, {name: real})
            nodes.insert(0, self._port("DequantizeLinear", name, name, real))
            return
        nodes.remove(maker)
        _rename(nodes, {name: self._dequantized(name)})
        _rename(nodes, {maker.output[0]: name})

    def _open_output(self, name: str, nodes: list[NodeProto]) -> None:
        producer = next(node for node in nodes if name in node.output)
        real = self.draft.fresh(f"{name}/dequantized")
        _rename(nodes, {name: real})
        if producer.op_type != "DequantizeLinear":
            nodes.append(self._port("QuantizeLinear", name, real, name))
            return
        _rename(nodes, {producer.input[0]: name})
        if not any(real in node.input for node in nodes):
            nodes.remove(producer)

    def _port(self, operator: str, value: str, source: str, result: str) -> NodeProto:
        """Return a conversion between a port and the net, with the steps of the port's range."""
        from onnx.helper import make_node

        steps = self._steps(value)
        parameters = [self._parameter(f"{value}/scale", steps.scale), self._parameter(f"{value}/zero", steps.zero)]
        return make_node(
            operator, [source, *parameters], [result], self.draft.node_name(f"{value}/{operator}", operator)
        )

    def _rewrite(self, node: NodeProto) -> None:
        """Let an integer node read integers, by way of `DequantizeLinear`."""
        data = self._data(node)
        if self._is_product(node):
            kernel = self._kernel(node)
            if len(node.input) > 2 and node.input[2]:
                node.input[2] = self._bias(node.input[2], kernel, self._steps(data[0]).scale)
            node.input[1] = self._dequantize(kernel.name, kernel.scales, np.zeros(kernel.scales.shape, np.int8), kernel)
        for place, name in enumerate(node.input):
            if name in data:
                node.input[place] = self._dequantized(name)

    def _dequantized(self, value: str) -> str:
        """Return the name of a stored value's real numbers; an input keeps its own for what it is fed."""
        return f"{value}/dequantized" if value in self.draft.graph.inputs else value

    def _steps(self, value: str) -> Steps:
        return Steps.of(self.ranges[self._root(value)], self.dtype)

    def _pair(self, source: str, value: str, result: str) -> None:
        """Round a value to integers and back."""
        from onnx.helper import make_node

        steps = self._steps(value)
        parameters = [self._parameter(f"{value}/scale", steps.scale), self._parameter(f"{value}/zero", steps.zero)]
        integers = self.draft.fresh(f"{value}/quantized")
        for operator, given, made in (
            ("QuantizeLinear", source, integers),
            ("DequantizeLinear", integers, result),
        ):
            name = self.draft.node_name(f"{value}/{operator}", operator)
            self._made.append(make_node(operator, [given, *parameters], [made], name))

    def _dequantize(self, integers: str, scales: Array, zeros: Array, kernel: _Kernel | None = None) -> str:
        """Give a constant's real numbers, with a step an index along its axis."""
        from onnx.helper import make_node

        result = self.draft.fresh(f"{integers}/real")
        parameters = [self._parameter(f"{integers}/scale", scales), self._parameter(f"{integers}/zero", zeros)]
        name = self.draft.node_name(f"{integers}/DequantizeLinear", "DequantizeLinear")
        axis = kernel.axis if kernel else 0
        self._made.append(make_node("DequantizeLinear", [integers, *parameters], [result], name, axis=axis))
        return result

    def _parameter(self, name: str, content: Array | np.generic) -> str:
        """Add a constant, once for all that ask for the same content."""
        from onnx.numpy_helper import from_array

        array = np.asarray(content)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self._parameters:
            self._parameters[key] = self.draft.fresh(name)
            self.draft.constants.append(from_array(array, self._parameters[key]))
        return self._parameters[key]

    # --- weights ----------------------------------------------------------------------------------------------

    def _initializer(self, name: str) -> Initializer:
        return next(held for held in self.draft.initializers[self._held[name]] if held.name == name)

    def _kernel(self, node: NodeProto) -> _Kernel:
        """Round a product's kernel to 8 bits, and have the integers in the artifact."""
        initializer = self._initializer(node.input[1])
        axis = 0 if node.op_type == "Conv" or _transposes(node) else 1
        bias = self._content(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        kernel = _Kernel.of(self._content(initializer.name), axis, bias, float(self._steps(node.input[0]).scale))
        kernel.name = self.draft.fresh(f"{initializer.name}/quantized")
        held = initializer._replace(name=kernel.name, axes=None, content=kernel.integers)
        self.draft.initializers[self._held[initializer.name]].append(held)
        return kernel

    def _content(self, name: str) -> Array:
        array = self.draft.graph.weights[self._held[name]]
        axes = self._initializer(name).axes
        return array if axes is None else array.transpose(axes)

    def _bias(self, name: str, kernel: _Kernel, step: np.float32) -> str:
        """Store a bias in units of the products: input step times weight step."""
        scales = (kernel.scales * step).astype(np.float32)
        bias = self._content(name).astype(np.float64)
        integers = np.rint(bias / scales).astype(np.int32)
        stored = self._parameter(self.draft.fresh(f"{name}/quantized"), integers)
        return self._dequantize(stored, scales, np.zeros(scales.shape, np.int32))


@dataclass(slots=True)
class _Kernel:
    """A kernel in 8 bits: `weight = integer * scale of its channel along axis`."""

    integers: Array
    scales: Array
    axis: int
    name: str = ""

    @classmethod
    def of(cls, weights: Array, axis: int, bias: Array | None, step: float) -> _Kernel:
        """Round a kernel; a channel's scale is no less than its bias, counted in it, needs to fit 32 bits."""
        others = tuple(place for place in range(weights.ndim) if place != axis)
        least = np.full(weights.shape[axis], np.finfo(np.float32).tiny, np.float64)
        if bias is not None:
            least = np.maximum(least, np.abs(bias.astype(np.float64)) / (step * LARGEST_BIAS))
        bounds = np.abs(weights).max(axis=others, initial=0)
        scales = np.maximum(bounds / LARGEST_WEIGHT, least)
        scales[scales <= np.finfo(np.float32).tiny] = 1.0
        scales = scales.astype(np.float32)
        along = scales.reshape([-1 if place == axis else 1 for place in range(weights.ndim)])
        integers = np.clip(np.rint(weights / along), -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
        return cls(integers, scales, axis)


def _rename(nodes: list[NodeProto], names: Mapping[str, str]) -> None:
    """Give values other names wherever they are made and read."""
    for node in nodes:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = names.get(name, name)


def _transposes(node: NodeProto) -> bool:
    """Tell whether a `Gemm` reads its kernel as `[out, in]`."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
