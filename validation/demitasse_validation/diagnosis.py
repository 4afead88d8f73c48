"""Finds out what is wrong with an artifact by trying.

Each hypothesis is put into the reference, and is right if the error is gone. Nothing is repaired by it: a hypothesis
that explains an artifact's numbers is reported in words, and the artifact fails all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from demitasse.errors import DemitasseError
from demitasse.ir.evaluate import evaluate_node
from demitasse.ir.graph import Node
from demitasse.ir.ops import (
    Activation,
    AnyOp,
    AveragePool,
    Binary,
    BinaryFunction,
    Conv,
    Dense,
    Layout,
    LeakyRelu,
    Lrn,
    MaxPool,
    Padding,
    PRelu,
    Relu,
    Reshape,
    Softmax,
)
from demitasse.ir.weights import Array

__all__ = ["COARSE", "CONSTANTS", "NEAR", "Alone", "Hypothesis", "explain_input", "explain_layer"]

# A hypothesis is right if it leaves at most this share of the error, and of the peak.
EXPLAINED, NEAR = 0.02, 1e-3

# What frameworks add to a variance, the most usual ones first; and the layers that do.
USUAL_EPS = (1e-5, 1e-3, 2e-5, 1e-4, 1e-2, 1e-6)
BATCH_NORMS = frozenset({"BatchNorm", "BatchNormalization", "BN"})

# How often an offset of the input's channels is fitted anew, as layers with an activation aren't linear.
FITS, MOST_FITTED = 4, 4

# Numbers so many times too large are infinities that a kernel cut.
MOST_TIMES = 1e6

# Where a format rounds to 8 bits, more is left of it.
COARSELY_EXPLAINED, COARSE = 0.3, 0.1


# What is said where nothing is found but a number for each channel; what needs fewer numbers says more.
CONSTANTS = "each channel is off by a constant, as if a bias or mean were lost or wrong"


class Hypothesis(NamedTuple):
    """Something that may be wrong, in words that end a sentence like "it agrees if ..."."""

    words: str
    result: Array


Results: TypeAlias = Iterator[Hypothesis]


def _error(expected: Array, given: Array) -> float:
    """Return the root mean square error in shares of the reference's; infinite where shapes differ or NaN appears."""
    if expected.shape != given.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        error = float(np.sqrt(np.mean(np.square(expected.astype(np.float64) - given))))
        size = float(np.sqrt(np.mean(np.square(expected.astype(np.float64)))))
    return error / max(size, 1e-30) if np.isfinite(error) else float("inf")


def _best(hypotheses: Results, expected: Array, given: Array, near: float) -> str:
    """Return the words of the first hypothesis that explains what was given about as well as any, or nothing."""
    now = _error(expected, given)
    left = [(_error(each.result, given), each.words) for each in hypotheses]
    share = COARSELY_EXPLAINED if near > NEAR else EXPLAINED
    best, enough = min((error for error, _ in left), default=float("inf")), min(share * now, near)
    if best > enough:
        return ""
    # A hypothesis that is fitted to the numbers always leaves a little less than the true one.
    return next(words for error, words in left if error <= max(2 * best, 0.1 * enough))


# --- a layer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alone:
    """A layer as the artifact computed it: its nodes, what went in (weights too, by name), and what should come out."""

    nodes: Sequence[Node]
    values: Mapping[str, Array]
    expected: Array
    given: Array
    axis: int

    def run(self, node: Node | None = None, op: AnyOp | None = None, swap: Mapping[int, Array] | None = None) -> Array:
        """Compute the layer, with one node changed where told.

        Raises:
            DemitasseError, ValueError: the change doesn't fit.
        """
        values = dict(self.values)
        for each in self.nodes:
            is_changed = each is node
            operands = [values[name] for name in each.inputs]
            for index, array in (swap or {}).items() if is_changed else ():
                operands[index] = array
            op_now = op if is_changed and op is not None else each.op
            values.update(zip(each.outputs, evaluate_node(op_now, operands), strict=True))
        return values[self.nodes[-1].outputs[0]]


def explain_layer(alone: Alone, *, near: float = NEAR) -> str:
    """Say what is wrong with a layer, as "the kernel is transposed"; empty where no hypothesis explains it.

    `near` is how far, in shares of the size of the result, the right hypothesis may leave it: 8 bits leave more.
    """
    return _best(_of_layer(alone), alone.expected, alone.given, near)


