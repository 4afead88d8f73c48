"""Equalized nets compute the same, with each channel as much larger as its factor says."""

from __future__ import annotations

import numpy as np
import pytest

from cases import CASES, Case
from demitasse.errors import UsageError
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import Activation, AnyOp, Binary, BinaryFunction, Conv, Dense, Layout, Padding, Relu, TensorType
from demitasse.ir.weights import Array
from demitasse.quantize.equalize import (
    LIMIT,
    Channels,
    Peaks,
    add_peaks,
    choose_exponents,
    equalize,
    factors_of,
)

EQUALIZED = [one for one in CASES if Channels(one.graph).free]
Step = tuple[AnyOp, dict[str, Array]]


def exponents_of(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Returns exponents for every variable, by the results of products, all over what is allowed."""
    channels = Channels(graph)
    drawn = np.random.default_rng(7).integers(-LIMIT, LIMIT, channels.count, endpoint=True)
    drawn[0] = 0
    return {
        node.outputs[0]: tuple(map(int, drawn[channels.of(node.outputs[0])]))
        for node in graph.nodes
        if node.outputs[0] in channels.axes
    }


def conv(channels: int, seed: int, activation: Activation = Activation.NONE, size: int = 1) -> Step:
    random, ones = np.random.default_rng(seed), (1, 1)
    padding = (Padding(size // 2, size // 2),) * 2
    kernel = random.normal(0, 1, (channels, 4, size, size)).astype(np.float32)
    weights = {"kernel": kernel, "bias": random.normal(0, 1, channels).astype(np.float32)}
    return Conv(ones, ones, padding, activation=activation, layout=Layout.CHANNELS_LAST), weights


def chain(*steps: Step) -> Graph:
    graph, value = Graph("chain"), "x"
    graph.add_input(value, TensorType((1, 5, 5, 4)))
    for place, (op, weights) in enumerate(steps):
        names = [graph.add_weight(f"y{place}/{role}", array) for role, array in weights.items()]
        value = graph.add(op, [value, *names], f"y{place}", Origin(f"y{place}", type(op).__name__))
    graph.outputs.append(value)
    return graph


@pytest.mark.parametrize("one", EQUALIZED, ids=str)
def test_outputs_stay_and_channels_grow_by_their_factors(one: Case) -> None:
    exponents = exponents_of(one.graph)
    factors = factors_of(one.graph, exponents)
    before, after = (evaluate(graph, one.inputs) for graph in (one.graph, equalize(one.graph, exponents)))
    assert factors
    assert not factors.keys() & {*one.graph.inputs, *one.graph.outputs}
    for name, array in before.items():
        expected = array * factors[name] if name in factors else array
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=0))


def test_whole_nets_are_equalized() -> None:
    names = {one.name for one in EQUALIZED}
    assert {"residual_net", "squeeze_and_excite", "residual_net_channels_last"} <= names


@pytest.mark.parametrize(
    ("steps", "free"),
    [
        ([conv(4, 1, Activation.RELU), conv(3, 2)], {"y0"}),
        ([conv(4, 1), (Relu(), {}), conv(3, 2)], {"y0", "y1"}),
        ([conv(4, 1, Activation.RELU6), conv(3, 2)], set()),
        ([conv(4, 1), (Binary(BinaryFunction.ADD), {"shift": np.ones(4, np.float32)}), conv(3, 2)], set()),
        (
            [conv(4, 1), (Binary(BinaryFunction.MUL), {"scale": np.arange(4, dtype=np.float32)}), conv(3, 2)],
            {"y0", "y1"},
        ),
        ([conv(4, 1), (Dense(), {"kernel": np.ones((2, 4), np.float32)})], {"y0"}),
    ],
)
def test_what_is_not_homogeneous_keeps_its_size(steps: list[Step], free: set[str]) -> None:
    assert Channels(chain(*steps)).free == free


def test_a_kernel_of_two_layers_is_left_alone() -> None:
    graph = chain(conv(4, 1))
    for source, name in (("y0", "y1"), ("y1", "y2")):
        graph.add(conv(4, 2)[0], [source, "y0/kernel", "y0/bias"], name, Origin(name, "Conv"))
    graph.outputs[:] = ["y2"]
    assert Channels(graph).free == frozenset()


def test_small_channels_grow_and_large_ones_do_not() -> None:
    op, weights = conv(4, 1)
    weights = {
        name: array * np.array([1, 0.25, 1e-9, 0]).reshape(-1, *(1,) * (array.ndim - 1))
        for name, array in weights.items()
    }
    graph = chain((op, {name: array.astype(np.float32) for name, array in weights.items()}), conv(3, 2))
    x = np.random.default_rng(0).normal(0, 1, (1, 5, 5, 4)).astype(np.float32)
    channels = Channels(graph)
    peaks: Peaks = {}
    for found in (evaluate(graph, {"x": x}), evaluate(graph, {"x": 2 * x})):
        for name, array in found.items():
            add_peaks(peaks, channels, name, array)
    assert peaks.keys() == {"y0"}
    np.testing.assert_allclose(peaks["y0"], np.abs(evaluate(graph, {"x": 2 * x})["y0"]).max((0, 1, 2)), rtol=1e-6)
    exponents = choose_exponents(channels, peaks)
    assert exponents.keys() == {"y0"}
    large, small, tiny, dead = exponents["y0"]
    assert large < small < tiny == LIMIT
    assert dead == 0


@pytest.mark.parametrize(
    ("exponents", "message"),
    [
        ({"y0": (1, 2)}, "'y0' has no such factors"),
        ({"other": (1, 2, 3, 4)}, "'other' has no such factors"),
        ({"y0": (LIMIT + 1, 0, 0, 0)}, "'y0' has no such factors"),
        ({"y0": (1, 1, 1, 1), "y1": (2, 1, 1, 1)}, r"factors of \['y0'\]"),
        ({"y2": (1, 1, 1)}, r"factors of \['y2'\]"),
    ],
)
def test_exponents_of_another_net_are_refused(exponents: dict[str, tuple[int, ...]], message: str) -> None:
    graph = chain(conv(4, 1), (Relu(), {}), conv(3, 2))
    for use in (equalize, factors_of):
        with pytest.raises(UsageError, match=message):
            use(graph, exponents)
