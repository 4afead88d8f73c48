"""Find out which of TFLite's two padding rules, if any, places the windows where explicit padding places them.

Along one axis, windows of `extent` elements begin at `o * stride - before` for `o = 0 .. count - 1`. TFLite knows two
rules (`ComputePaddingHeightWidth` in tflite/kernels/padding.h; the same as TensorFlow's):

* SAME: `count = ceil(size / stride)`, and of `total = max((count - 1) * stride + extent - size, 0)` elements of padding
  `total // 2` stand before the first element.
* VALID: `count = floor((size - extent) / stride) + 1`, and no padding.

So explicit padding equals SAME exactly when it gives that count and that `before`: the padding after the last element
then follows, because it is only what the last window reaches beyond the end. It equals VALID exactly when it gives that
count and `before` is 0. Where neither holds, zeros (or whatever padding means to the operation) are put there by an
operation of their own, no more of them than some window touches, and VALID follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demitasse.ir.ops import Padding, Shape

__all__ = ["SAME", "VALID", "Axis", "axes_of", "rule"]

# The values of `Padding` in schema.fbs.
SAME, VALID = 0, 1


@dataclass(frozen=True, slots=True)
class Axis:
    """A spatial axis and the windows that slide along it."""

    size: int
    extent: int
    stride: int
    pad: Padding

    @property
    def count(self) -> int:
        return (self.size + self.pad.before + self.pad.after - self.extent) // self.stride + 1

    @property
    def overhang(self) -> int:
        """How far the last window reaches beyond the last element; negative where it ends before it."""
        return (self.count - 1) * self.stride + self.extent - self.size - self.pad.before

    @property
    def touched(self) -> Padding:
        """The padding that some window touches."""
        return Padding(self.pad.before, max(self.overhang, 0))

    @property
    def is_same(self) -> bool:
        total = max((self.count - 1) * self.stride + self.extent - self.size, 0)
        return self.count == -(-self.size // self.stride) and self.pad.before == total // 2

    @property
    def is_valid(self) -> bool:
        return self.pad.before == 0 and self.overhang <= 0


def axes_of(sizes: Shape, extents: Iterable[int], strides: Iterable[int], pads: Iterable[Padding]) -> tuple[Axis, ...]:
    """Pair the spatial axes of an image with the windows along them."""
    return tuple(map(Axis, sizes, extents, strides, pads))


def rule(axes: Sequence[Axis]) -> int | None:
    """Return the rule that suits all axes, or None."""
    if all(axis.is_valid for axis in axes):
        return VALID
    if all(axis.is_same for axis in axes):
        return SAME
    return None