def _of_layer(alone: Alone) -> Results:
    for node in alone.nodes:
        for words, change in _of_node(node, [alone.values.get(name) for name in node.inputs]):
            try:
                yield Hypothesis(words, alone.run(node, **change))
            except (DemitasseError, ValueError, IndexError):
                continue
    yield from _of_batch_norm(alone)
    yield from _of_result(alone)


def _of_batch_norm(alone: Alone) -> Results:
    """Try other numbers for what is added to the variance: `1 / sqrt(variance + eps)` is a factor of the layer.

    A mean that was divided by the same root moves with it, where the converter knew that it is one.
    """
    for node, behind in pairwise((*alone.nodes, None)):
        if node is None or not _is_constant(node, BinaryFunction.MUL, alone) or node.origin.kind not in BATCH_NORMS:
            continue
        scale = alone.values[node.inputs[1]].astype(np.float64)
        has_shift = behind is not None and _is_constant(behind, BinaryFunction.ADD, alone)
        for ours, theirs in permutations(USUAL_EPS, 2):
            with np.errstate(invalid="ignore", divide="ignore"):
                other = np.sign(scale) / np.sqrt(1 / np.square(scale) + (theirs - ours))
                ratio = np.where(scale == 0, 1, other / scale)
            if not np.isfinite(other).all():
                continue
            words = f"the eps of its batch normalization is {theirs:g} for {ours:g}, or off by as much"
            values = {**alone.values, node.inputs[1]: other}
            yield Hypothesis(words, replace(alone, values=values).run())
            if has_shift and behind is not None and behind.origin.layer == node.origin.layer:
                shift = alone.values[behind.inputs[1]] * ratio
                yield Hypothesis(words, replace(alone, values={**values, behind.inputs[1]: shift}).run())


def _is_constant(node: Node, function: BinaryFunction, alone: Alone) -> bool:
    """Whether a node adds or multiplies by a constant."""
    made = {name for each in alone.nodes for name in each.outputs}
    return (
        isinstance(node.op, Binary)
        and node.op.function is function
        and node.inputs[1] in alone.values
        and node.inputs[1] not in made
    )


def _of_result(alone: Alone) -> Results:
    """Guess from the result alone: a factor, an offset, permuted channels, a shift, an activation."""
    expected, given = alone.expected.astype(np.float64), alone.given.astype(np.float64)
    if expected.shape != given.shape or not np.isfinite(given).all():
        return
    if np.abs(given).max(initial=0) > MOST_TIMES * np.abs(expected).max(initial=0):
        return
    product, square = float((expected * given).sum()), float(np.square(expected).sum())
    if square and product:
        factor = product / square
        yield Hypothesis(f"everything is {factor:.4g} times as large", factor * expected)
    yield Hypothesis("a ReLU is there that shouldn't be", np.maximum(expected, 0))
    yield Hypothesis("the sign is lost", np.abs(expected))
    axis, rank = alone.axis, expected.ndim
    others = tuple(place for place in range(rank) if place != axis)
    if rank > 1 and expected.shape[axis] > 1:
        offset = (given - expected).mean(axis=others, keepdims=True)
        if rank > 2 or expected.shape[0] > 1:
            yield Hypothesis(CONSTANTS, expected + offset)
        yield from _permutations(expected, given, axis)
    spatial = [place for place in range(rank) if place not in {0, axis}] if rank == 4 else []
    for place in spatial:
        for by in (-1, 1):
            yield Hypothesis(f"it is shifted by {by:+d} along axis {place}", np.roll(expected, by, place))
        yield Hypothesis(f"it is mirrored along axis {place}", np.flip(expected, place))
    if len(spatial) == 2 and expected.shape[spatial[0]] == expected.shape[spatial[1]]:
        yield Hypothesis("height and width are swapped", expected.swapaxes(*spatial))


def _permutations(expected: Array, given: Array, axis: int) -> Results:
    """Find for each given channel the one that it is."""
    count = expected.shape[axis]
    if count > 4096:
        return
    rows = np.moveaxis(expected, axis, 0).reshape(count, -1)
    other = np.moveaxis(given, axis, 0).reshape(count, -1)
    distance = np.square(rows).sum(axis=1)[None] - 2 * other @ rows.T
    order = distance.argmin(axis=1)
    moved = np.flatnonzero(order != np.arange(count))
    if not len(moved) or len(set(order.tolist())) < count:
        return
    shown = ", ".join(f"{place} holds {order[place]}" for place in moved[:4]) + (", ..." if len(moved) > 4 else "")
    yield Hypothesis(f"channels are permuted: {shown}", np.take(expected, order, axis))


