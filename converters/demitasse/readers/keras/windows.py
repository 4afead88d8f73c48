"""Where windows lie: Keras' `padding` as explicit numbers.

`same` gives as many windows as there are strides in the input. Where they begin is the backend's rule. TensorFlow
spreads the padding, of an odd number the extra element at the end (`GetWindowedOutputSizeVerbose` in
tensorflow/core/framework/kernel_shape_util.cc). Theano always begins half a window before the input, or nearly a whole
one where it pools (`conv2d` and `pool2d` in Keras' backend/theano_backend.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from demitasse.ir.ops import Padding

__all__ = ["causal_pads", "no_pads", "same_pads", "transposed_pads"]


def same_pads(
    sizes: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    theano: bool = False,
    pools: bool = False,
) -> tuple[Padding, ...]:
    """Return the padding of `same` for input sizes, with TensorFlow or with Theano, which pools in another way."""
    result = []
    for size, width, step, spread in zip(sizes, window, stride, dilation, strict=True):
        extent = spread * (width - 1) + 1
        total = (-(-size // step) - 1) * step + extent - size
        before = max(total, 0) // 2
        if theano and pools:
            before = extent - 2 if extent > 2 and extent % 2 else extent - 1
        elif theano:
            before = extent // 2
        result.append(Padding(before, max(total - before, 0)))
    return tuple(result)


def no_pads(rank: int) -> tuple[Padding, ...]:
    """Return the padding of `valid` for a number of spatial axes."""
    return (Padding(0, 0),) * rank


def causal_pads(window: Sequence[int], dilation: Sequence[int]) -> tuple[Padding, ...]:
    """Return the padding of `causal`: all of it before, so that no result sees later elements."""
    return tuple(Padding(spread * (width - 1), 0) for width, spread in zip(window, dilation, strict=True))


def transposed_pads(
    size: int, window: int, stride: int, dilation: int, *, same: bool, output_padding: int | None, theano: bool = False
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
    before = (extent // 2 if theano else max(full - wanted, 0) // 2) if same else 0
    after = full - before - wanted
    return Padding(before, max(after, 0)), max(-after, 0)
