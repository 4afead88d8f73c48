"""What each pass is for: fewer operations, no Transpose that isn't needed, and a record of what went where."""

from __future__ import annotations

import numpy as np
import pytest

from demitasse.errors import UsageError
from demitasse.ir import ops
from demitasse.ir.evaluate import evaluate
from demitasse.ir.graph import Graph, Merge, MergeKind, Origin, SourceLayer, Status, provenance
from demitasse.ir.ops import BinaryFunction, Layout, Padding, ReduceFunction, TensorType
from demitasse.ir.weights import Array
from demitasse.passes import (
    can_change_batch,
    channel_products,
    drop_identities,
    fold_affine,
    fold_constants,
    merge_pads,
    prune,
    to_layout,
    with_batch,
)
from demitasse.targets import TARGETS, lower, simplify

CONV = ops.Conv(stride=(1, 1), dilation=(1, 1), pads=(Padding(1, 1),) * 2)
MUL, ADD = ops.Binary(BinaryFunction.MUL), ops.Binary(BinaryFunction.ADD)


class Sketch:
    """Builds a graph layer by layer; each layer is one operation that writes one value."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph("sketch")
        self.random = np.random.default_rng(7)
        self.graph.add_input("data", TensorType(shape))

    def weight(self, name: str, *shape: int) -> str:
        return self.graph.add_weight(name, self.random.normal(size=shape).astype(np.float32))

    def layer(self, op: ops.AnyOp, inputs: list[str], output: str) -> str:
        origin = Origin(output, type(op).__name__)
        self.graph.layers.append(SourceLayer(origin, tuple(inputs), (output,)))
        return self.graph.add(op, inputs, output, origin)

    def conv(self, source: str, output: str, channels: int) -> str:
        given = self.graph.type(source).shape[1]
        kernel = self.weight(f"{output}/kernel", channels, given, 3, 3)
        return self.layer(CONV, [source, kernel], output)

    def done(self, *outputs: str) -> Graph:
        self.graph.outputs = list(outputs)
        return self.graph


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


def conv_norm_relu(s: Sketch, source: str, name: str) -> str:
    """A convolution, normalized and rectified in place, as Caffe nets write it."""
    s.conv(source, f"{name}@conv", 4)
    s.layer(MUL, [f"{name}@conv", s.weight(f"{name}/scale", 4, 1, 1)], f"{name}@norm")
    s.layer(ADD, [f"{name}@norm", s.weight(f"{name}/shift", 4, 1, 1)], f"{name}@shift")
    return s.layer(ops.Relu(), [f"{name}@shift"], name)


def test_normalization_goes_into_the_convolution_and_the_activation_too_where_the_target_can() -> None:
    s = Sketch(1, 3, 8, 8)
    graph = simplify(s.done(conv_norm_relu(s, "data", "conv1")))
    assert kinds(graph) == ["Conv", "Relu"]
    assert sorted(graph.weights) == ["conv1@conv/bias", "conv1@conv/kernel"]
    assert graph.merged["conv1@conv"] == Merge(MergeKind.FOLDED, "conv1@shift")
    fused = lower(graph, TARGETS["tflite"])
    assert kinds(fused) == ["Conv"]
    assert {record.blob: (record.status, record.value) for record in provenance(fused)} == {
        "conv1@conv": (Status.FOLDED, "conv1"),
        "conv1@norm": (Status.FOLDED, "conv1"),
        "conv1@shift": (Status.FOLDED, "conv1"),
        "conv1": (Status.COMPARED, "conv1"),
    }


def test_a_value_that_is_read_twice_is_not_folded_away() -> None:
    s = Sketch(1, 3, 8, 8)
    s.conv("data", "conv", 4)
    s.layer(MUL, ["conv", s.weight("scale", 4, 1, 1)], "scaled")
    graph = s.done(s.layer(ADD, ["conv", "scaled"], "sum"))
    assert kinds(fold_affine(graph)) == ["Conv", "Binary", "Binary"]


def test_a_constant_that_differs_along_the_image_is_not_folded_into_the_convolution() -> None:
    s = Sketch(1, 3, 8, 8)
    s.conv("data", "conv", 4)
    graph = s.done(s.layer(MUL, ["conv", s.weight("scale", 1, 1, 8)], "scaled"))
    assert kinds(fold_affine(graph)) == ["Conv", "Binary"]


def test_a_chain_that_no_product_precedes_becomes_one_mul_and_one_add() -> None:
    s = Sketch(1, 4, 8, 8)
    name = "data"
    for place, op in enumerate((MUL, ADD, MUL, ADD)):
        name = s.layer(op, [name, s.weight(f"w{place}", 4, 1, 1)], f"v{place}")
    assert [node.op for node in fold_affine(s.done(name)).nodes] == [MUL, ADD]


def test_shared_kernels_are_scaled_apart() -> None:
    s = Sketch(1, 4, 8, 8)
    s.conv("data", "a", 4)
    s.layer(CONV, ["a", "a/kernel"], "b")
    graph = fold_affine(s.done(s.layer(MUL, ["b", s.weight("scale", 4, 1, 1)], "c")))
    kernels = [node.inputs[1] for node in graph.nodes]
    assert kernels[0] == "a/kernel"
    assert kernels[1] != "a/kernel"
    np.testing.assert_array_equal(graph.weights["a/kernel"], s.graph.weights["a/kernel"])


def test_zero_padding_goes_into_the_convolution_and_other_padding_stays() -> None:
    pads = (Padding(0, 0), Padding(0, 0), Padding(1, 2), Padding(0, 3))
    for value, expected in ((0.0, ["Conv"]), (1.0, ["Pad", "Conv"])):
        s = Sketch(1, 3, 8, 8)
        s.layer(ops.Pad(pads, value), ["data"], "padded")
        graph = merge_pads(s.done(s.conv("padded", "conv", 4)))
        assert kinds(graph) == expected


def test_the_last_name_of_an_in_place_chain_survives_its_identities() -> None:
    s = Sketch(1, 3, 8, 8)
    s.conv("data", "fc6@fc6", 4)
    s.layer(ops.Relu(), ["fc6@fc6"], "fc6@relu6")
    s.layer(ops.Identity(), ["fc6@relu6"], "fc6")
    graph = drop_identities(s.done(s.layer(ops.Relu(), ["fc6"], "out")))
    assert [node.outputs[0] for node in graph.nodes] == ["fc6@fc6", "fc6", "out"]
    assert graph.merged == {"fc6@relu6": Merge(MergeKind.IDENTITY, "fc6")}


def test_an_input_that_is_also_an_output_keeps_both_names() -> None:
    s = Sketch(1, 3)
    graph = drop_identities(s.done(s.layer(ops.Identity(), ["data"], "copy")))
    assert (kinds(graph), graph.outputs) == (["Identity"], ["copy"])


def test_a_cut_lists_what_it_leaves_out() -> None:
    s = Sketch(1, 3, 8, 8)
    s.conv("data", "a", 4)
    s.conv("a", "b", 4)
    graph = prune(s.done("b"), ["a"])
    assert (kinds(graph), graph.outputs, graph.unused) == (["Conv"], ["a"], {"b"})
    assert [record.status for record in provenance(graph)] == [Status.COMPARED, Status.UNUSED]


def residual_net(s: Sketch) -> Graph:
    a = conv_norm_relu(s, "data", "conv1")
    pool = ops.MaxPool(kernel=(2, 2), stride=(2, 2), pads=(Padding(0, 0),) * 2)
    a = s.layer(pool, [a], "pool1")
    b = conv_norm_relu(s, a, "conv2")
    s.layer(ADD, [a, b], "sum")
    s.layer(ops.Concat(1), ["sum", a], "both")
    s.layer(ops.Softmax(1), ["both"], "soft")
    s.layer(ops.Reduce(ReduceFunction.MEAN, (2, 3), True), ["soft"], "mean")
    s.layer(ops.Reshape((0, -1)), ["mean"], "flat")
    return s.done(s.layer(ops.Dense(), ["flat", s.weight("fc/kernel", 5, 8)], "fc"))


def test_constants_of_constants_are_folded_and_recorded() -> None:
    s = Sketch(1, 4, 8, 8)
    s.layer(ops.Relu(), [s.weight("w", 4, 1, 1)], "a")
    s.layer(MUL, ["a", "a"], "b")
    graph = fold_constants(s.done(s.layer(ADD, ["data", "b"], "sum")))
    assert kinds(graph) == ["Binary"]
    assert [record.status for record in provenance(graph)] == [Status.FOLDED, Status.FOLDED, Status.COMPARED]


def test_a_constant_that_another_name_stands_for_is_recorded_where_it_goes() -> None:
    s = Sketch(1, 4, 8, 8)
    s.layer(ops.Identity(), [s.weight("priors", 1, 2, 8, 8)], "boxes")
    s.layer(ops.Concat(1), ["boxes", s.weight("more", 1, 2, 8, 8)], "all")
    graph = prune(fold_constants(drop_identities(s.done(s.layer(ADD, ["data", "all"], "sum")))))
    assert kinds(graph) == ["Binary"]
    assert [record.status for record in provenance(graph)] == [Status.FOLDED, Status.FOLDED, Status.COMPARED]


def test_a_residual_net_changes_its_layout_without_a_transpose() -> None:
    graph = to_layout(simplify(residual_net(Sketch(1, 3, 8, 8))), Layout.CHANNELS_LAST)
    assert "Transpose" not in kinds(graph)
    assert graph.type("data").shape == (1, 8, 8, 3)


def test_a_dense_behind_a_flatten_gets_its_columns_reordered() -> None:
    s = Sketch(1, 3, 4, 5)
    s.conv("data", "conv", 2)
    s.layer(ops.Reshape((0, -1)), ["conv"], "flat")
    s.layer(ops.Relu(), ["flat"], "relu")
    graph = s.done(s.layer(ops.Dense(), ["relu", s.weight("fc/kernel", 6, 40)], "fc"))
    moved = to_layout(graph, Layout.CHANNELS_LAST)
    assert kinds(moved) == ["Conv", "Reshape", "Relu", "Dense"]
    assert moved.values["relu"].storage.view == (-1, 2, 4, 5)


def test_a_channel_shuffle_needs_no_more_transposes_than_the_source_has() -> None:
    s = Sketch(1, 6, 4, 4)
    s.conv("data", "conv", 6)
    s.layer(ops.Reshape((0, 2, 3, 4, 4)), ["conv"], "split")
    s.layer(ops.Transpose((0, 2, 1, 3, 4)), ["split"], "swap")
    s.layer(ops.Reshape((0, 6, 4, 4)), ["swap"], "join")
    graph = to_layout(s.done(s.conv("join", "after", 6)), Layout.CHANNELS_LAST)
    assert kinds(graph).count("Transpose") == 1


def test_a_permute_to_channels_last_vanishes() -> None:
    s = Sketch(1, 3, 4, 4)
    s.conv("data", "conv", 6)
    s.layer(ops.Transpose((0, 2, 3, 1)), ["conv"], "permuted")
    graph = to_layout(s.done(s.layer(ops.Reshape((0, -1)), ["permuted"], "flat")), Layout.CHANNELS_LAST)
    assert kinds(graph) == ["Conv", "Reshape"]


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_can_be_changed_unless_a_layer_is_written_for_one(batch: int) -> None:
    s = Sketch(10, 3, 8, 8)
    graph = s.done(s.layer(ops.Reshape((0, -1)), ["data"], "flat"))
    assert can_change_batch(graph) is None
    assert with_batch(graph, batch).type("flat").shape == (batch, 192)
    fixed = Sketch(10, 3, 8, 8)
    stuck = fixed.done(fixed.layer(ops.Reshape((10, 192)), ["data"], "flat"))
    assert "'flat'" in (can_change_batch(stuck) or "")
    with pytest.raises(UsageError, match="'flat'"):
        with_batch(stuck, batch)


def test_a_batch_that_is_cut_in_two_cannot_become_one_sample() -> None:
    s = Sketch(2, 3, 4, 4)
    left = s.layer(ops.Slice((0,), (0,), (1,)), ["data"], "left")
    right = s.layer(ops.Slice((0,), (1,), (2,)), ["data"], "right")
    graph = s.done(s.layer(ADD, [left, right], "sum"))
    assert "'right'" in (can_change_batch(graph) or "")


def test_the_columns_of_a_dense_are_permuted_as_the_image_is() -> None:
    kernel: Array = np.arange(12, dtype=np.float32).reshape(1, 12)
    graph = Graph("columns")
    graph.add_input("data", TensorType((1, 3, 2, 2)))
    origin = Origin("fc", "Dense")
    graph.add(ops.Reshape((0, -1)), ["data"], "flat", origin)
    graph.add(ops.Dense(), ["flat", graph.add_weight("kernel", kernel)], "fc", origin)
    graph.outputs = ["fc"]
    moved = to_layout(graph, Layout.CHANNELS_LAST)
    np.testing.assert_array_equal(moved.weights["kernel"], [[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]])


def test_a_product_and_a_sum_a_channel_become_one_depthwise_convolution() -> None:
    s = Sketch(1, 4, 5, 3)
    s.layer(MUL, ["data", s.weight("scale", 3)], "scaled")
    s.layer(ops.Binary(BinaryFunction.ADD, ops.Activation.RELU), [s.weight("shift", 1, 1, 3), "scaled"], "shifted")
    s.layer(MUL, ["shifted", s.weight("number", 1)], "halved")  # one number has a step of its own anyway
    s.layer(MUL, ["halved", s.weight("rows", 5, 1)], "rows_scaled")
    s.layer(MUL, ["rows_scaled", s.weight("again", 3)], "twice_read")
    graph = s.done(s.layer(ADD, ["twice_read", s.weight("more", 3)], "sum"), "twice_read")
    result = channel_products(graph)
    assert kinds(result) == ["Conv", "Binary", "Binary", "Conv", "Binary"]
    assert [record.status for record in provenance(result)] == [Status.FOLDED, *[Status.COMPARED] * 5]
    image = {"data": np.random.default_rng(1).normal(size=(1, 4, 5, 3)).astype(np.float32)}
    expected, found = (evaluate(each, image, keep=graph.outputs) for each in (graph, result))
    for name in graph.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
