"""Round the kernels of products to 8 bits so that what rounding one weight loses, the weights behind it make up for.

Derivation. A product's row `w`, in steps of its largest weight, becomes integers `q`; the error of its result is
`(q - w) x`, whose mean square over inputs is `(q - w) C (q - w)^T`, with `C` the covariance of what the window reads.
Rounding each weight to the nearest integer is best for inputs that have nothing to do with each other. They seldom are
so: neighbours of an image are alike, and so are channels. So weights are rounded one after the other, and after each
the rest are moved by what makes the least of the error so far: by `-e U[j, j+1:] / U[j, j]`, where `U` is the upper
Cholesky factor of the inverse of `C` (Frantar et al., "GPTQ", 2022, section 3; Hassibi and Stork, "Optimal brain
surgeon", 1993).

Three limits keep that cheap and sure. `C` is known in blocks along its diagonal, whole channels of `BLOCK` weights
together: on the nets of docs/int8.md they do as well as the whole matrix. It is drawn towards its diagonal, the more
the fewer rows it is known by. And each weight becomes one of the two integers around it, so that whoever compares can
tell a kernel that was rounded from one that is wrong; that costs a fifth of a decibel on some nets, on others nothing.

What is left is a shift of each channel in the mean, which the bias takes back (Nagel et al., "Data-free quantization
through weight equalization and bias correction", 2019, section 4.2).

Cases. `Conv` and `Dense` with a constant kernel that nothing else reads. Others are left to the writers, which round to
the nearest integer; they find the kernels of these on their grid already.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from demitasse.ir.graph import Graph, Node
from demitasse.ir.ops import Conv, Dense
from demitasse.ir.weights import Array

__all__ = ["Moments", "RoundedKernel", "mean_shift", "round_kernels", "round_up", "with_rounded"]

Numbers = npt.NDArray[np.float64]

LARGEST = 127
"""Integers are symmetric, as TFLite and ONNX Runtime want them: a row's largest weight is 127 steps."""

BLOCK = 64
"""So many weights are known together at least, where there are as many."""

ROWS, IMAGES = 1024, 32
"""So many windows of all samples are looked at, in so many images; of matrices, some rows of each sample."""

AT_ONCE = 256
"""Windows are collected to so many before they are multiplied."""

TINY = float(np.finfo(np.float64).tiny)

CHUNK = 8
"""Weights that are rounded before all behind them are moved."""

LEAST_VARIANCE = 1e-6
"""An element whose variance is less than this part of the largest of its block never changes."""

NEAR = 1e-4
"""A weight that is so near to an integer, in steps, is that integer."""


@dataclass(frozen=True, slots=True)
class RoundedKernel:
    """A kernel in 8 bits: `weight = integer * step of its row`; `shift` is by how much results move in the mean."""

    integers: Array
    steps: Array
    shift: Array | None

    def weights(self) -> Array:
        """Return the kernel that the integers stand for."""
        return np.multiply(self.integers, self.steps, dtype=np.float32)


