"""Hold what emitters share: the tensors of a graph's values and weights, and the few operators that all of them use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from demitasse.errors import InvalidGraph
from demitasse.ir.graph import Graph, Node, infer_types
from demitasse.ir.ops import Activation, DType, Padding, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.writers.tflite.model import ModelBuilder, Tensor
from demitasse.writers.tflite.signs import non_negative

__all__ = ["FUSED", "Lowering", "batch_shapes", "types_and_batched_axes"]

# The values of `ActivationFunctionType` in schema.fbs.
FUSED = {Activation.NONE: 0, Activation.RELU: 1, Activation.RELU6: 3}

MOST_PARTS = 5  # of a CONCATENATION in XNNPACK
LARGEST_HALF = 65504.0  # IEEE 754 binary16


def batch_shapes(graph: Graph, batch: int) -> dict[str, Shape]:
    """Return the input shapes of a graph whose batch is dynamic for another batch."""
    shapes = {name: graph.values[name].type.shape for name in graph.inputs}
    return {name: (batch, *shape[1:]) if shape else shape for name, shape in shapes.items()}


def types_and_batched_axes(graph: Graph) -> tuple[dict[str, TensorType], dict[str, frozenset[int]]]:
    """Return the type of each value, for a batch of one where it is dynamic, and the axes that grow with the batch.

    What depends on the batch shows in the shapes that are inferred for two of them.
    """
    if not graph.batch_is_dynamic:
        return {name: value.type for name, value in graph.values.items()}, dict.fromkeys(graph.values, frozenset())
    one, two = (infer_types(graph, batch_shapes(graph, batch)) for batch in (1, 2))
    return one, {
        name: frozenset(
            axis for axis, (a, b) in enumerate(zip(one[name].shape, two[name].shape, strict=True)) if a != b
        )
        for name in one
    }


class Lowering:
    """Gives emitters the tensors of a graph; a graph whose batch is dynamic is written for a batch of one."""

    def __init__(self, graph: Graph, model: ModelBuilder) -> None:
        self.graph = graph
        self.model = model
        self.non_negative = non_negative(graph)
        model.reserve(graph.values)
        self._types, self._batched = types_and_batched_axes(graph)
        self._tensors: dict[tuple[str, str], Tensor] = {}
        for name in graph.inputs:
            self._declare(name)

    def _declare(self, name: str) -> Tensor:
        tensor = self.model.reserved(name, self._types[name], self._batched[name])
        self._tensors[name, ""] = tensor
        return tensor

    # --- tensors ----------------------------------------------------------------------------------------------

    def results(self, node: Node) -> tuple[Tensor, ...]:
        """Declare the tensors of a node's results."""
        return tuple(self._declare(name) for name in node.outputs)

    def result(self, node: Node) -> Tensor:
        """Declare the tensor of a node's only result."""
        (result,) = self.results(node)
        return result

    def read(self, name: str) -> Tensor:
        """Return the tensor of a value, or of a weight as it is."""
        if (name, "") in self._tensors:
            return self._tensors[name, ""]
        return self.weight(name, self.graph.weights.type(name).shape, lambda array: array)

    def weight(self, name: str, shape: Shape, arrange: Callable[[Array], Array], kind: str = "") -> Tensor:
        """Return the tensor of a weight in the arrangement that an operator wants; `kind` names the arrangement.

        The weight is fetched and arranged when the file is written, once for all operators that want it so.
        """
        if name not in self.graph.weights:
            raise InvalidGraph(f"an operator of TFLite needs {name!r} to be a weight, and it is a value")
        if (name, kind) not in self._tensors:
            arranged = TensorType(shape, self.graph.weights.type(name).dtype)
            self._tensors[name, kind] = self._stored(name, arranged, lambda: arrange(self.graph.weights[name]))
        return self._tensors[name, kind]

    def _stored(self, name: str, type: TensorType, fetch: Callable[[], Array]) -> Tensor:
        """Store a weight, in half precision where that was asked for and its range allows it."""
        if not self.model.half or not type.dtype.is_float:
            return self.model.constant(name, type, fetch)
        array = fetch()
        if not np.abs(array, dtype=np.float32).max(initial=0.0) <= LARGEST_HALF:
            return self.model.constant(name, type, lambda: array)
        stored = self.model.half_constant(f"{name}/half", type, array.astype(np.float16))
        tensor = self.model.tensor(name, type)
        self.model.operator("DEQUANTIZE", [stored], [tensor], version=3, options="DequantizeOptions")
        return tensor

    def small(self, near: Tensor, what: str, values: object, dtype: DType = DType.INT32) -> Tensor:
        """Return a constant of the emitter's own: axes, sizes, pads, limits."""
        return self.model.small(f"{near.name}/{what}", np.array(values, dtype.value))

    def temporary(
        self,
        near: Tensor,
        what: str,
        shape: Iterable[int],
        *,
        dtype: DType | None = None,
        batched: frozenset[int] | None = None,
    ) -> Tensor:
        """Declare a tensor between the operators of one node, called after the result that it is made for."""
        declared = TensorType(tuple(shape), dtype or near.type.dtype)
        return self.model.tensor(f"{near.name}/{what}", declared, near.batched if batched is None else batched)

    # --- operators ----------------------------------------------------------------------------------------------

    def reshape(self, x: Tensor, y: Tensor) -> Tensor:
        """Give `x` the shape of `y`, of whose axes one at most grows with the batch."""
        signature = list(y.signature)
        shape = self.small(y, "shape", signature)
        self.model.operator("RESHAPE", [x, shape], [y], options="ReshapeOptions", newShape=signature)
        return y

    def reshaped(self, x: Tensor, near: Tensor, what: str, shape: Sequence[int]) -> Tensor:
        """Reshape `x` to a temporary; where `x` grows with the batch, so does the leading axis of the result."""
        batched = frozenset({0}) if x.batched else frozenset()
        return self.reshape(x, self.temporary(near, what, shape, dtype=x.type.dtype, batched=batched))

    def transpose(self, x: Tensor, axes: Sequence[int], y: Tensor) -> Tensor:
        """Reorder the axes of `x`: axis `i` of `y` is axis `axes[i]` of `x`."""
        version = 6 if x.rank > 5 else 4 if x.rank > 4 else 3 if x.type.dtype is DType.BOOL else 1
        inputs = [x, self.small(y, "axes", list(axes))]
        self.model.operator("TRANSPOSE", inputs, [y], version=version, options="TransposeOptions")
        return y

    def transposed(self, x: Tensor, near: Tensor, what: str, axes: Sequence[int]) -> Tensor:
        """Reorder the axes of `x` into a temporary."""
        shape = [x.shape[axis] for axis in axes]
        batched = frozenset(place for place, axis in enumerate(axes) if axis in x.batched)
        return self.transpose(x, axes, self.temporary(near, what, shape, dtype=x.type.dtype, batched=batched))

    def pad(self, x: Tensor, pads: Sequence[Padding], y: Tensor, value: float = 0.0) -> Tensor:
        """Add elements of a constant around `x`."""
        version = 5 if x.type.dtype is DType.BOOL else 4 if x.rank > 4 else 1
        inputs = [x, self.small(y, "pads", [list(pad) for pad in pads])]
        if value == 0:
            self.model.operator("PAD", inputs, [y], version=version, options="PadOptions")
            return y
        inputs.append(self.small(y, "padding", value, x.type.dtype))
        self.model.operator("PADV2", inputs, [y], version=version, options="PadV2Options")
        return y

    def padded(self, x: Tensor, near: Tensor, pads: Sequence[Padding], value: float = 0.0) -> Tensor:
        """Add elements of a constant around `x`, into a temporary."""
        shape = [dim + sum(pad) for dim, pad in zip(x.shape, pads, strict=True)]
        return self.pad(x, pads, self.temporary(near, "padded", shape, dtype=x.type.dtype, batched=x.batched), value)

    def sliced(self, x: Tensor, begins: Sequence[int], y: Tensor) -> Tensor:
        """Cut the part of `x` that begins at `begins` and has the shape of `y`.

        An axis that grows with the batch has no size to give; XNNPACK takes no `SLICE` without one.
        """
        if x.batched:
            ends = [begin + dim for begin, dim in zip(begins, y.shape, strict=True)]
            steps = [1] * x.rank
            return self.strided_slice(
                x, y, begin=begins, end=ends, step=steps, open_begin=x.batched, open_end=x.batched & y.batched
            )
        inputs = [x, self.small(y, "begins", list(begins)), self.small(y, "sizes", list(y.shape))]
        self.model.operator("SLICE", inputs, [y], version=5 if x.rank > 4 else 1, options="SliceOptions")
        return y

    def strided_slice(
        self,
        x: Tensor,
        y: Tensor,
        *,
        begin: Sequence[int],
        end: Sequence[int],
        step: Sequence[int],
        open_begin: Iterable[int] = (),
        open_end: Iterable[int] = (),
    ) -> Tensor:
        """Cut a range along each axis; on the axes named open, `begin` or `end` is ignored for the edge of `x`."""
        version = 4 if x.rank > 4 else 3 if x.type.dtype is DType.BOOL else 1
        self.model.operator(
            "STRIDED_SLICE",
            [
                x,
                self.small(y, "begin", list(begin)),
                self.small(y, "end", list(end)),
                self.small(y, "step", list(step)),
            ],
            [y],
            version=version,
            options="StridedSliceOptions",
            beginMask=sum(1 << axis for axis in open_begin),
            endMask=sum(1 << axis for axis in open_end),
        )
        return y

    def concat(self, parts: Sequence[Tensor], axis: int, y: Tensor) -> Tensor:
        """Join tensors along an axis; XNNPACK joins two to five."""
        if len(parts) == 1:
            return self.reshape(parts[0], y)
        if len(parts) > MOST_PARTS:
            tail = parts[MOST_PARTS - 1 :]
            shape = [sum(part.shape[axis] for part in tail) if i == axis else dim for i, dim in enumerate(y.shape)]
            joined = self.concat(tail, axis, self.temporary(y, "tail", shape))
            parts = [*parts[: MOST_PARTS - 1], joined]
        self.model.operator(
            "CONCATENATION", parts, [y], options="ConcatenationOptions", axis=axis, fusedActivationFunction=0
        )
        return y

    def elementwise(self, code: str, x: Tensor, near: Tensor, what: str, **given: object) -> Tensor:
        """Apply an operator of one input to each element, into a temporary."""
        y = self.temporary(near, what, x.shape, dtype=x.type.dtype, batched=x.batched)
        self.model.operator(code, [x], [y], **given)  # type: ignore[arg-type]
        return y
