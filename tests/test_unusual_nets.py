"""Caffe nets of legal but rare combinations, written in every real format and run against the evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_encoder as encode
from demitasse.conversion import convert
from demitasse.ir.ops import Shape
from demitasse_validation.comparison import compare
from demitasse_validation.inputs import Random

pytest.importorskip("tensorflow")

DATA = (2, 6, 9, 7)


def layer(name: str, kind: str, bottoms: str, extra: str = "", tops: str = "") -> str:
    """Spells a layer, whose top is called like it if nothing else is said."""
    wires = [*(f'bottom: "{blob}"' for blob in bottoms.split()), *(f'top: "{top}"' for top in (tops or name).split())]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {extra} }}\n'


def entry(name: str, shape: Shape) -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


# Name: the layers, the shapes of their weights, and of inputs besides the image.
NETS: dict[str, tuple[str, dict[str, list[Shape]], dict[str, Shape]]] = {
    "deconvolution_with_dilation_groups_and_stride": (
        layer(
            "d",
            "Deconvolution",
            "data",
            "convolution_param { num_output: 9 kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 dilation: 1 dilation: 3"
            " group: 3 pad_h: 0 pad_w: 2 }",
        ),
        {"d": [(6, 3, 2, 3), (9,)]},
        {},
    ),
    "in_place_layers_and_a_reader_between_them": (
        layer("a", "Power", "data", "power_param { scale: 2 shift: 1 }")
        + layer("b", "ReLU", "a")
        + layer("first", "AbsVal", "a", tops="a")
        + layer("c", "Sigmoid", "a")
        + layer("second", "ELU", "a", tops="a")
        + layer("all", "Concat", "a b c"),
        {},
        {},
    ),
    "a_weighted_sum_of_three": (
        layer("a", "TanH", "data")
        + layer("b", "AbsVal", "data")
        + layer("sum", "Eltwise", "data a b", "eltwise_param { coeff: 1 coeff: -2.5 coeff: 0.5 }"),
        {},
        {},
    ),
    "factors_and_offsets_that_are_computed": (
        layer("s", "Scale", "data factors", "scale_param { axis: 1 bias_term: true }")
        + layer("o", "Bias", "s offsets", "bias_param { axis: 2 }"),
        {"s": [(6, 9)]},
        {"factors": (6, 9), "offsets": (9, 7)},
    ),
    "shapes_that_are_copied_and_inferred": (
        layer("r", "Reshape", "data", "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 7 } }")
        + layer("c", "Convolution", "r", "convolution_param { num_output: 3 kernel_size: 3 }")
        + layer("f", "Reshape", "c", "reshape_param { shape { dim: -1 } axis: -2 }")
        + layer("d", "InnerProduct", "f", "inner_product_param { num_output: 5 axis: 2 transpose: true }"),
        {"c": [(3, 2, 3, 3), (3,)], "d": [(125, 5), (5,)]},
        {},
    ),
    "axes_that_are_counted_from_the_end": (
        layer("cut", "Slice", "data", "slice_param { axis: -3 slice_point: 2 }", "few many")
        + layer("k", "Convolution", "few", "convolution_param { num_output: 4 kernel_size: 1 }")
        + layer("j", "Concat", "k many", "concat_param { axis: -3 }")
        + layer("columns", "Slice", "j", "slice_param { axis: -1 slice_point: 1 slice_point: 3 }", "u v w")
        + layer("turned", "Concat", "w u v", "concat_param { axis: -1 }")
        + layer("m", "Reduction", "turned", "reduction_param { operation: MEAN axis: -2 coeff: -2 }"),
        {"k": [(4, 2, 1, 1), (4,)]},
        {},
    ),
    "pools_with_pads_and_whole_images": (
        layer("a", "Pooling", "data", "pooling_param { pool: AVE kernel_size: 5 stride: 3 pad: 2 }")
        + layer("m", "Pooling", "a", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }")
        + layer("g", "Pooling", "m", "pooling_param { pool: AVE global_pooling: true }"),
        {},
        {},
    ),
    "a_crop_along_channels": (
        layer("c", "Crop", "data other", "crop_param { axis: 1 offset: 2 offset: 1 offset: 3 }"),
        {},
        {"other": (2, 3, 5, 4)},
    ),
    "a_batch_that_is_cut": (
        layer("cut", "Slice", "data", "slice_param { axis: 0 }", "first last") + layer("s", "Eltwise", "first last"),
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_every_format_computes_it(name: str, tmp_path: Path) -> None:
    text, blobs, others = NETS[name]
    source, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    source.write_text("".join(entry(each, shape) for each, shape in {"data": DATA, **others}.items()) + text)
    random = np.random.default_rng(0)
    drawn = {each: [random.normal(0, 0.5, shape) for shape in shapes] for each, shapes in blobs.items()}
    encoded = [
        encode.layer(each, "", *(encode.blob(array.shape, encode.packed(array)) for array in arrays))
        for each, arrays in drawn.items()
    ]
    files = [source]
    if encoded:
        weights.write_bytes(encode.net(*encoded))
        files.append(weights)
    artifacts = [tmp_path / f"net.{suffix}" for suffix in ("onnx", "tflite", "savedmodel")]
    for path in artifacts:
        convert(*files, out=path)
    report = compare(artifacts, *files, inputs=Random(3, seed=1))
    findings = [*report.findings, *(each for artifact in report.artifacts for each in artifact.findings)]
    assert report.passed, [finding.message for finding in findings]
