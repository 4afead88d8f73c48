"""Recurrent operations, written out: no step more than is needed, each weight once, and a limit that is stated."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cases import CASES, Case, case
from demitasse.ir.check import check
from demitasse.ir.cost import macs
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import Curve, CurveFunction, Recurrent, RecurrentCell, TensorType
from demitasse.ir.steps import MOST_STEPS
from demitasse.passes import prune, unroll
from demitasse.targets import TARGETS, lower, simplify

RECURRENT = [one for one in CASES if Recurrent in one.ops]
CELL = Recurrent(RecurrentCell.GRU_RESET_AFTER, Curve(CurveFunction.TANH))
ORIGIN = Origin("gru", "GRU", "net.h5")


def gru(steps: int, runs: int = 1) -> Graph:
    """Runs one cell over one input, once or several times, with the same weights."""
    graph, random = Graph("net"), np.random.default_rng(7)
    graph.add_input("x", TensorType((2, steps, 4)))
    shapes = {"kernel": (9, 4), "recurrent": (9, 3), "bias": (2, 9)}
    weights = [graph.add_weight(name, random.normal(size=shape).astype("f")) for name, shape in shapes.items()]
    for run in range(runs):
        graph.add(CELL, ["x", *weights], (f"all_{run}", f"last_{run}"), ORIGIN)
        graph.outputs.append(f"last_{run}")
    return graph


def kinds(graph: Graph) -> Counter[str]:
    return Counter(type(node.op).__name__ for node in graph.nodes)


@pytest.mark.parametrize("one", RECURRENT, ids=str)
def test_nothing_recurrent_is_left_and_the_results_keep_their_names(one: Case) -> None:
    graph = unroll(one.graph)
    check(graph)
    assert "Recurrent" not in kinds(graph)
    expected, found = (evaluate(each, one.inputs, keep=one.graph.outputs) for each in (one.graph, graph))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6 * np.abs(array).max())


def test_a_graph_without_recurrence_is_given_back_itself() -> None:
    graph = case("dense").graph
    assert unroll(graph) is graph


def test_steps_that_nobody_reads_are_not_made_into_a_sequence() -> None:
    assert "Concat" not in kinds(unroll(gru(5)))
    assert kinds(unroll(gru(5)))["Dense"] == 1 + 4 * 2  # the first step knows that its state is zero


def test_weights_are_split_once_for_all_runs() -> None:
    once, twice = (prune(unroll(gru(3, runs))) for runs in (1, 2))
    assert set(once.weights) == set(twice.weights)
    assert set(once.weights) >= {"kernel", "recurrent/gates", "recurrent/state", "bias/input", "bias/state"}


def test_a_cell_costs_what_its_steps_cost_but_for_the_first_state() -> None:
    graph = gru(5)
    assert macs(graph) == 2 * 5 * (9 * 4 + 9 * 3)
    assert macs(unroll(graph)) == macs(graph) - 2 * 9 * 3


def test_long_sequences_stay_and_are_refused_by_targets_without_operators_for_them() -> None:
    graph = gru(MOST_STEPS + 1)
    assert unroll(graph).nodes == graph.nodes
    assert TARGETS["onnx"].offences(lower(simplify(graph), TARGETS["onnx"])) == []
    for name in ("tflite", "savedmodel"):
        (offence,) = TARGETS[name].offences(lower(simplify(graph), TARGETS[name]))
        assert "sequences of more than 2048 steps" in offence.reason
        assert offence.where == ORIGIN.where
