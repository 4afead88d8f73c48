"""Where windows lie: Keras' `padding` as explicit numbers.

The rule for `same` is TensorFlow's: as many windows as there are strides in the input, and of an odd number of padding
elements the extra one at the end (`GetWindowedOutputSizeVerbose` in tensorflow/core/framework/kernel_shape_util.cc).
"""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.ir.ops import Padding

__all__ = ["causal_pads", "no_pads", "same_pads", "transposed_pads"]


def same_pads(
    sizes: Sequence[int], window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Padding, ...]:
    """Return the padding of `same` for input sizes."""
    result = []
    for size, width, step, spread in zip(sizes, window, stride, dilation, strict=True):
        extent = spread * (width - 1) + 1
        total = max((-(-size // step) - 1) * step + extent - size, 0)
        result.append(Padding(total // 2, total - total // 2))
    return tuple(result)


def no_pads(rank: int) -> tuple[Padding, ...]:
    """Return the padding of `valid` for a number of spatial axes."""
    return (Padding(0, 0),) * rank


def causal_pads(window: Sequence[int], dilation: Sequence[int]) -> tuple[Padding, ...]:
    """Return the padding of `causal`: all of it before, so that no result sees later elements."""
    return tuple(Padding(spread * (width - 1), 0) for width, spread in zip(window, dilation, strict=True))


def transposed_pads(
    size: int, window: int, stride: int, dilation: int, *, same: bool, output_padding: int | None
) -> tuple[Padding, int]:
    """Return what a transposed convolution crops from its full result along an axis, and how far it extends it.

    The size of the result is Keras' (`_get_output_shape_given_tf_padding` in backend/common/backend_utils.py); what is
    cropped to get there is the padding that the convolution from that size would have.
    """
    extent = dilation * (window - 1) + 1
    if same:
        wanted = size * stride if output_padding is None else (size - 1) * stride + extent % 2 + output_padding
    else:
        extra = max(stride - extent, 0) if output_padding is None else output_padding
        wanted = (size - 1) * stride + extent + extra
    full = (size - 1) * stride + extent
    before = max(full - wanted, 0) // 2 if same else 0
    after = full - before - wanted
    return Padding(before, max(after, 0)), max(-after, 0)
