"""Describes the ResNets as data: their blocks, the convolutions in each, and what the Caffe release calls them.

He et al. 2016, Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385), table 1. In the release
(https://github.com/KaimingHe/deep-residual-networks) the convolution `res2a_branch2a` is normalized by `bn2a_branch2a`
and `scale2a_branch2a`. Blocks are lettered (`res5a`, `res5b`, `res5c`); in the long stages of ResNet-101 and -152 they
are counted (`res4a`, `res4b1`, ... `res4b22`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from demitasse.errors import UsageError

__all__ = ["BLOCKS", "BRANCHES", "HEAD", "STEM", "Block", "Unit", "blocks", "label_of"]

BLOCKS: Mapping[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""How many blocks the stages have, by depth."""

BOTTLENECK = 50
"""From this depth on, a block is 1x1, 3x3, 1x1 with four times the channels at its end; before, it is 3x3, 3x3."""

BRANCHES = ("1", "2a", "2b", "2c")
"""What the convolutions of a block are called: the projection of its input, and those after each other."""

HEAD = "fc1000"


@dataclass(frozen=True, slots=True)
class Unit:
    """A square convolution without bias, and the normalization after it."""

    suffix: str
    given: int
    channels: int
    kernel: int
    stride: int

    @property
    def conv(self) -> str:
        return self.suffix if self.suffix == "conv1" else f"res{self.suffix}"

    @property
    def norm(self) -> str:
        return "bn_conv1" if self.suffix == "conv1" else f"bn{self.suffix}"

    @property
    def scale(self) -> str:
        return self.norm.replace("bn", "scale", 1)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The kernel's, OIHW."""
        return self.channels, self.given, self.kernel, self.kernel


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block: `branch` is added to the input, or to its projection where there is one.

    `stage` and `place` are what its label (`2a`) spells: stages count from 2, places from 0.
    """

    label: str
    stage: int
    place: int
    projection: Unit | None
    branch: tuple[Unit, ...]

    @property
    def channels(self) -> int:
        return self.branch[-1].channels

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.branch if self.projection is None else (self.projection, *self.branch)


STEM = Unit("conv1", 3, 64, 7, 2)


def blocks(depth: int, *, strided: int = 1, projects_first: bool = False) -> Iterator[Block]:
    """Yield the blocks of a ResNet in order.

    Args:
        depth: one of `BLOCKS`.
        strided: the kernel size of the convolution that shrinks the image in a bottleneck: 1 in the original, 3 in
            "v1.5". The blocks of ResNet-18 and -34 do so in their first.
        projects_first: whether ResNet-18 and -34 project the first block's input too, as those of some Caffe users do
            though it has the right size.

    Raises:
        UsageError: there is no ResNet of that depth.
    """
    if depth not in BLOCKS:
        raise UsageError(f"there is no ResNet-{depth}; there are {', '.join(map(str, BLOCKS))}")
    given = STEM.channels
    for stage, count in enumerate(BLOCKS[depth], start=2):
        width = 64 << (stage - 2)
        channels = 4 * width if depth >= BOTTLENECK else width
        for place in range(count):
            label = label_of(stage, place, counts=depth > BOTTLENECK and stage in {3, 4})
            stride = 2 if place == 0 and stage > 2 else 1
            projects = place == 0 and (given != channels or projects_first)
            projection = Unit(f"{label}_branch1", given, channels, 1, stride) if projects else None
            make = _bottleneck if depth >= BOTTLENECK else _basic
            yield Block(label, stage, place, projection, make(label, given, width, stride, strided))
            given = channels


def _bottleneck(label: str, given: int, width: int, stride: int, strided: int) -> tuple[Unit, ...]:
    first, second = (stride, 1) if strided == 1 else (1, stride)
    return (
        Unit(f"{label}_branch2a", given, width, 1, first),
        Unit(f"{label}_branch2b", width, width, 3, second),
        Unit(f"{label}_branch2c", width, 4 * width, 1, 1),
    )


def _basic(label: str, given: int, width: int, stride: int, _strided: int) -> tuple[Unit, ...]:
    return Unit(f"{label}_branch2a", given, width, 3, stride), Unit(f"{label}_branch2b", width, width, 3, 1)


def label_of(stage: int, place: int, *, counts: bool) -> str:
    """Return what a block is called: `3a`, `3b`, `3c`, or `3a`, `3b1`, `3b2`."""
    if counts:
        return f"{stage}a" if place == 0 else f"{stage}b{place}"
    return f"{stage}{chr(ord('a') + place)}"
