"""Read a Caffe net, however it is spelled and wherever its weights lie, into one normal form.

A prototxt (or a caffemodel that carries its own structure) of any generation becomes a `Net` of current layers: V0 and V1
spellings upgraded, layers of other phases and stages left out, inputs named in order, every layer with its parameter
blobs. Nothing here knows what a layer computes; that is the business of `layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demitasse.readers.caffe.message import Array, Message
from demitasse.readers.caffe.params import Params, Unread
from demitasse.readers.caffe.schema import message_spec

__all__ = ["Blob", "Layer", "Net", "NetInput", "Note", "UnusedWeights", "read_net"]


@dataclass(frozen=True, eq=False)
class Blob:
    """One parameter blob of a layer.

    Attributes:
        array: the numbers in the stored shape and type (float32, float64 or float16, little endian), read-only. Usually a
            view into the mapped file: it may be unaligned, and strided for files of the unpacked era; cast or copy
            at the point of use.
        legacy: the file told the shape as num, channels, height, width. Such shapes are right-aligned: a bias is
            (1, 1, 1, N), the weights of an InnerProduct (1, 1, M, N).
        where: where the blob stands, for error messages.
        name: the name under which `param { name }` shares it; empty if it isn't shared.
    """

    array: Array
    legacy: bool
    where: str
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape; 4-D for legacy blobs."""
        return self.array.shape


@dataclass(frozen=True)
class NetInput:
    """A blob that the net is fed with: its name, its shape (None where the file states none), and where it is declared.

    `layer` is the name of the Input layer that declares it; empty for `input:` fields of the net.
    """

    name: str
    shape: tuple[int, ...] | None
    where: str
    layer: str = ""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer in current spelling, with its parameters (unread so far) and its blobs.

    Attributes:
        name: the layer's name; unique in its net.
        type: the type's current spelling (`InnerProduct`), V0 and V1 spellings upgraded; a fork's own as it stands.
        bottoms: names of the blobs read, in order.
        tops: names of the blobs written, in order; one that is also a bottom is computed in place.
        blobs: the parameter blobs, shared ones included; () where the weights hold none for this layer.
        loss_weight: weight of each top in the loss, as the file states it; () if it doesn't.
        where: where the layer stands, for error messages: `deploy.prototxt:12`.
        message: everything that the file says of the layer.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[Blob, ...]
    loss_weight: tuple[float, ...]
    where: str
    message: Message = field(repr=False)
    reads: set[tuple[str, ...]] = field(default_factory=set, repr=False)

    def param(self, name: str) -> Params:
        """View a parameter block (`layer.param("convolution_param")`); an empty one with defaults if the file has none."""
        return self.params.block(name)

    @property
    def params(self) -> Params:
        """View the layer's own fields; its blocks are `params.block(name)`."""
        return Params(self.message, message_spec("LayerParameter"), (), self.reads, f"layer {self.name!r} ({self.type})")

    def unread(self) -> list[Unread]:
        """List parameters that the file sets, nobody has read so far, and that could matter for the result."""
        return [missed for missed in self.params.unread() if missed.path.partition(".")[0] not in _STRUCTURE]


class UnusedWeights(NamedTuple):
    """A layer of the weight file that no layer of the net is the namesake of."""

    name: str
    type: str
    shapes: tuple[tuple[int, ...], ...]


class Note(NamedTuple):
    """Something that was understood here but that a user should know, such as what real Caffe would refuse."""

    where: str
    message: str


@dataclass(frozen=True, eq=False)
class Net:
    """A net in normal form.

    Attributes:
        name: the net's name; empty if it has none.
        inputs: the blobs fed from outside, from `input:` fields and Input layers, in order.
        layers: all other layers of the asked phase, level and stages, in the file's order, which is a valid order to run
            them in. Data layers of train_val nets are among them.
        path: the file that tells the structure.
        weights: the file that holds the weights, if one was given.
        generation: which spelling the structure was in: 0, 1 or 2.
        excluded: names of the layers that the asked phase, level and stages leave out.
        unused_weights: layers of the weight file that have no namesake in the net.
        unknown: fields of the net itself that no schema knows.
        notes: what was understood, but deserves a mention.
    """

    name: str
    inputs: tuple[NetInput, ...]
    layers: tuple[Layer, ...]
    path: Path
    weights: Path | None
    generation: int
    excluded: tuple[str, ...] = ()
    unused_weights: tuple[UnusedWeights, ...] = ()
    unknown: tuple[Unread, ...] = ()
    notes: tuple[Note, ...] = ()


_STRUCTURE = frozenset(
    "name type bottom top phase loss_weight param blobs propagate_down include exclude".split()
)
"""Fields of a layer that this module itself reads, or that steer training only."""


def read_net(
    prototxt: Path | None,
    weights: Path | None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
) -> Net:
    """Read a net's structure and weights.

    Args:
        prototxt: the structure in text form; None takes it from the weight file.
        weights: a .caffemodel (binary or text) or an HDF5 snapshot (.caffemodel.h5); told by its content. None reads the
            structure alone.
        phase: TRAIN or TEST.
        level: the net's level, for `min_level` and `max_level` rules.
        stages: the net's stages, for `stage` and `not_stage` rules.

    Raises:
        MalformedModel: if a file is missing, isn't what its name says, is damaged, or contradicts itself; all
            contradictions are listed at once.
        Unsupported: if it is something else that a Caffe user might give (a Git LFS pointer, a solver state).
    """
    raise NotImplementedError
