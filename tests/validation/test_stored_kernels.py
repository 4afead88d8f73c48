"""A kernel whose weights make up for each other's rounding is told from one that is wrong, row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from demitasse.ir.document import Document, describe
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse_validation.stored_kernels import StoredKernels

SHAPE = (12, 5, 3, 3)


class Holder:
    """A file that holds one kernel."""

    def __init__(self, name: str, stored: Array) -> None:
        self._held = {name: stored}

    def constant(self, tensor: str) -> Array | None:
        return self._held.get(tensor)


def weight() -> Array:
    return np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)


def steps_of(kernel: Array) -> Array:
    return np.asarray(np.abs(kernel).reshape(len(kernel), -1).max(1).reshape(-1, 1, 1, 1) / 127)


def up_or_down(kernel: Array) -> Array:
    """Returns a kernel of which each weight is rounded up or down as chance has it; integers stay."""
    exact, up = kernel / steps_of(kernel), np.random.default_rng(1).random(kernel.shape) < 0.5
    return np.asarray(np.where(up, np.ceil(exact - 1e-4), np.floor(exact + 1e-4)) * steps_of(kernel), np.float32)


def nearest(kernel: Array) -> Array:
    return np.asarray(np.rint(kernel / steps_of(kernel)) * steps_of(kernel))


def read(stored: Array, source: Array, name: str = "kernel") -> Array:
    return StoredKernels(Holder(name, stored)).rounded("kernel", source, nearest(source))


@pytest.mark.parametrize(
    ("name", "axes"), [("kernel/quantized", (0, 1, 2, 3)), ("kernel", (0, 2, 3, 1))], ids=["onnx", "tflite"]
)
def test_a_kernel_that_is_rounded_up_and_down_is_taken_as_it_is(name: str, axes: tuple[int, ...]) -> None:
    stored = up_or_down(weight())
    assert (stored != nearest(weight()).astype(np.float32)).any()
    np.testing.assert_array_equal(read(stored.transpose(axes), weight(), name), stored)


def test_a_depthwise_kernel_and_a_turned_matrix_are_found() -> None:
    depthwise, matrix = weight()[:, :1], weight().reshape(12, 45, 1, 1)[:, :, 0, 0]
    stored = up_or_down(depthwise)
    np.testing.assert_array_equal(read(stored.transpose(1, 2, 3, 0), depthwise), stored)
    stored = up_or_down(matrix.reshape(12, 45, 1, 1)).reshape(12, 45)
    found = StoredKernels(Holder("kernel", stored.T)).rounded("kernel", matrix, np.zeros_like(matrix))
    np.testing.assert_array_equal(found, stored)


FAULTS: dict[str, Callable[[Array], Array]] = {
    "one percent too large": lambda kernel: kernel * 1.01,
    "turned": lambda kernel: kernel[:, :, ::-1],
    "rows exchanged": lambda kernel: kernel[::-1],
    "always down": lambda kernel: np.floor(kernel / steps_of(weight()) + 1e-4) * steps_of(weight()),
    "seven bits": lambda kernel: np.rint(kernel / steps_of(weight()) / 2) * 2 * steps_of(weight()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_that_is_wrong_is_not_taken(fault: str) -> None:
    stored = np.asarray(FAULTS[fault](weight() if fault in ("always down", "seven bits") else up_or_down(weight())))
    np.testing.assert_array_equal(read(stored, weight()), nearest(weight()))


def test_one_wrong_row_leaves_the_others() -> None:
    stored = up_or_down(weight())
    stored[3] *= 1.02
    found = read(stored, weight())
    np.testing.assert_array_equal(found[3], nearest(weight())[3])
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(stored, 3, 0))


def test_a_file_without_the_kernel_has_none() -> None:
    np.testing.assert_array_equal(read(weight(), weight(), "other"), nearest(weight()))
    np.testing.assert_array_equal(read(weight()[:2], weight()), nearest(weight()))


def document(int8: dict[str, bool]) -> Document:
    return describe(
        Graph("net"), target="onnx-int8", tool="demitasse", source_format="caffe", source=(), options={"int8": int8}
    )


def test_only_documents_that_say_so_are_believed() -> None:
    holder = Holder("kernel", weight())
    assert StoredKernels.of(holder, document({"compensate": True})) is not None
    assert StoredKernels.of(holder, document({"compensate": False})) is None
    assert StoredKernels.of(object(), document({"compensate": True})) is None
