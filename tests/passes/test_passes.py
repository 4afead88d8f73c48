"""Every pass must compute the same as the graph it was given, and say what became of each value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cases import CASES, Case
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, MergeKind
from demitasse.ir.ops import Layout
from demitasse.ir.weights import Array
from demitasse.passes import (
    can_change_batch,
    drop_identities,
    fold_affine,
    fold_constants,
    fuse_activations,
    merge_pads,
    prune,
    to_layout,
    unroll,
    with_batch,
)
from demitasse.targets import TARGETS, lower, simplify

PASSES: dict[str, Callable[[Graph], Graph]] = {
    "prune": prune,
    "drop_identities": drop_identities,
    "fold_constants": fold_constants,
    "merge_pads": merge_pads,
    "fold_affine": fold_affine,
    "fuse_activations": fuse_activations,
    "unroll": unroll,
    "channels_first": lambda graph: to_layout(graph, Layout.CHANNELS_FIRST),
    "channels_last": lambda graph: to_layout(graph, Layout.CHANNELS_LAST),
    "channels_last_io_first": lambda graph: to_layout(graph, Layout.CHANNELS_LAST, Layout.CHANNELS_FIRST),
    "channels_first_io_last": lambda graph: to_layout(graph, Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST),
    "for_onnx": lambda graph: lower(simplify(graph), TARGETS["onnx"]),
    "for_tflite": lambda graph: lower(simplify(graph), TARGETS["tflite"]),
}


def run(graph: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """Evaluate a graph on inputs in the source's order, and restore every value to that order."""
    stored = {name: graph.values[name].storage.store(array) for name, array in inputs.items()}
    values = evaluate(graph, stored)
    return {name: graph.values[name].storage.restore(values[name]) for name in graph.values}


def assert_same(graph: Graph, before: dict[str, Array], after: dict[str, Array]) -> None:
    """Compare every value that both graphs have, and every blob that the passes say stands elsewhere."""
    after = dict(after)
    for blob, merge in graph.merged.items():
        if merge.kind is MergeKind.IDENTITY and merge.into in graph.values and blob in before:
            stored = graph.values[merge.into].storage.store(after[merge.into])
            after[blob] = (merge.storage or graph.values[merge.into].storage).restore(stored)
    for name in set(before) & set(after):
        assert after[name].shape == before[name].shape, name
        peak = np.abs(before[name].astype(np.float64)).max()
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, atol=1e-6 * peak, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pass_keeps_every_value_that_it_keeps(case: Case) -> None:
    before = run(case.graph, case.inputs)
    for name, apply in PASSES.items():
        graph = apply(case.graph)
        after = run(graph, case.inputs)
        assert (graph.inputs, graph.outputs) == (case.graph.inputs, case.graph.outputs), name
        assert_same(graph, before, after)


@pytest.mark.parametrize("case", [case for case in CASES if case.dynamic], ids=str)
def test_a_dynamic_graph_computes_the_same_for_another_batch(case: Case) -> None:
    assert can_change_batch(case.graph) is None
    one = with_batch(case.graph, 1, dynamic=True)
    for name in ("channels_first", "channels_last", "for_onnx", "for_tflite"):
        graph = with_batch(PASSES[name](one), 3)
        assert_same(graph, run(with_batch(case.graph, 3), case.inputs_at(3)), run(graph, case.inputs_at(3)))
