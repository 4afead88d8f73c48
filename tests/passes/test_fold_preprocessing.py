"""A net with its preprocessing inside gives for raw pixels what the plain net gives for prepared ones."""

from __future__ import annotations

import numpy as np
import pytest

from demitasse.errors import UsageError
from demitasse.ir import ops
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Origin, SourceLayer, Status, provenance
from demitasse.ir.ops import Layout, Padding, TensorType
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.passes import fold_preprocessing
from demitasse.preprocess import normalize

RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 256, (6, 7, 3), np.uint8)

CONTRACTS = {
    "bgr_mean": Preprocessing(channels=ChannelOrder.BGR, mean=(104.0, 117.0, 123.0)),
    "bgr_mean_scale": Preprocessing(channels=ChannelOrder.BGR, mean=(104.0, 117.0, 123.0), scale=(0.017,)),
    "rgb_scale_each": Preprocessing(mean=(127.5,), scale=(1 / 58.4, 1 / 57.1, 1 / 57.4)),
    "rgb_plain": Preprocessing(),
    "bgr_mean_image": Preprocessing(
        channels=ChannelOrder.BGR, mean_image=RANDOM.uniform(90, 130, (3, 8, 9)).astype(np.float32)
    ),
}


def net(layout: Layout, reads_channels_alone: bool) -> Graph:
    """A padded convolution of an image; a second reader makes it impossible to leave the channels where they are."""
    graph = Graph("net", layout=layout)
    graph.add_input("data", TensorType(layout.shape(1, 3, (6, 7))))
    conv = ops.Conv(stride=(1, 1), dilation=(1, 1), pads=(Padding(1, 1),) * 2, layout=layout)
    kernel = graph.add_weight("conv/kernel", RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32))
    origin = Origin("conv", "Convolution")
    graph.layers = [SourceLayer(Origin("data", "Input"), (), ("data",)), SourceLayer(origin, ("data",), ("conv",))]
    graph.add(conv, ["data", kernel], "conv", origin)
    graph.outputs = ["conv"]
    if not reads_channels_alone:
        graph.add(ops.Relu(), ["data"], "relu", Origin("relu", "ReLU"))
        graph.outputs.append("relu")
    return graph


@pytest.mark.parametrize("reads_channels_alone", [True, False])
@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("name", CONTRACTS)
def test_folded_preprocessing_computes_the_same(name: str, layout: Layout, reads_channels_alone: bool) -> None:
    contract = CONTRACTS[name]
    graph = net(layout, reads_channels_alone)
    expected = evaluate(graph, {"data": normalize(PIXELS, contract, layout)})
    folded, left = fold_preprocessing(graph, contract)
    raw = normalize(PIXELS, left, layout)
    result = evaluate(folded, {"data": raw.astype(np.uint8)})
    for output in graph.outputs:
        np.testing.assert_allclose(result[output], expected[output], rtol=0, atol=1e-5 * np.abs(expected[output]).max())
    assert any(isinstance(node.op, ops.Gather) for node in folded.nodes) == (
        contract.channels is ChannelOrder.BGR and not reads_channels_alone
    )
    assert Status.UNMAPPED not in {record.status for record in provenance(folded)}


def test_preprocessing_is_folded_into_a_single_image_alone() -> None:
    graph = net(Layout.CHANNELS_FIRST, True)
    graph.add_input("more", TensorType((1, 3, 6, 7)))
    with pytest.raises(UsageError, match="data, more"):
        fold_preprocessing(graph, CONTRACTS["rgb_plain"])
