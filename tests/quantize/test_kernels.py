"""Kernels are rounded so that their errors weigh less, each weight up or down."""

from __future__ import annotations

import numpy as np
import pytest

from cases import case
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import Conv, Dense, Layout, Padding, SpatialOp, TensorType
from demitasse.ir.weights import Array
from demitasse.quantize.kernels import Moments, round_kernels, round_up, with_rounded

FIRST, LAST = Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST


def conv(layout: Layout, *, groups: int = 1, stride: int = 1, dilation: int = 1, pad: int = 0, axes: int = 2) -> Conv:
    pads = (Padding(pad, 0), Padding(0, pad))[:axes]
    return Conv((stride,) * axes, (dilation,) * axes, pads, groups, layout=layout)


PRODUCTS: dict[str, tuple[Conv | Dense, tuple[int, ...]]] = {
    "taps": (conv(LAST), (24, 6, 3, 2)),
    "channels first": (conv(FIRST, pad=2, stride=2), (24, 6, 3, 2)),
    "groups": (conv(FIRST, groups=2, dilation=2), (24, 3, 3, 3)),
    "depthwise": (conv(LAST, groups=6, pad=1), (12, 1, 3, 3)),
    "row": (conv(LAST, axes=1), (24, 6, 5)),
    "blocks": (conv(LAST), (8, 150, 2, 1)),
    "dense": (Dense(), (32, 200)),
}


def net(op: Conv | Dense, kernel: tuple[int, ...], *, bias: bool = True) -> Graph:
    """Returns one product, with a data input of its size."""
    graph, random = Graph("product"), np.random.default_rng(3)
    spatial = (9, 11)[: len(kernel) - 2]
    groups = op.groups if isinstance(op, Conv) else 1
    shape = op.layout.shape(4, groups * kernel[1], spatial) if isinstance(op, SpatialOp) else (64, kernel[1])
    graph.add_input("x", TensorType(shape))
    names = [graph.add_weight("kernel", random.normal(0, 1, kernel).astype(np.float32))]
    names += [graph.add_weight("bias", random.normal(0, 1, kernel[0]).astype(np.float32))] if bias else []
    graph.outputs.append(graph.add(op, ["x", *names], "y", Origin("y", "Product")))
    return graph


def smooth(graph: Graph, seed: int) -> Array:
    """Returns an input whose neighbours are alike along every axis, as in photographs."""
    shape = graph.type("x").shape
    array = np.random.default_rng(seed).normal(1, 1, shape)
    for axis in range(1, len(shape)):
        for _ in range(4):
            array = array + np.roll(array, 1, axis)
    return np.asarray(array / array.std(), np.float32)


def rounded_up(graph: Graph) -> dict[str, Array]:
    moments = Moments(graph, 8)
    for seed in range(8):
        moments.add("x", smooth(graph, seed))
    return round_up(graph, moments)


@pytest.mark.parametrize("what", PRODUCTS)
def test_errors_of_weights_make_up_for_each_other(what: str) -> None:
    graph = net(*PRODUCTS[what])
    up = rounded_up(graph)
    feeds = {"x": smooth(graph, 99)}
    expected = evaluate(graph, feeds)["y"]
    errors = []
    for chosen in (up, {}):
        means = {"x": np.asarray(moved(graph, feeds["x"]).mean(0))}
        other = with_rounded(graph, round_kernels(graph, up=chosen, means=means))
        errors.append(np.square(evaluate(other, feeds)["y"] - expected).mean())
    assert errors[0] < 0.6 * errors[1]


def moved(graph: Graph, array: Array) -> Array:
    """Returns rows of channels."""
    op = graph.nodes[0].op
    axis = op.layout.channel_axis(array.ndim) if isinstance(op, SpatialOp) else -1
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def test_each_weight_goes_up_or_down_and_integers_stay() -> None:
    graph = net(conv(LAST), (24, 6, 3, 2))
    kernel = graph.weights["kernel"]
    kernel[:, 2] = 0
    kernel[1, 0] = 3 * np.abs(kernel[1, 1:]).max() / 127
    kernel[5] = 0
    (rounded,) = round_kernels(graph, up=rounded_up(graph), means=None).values()
    exact = kernel / np.where(rounded.steps > 0, rounded.steps, 1)
    assert (np.abs(rounded.integers - exact) < 1 + 1e-3).all()
    assert (np.abs(rounded.integers - exact) > 0.5 + 1e-3).any()
    assert (np.abs(rounded.integers).reshape(24, -1).max(1) == np.where(np.arange(24) == 5, 0, 127)).all()
    assert not rounded.integers[:, 2].any()
    np.testing.assert_array_equal(rounded.integers[1, 0], 3)
    assert rounded.shift is None


def test_nodes_that_stay_real_keep_their_kernels() -> None:
    graph = net(Dense(), (4, 8))
    rounded = round_kernels(graph, up={}, means={"x": np.ones(8, np.float32)})
    kept, changed = with_rounded(graph, rounded, ["y"]), with_rounded(graph, rounded)
    np.testing.assert_array_equal(kept.weights["kernel"], graph.weights["kernel"])
    assert (changed.weights["kernel"] != graph.weights["kernel"]).any()
    assert (changed.weights["bias"] != graph.weights["bias"]).any()


def test_a_product_without_a_bias_gets_one_for_its_shift() -> None:
    graph = net(Dense(), (4, 8), bias=False)
    (node,) = with_rounded(graph, round_kernels(graph, up={}, means={"x": np.ones(8, np.float32)})).nodes
    assert len(node.inputs) == 3
    (node,) = with_rounded(graph, round_kernels(graph, up={}, means=None)).nodes
    assert len(node.inputs) == 2


def test_a_kernel_that_two_read_is_left_alone() -> None:
    graph = net(Dense(), (8, 8))
    graph.outputs.append(graph.add(Dense(), ["y", "kernel"], "z", Origin("z", "Dense")))
    assert round_kernels(graph, up={}, means={"x": np.ones(8, np.float32)}) == {}


def test_few_windows_and_constant_ones_are_no_trouble() -> None:
    graph = net(Dense(), (4, 300))
    moments = Moments(graph, 1)
    assert round_up(graph, moments) == {}
    moments.add("x", np.ones((64, 300), np.float32))
    (up,) = round_up(graph, moments).values()
    (rounded,), (nearest,) = (round_kernels(graph, up=each, means={}).values() for each in ({"kernel": up}, {}))
    np.testing.assert_array_equal(rounded.integers, nearest.integers)


def test_what_a_case_computes_stays_near() -> None:
    one = case("conv_grouped")
    moments = Moments(one.graph, 1)
    for name, array in evaluate(one.graph, one.inputs, keep=list(one.graph.values)).items():
        moments.add(name, array)
    up = round_up(one.graph, moments)
    assert up
    after = evaluate(with_rounded(one.graph, round_kernels(one.graph, up=up, means={})), one.inputs)
    expected = evaluate(one.graph, one.inputs)
    for name in one.graph.outputs:
        assert np.abs(after[name] - expected[name]).max() < 0.05 * np.abs(expected[name]).max()