def _of_node(node: Node, operands: Sequence[Array | None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """List what may be wrong with an operation: other attributes, other weights."""
    op = node.op
    match op:
        case Conv() | AveragePool() | MaxPool():
            yield from _of_window(op)
        case Lrn():
            yield "k is 2 for 1 or 1 for 2", {"op": replace(op, k=3 - op.k)}
            yield "alpha isn't divided by the window's size", {"op": replace(op, alpha=op.alpha * op.size)}
            yield "alpha is divided twice", {"op": replace(op, alpha=op.alpha / op.size)}
        case Softmax():
            for axis in range(operands[0].ndim if operands[0] is not None else 0):
                yield f"it runs along axis {axis} instead of {op.axis}", {"op": Softmax(axis)}
            yield "it is left out", {"op": LeakyRelu(1.0)}
        case Relu() | PRelu() | LeakyRelu():
            yield "the activation is left out", _only(node, LeakyRelu(1.0))
            yield "the negative slope is lost", _only(node, LeakyRelu(0.0))
            yield "the negative slope is 0.01", _only(node, LeakyRelu(0.01))
        case Reshape() if operands[0] is not None and operands[0].ndim == 4:
            n, channels, height, width = operands[0].shape
            moved = operands[0].transpose(0, 2, 3, 1)
            yield "the image is flattened channels last instead of channels first", {"swap": {0: moved}}
            back = operands[0].reshape(n, height, width, channels).transpose(0, 3, 1, 2)
            yield "the matrix is read for an image flattened channels last", {"swap": {0: back}}
        case _:
            pass
    if isinstance(op, Conv | Dense) and len(operands) > 1 and operands[1] is not None:
        yield from _of_kernel(op, operands)


def _only(node: Node, op: AnyOp) -> dict[str, Any]:
    return {"op": op} if len(node.inputs) == 1 else {"op": PRelu(), "swap": {1: np.array(getattr(op, "slope", 0.0))}}


def _of_window(op: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    pads = op.pads
    for axis, (before, after) in enumerate(pads):
        for change, words in ((1, "the end to the start"), (-1, "the start to the end")):
            moved = Padding(before + change, after - change)
            if min(moved) >= 0:
                shifted = (*pads[:axis], moved, *pads[axis + 1 :])
                yield f"a line of padding moved from {words} of spatial axis {axis}", {"op": replace(op, pads=shifted)}
    if not isinstance(op, Conv):
        if any(after for _, after in pads):
            floor = tuple(Padding(before, 0) for before, _ in pads)
            yield "sizes are rounded down where they are to be rounded up", {"op": replace(op, pads=floor)}
        other = AveragePool if isinstance(op, MaxPool) else MaxPool
        words = "the mean is taken for the maximum" if other is AveragePool else "the maximum is taken for the mean"
        made = other(op.kernel, op.stride, op.pads, Activation.NONE, layout=op.layout)
        yield words, {"op": made}
    elif op.activation is Activation.NONE:
        yield "a ReLU is fused that shouldn't be", {"op": replace(op, activation=Activation.RELU)}


def _of_kernel(op: Conv | Dense, operands: Sequence[Array | None]) -> Iterator[tuple[str, dict[str, Any]]]:
    kernel = operands[1]
    assert kernel is not None
    if len(operands) > 2 and operands[2] is not None:
        yield "the bias is lost", {"swap": {2: np.zeros_like(operands[2])}}
        yield "the bias is subtracted", {"swap": {2: -operands[2]}}
        yield "the bias is shifted by one channel", {"swap": {2: np.roll(operands[2], 1)}}
    yield "its kernel is all zero", {"swap": {1: np.zeros_like(kernel)}}
    yield "its input channels are in reverse order (BGR for RGB)", {"swap": {1: kernel[:, ::-1]}}
    if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3]:
        yield "its kernel is transposed (height and width swapped)", {"swap": {1: kernel.swapaxes(2, 3)}}
        yield "its kernel is flipped, as in a convolution of signal processing", {"swap": {1: kernel[:, :, ::-1, ::-1]}}
    if isinstance(op, Dense) and kernel.shape[0] == kernel.shape[1]:
        yield "its matrix is transposed", {"swap": {1: kernel.T}}
    for place in range(len(kernel)) if len(kernel) <= 64 else ():
        without = kernel.copy()
        without[place] = 0
        yield f"the weights of output channel {place} are zero", {"swap": {1: without}}


# --- an input --------------------------------------------------------------------------------------------------


def explain_input(
    run: Callable[[Array], Array], image: Array, expected: Array, given: Array, layout: Layout, *, near: float = NEAR
) -> str:
    """Say how an artifact misreads its input, as "it takes BGR for RGB"; empty where no hypothesis explains it.

    Args:
        run: computes the source's result for another input.
        image: the input that both had, in the source's layout.
        expected: the source's result for it.
        given: the artifact's.
        layout: the source's.
        near: how far, in shares of the size of the result, the right hypothesis may leave it.
    """

    def results() -> Results:
        for words, other in _of_input(image, layout):
            try:
                yield Hypothesis(words, run(np.ascontiguousarray(other, image.dtype)))
            except (DemitasseError, ValueError):
                continue
        try:
            yield from _of_offset(run, image, given, layout)
        except (DemitasseError, ValueError, np.linalg.LinAlgError):
            return

    return _best(results(), expected, given, near)


def _of_offset(run: Callable[[Array], Array], image: Array, given: Array, layout: Layout) -> Results:
    """Fit what would have to be added to each of the input's channels."""
    if image.ndim != 4 or image.shape[layout.channel_axis(4)] > MOST_FITTED:
        return
    axis = layout.channel_axis(4)
    shape = [1] * 4
    shape[axis] = image.shape[axis]
    units = [each.reshape(shape) for each in np.eye(image.shape[axis])]
    offset = np.zeros(shape)
    for _ in range(FITS):
        now = run((image + offset).astype(image.dtype)).astype(np.float64)
        if now.shape != given.shape or not np.isfinite(given).all():
            return
        size = 1e-2 * max(float(np.abs(image).max()), 1.0)
        columns = [(run((image + offset + size * unit).astype(image.dtype)) - now).ravel() / size for unit in units]
        best, *_ = np.linalg.lstsq(np.stack(columns, 1), (given - now).ravel(), rcond=None)
        offset = offset + sum(part * unit for part, unit in zip(best, units, strict=True))
    numbers = ", ".join(f"{part:.4g}" for part in offset.ravel())
    words = f"{numbers} is added to the channels of its input, as if a mean weren't subtracted"
    yield Hypothesis(words, run((image + offset).astype(image.dtype)))


def _shifted(image: Array, by: int, axes: tuple[int, int]) -> Array:
    """Move an image along two axes; zeros come in."""
    moved = np.roll(image, (by, by), axes)
    for axis in axes:
        np.moveaxis(moved, axis, 0)[slice(by) if by > 0 else slice(by, None)] = 0
    return moved


def _of_input(image: Array, layout: Layout) -> Iterator[tuple[str, Array]]:
    for factor, words in ((0.5, "half"), (2.0, "twice"), (255.0, "255 times"), (1 / 255, "1/255 of"), (-1.0, "minus")):
        yield f"it takes {words} the input, as if its scale were wrong", image * factor
    if image.ndim != 4:
        return
    channel = layout.channel_axis(4)
    height, width = layout.spatial_axes(4)
    if image.shape[channel] > 1:
        yield "it takes the channels in reverse order (BGR for RGB)", np.flip(image, channel)
    if image.shape[height] == image.shape[width]:
        yield "it takes height for width and width for height", image.swapaxes(height, width)
    yield "it takes the image mirrored", np.flip(image, width)
    yield "it takes the image upside down", np.flip(image, height)
    for by in (-1, 1):
        yield f"it takes the image shifted by {by:+d} pixel each way", _shifted(image, by, (height, width))
    moved = image.mean(axis=(height, width), keepdims=True)
    yield "it takes the image with each channel's mean subtracted", image - moved
    n, a, b, c = image.shape
    if layout is Layout.CHANNELS_FIRST and a > 1:
        yield "it takes NCHW numbers for NHWC ones", image.reshape(n, b, c, a).transpose(0, 3, 1, 2)
    elif layout is Layout.CHANNELS_LAST and c > 1:
        yield "it takes NHWC numbers for NCHW ones", image.reshape(n, c, a, b).transpose(0, 2, 3, 1)
    for mean in ((104.0, 117.0, 123.0), (123.68, 116.78, 103.94), (127.5,) * 3):
        if image.shape[channel] == 3:
            shape = [1] * 4
            shape[channel] = 3
            yield f"the mean {mean} isn't subtracted", image + np.array(mean).reshape(shape)
            yield f"the mean {mean} is subtracted twice", image - np.array(mean).reshape(shape)