class Moments:
    """What the windows of each product read: sums and products of their elements, in blocks, over some samples.

    `samples` is how many there will be. Tensors may be added on several threads, each by one at a time.
    """

    def __init__(self, graph: Graph, samples: int) -> None:
        self._of: dict[str, list[_Windows]] = {}
        for node in _products(graph):
            data = graph.type(node.inputs[0]).shape
            every = max(samples // IMAGES, 1) if isinstance(node.op, Conv) else 1
            rows = -(-ROWS * every // max(samples, 1))
            windows = _Windows(node, data, graph.type(node.inputs[1]).shape, rows, every)
            self._of.setdefault(node.inputs[0], []).append(windows)

    def add(self, name: str, array: Array) -> None:
        """Take in a tensor of a run."""
        for windows in self._of.get(name, ()):
            windows.add(array)

    def covariance(self, node: Node) -> Numbers | None:
        """Return the blocks of what a product reads, `[groups, blocks, size, size]`; None of one that wasn't seen."""
        for windows in self._of.get(node.inputs[0], ()):
            if windows.node.outputs == node.outputs:
                return windows.covariance()
        return None


class _Windows:
    """Sums over the windows that one product reads: some `rows` of `every` so many samples."""

    def __init__(self, node: Node, data: tuple[int, ...], kernel: tuple[int, ...], rows: int, every: int) -> None:
        self.node, self._data, self._kernel, self._rows, self._every = node, data, kernel, rows, every
        self.groups = node.op.groups if isinstance(node.op, Conv) else 1
        self.blocks = Blocks.of(kernel)
        self._seen = 0
        self._count = 0
        self._waiting: list[Array] = []
        self._origin: Array | None = None  # near to the mean, so that squares don't drown what differs
        self._sums: Numbers | float = 0.0
        self._products: Numbers | float = 0.0

    def add(self, array: Array) -> None:
        self._seen += 1
        if array.shape != self._data or (self._seen - 1) % self._every:
            return
        self._waiting.append(self._picked(array, np.random.default_rng(self._seen)))
        if sum(map(len, self._waiting)) >= AT_ONCE:
            self._fold()

    def _picked(self, array: Array, random: np.random.Generator) -> Array:
        """Return some windows `[rows, groups, in / groups * taps]`, in the order that kernels have."""
        if isinstance(self.node.op, Conv):
            patches = _patches(self.node.op, array, self._kernel, self._rows, random)
            return patches.reshape(self._rows, self.groups, -1)
        flat = array.reshape(-1, array.shape[-1])
        places = random.permutation(len(flat))[: self._rows]
        return flat[places][:, None].copy()

    def _fold(self) -> None:
        """Multiply what has been collected."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting)
        self._waiting.clear()
        if self._origin is None:
            self._origin = rows.mean(0)
        split = self.blocks.split(rows - self._origin).transpose(1, 2, 0, 3)  # groups, blocks, rows, size
        self._count += len(rows)
        self._sums = self._sums + split.sum(2, dtype=np.float64)
        self._products = self._products + np.matmul(split.swapaxes(2, 3), split)

    def covariance(self) -> Numbers | None:
        self._fold()
        if self._count < 2:
            return None
        mean = np.asarray(self._sums) / self._count
        covariance = np.asarray(self._products) / self._count - mean[..., :, None] * mean[..., None, :]
        return _drawn(covariance, self._count)


def _drawn(covariance: Numbers, count: int) -> Numbers:
    """Draw covariances towards their diagonals: what is estimated from few rows is mostly chance.

    With as many rows as elements, half of what is beside the diagonal is kept. Elements that never change have nothing
    to do with others, and count as 1.
    """
    size = covariance.shape[-1]
    variance = np.einsum("...ii->...i", covariance)
    alive = variance > LEAST_VARIANCE * np.maximum(variance.max(-1, keepdims=True), TINY)
    kept = alive[..., :, None] * alive[..., None, :] * count / (count + size)
    drawn = np.asarray(covariance * kept)
    np.einsum("...ii->...i", drawn)[:] = np.where(alive, variance, 1.0)
    return drawn


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a row of `length` weights is cut into `count` blocks of `size`, the last of which is filled with zeros."""

    length: int
    size: int

    @classmethod
    def of(cls, kernel: tuple[int, ...]) -> Blocks:
        """Cut between channels: the taps of one stay together."""
        taps = int(np.prod(kernel[2:]))
        length = kernel[1] * taps
        return cls(length, min(length, max(BLOCK // taps, 1) * taps))

    @property
    def count(self) -> int:
        return -(-self.length // self.size)

    def split(self, rows: Array) -> Array:
        """Reshape `[..., length]` to `[..., count, size]`."""
        missing = self.count * self.size - self.length
        if missing:
            rows = np.concatenate([rows, np.zeros((*rows.shape[:-1], missing), rows.dtype)], -1)
        return rows.reshape(*rows.shape[:-1], self.count, self.size)

    def join(self, blocks: Array) -> Array:
        """Undo `split`."""
        return blocks.reshape(*blocks.shape[:-2], -1)[..., : self.length]


def _patches(op: Conv, array: Array, kernel: tuple[int, ...], rows: int, random: np.random.Generator) -> Array:
    """Return windows of an image at random places, `[rows, channels, *taps]`, with zeros beyond its edges."""
    image = np.moveaxis(array, op.layout.channel_axis(array.ndim), -1)
    rank = image.ndim - 2
    picked, inside = [random.integers(len(image), size=rows).reshape(rows, *[1] * rank)], np.True_
    for axis, (size, taps, stride, dilation, pad) in enumerate(
        zip(image.shape[1:-1], kernel[2:], op.stride, op.dilation, op.pads, strict=True)
    ):
        count = (size + sum(pad) - dilation * (taps - 1) - 1) // stride + 1
        starts = random.integers(count, size=rows) * stride - pad[0]
        places = starts[:, None] + dilation * np.arange(taps)
        places = places.reshape(rows, *(taps if each == axis else 1 for each in range(rank)))
        inside = inside & (places >= 0) & (places < size)
        picked.append(np.clip(places, 0, size - 1))
    windows = image[tuple(picked)] * np.asarray(inside)[..., None]
    return np.moveaxis(windows, -1, 1)


def round_up(graph: Graph, moments: Moments, workers: int = 1) -> dict[str, Array]:
    """Say of each weight of a graph's products, by the kernel's name, whether it is rounded up or down.

    Args:
        graph: lowered for the target.
        moments: what its products read; kernels of those that weren't seen, or are integers as they are, are left out.
        workers: how many threads.
    """
    products = list(_products(graph))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(partial(_rounded_up, graph, moments), products)
        return {node.inputs[1]: up for node, up in zip(products, found, strict=True) if up is not None}


def round_kernels(
    graph: Graph, *, up: Mapping[str, Array], means: Mapping[str, Array] | None
) -> dict[str, RoundedKernel]:
    """Round the kernels of a graph's products, by name.

    Args:
        graph: lowered for the target.
        up: which weights are rounded up, the others being rounded down; other kernels are rounded to the nearest.
        means: the mean of each tensor's channels, for shifts; without, there are none, and only kernels of `up` count.
    """
    return {
        node.inputs[1]: _rounded(graph, node, up.get(node.inputs[1]), means or {})
        for node in _products(graph)
        if means is not None or node.inputs[1] in up
    }


def with_rounded(graph: Graph, rounded: Mapping[str, RoundedKernel], real: Collection[str] = ()) -> Graph:
    """Put rounded kernels in the place of a graph's own, and let biases take back their shifts.

    `real` names the results of nodes that keep theirs.
    """
    result = graph.shell()
    for node in graph.nodes:
        kernel = rounded.get(node.inputs[1]) if len(node.inputs) > 1 and node.outputs[0] not in real else None
        if kernel is None:
            result.adopt(graph, node)
            continue
        result.weights.defer(node.inputs[1], graph.weights.type(node.inputs[1]), kernel.weights)
        inputs, has_bias = node.inputs, len(node.inputs) > 2
        if kernel.shift is not None and (has_bias or _may_have_bias(graph, node)):
            bias = graph.weights[node.inputs[2]] if has_bias else np.float32(0)
            name = node.inputs[2] if has_bias else graph.fresh(f"{node.inputs[1]}/shift")
            result.weights.put(name, (bias - kernel.shift).astype(np.float32))
            inputs = (*node.inputs[:2], name)
        result.adopt(graph, node, inputs=inputs)
    result.outputs = list(graph.outputs)
    return result


def _may_have_bias(graph: Graph, node: Node) -> bool:
    """Whether a bias costs nothing: ONNX adds that of a matrix of higher rank in an operator of its own."""
    return isinstance(node.op, Conv) or graph.type(node.inputs[0]).rank == 2


def _products(graph: Graph) -> list[Node]:
    readers = graph.consumers()
    return [
        node
        for node in graph.nodes
        if isinstance(node.op, Conv | Dense)
        and node.inputs[0] in graph.values
        and all(name in graph.weights and len(readers[name]) == 1 for name in node.inputs[1:])
    ]


def _exact(kernel: Array) -> tuple[Array, Array]:
    """Return a kernel in steps, and the step of each row: a 127th of its largest weight, or 0."""
    steps = (np.abs(kernel).reshape(len(kernel), -1).max(1) / np.float32(LARGEST)).astype(np.float32)
    steps = steps.reshape(-1, *[1] * (kernel.ndim - 1))
    return np.divide(kernel, steps, out=np.zeros(kernel.shape, np.float32), where=steps > 0), steps


def _around(exact: Array) -> tuple[Array, Array]:
    """Return the integers around weights in steps; both are the same for a weight that is one."""
    return np.floor(exact + np.float32(NEAR)), np.ceil(exact - np.float32(NEAR))


def _rounded_up(graph: Graph, moments: Moments, node: Node) -> Array | None:
    covariance = moments.covariance(node)
    exact, _ = _exact(graph.weights[node.inputs[1]])
    low, high = _around(exact)
    if covariance is None or (low == high).all():
        return None
    return np.asarray(_compensated(exact, covariance) > low)


def _rounded(graph: Graph, node: Node, up: Array | None, means: Mapping[str, Array]) -> RoundedKernel:
    kernel = graph.weights[node.inputs[1]]
    exact, steps = _exact(kernel)
    integers = np.rint(exact) if up is None else np.where(up, *reversed(_around(exact)))
    integers = np.clip(integers, -LARGEST, LARGEST).astype(np.int8)
    mean = means.get(node.inputs[0])
    groups = node.op.groups if isinstance(node.op, Conv) else 1
    shift = None if mean is None else mean_shift(integers * steps - kernel, mean, groups)
    return RoundedKernel(integers, steps, shift)


def mean_shift(error: Array, means: Array, groups: int) -> Array | None:
    """Return the mean change of each row's result: the sum of error times mean, a window's places being alike.

    Args:
        error: what a kernel is off by, `[out, in / groups, ...]`.
        means: the mean of each channel that it reads, `[in]`.
        groups: of the product. None is returned where the shapes don't fit it.
    """
    sums = error.reshape(*error.shape[:2], -1).sum(2)
    if len(means) != groups * sums.shape[1]:
        return None
    split = sums.reshape(groups, -1, sums.shape[1])
    return np.asarray(np.einsum("goi,gi->go", split, means.reshape(groups, -1)).reshape(-1))


def _compensated(exact: Array, covariance: Numbers) -> Array:
    """Round a kernel in steps, `[out, in / groups, ...]`, by the blocks of what it reads."""
    groups = len(covariance)
    blocks = Blocks.of(exact.shape)
    weights = blocks.split(exact.reshape(groups, len(exact) // groups, -1))
    columns = np.ascontiguousarray(weights.transpose(0, 2, 3, 1))
    _round_in_order(columns, _moves(covariance))
    return blocks.join(columns.transpose(0, 3, 1, 2)).reshape(exact.shape)


def _moves(covariance: Numbers) -> Array:
    """Return by how much an error of each element moves those behind it: `U[j, k] / U[j, j]`.

    Elements are brought to a like size before matrices are inverted, which would lose the small ones.
    """
    size = np.sqrt(np.einsum("...ii->...i", covariance))
    inverse = np.linalg.inv(covariance / (size[..., :, None] * size[..., None, :]))
    factors = np.linalg.cholesky((inverse + inverse.swapaxes(-2, -1)) / 2).swapaxes(-2, -1)
    ratios = factors / np.einsum("...ii->...i", factors)[..., None]
    return np.asarray(ratios * size[..., :, None] / size[..., None, :], np.float32)


def _round_in_order(columns: Array, moves: Array) -> None:
    """Round weights, `[groups, blocks, size, out]`, in place: those of a block one after the other.

    `moves` `[groups, blocks, size, size]` say by how much a weight's error moves those behind it. They are moved at
    once within a chunk, and all behind it by a product of matrices at its end.
    """
    size = columns.shape[2]
    low, high = _around(columns)
    errors = np.empty((*columns.shape[:2], min(CHUNK, size), columns.shape[3]), np.float32)
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        for place in range(start, stop):
            weights = columns[:, :, place]
            integers = np.clip(np.rint(weights), low[:, :, place], high[:, :, place])
            error = np.subtract(weights, integers, out=errors[:, :, place - start])
            columns[:, :, place] = integers
            for behind in range(place + 1, stop):
                columns[:, :, behind] -= error * moves[:, :, place, behind, None]
        after = moves[:, :, start:stop, stop:].swapaxes(2, 3)
        columns[:, :, stop:] -= after @ errors[:, :, : stop - start]
