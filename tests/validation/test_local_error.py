"""What rounding explains of a layer's own error, and what it doesn't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from demitasse.ir.graph import Node, Origin
from demitasse.ir.ops import Conv, Dense, Layout, Padding
from demitasse_validation.local_error import CLOSE, LocalError, Step
from demitasse_validation.precision import Precision

STEP = Step(0.1, -12.8, 12.7)


def error_of(change: Any, *, step: Step | None = STEP) -> LocalError:
    """Round what a layer computes, after a change, and measure that against what it should have been."""
    exact = np.random.default_rng(0).normal(0, 3, (4, 8, 20, 20)).clip(-12, 12)
    rounded = np.rint(change(exact) / 0.1) * 0.1
    error = LocalError(1, step, 1.0 if step else 2e-5, chance=CLOSE if step else None)
    error.add(exact, rounded)
    return error


def one_channel(by: float) -> Any:
    shift = np.zeros((1, 8, 1, 1))
    shift[0, 5] = by
    return lambda exact: exact + shift


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda exact: exact, ""),
        (lambda exact: 1.002 * exact, "alone it is +0.2"),
        (one_channel(0.03), "alone its channel 5 is off by +0.3 steps throughout, rounding by none"),
        (one_channel(0.2), "alone it is off by 2.5 steps of its integers, rounding explains 1"),
        (lambda exact: exact + np.random.default_rng(1).uniform(-0.04, 0.04, exact.shape), "alone its errors spread"),
        (lambda exact: 0.2 * exact, "alone it is off by"),
    ],
)
def test_what_is_no_rounding_is_told(change: Any, words: str) -> None:
    fault = error_of(change).fault
    assert fault.startswith(words) if words else not fault


@pytest.mark.parametrize(("shifted", "words"), [(0.0, "alone its channel 5 is off by +40 steps"), (4.1, "")])
def test_a_bias_is_corrected_by_no_more_than_its_kernel_explains(shifted: float, words: str) -> None:
    exact = np.random.default_rng(0).normal(0, 1, (4, 8, 20, 20))
    error = LocalError(1, STEP, 1.0, corrected=True)
    error.add(exact, np.rint(one_channel(4.0)(exact) / 0.1) * 0.1, shifted=shifted)
    assert error.fault.startswith(words) if words else not error.fault


def test_what_an_activation_cuts_says_nothing_of_a_corrected_bias() -> None:
    sums = np.random.default_rng(0).normal(0, 3, (4, 8, 20, 20)).clip(-9, 9)
    error = LocalError(1, STEP, 1.0, corrected=True)
    error.add(np.maximum(sums, 0), np.rint(np.maximum(sums + 1.0, 0) / 0.1) * 0.1)
    assert not error.fault
    error.add(np.maximum(sums, 0), np.rint(1.1 * np.maximum(sums + 1.0, 0) / 0.1) * 0.1)
    assert error.fault.startswith("alone its channel")


@pytest.mark.parametrize(("has_product", "words"), [(True, "alone its channel 3"), (False, "")])
def test_integers_of_other_integers_are_off_by_what_repeats_itself(has_product: bool, words: str) -> None:
    exact = np.random.default_rng(0).integers(-90, 90, (4, 8, 20, 20)) * 0.1012
    exact[:, 3] = 35 * 0.1012
    error = LocalError(1, STEP, 1.0, chance=CLOSE, has_product=has_product)
    error.add(exact, np.rint(exact / 0.1) * 0.1)
    assert error.fault.startswith(words) if words else not error.fault


def test_what_is_excused_is_added_to_what_is_allowed() -> None:
    error = LocalError(1, None, 2e-5)
    error.add(np.array([[4.0, 1.0]]), np.array([[4.0, 1.1]]))
    assert error.fault == "alone it is off by 0.025 of its peak, rounding explains 2e-05"
    error.add(np.array([[4.0, 1.0]]), np.array([[4.0, 1.1]]), excused=0.2)
    assert not error.fault


@pytest.mark.parametrize(
    ("target", "bits", "has_steps"),
    [
        ("onnx", 32, False),
        ("savedmodel", 32, False),
        ("tflite-f16", 16, False),
        ("onnx-int8", 8, True),
        ("tflite-16x8", 8, True),
        ("tflite-dynamic", 8, False),
    ],
)
def test_how_targets_store_numbers(target: str, bits: int, has_steps: bool) -> None:
    precision = Precision.of(target)
    assert (precision.bits, precision.has_steps) == (bits, has_steps)


def test_weights_are_rounded_as_formats_store_them() -> None:
    kernel = np.random.default_rng(0).normal(0, 1, (32, 32)).astype(np.float32)
    node = Node(Dense(), ("x", "kernel"), ("y",), Origin("y", "any"))
    eight = Precision.of("tflite-int8").stored(node, "kernel", kernel)
    steps = np.abs(kernel).max(axis=1, keepdims=True) / 127
    assert np.abs(eight - kernel).max() <= steps.max() / 2 * 1.001
    assert np.allclose(eight / steps, np.rint(eight / steps), atol=1e-3)
    assert np.array_equal(Precision.of("tflite-f16").stored(node, "kernel", kernel), kernel.astype(np.float16))
    small = kernel[:4, :4]
    assert Precision.of("onnx-f16").stored(node, "kernel", small) is small
    assert Precision.of("tflite-dynamic").stored(node, "kernel", small) is small


def test_a_dynamic_artifact_rounds_each_sample_for_itself() -> None:
    images = np.stack([np.linspace(-1, 1, 60), np.linspace(0, 100, 60)]).reshape(2, 3, 4, 5)
    node = Node(
        Conv((1, 1), (1, 1), (Padding(0, 0), Padding(0, 0)), layout=Layout.CHANNELS_FIRST),
        ("x", "kernel"),
        ("y",),
        Origin("y", "any"),
    )
    rounded = Precision.of("tflite-dynamic").fed(node, "x", images, 2048)
    assert 0 < np.abs(rounded[0] - images[0]).max() <= 1 / 255 * 1.001
    assert 0.1 < np.abs(rounded[1] - images[1]).max() <= 50 / 255 * 1.001
    assert Precision.of("tflite-dynamic").fed(node, "x", images, 100) is images
