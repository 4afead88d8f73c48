"""Maps the layer names of weights from elsewhere to those of our ResNets, which are the Caffe release's.

Caffe's BatchNorm and Scale are one layer here, as in Keras, and bear BatchNorm's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from demitasse_models.residual import BLOCKS, BRANCHES, HEAD, STEM, blocks, label_of

__all__ = ["CAFFE", "KERAS", "NAMINGS", "Naming"]


@dataclass(frozen=True, slots=True)
class Naming:
    """How a source calls the layers of the ResNets, and in what its nets differ.

    Attributes:
        title: the source.
        layers: by depth, its names and ours.
        epsilon: what it adds to a variance.
        pads_both: whether its first pooling pads all four sides; Caffe's rounding up amounts to the ends alone.
        scales_apart: whether gamma and beta are a layer's own (Caffe's Scale), beside the one that normalizes.
    """

    title: str
    layers: Mapping[int, Mapping[str, str]]
    epsilon: float
    pads_both: bool
    scales_apart: bool


def _caffe(depth: int) -> dict[str, str]:
    names = {STEM.conv: STEM.conv, STEM.norm: STEM.norm, STEM.scale: STEM.norm, HEAD: HEAD}
    for block in blocks(depth, projects_first=True):
        # Files by others count the blocks of short stages too: `3b1` is `3b`.
        for label in (block.label, label_of(block.stage, block.place, counts=True)):
            for unit in block.units:
                suffix = label + unit.suffix.removeprefix(block.label)
                names |= {f"res{suffix}": unit.conv, f"bn{suffix}": unit.norm, f"scale{suffix}": unit.norm}
    return names


def _keras(depth: int) -> dict[str, str]:
    names = {"conv1_conv": STEM.conv, "conv1_bn": STEM.norm, "predictions": HEAD}
    for block in blocks(depth):
        for unit in block.units:
            number = BRANCHES.index(unit.suffix.removeprefix(f"{block.label}_branch"))
            name = f"conv{block.stage}_block{block.place + 1}_{number}"
            names |= {f"{name}_conv": unit.conv, f"{name}_bn": unit.norm}
    return names


CAFFE = Naming("Caffe", {depth: _caffe(depth) for depth in BLOCKS}, 1e-5, pads_both=False, scales_apart=True)
"""The release's own names: `res2a_branch1`, `bn2a_branch1`, `scale2a_branch1`, `fc1000`."""

KERAS = Naming(
    "Keras applications",
    {depth: _keras(depth) for depth in (50, 101, 152)},
    1.001e-5,
    pads_both=True,
    scales_apart=False,
)
"""The names of keras.applications: `conv2_block1_0_conv` projects, `_1_conv` to `_3_conv` follow, `predictions`."""

NAMINGS = (CAFFE, KERAS)
