"""Read small nets that real builds of Caffe ran, and compare every blob with what they computed."""

from __future__ import annotations

import numpy as np
import pytest

from demitasse.errors import Unsupported
from demitasse.ir.check import check
from demitasse.ir.evaluate import evaluate
from demitasse.readers.caffe import read
from golden_nets import CASES, Case, arrays_of

# Nets that can't be read, each with the layer that is in the way. A row that has become untrue fails its test.
REFUSED = {"caffe-forks/filter": "Filter"}


def test_every_golden_net_is_a_case() -> None:
    counts = [sum(case.name.startswith(f"{kind}/") for case in CASES) for kind in ("caffe", "caffe-forks")]
    assert counts == [99, 26]
    assert len(CASES) == 99 + 26 + 15
    assert REFUSED.keys() <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_blob_is_what_caffe_computed(case: Case, request: pytest.FixtureRequest) -> None:
    if case.name in REFUSED:
        request.applymarker(pytest.mark.xfail(reason=REFUSED[case.name], raises=Unsupported, strict=True))
    inputs, blobs = arrays_of(case)

    graph = read(case.structure, case.weights, stages=case.stages)
    whole = read(case.structure, case.weights, stages=case.stages, outputs=list(blobs))

    check(graph)
    check(whole)
    assert set(graph.outputs) <= set(whole.outputs) == blobs.keys()
    values = evaluate(whole, {name: inputs[name] for name in whole.inputs})
    for name, expected in blobs.items():
        peak = float(np.abs(expected).max())
        assert values[name].shape == expected.shape, name
        assert np.abs(values[name] - expected).max() <= 1e-5 * peak, name
    for name in graph.outputs:
        assert values[name].argmax() == blobs[name].argmax(), name
