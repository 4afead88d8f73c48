"""Small graphs that cover every operation and its corners, for whatever evaluates, rewrites or writes graphs.

`CASES` is one list; parametrise over it with `ids=str`. A case's name is fit for a file. A case with spatial
operations exists in both layouts, the second one's name ending in `_channels_last`. Inputs lie inside the domain of
the functions that read them and away from ties and rounding boundaries, so that every correct runtime agrees to
float32 rounding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, product

import numpy as np

from demitasse.ir.graph import Graph, Origin, SourceLayer
from demitasse.ir.ops import (
    Activation,
    AnyOp,
    ArgMax,
    AveragePool,
    Binary,
    BinaryFunction,
    Cast,
    Clip,
    Compare,
    CompareFunction,
    Concat,
    Conv,
    ConvTranspose,
    Coordinates,
    Curve,
    CurveFunction,
    Dense,
    DType,
    Elu,
    Gather,
    Identity,
    Interpolation,
    Layout,
    LeakyRelu,
    Lrn,
    MatMul,
    MaxPool,
    MaxUnpool,
    NonMaxSuppression,
    Pad,
    Padding,
    PRelu,
    Recurrent,
    RecurrentCell,
    Reduce,
    ReduceFunction,
    Relu,
    Reshape,
    Resize,
    RoiMaxPool,
    Shape,
    Size,
    Slice,
    Softmax,
    SpatialOp,
    TensorType,
    Tile,
    TopK,
    Transpose,
    Unary,
    UnaryFunction,
    Where,
)
from demitasse.ir.weights import Array

__all__ = ["CASES", "Case", "case"]

FIRST, LAST = Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST
NO_PAD = Padding(0, 0)


@dataclass(frozen=True)
class Case:
    """A graph and inputs for it; `dynamic` says that it computes the same for any other batch."""

    name: str
    graph: Graph
    inputs: dict[str, Array]
    dynamic: bool

    def __str__(self) -> str:
        return self.name

    @property
    def layouts(self) -> frozenset[Layout]:
        """The layouts of the spatial operations; empty where there are none, so that the case fits any target."""
        return frozenset(node.op.layout for node in self.graph.nodes if isinstance(node.op, SpatialOp))

    @property
    def ops(self) -> frozenset[type[AnyOp]]:
        """The operations that occur."""
        return frozenset(type(node.op) for node in self.graph.nodes)

    @property
    def dynamic_graph(self) -> Graph:
        """The same graph, its batch marked as a placeholder."""
        assert self.dynamic, f"{self.name} has a fixed batch"
        return replace(self.graph, batch_is_dynamic=True)

    def inputs_at(self, batch: int) -> dict[str, Array]:
        """Returns inputs for another batch, no two samples alike."""
        assert self.dynamic, f"{self.name} has a fixed batch"
        return {
            name: np.concatenate([np.roll(array, turn, axis=-1) for turn in range(batch)])[:batch]
            for name, array in self.inputs.items()
        }


class Sketch:
    """Builds a case node by node; arrays are drawn from a generator that the case's name seeds."""

    def __init__(self, name: str, layout: Layout = FIRST) -> None:
        self.name = name if layout is FIRST else f"{name}_channels_last"
        self.layout = layout
        self.graph = Graph(self.name, layout=layout)
        self.inputs: dict[str, Array] = {}
        self.random = np.random.default_rng(zlib.crc32(name.encode()))

    def draw(self, shape: Shape, low: float = -1.0, high: float = 1.0) -> Array:
        return self.random.uniform(low, high, shape).astype(np.float32)

    def input(self, *shape: int, name: str = "x", low: float = -1.0, high: float = 1.0) -> str:
        """Adds an input of random float32 elements."""
        return self.given(name, self.draw(shape, low, high))

    def given(self, name: str, array: Array) -> str:
        """Adds an input with these elements."""
        self.inputs[name] = array
        return self.graph.add_input(name, TensorType(array.shape, DType(array.dtype.name)))

    def image(self, channels: int, *spatial: int, batch: int = 2, name: str = "x") -> str:
        """Adds an input of the sketch's layout; its elements are the same in both."""
        first = self.draw((batch, channels, *spatial), -2.0, 2.0)
        return self.given(name, first if self.layout is FIRST else np.moveaxis(first, 1, -1).copy())

    def spatial(self, per_axis: tuple[Padding, ...]) -> tuple[Padding, ...]:
        """Returns pads for every axis of an image from those for its spatial ones."""
        return (NO_PAD, NO_PAD, *per_axis) if self.layout is FIRST else (NO_PAD, *per_axis, NO_PAD)

    def weight(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.graph.add_weight(name, self.draw(shape, low, high))

    def constant(self, name: str, array: Array) -> str:
        return self.graph.add_weight(name, array)

    def add(self, op: AnyOp, inputs: list[str], outputs: str | tuple[str, ...] = "y") -> str:
        """Appends a node and the source layer that it stands for."""
        names = (outputs,) if isinstance(outputs, str) else outputs
        origin = Origin(names[0], type(op).__name__, "cases.prototxt", len(self.graph.nodes) + 1)
        first = self.graph.add(op, inputs, names, origin)
        self.graph.layers.append(
            SourceLayer(origin, tuple(name for name in inputs if name in self.graph.values), names)
        )
        return first

    def done(self, *outputs: str, dynamic: bool = True) -> Case:
        self.graph.outputs.extend(outputs or ("y",))
        return Case(self.name, self.graph, self.inputs, dynamic)


def _unary(name: str, op: AnyOp, *shape: int, low: float = -3.0, high: float = 3.0, dynamic: bool = True) -> Case:
    """Builds a case of one node that reads one input."""
    sketch = Sketch(name)
    sketch.add(op, [sketch.input(*shape, low=low, high=high)])
    return sketch.done(dynamic=dynamic)


def _pads(*pairs: tuple[int, int]) -> tuple[Padding, ...]:
    return tuple(Padding(*pair) for pair in pairs)


# --- spatial operations -----------------------------------------------------------------------------------


def _conv(
    name: str,
    layout: Layout,
    channels: int,
    out: int,
    spatial: Shape,
    kernel: Shape,
    *,
    stride: Shape = (),
    dilation: Shape = (),
    pads: tuple[Padding, ...] = (),
    groups: int = 1,
    bias: bool = True,
    activation: Activation = Activation.NONE,
) -> Case:
    sketch, ones = Sketch(name, layout), (1,) * len(kernel)
    op = Conv(stride or ones, dilation or ones, pads or (NO_PAD,) * len(kernel), groups, activation, layout=layout)
    inputs = [sketch.image(channels, *spatial), sketch.weight("y/kernel", out, channels // groups, *kernel)]
    sketch.add(op, inputs + [sketch.weight("y/bias", out)] * bias)
    return sketch.done()


def _conv_transpose(
    name: str,
    layout: Layout,
    channels: int,
    out: int,
    spatial: Shape,
    kernel: Shape,
    *,
    stride: Shape = (),
    dilation: Shape = (),
    pads: tuple[Padding, ...] = (),
    output_padding: Shape = (),
    groups: int = 1,
    bias: bool = True,
    activation: Activation = Activation.NONE,
) -> Case:
    sketch, ones = Sketch(name, layout), (1,) * len(kernel)
    op = ConvTranspose(
        stride or ones,
        dilation or ones,
        pads or (NO_PAD,) * len(kernel),
        output_padding or (0,) * len(kernel),
        groups,
        activation,
        layout=layout,
    )
    inputs = [sketch.image(channels, *spatial), sketch.weight("y/kernel", channels, out // groups, *kernel)]
    sketch.add(op, inputs + [sketch.weight("y/bias", out)] * bias)
    return sketch.done()


def _convolutions(layout: Layout) -> Iterator[Case]:
    pads = _pads((1, 1), (1, 1))
    yield _conv("conv_plain", layout, 3, 4, (6, 7), (3, 3), pads=pads)
    yield _conv("conv_valid", layout, 3, 4, (6, 7), (3, 3))
    yield _conv("conv_1x1", layout, 5, 4, (4, 3), (1, 1))
    yield _conv("conv_1x1_strided", layout, 5, 4, (5, 6), (1, 1), stride=(2, 2))
    yield _conv("conv_1x1_padded", layout, 3, 4, (4, 3), (1, 1), pads=_pads((1, 1), (0, 2)))
    yield _conv("conv_no_bias", layout, 3, 4, (6, 7), (3, 3), pads=pads, bias=False)
    yield _conv("conv_same_even", layout, 3, 4, (6, 8), (3, 3), stride=(2, 2), pads=_pads((0, 1), (0, 1)))
    yield _conv("conv_strided", layout, 3, 4, (7, 8), (3, 3), stride=(2, 2), pads=pads)
    yield _conv("conv_asymmetric", layout, 3, 4, (7, 8), (3, 3), stride=(2, 2), pads=_pads((0, 2), (3, 1)))
    yield _conv("conv_rect", layout, 3, 4, (8, 7), (5, 2), stride=(2, 1), pads=_pads((2, 2), (1, 0)))
    yield _conv("conv_dilated", layout, 3, 4, (9, 10), (3, 2), dilation=(2, 3), pads=_pads((2, 2), (1, 2)))
    yield _conv("conv_strided_dilated", layout, 2, 3, (9, 8), (3, 3), stride=(2, 1), dilation=(2, 2), pads=pads)
    yield _conv("conv_whole_image", layout, 3, 6, (4, 5), (4, 5))
    yield _conv("conv_grouped", layout, 6, 4, (5, 6), (3, 3), groups=2, pads=pads)
    yield _conv("conv_grouped_strided", layout, 6, 9, (5, 6), (3, 3), groups=3, stride=(2, 2), pads=pads)
    yield _conv("conv_depthwise", layout, 4, 4, (6, 5), (3, 3), groups=4, pads=pads)
    yield _conv("conv_depthwise_strided", layout, 4, 4, (6, 5), (3, 3), groups=4, stride=(2, 2), pads=pads)
    yield _conv("conv_depthwise_dilated", layout, 4, 4, (7, 8), (3, 3), groups=4, dilation=(2, 2))
    yield _conv("conv_depthwise_multiplier", layout, 3, 6, (6, 5), (3, 3), groups=3, pads=pads)
    yield _conv("conv_depthwise_one_channel", layout, 1, 3, (6, 5), (3, 3), pads=pads)
    yield _conv("conv_relu", layout, 3, 4, (6, 7), (3, 3), pads=pads, activation=Activation.RELU)
    yield _conv("conv_relu6", layout, 8, 4, (6, 7), (3, 3), pads=pads, activation=Activation.RELU6)
    yield _conv("conv_1d", layout, 3, 4, (9,), (3,), stride=(2,), pads=_pads((1, 2)))
    yield _conv("conv_1d_grouped", layout, 4, 6, (9,), (3,), dilation=(2,), groups=2)
    yield _conv("conv_3d", layout, 2, 3, (4, 5, 6), (2, 3, 3), stride=(1, 2, 1), pads=_pads((0, 1), (1, 1), (1, 0)))
    yield _conv("conv_3d_pointwise", layout, 2, 3, (3, 4, 2), (1, 1, 1))

    two = (2, 2)
    yield _conv_transpose("deconv_plain", layout, 3, 4, (4, 5), (3, 3))
    yield _conv_transpose("deconv_strided", layout, 3, 4, (4, 5), (4, 4), stride=two, pads=pads)
    yield _conv_transpose("deconv_no_bias", layout, 3, 4, (4, 5), two, stride=two, bias=False)
    yield _conv_transpose("deconv_asymmetric", layout, 3, 2, (4, 5), (3, 4), stride=two, pads=_pads((0, 1), (2, 1)))
    yield _conv_transpose(
        "deconv_output_padding", layout, 3, 2, (4, 5), (3, 3), stride=(2, 3), pads=pads, output_padding=(1, 2)
    )
    yield _conv_transpose("deconv_window_below_stride", layout, 3, 2, (3, 4), (1, 2), stride=(2, 3))
    yield _conv_transpose("deconv_cropped_far", layout, 3, 2, (5, 5), (3, 3), stride=two, pads=_pads((3, 2), (4, 4)))
    yield _conv_transpose("deconv_dilated", layout, 2, 3, (4, 5), (3, 2), dilation=(2, 3), pads=pads)
    yield _conv_transpose("deconv_grouped", layout, 4, 6, (4, 3), (3, 3), stride=two, groups=2, pads=pads)
    yield _conv_transpose("deconv_depthwise", layout, 4, 4, (4, 3), (4, 4), stride=two, groups=4, pads=pads, bias=False)
    yield _conv_transpose("deconv_relu", layout, 3, 4, (4, 5), two, stride=two, activation=Activation.RELU)
    yield _conv_transpose("deconv_1d", layout, 3, 4, (5,), (3,), stride=(2,), pads=_pads((1, 0)))
    yield _conv_transpose("deconv_3d", layout, 2, 3, (2, 3, 2), (2, 3, 2), stride=(2, 1, 2))


def _pools(layout: Layout) -> Iterator[Case]:
    two, three = (2, 2), (3, 3)
    windows: tuple[tuple[str, Shape, Shape, Shape, tuple[Padding, ...]], ...] = (
        ("plain", (6, 8), two, two, _pads((0, 0), (0, 0))),
        ("stride_1", (5, 6), three, (1, 1), _pads((1, 1), (1, 1))),
        ("same", (5, 7), three, two, _pads((1, 1), (1, 1))),
        ("same_even", (6, 8), three, two, _pads((0, 1), (0, 1))),
        ("floor", (6, 8), three, two, _pads((0, 0), (0, 0))),
        ("rect", (7, 6), (3, 2), (2, 1), _pads((1, 0), (0, 1))),
        ("before_only", (6, 7), three, two, _pads((1, 0), (2, 0))),
        ("overhang_1", (6, 8), three, two, _pads((0, 1), (0, 1))),
        ("overhang_2", (6, 7), (4, 4), (4, 3), _pads((0, 2), (0, 0))),
        ("overhang_3", (7, 9), (4, 5), (3, 4), _pads((1, 2), (0, 3))),
        ("whole_image", (4, 5), (4, 5), (1, 1), _pads((0, 0), (0, 0))),
        ("1d", (9,), (3,), (2,), _pads((1, 1))),
        ("3d", (4, 5, 4), (2, 3, 2), (2, 2, 1), _pads((0, 0), (1, 1), (1, 0))),
    )
    for kind, word in ((MaxPool, "max"), (AveragePool, "average")):
        for name, spatial, kernel, stride, pads in windows:
            sketch = Sketch(f"{word}_pool_{name}", layout)
            sketch.add(kind(kernel, stride, pads, layout=layout), [sketch.image(3, *spatial)])
            yield sketch.done()
        sketch = Sketch(f"{word}_pool_relu6", layout)
        op = kind(two, two, _pads((0, 0), (0, 0)), Activation.RELU6, layout=layout)
        sketch.add(op, [sketch.image(3, 4, 6)])
        yield sketch.done()
    yield from map(_pad_then_average_pool, (layout,) * 2, (False, True))
    yield from map(_max_pool_with_indices, (layout,) * 2, (False, True))
    yield from map(_max_unpool, (layout,) * 2, (False, True))


def _pad_then_average_pool(layout: Layout, overhang: bool) -> Case:
    """Builds Caffe's average pooling: its padding counts, its overhang doesn't."""
    sketch = Sketch(f"pad_average_pool{'_overhang' * overhang}", layout)
    padded = Pad(sketch.spatial(_pads((1, 1), (1, 1))))
    sketch.add(padded, [sketch.image(3, 6, 7)], "y/padded")
    end = 1 if overhang else 0
    op = AveragePool((3, 3), (2, 2), _pads((0, end), (0, 0)), layout=layout)
    sketch.add(op, ["y/padded"])
    return sketch.done()


def _max_pool_with_indices(layout: Layout, padded: bool) -> Case:
    sketch = Sketch(f"max_pool_indices{'_padded' * padded}", layout)
    pads = _pads((1, 0), (0, 1)) if padded else _pads((0, 0), (0, 0))
    op = MaxPool((3, 2), (2, 2), pads, with_indices=True, layout=layout)
    sketch.add(op, [sketch.image(3, 5, 7)], ("y", "places"))
    return sketch.done("y", "places")


def _max_unpool(layout: Layout, given: bool) -> Case:
    """Builds an unpooling whose places a pooling gives, or (as a net cut in two has it) an input."""
    sketch = Sketch(f"max_unpool{'_given_places' * given}", layout)
    op = MaxUnpool((5, 6), layout=layout)
    if given:
        x = sketch.image(2, 2, 3)
        corners = np.arange(2)[:, None] * 12 + np.arange(3) * 2
        places = corners + sketch.random.choice((0, 1, 6, 7), (2, 2, 2, 3))
        ordered = places if layout is FIRST else np.moveaxis(places, 1, -1)
        sketch.add(op, [x, sketch.given("places", np.ascontiguousarray(ordered, np.int32))])
        return sketch.done()
    pool = MaxPool((2, 2), (2, 2), _pads((0, 0), (0, 0)), with_indices=True, layout=layout)
    sketch.add(pool, [sketch.image(3, 4, 6)], ("pooled", "places"))
    sketch.add(Unary(UnaryFunction.TANH), ["pooled"], "changed")
    sketch.add(op, ["changed", "places"])
    return sketch.done()


def _resizes(layout: Layout) -> Iterator[Case]:
    some = (Interpolation.LINEAR, Coordinates.ALIGN_CORNERS), (Interpolation.NEAREST, Coordinates.HALF_PIXEL)
    sizes = {
        "double": ((4, 5), (8, 10)),
        "up": ((5, 7), (8, 11)),
        "down": ((5, 7), (3, 4)),
        "mixed": ((7, 5), (4, 7)),
        "same": ((4, 5), (4, 5)),
        "from_one": ((1, 1), (3, 4)),
        "to_one": ((3, 5), (1, 1)),
    }
    for interpolation, coordinates, (word, (before, after)) in product(Interpolation, Coordinates, sizes.items()):
        if word in ("same", "from_one", "to_one") and (interpolation, coordinates) not in some:
            continue
        sketch = Sketch(f"resize_{interpolation.value}_{coordinates.value}_{word}", layout)
        op = Resize(after, interpolation, coordinates, layout=layout)
        sketch.add(op, [sketch.image(2, *before)])
        yield sketch.done()
    for interpolation, word in ((Interpolation.NEAREST, "nearest"), (Interpolation.LINEAR, "linear")):
        sketch = Sketch(f"resize_{word}_1d", layout)
        op = Resize((10,), interpolation, Coordinates.HALF_PIXEL, layout=layout)
        sketch.add(op, [sketch.image(2, 5)])
        yield sketch.done()


def _normalizations(layout: Layout) -> Iterator[Case]:
    for name, channels, op in (
        ("lrn_alexnet", 7, Lrn(5, 1e-4, 0.75, 1.0, layout=layout)),
        ("lrn_strong", 6, Lrn(3, 0.8, 0.6, 2.0, layout=layout)),
        ("lrn_wider_than_channels", 2, Lrn(7, 0.5, 0.75, 1.0, layout=layout)),
        ("lrn_single", 3, Lrn(1, 0.5, 0.5, 1.0, layout=layout)),
    ):
        sketch = Sketch(name, layout)
        sketch.add(op, [sketch.image(channels, 4, 3)])
        yield sketch.done()


# --- products ---------------------------------------------------------------------------------------------


def _dense(name: str, *shape: int, out: int = 4, bias: bool = True, activation: Activation = Activation.NONE) -> Case:
    sketch = Sketch(name)
    inputs = [sketch.input(*shape), sketch.weight("y/kernel", out, shape[-1])]
    sketch.add(Dense(activation), inputs + [sketch.weight("y/bias", out)] * bias)
    return sketch.done()


def _mat_mul(name: str, left: Shape, right: Shape, op: MatMul, *, constant: bool = False) -> Case:
    sketch = Sketch(name)
    x = sketch.input(*left, name="left")
    other = sketch.weight("right", *right) if constant else sketch.input(*right, name="right")
    sketch.add(op, [x, other])
    return sketch.done()


def _products() -> Iterator[Case]:
    yield _dense("dense", 2, 5)
    yield _dense("dense_one_sample", 1, 5)
    yield _dense("dense_no_bias", 2, 5, bias=False)
    yield _dense("dense_rank_3", 2, 3, 5)
    yield _dense("dense_rank_4", 2, 3, 2, 5)
    yield _dense("dense_rank_3_no_bias", 2, 3, 5, bias=False)
    yield _dense("dense_relu", 2, 5, activation=Activation.RELU)
    yield _dense("dense_relu6", 3, 40, out=6, activation=Activation.RELU6)

    plain, flipped = MatMul(), MatMul(transpose_right=True)
    yield _mat_mul("mat_mul_constant", (2, 3), (3, 4), plain, constant=True)
    yield _mat_mul("mat_mul_constant_flipped", (2, 3), (4, 3), flipped, constant=True)
    yield _mat_mul("mat_mul_batch", (2, 3, 4), (2, 4, 5), plain)
    yield _mat_mul("mat_mul_transpose_left", (2, 4, 3), (2, 4, 5), MatMul(transpose_left=True))
    yield _mat_mul("mat_mul_transpose_right", (2, 3, 4), (2, 5, 4), flipped)
    yield _mat_mul("mat_mul_transpose_both", (2, 4, 3), (2, 5, 4), MatMul(True, True))
    yield _mat_mul("mat_mul_heads", (2, 3, 4, 5), (2, 3, 6, 5), flipped)
    yield _mat_mul("mat_mul_broadcast_constant", (2, 3, 4, 5), (3, 5, 2), plain, constant=True)
    yield _mat_mul("mat_mul_broadcast_ones", (2, 3, 4, 5), (2, 1, 5, 2), plain)


# --- elementwise ------------------------------------------------------------------------------------------


def _off_integers(sketch: Sketch, shape: Shape) -> Array:
    """Draws numbers whose distance from every integer and every half is 0.1 at least."""
    whole = sketch.random.integers(-4, 5, shape)
    array: Array = whole + sketch.random.choice((-0.4, -0.25, -0.1, 0.1, 0.3), shape)
    return array.astype(np.float32)


def _unaries() -> Iterator[Case]:
    positive = {UnaryFunction.LOG, UnaryFunction.SQRT, UnaryFunction.RSQRT}
    stepped = {UnaryFunction.FLOOR, UnaryFunction.CEIL, UnaryFunction.ROUND, UnaryFunction.SIGN}
    for function in UnaryFunction:
        sketch = Sketch(f"unary_{function.value}")
        shape: Shape = (2, 3, 7)
        if function in stepped:
            x = sketch.given("x", _off_integers(sketch, shape))
        elif function in positive:
            x = sketch.input(*shape, low=0.1, high=5.0)
        else:
            x = sketch.input(*shape, low=-6.0, high=6.0)
        sketch.add(Unary(function), [x])
        yield sketch.done()
    yield _unary("unary_sigmoid_far", Unary(UnaryFunction.SIGMOID), 2, 9, low=-100.0, high=100.0)
    yield _unary("unary_softplus_far", Unary(UnaryFunction.SOFTPLUS), 2, 9, low=-100.0, high=100.0)
    yield _unary("unary_tanh_rank_4", Unary(UnaryFunction.TANH), 2, 3, 4, 5)
    yield _unary("relu", Relu(), 2, 3, 4, 5)
    yield _unary("leaky_relu", LeakyRelu(0.1), 2, 3, 4)
    yield _unary("leaky_relu_negative_slope", LeakyRelu(-0.5), 2, 3, 4)
    yield _unary("leaky_relu_steep", LeakyRelu(1.5), 2, 3, 4)
    yield _unary("elu", Elu(), 2, 3, 4)
    yield _unary("elu_scaled", Elu(0.3), 2, 3, 4)
    yield _unary("clip_relu6", Clip(0.0, 6.0), 2, 3, 4, low=-4.0, high=10.0)
    yield _unary("clip_both", Clip(-1.5, 0.75), 2, 3, 4)
    yield _unary("clip_below", Clip(-0.5, float("inf")), 2, 3, 4)
    yield _unary("clip_above", Clip(float("-inf"), 0.5), 2, 3, 4)
    yield _unary("identity", Identity(), 2, 3)
    slopes: dict[str, tuple[Shape, Shape]] = {
        "channels_first": ((2, 3, 4, 5), (3, 1, 1)),
        "last_axis": ((2, 4, 5, 3), (3,)),
        "shared": ((2, 3, 4), (1,)),
        "full": ((2, 3, 4), (3, 4)),
        "dense": ((2, 6), (6,)),
    }
    for name, (shape, slope) in slopes.items():
        sketch = Sketch(f"prelu_{name}")
        x = sketch.input(*shape, low=-3.0, high=3.0)
        sketch.add(PRelu(), [x, sketch.weight("y/slope", *slope, low=-0.5, high=1.5)])
        yield sketch.done()


def _operands(sketch: Sketch, left: Shape, right: Shape, function: BinaryFunction, constant: str) -> list[str]:
    """Adds two operands inside the function's domain; `constant` names the one that is a weight."""

    def add(name: str, shape: Shape, low: float, high: float) -> str:
        if name == constant:
            return sketch.weight(name, *shape, low=low, high=high)
        return sketch.input(*shape, name=name, low=low, high=high)

    positive = function in (BinaryFunction.POW, BinaryFunction.DIV)
    return [
        add("left", left, 0.5 if function is BinaryFunction.POW else -2.0, 2.0),
        add("right", right, 0.5 if positive else -2.0, 2.0),
    ]


def _binaries() -> Iterator[Case]:
    shapes: dict[str, tuple[Shape, Shape, str]] = {
        "values": ((2, 3, 4), (2, 3, 4), ""),
        "values_broadcast": ((2, 1, 4), (2, 3, 1), ""),
        "channels_first": ((2, 3, 4, 5), (3, 1, 1), "right"),
        "last_axis": ((2, 4, 5, 3), (3,), "right"),
        "scalar": ((2, 3, 4), (), "right"),
        "scalar_left": ((), (2, 3, 4), "left"),
        "left_lower_rank": ((3,), (2, 4, 3), "left"),
    }
    everywhere = (BinaryFunction.ADD, BinaryFunction.SUB)
    for function, (name, (left, right, constant)) in product(BinaryFunction, shapes.items()):
        if function not in everywhere and name not in ("values", "channels_first", "scalar_left"):
            continue
        sketch = Sketch(f"binary_{function.value}_{name}")
        sketch.add(Binary(function), _operands(sketch, left, right, function, constant))
        yield sketch.done()
    for activation in (Activation.RELU, Activation.RELU6):
        sketch = Sketch(f"binary_add_{activation.value}")
        inputs = [sketch.input(2, 3, 4, name=name, low=-5, high=5) for name in ("left", "right")]
        sketch.add(Binary(BinaryFunction.ADD, activation), inputs)
        yield sketch.done()
    sketch = Sketch("binary_square")
    x = sketch.input(2, 3, 4)
    sketch.add(Binary(BinaryFunction.MUL), [x, x])
    yield sketch.done()
    for exponent in (2.0, 3.0):
        sketch = Sketch(f"binary_pow_{exponent:.0f}_of_negatives")
        x = sketch.input(2, 3, 4, low=-3.0, high=3.0)
        sketch.add(Binary(BinaryFunction.POW), [x, sketch.constant("y/power", np.array(exponent, np.float32))])
        yield sketch.done()
    sketch = Sketch("binary_add_int32")
    operands = [sketch.given(name, sketch.random.integers(-9, 10, (2, 5), np.int32)) for name in ("left", "right")]
    sketch.add(Binary(BinaryFunction.ADD), operands)
    yield sketch.done()


def _choices() -> Iterator[Case]:
    for function in CompareFunction:
        sketch = Sketch(f"compare_{function.value}")
        pair = [sketch.random.integers(-2, 3, (2, 3, 4)).astype(np.float32) for _ in range(2)]
        left, right = (sketch.given(name, array) for name, array in zip(("left", "right"), pair, strict=True))
        sketch.add(Compare(function), [left, right], "holds")
        sketch.add(Cast(DType.FLOAT32), ["holds"])
        yield sketch.done()
    sketch = Sketch("compare_threshold")
    sketch.add(
        Compare(CompareFunction.GREATER),
        [sketch.input(2, 3, 4), sketch.constant("y/threshold", np.array(0.25, np.float32))],
        "holds",
    )
    sketch.add(Cast(DType.FLOAT32), ["holds"])
    yield sketch.done()
    for name, constant in (("values", False), ("constant", True)):
        sketch = Sketch(f"where_{name}")
        x, zero = sketch.input(2, 3, 4), sketch.constant("zero", np.zeros((), np.float32))
        sketch.add(Compare(CompareFunction.LESS), [x, zero], "holds")
        other = sketch.weight("other", 3, 1, low=4, high=9) if constant else sketch.input(2, 3, 4, name="other")
        sketch.add(Where(), ["holds", x, other])
        yield sketch.done()
    yield from _casts()


def _casts() -> Iterator[Case]:
    sketch = Sketch("cast_uint8_to_float32")
    sketch.add(Cast(DType.FLOAT32), [sketch.given("x", sketch.random.integers(0, 256, (2, 4, 3), np.uint8))])
    yield sketch.done()
    for dtype in (DType.INT32, DType.INT64):
        sketch = Sketch(f"cast_float32_to_{dtype.value}")
        sketch.add(Cast(dtype), [sketch.given("x", _off_integers(sketch, (2, 9)))])
        yield sketch.done()
    sketch = Sketch("cast_int32_to_float32")
    x = sketch.given("x", sketch.random.integers(-99, 100, (2, 5), np.int32))
    sketch.add(Cast(DType.FLOAT32), [x])
    yield sketch.done()
    sketch = Sketch("cast_int64_to_int32")
    x = sketch.given("x", sketch.random.integers(-99, 100, (2, 5), np.int64))
    sketch.add(Cast(DType.INT32), [x])
    yield sketch.done()


# --- along axes -------------------------------------------------------------------------------------------


def _along_axes() -> Iterator[Case]:
    for axis in range(4):
        yield _unary(f"softmax_rank_4_axis_{axis}", Softmax(axis), 2, 3, 4, 5, dynamic=axis > 0)
    yield _unary("softmax", Softmax(1), 2, 10)
    yield _unary("softmax_far", Softmax(1), 2, 10, low=-200.0, high=200.0)
    yield _unary("softmax_rank_3", Softmax(2), 2, 3, 5)
    axes_of = {"channels": (1,), "space": (2, 3), "last": (3,), "ends": (1, 3), "sample": (1, 2, 3)}
    for function, (name, axes), keepdims in product(ReduceFunction, axes_of.items(), (False, True)):
        if function is not ReduceFunction.MEAN and (name, keepdims) not in (("ends", False), ("space", True)):
            continue
        op = Reduce(function, axes, keepdims)
        yield _unary(f"reduce_{function.value}_{name}{'_kept' * keepdims}", op, 2, 3, 4, 5, low=-1.5, high=1.5)
    yield _unary("reduce_batch", Reduce(ReduceFunction.SUM, (0,), False), 2, 3, 4, dynamic=False)
    yield _unary("reduce_all", Reduce(ReduceFunction.MEAN, (0, 1), False), 2, 5, dynamic=False)
    yield _unary("reduce_all_kept", Reduce(ReduceFunction.MAX, (0, 1), True), 2, 5, dynamic=False)
    yield _unary("reduce_rank_3", Reduce(ReduceFunction.MEAN, (1,), False), 2, 5, 3)
    for axis, keepdims in product((1, 3), (False, True)):
        yield _unary(f"arg_max_axis_{axis}{'_kept' * keepdims}", ArgMax(axis, keepdims), 2, 3, 4, 5)
    for name, k, axis, shape in (
        ("top_k", 3, 1, (2, 8)),
        ("top_k_rank_4", 2, 3, (2, 3, 4, 5)),
        ("top_k_inner_axis", 2, 1, (2, 4, 3)),
        ("top_k_all", 5, 1, (2, 5)),
    ):
        sketch = Sketch(name)
        sketch.add(TopK(k, axis), [sketch.input(*shape)], ("y", "places"))
        yield sketch.done("y", "places")
    sketch = Sketch("top_k_places_only")
    sketch.add(TopK(1, 1), [sketch.input(2, 6)], ("values", "places"))
    yield sketch.done("places")


# --- recurrent --------------------------------------------------------------------------------------------

HARD = Curve(CurveFunction.HARD_SIGMOID, 0.2, 0.5)
SIXTH = Curve(CurveFunction.HARD_SIGMOID, 1 / 6, 0.5)
TANH = Curve(CurveFunction.TANH)


def _cell(name: str, op: Recurrent, *, stated: bool = False, last: bool = False) -> Case:
    """Builds a cell over 5 steps of 4 channels, with states from outside, or of which the last states alone count."""
    sketch = Sketch(f"recurrent_{name}")
    units, rows = 3, 3 * op.cell.gates
    names = [f"state_{index}" for index in range(op.cell.states)]
    inputs = [sketch.input(2, 5, 4, low=-2.0, high=2.0), sketch.weight("y/kernel", rows, 4)]
    inputs.append(sketch.weight("y/recurrent_kernel", rows, units, low=-0.5, high=0.5))
    inputs += [sketch.weight("y/bias", 2, rows)] * op.is_biased
    inputs += [sketch.input(2, units, name=f"first_{each}") for each in names] * stated
    sketch.add(op, inputs, ("sequence" if last else "y", *names))
    return sketch.done(*names if last else ("y", *names))


def _recurrences() -> Iterator[Case]:
    for kind in RecurrentCell:
        yield _cell(kind.value, Recurrent(kind, TANH))
        yield _cell(f"{kind.value}_backwards", Recurrent(kind, TANH, HARD, backwards=True))
        yield _cell(f"{kind.value}_stated", Recurrent(kind, TANH, SIXTH), stated=True)
        yield _cell(f"{kind.value}_last", Recurrent(kind, TANH, backwards=True, is_biased=False), last=True)
    constants = {CurveFunction.HARD_SIGMOID: (0.3, 0.4), CurveFunction.ELU: (0.7,), CurveFunction.LEAKY_RELU: (0.1,)}
    for function in CurveFunction:
        curve = Curve(function, *constants.get(function, ()))
        yield _cell(f"plain_of_{function.value}", Recurrent(RecurrentCell.PLAIN, curve))
        yield _cell(f"lstm_of_{function.value}", Recurrent(RecurrentCell.LSTM, curve, HARD))
        yield _cell(f"gru_of_{function.value}", Recurrent(RecurrentCell.GRU_RESET_AFTER, curve, SIXTH))
    sketch = Sketch("recurrent_both_ways")
    x = sketch.input(2, 5, 4)
    for name, backwards in (("ahead", False), ("back", True)):
        weights = [sketch.weight(f"{name}/{role}", *shape) for role, shape in (("w", (12, 4)), ("r", (12, 3)))]
        op = Recurrent(RecurrentCell.LSTM, TANH, backwards=backwards, is_biased=False)
        sketch.add(op, [x, *weights], (name, f"{name}_hidden", f"{name}_carry"))
    sketch.add(Concat(2), ["ahead", "back"], "both")
    sketch.add(Reduce(ReduceFunction.MEAN, (1,), False), ["both"])
    yield sketch.done()


# --- detection --------------------------------------------------------------------------------------------


def _regions(name: str, size: Size, scale: float, rows: list[list[float]]) -> Case:
    """Builds a pooling of regions, each a place in the batch and corners."""
    sketch = Sketch(f"roi_max_pool_{name}")
    regions = sketch.given("regions", np.array(rows, np.float32))
    sketch.add(RoiMaxPool(size, scale), [sketch.input(2, 3, 8, 9), regions])
    return sketch.done(dynamic=False)


def _suppression(name: str, classes: int, boxes: int, overlap: float, score: float) -> Case:
    """Builds a suppression among boxes that lie close together."""
    sketch = Sketch(f"non_max_suppression_{name}")
    corners = sketch.draw((2, boxes, 2), 0.0, 0.5)
    sides = sketch.draw((2, boxes, 2), 0.1, 0.6)
    sketch.given("boxes", np.concatenate([corners, corners + sides], axis=2))
    sketch.add(NonMaxSuppression(overlap, score), ["boxes", sketch.input(2, classes, boxes, low=0.0, name="scores")])
    return sketch.done()


def _detections() -> Iterator[Case]:
    rows: list[list[float]] = [
        [0, 0, 0, 15, 12],
        [1, 4, 3, 15, 14],
        [0, 8, 8, 8, 8],
        [1, 3, 5, 16, 15],
        [1, 20, 20, 40, 40],
    ]
    yield _regions("half", Size(3, 2), 0.5, rows)
    yield _regions("sixteenth", Size(7, 7), 0.0625, [[0, 0, 0, 127, 111], [1, 32, 16, 90, 100]])
    yield _suppression("one_class", 1, 12, 0.3, 0.2)
    yield _suppression("classes", 3, 20, 0.5, 0.4)
    yield _suppression("nothing_left", 2, 5, 0.5, 2.0)


# --- structure --------------------------------------------------------------------------------------------


def _concat(name: str, axis: int, *shapes: Shape, weight: Shape | None = None, dynamic: bool = True) -> Case:
    sketch = Sketch(name)
    parts = [sketch.input(*shape, name=f"x{index}") for index, shape in enumerate(shapes)]
    sketch.add(Concat(axis), parts + ([sketch.weight("part", *weight)] if weight else []))
    return sketch.done(dynamic=dynamic)


def _structures() -> Iterator[Case]:
    yield _concat("concat_channels", 1, (2, 3, 4, 5), (2, 1, 4, 5), (2, 2, 4, 5))
    yield _concat("concat_last", 3, (2, 3, 4, 5), (2, 3, 4, 2))
    yield _concat("concat_inner", 2, (2, 3, 4, 5), (2, 3, 1, 5))
    yield _concat("concat_batch", 0, (2, 3), (1, 3), dynamic=False)
    yield _concat("concat_one", 1, (2, 3))
    yield _concat("concat_constant", 1, (1, 3), weight=(1, 2), dynamic=False)
    sketch = Sketch("concat_twice_the_same")
    x = sketch.input(2, 3)
    sketch.add(Concat(1), [x, x])
    yield sketch.done()

    shape = (2, 5, 6, 7)
    yield _unary("slice_channels", Slice((1,), (1,), (4,)), *shape)
    yield _unary("slice_to_end", Slice((2, 3), (2, 1), (None, None)), *shape)
    yield _unary("slice_negative", Slice((1, 2), (-3, 1), (None, -2)), *shape)
    yield _unary("slice_steps", Slice((2, 3), (0, 1), (None, 6), (2, 3)), *shape)
    yield _unary("slice_backwards", Slice((1,), (-1,), (None,), (-1,)), *shape)
    yield _unary("slice_backwards_steps", Slice((1, 3), (3, 5), (0, None), (-1, -2)), *shape)
    yield _unary("slice_beyond", Slice((2,), (3,), (100,)), *shape)
    yield _unary("slice_batch", Slice((0,), (1,), (2,)), *shape, dynamic=False)

    yield _unary("pad_space", Pad(_pads((0, 0), (0, 0), (1, 2), (0, 3))), 2, 3, 4, 5)
    yield _unary("pad_value", Pad(_pads((0, 0), (0, 0), (1, 1), (2, 0)), 1.5), 2, 3, 4, 5)
    yield _unary("pad_low", Pad(_pads((0, 0), (1, 1)), -1e30), 2, 3)
    yield _unary("pad_channels", Pad(_pads((0, 0), (1, 2), (0, 0), (0, 0))), 2, 3, 4, 5)
    yield _unary("pad_batch", Pad(_pads((1, 0), (0, 1))), 2, 3, dynamic=False)
    yield _unary("pad_rank_3", Pad(_pads((0, 0), (2, 1), (0, 0)), 0.5), 2, 4, 3)

    yield _unary("reshape_flatten", Reshape((0, -1)), 2, 3, 4, 5)
    yield _unary("reshape_split", Reshape((0, 3, -1, 2)), 2, 6, 4)
    yield _unary("reshape_copy", Reshape((0, 0, 20)), 2, 3, 4, 5)
    yield _unary("reshape_infer_batch", Reshape((-1, 6)), 2, 2, 3)
    yield _unary("reshape_longer", Reshape((0, 1, 1, -1)), 2, 6)
    yield _unary("reshape_fixed", Reshape((3, 8)), 2, 3, 4, dynamic=False)
    yield _unary("reshape_to_one_axis", Reshape((-1,)), 1, 3, 4, dynamic=False)

    yield _unary("transpose_to_last", Transpose((0, 2, 3, 1)), 2, 3, 4, 5)
    yield _unary("transpose_to_first", Transpose((0, 3, 1, 2)), 2, 4, 5, 3)
    yield _unary("transpose_matrix", Transpose((1, 0)), 2, 3, dynamic=False)
    yield _unary("transpose_rank_5", Transpose((0, 2, 1, 4, 3)), 2, 3, 2, 4, 5)
    yield _unary("tile_last", Tile((1, 1, 3)), 2, 3, 2)
    yield _unary("tile_inner", Tile((1, 2, 3)), 2, 1, 4)
    yield _unary("tile_batch", Tile((2, 1)), 2, 3, dynamic=False)
    yield from _gathers()


def _gathers() -> Iterator[Case]:
    places: tuple[tuple[str, int, Array], ...] = (
        ("channels", 1, np.array([3, 0, 0, 2])),
        ("last", 2, np.array([1, 2])),
        ("rank_0", 1, np.array(2)),
        ("rank_2", 1, np.array([[0, 3], [1, 1]])),
    )
    for (name, axis, indices), dtype in product(places, (DType.INT32, DType.INT64)):
        sketch = Sketch(f"gather_{name}_{dtype.value}")
        indices = indices.astype(dtype.value)
        sketch.add(Gather(axis), [sketch.input(2, 4, 3), sketch.constant("y/indices", indices)])
        yield sketch.done()
    sketch = Sketch("gather_batch")
    x, rows = sketch.input(3, 4), sketch.given("rows", np.array([2, 0, 2, 1], np.int32))
    sketch.add(Gather(0), [x, rows])
    yield sketch.done(dynamic=False)
    sketch = Sketch("gather_embedding")
    tokens = sketch.given("tokens", sketch.random.integers(0, 6, (2, 5), np.int32))
    sketch.add(Gather(0), [sketch.weight("y/table", 6, 3), tokens])
    yield sketch.done()


# --- whole graphs -----------------------------------------------------------------------------------------


def _graphs(layout: Layout) -> Iterator[Case]:
    yield _residual_net(layout)
    yield _inception(layout)
    yield _squeeze_and_excite(layout)


def _residual_net(layout: Layout) -> Case:
    """Builds what a small ResNet is made of: convolutions, an addition, pooling, a classifier."""
    sketch, pads = Sketch("residual_net", layout), _pads((1, 1), (1, 1))
    x, one = sketch.image(3, 10, 10, name="data"), (1, 1)

    def conv(name: str, value: str, channels: int, out: int, activation: Activation, stride: int = 1) -> str:
        inputs = [
            value,
            sketch.weight(f"{name}/kernel", out, channels, 3, 3, low=-0.4, high=0.4),
            sketch.weight(f"{name}/bias", out),
        ]
        op = Conv((stride, stride), one, pads, 1, activation, layout=layout)
        return sketch.add(op, inputs, name)

    stem = conv("conv1", x, 3, 6, Activation.RELU, stride=2)
    pooled = sketch.add(MaxPool((3, 3), (1, 1), pads, layout=layout), [stem], "pool1")
    first = conv("res2a", pooled, 6, 6, Activation.RELU)
    second = conv("res2b", first, 6, 6, Activation.NONE)
    total = sketch.add(Binary(BinaryFunction.ADD), [pooled, second], "res2")
    positive = sketch.add(Relu(), [total], "res2_relu")
    mean = Reduce(ReduceFunction.MEAN, layout.spatial_axes(4), keepdims=True)
    flat = sketch.add(Reshape((0, -1)), [sketch.add(mean, [positive], "pool5")], "flat")
    weights = [sketch.weight("fc/kernel", 5, 6), sketch.weight("fc/bias", 5)]
    scores = sketch.add(Dense(), [flat, *weights], "fc")
    sketch.add(Softmax(1), [scores], "prob")
    return sketch.done("prob")


def _inception(layout: Layout) -> Case:
    """Builds two inputs, branches joined along the channels, and outputs of which one is read further on."""
    sketch, one = Sketch("inception", layout), (1, 1)
    left, right = sketch.image(3, 6, 5, name="left"), sketch.image(2, 6, 5, name="right")
    channels = layout.channel_axis(4)
    kernel = sketch.weight("a/kernel", 4, 3, 3, 3)
    a = sketch.add(Conv(one, one, _pads((1, 1), (1, 1)), layout=layout), [left, kernel], "a")
    b = sketch.add(Conv(one, one, (NO_PAD, NO_PAD), layout=layout), [right, sketch.weight("b/kernel", 3, 2, 1, 1)], "b")
    c = sketch.add(AveragePool((3, 3), one, _pads((1, 1), (1, 1)), layout=layout), [left], "c")
    joined = sketch.add(Concat(channels), [a, b, c], "joined")
    pieces = (Slice((channels,), (start,), (stop,)) for start, stop in ((0, 5), (5, 10)))
    head, tail = (sketch.add(op, [joined], name) for op, name in zip(pieces, ("head", "tail"), strict=True))
    sketch.add(Binary(BinaryFunction.MAX), [head, tail], "maximum")
    sketch.add(Identity(), [left], "copy")
    return sketch.done("joined", "maximum", "copy")


def _squeeze_and_excite(layout: Layout) -> Case:
    """Builds a gate: channel means through two pointwise convolutions scale the image; one weight is deferred."""
    sketch, one, no_pads = Sketch("squeeze_and_excite", layout), (1, 1), (NO_PAD, NO_PAD)
    x = sketch.image(4, 5, 6)
    mean = sketch.add(Reduce(ReduceFunction.MEAN, layout.spatial_axes(4), keepdims=True), [x], "mean")
    down, up = sketch.draw((2, 4, 1, 1)), sketch.draw((4, 2, 1, 1))
    sketch.graph.weights.defer("down/kernel", TensorType(down.shape), lambda: down * np.float32(0.5))
    op = Conv(one, one, no_pads, activation=Activation.RELU, layout=layout)
    narrow = sketch.add(op, [mean, "down/kernel", sketch.weight("down/bias", 2)], "down")
    wide = sketch.add(Conv(one, one, no_pads, layout=layout), [narrow, sketch.constant("up/kernel", up)], "up")
    gate = sketch.add(Unary(UnaryFunction.SIGMOID), [wide], "gate")
    sketch.add(Binary(BinaryFunction.MUL), [x, gate])
    return sketch.done()


def _several_ports() -> Iterator[Case]:
    sketch = Sketch("ports_named_oddly")
    a, b = sketch.input(2, 3, name="fire2/expand1x1"), sketch.input(2, 3, name="in put:0")
    sketch.add(Binary(BinaryFunction.SUB), [a, b], "blob@layer")
    sketch.add(Relu(), ["blob@layer"], "blob")
    sketch.add(Unary(UnaryFunction.NEG), ["blob@layer"], "blob@layer/what")
    yield sketch.done("blob@layer/what", "blob")
    sketch = Sketch("output_is_input")
    sketch.add(Relu(), [sketch.input(2, 3)])
    yield sketch.done("x", "y")


def _in_both_layouts(build: Callable[[Layout], Iterator[Case]]) -> Iterator[Case]:
    return chain(build(FIRST), build(LAST))


CASES: tuple[Case, ...] = (
    *_in_both_layouts(_convolutions),
    *_in_both_layouts(_pools),
    *_in_both_layouts(_resizes),
    *_in_both_layouts(_normalizations),
    *_products(),
    *_unaries(),
    *_binaries(),
    *_choices(),
    *_along_axes(),
    *_recurrences(),
    *_detections(),
    *_structures(),
    *_in_both_layouts(_graphs),
    *_several_ports(),
)


def case(name: str) -> Case:
    """Returns the case of this name."""
    return next(one for one in CASES if one.name == name)
