"""Turn a net for training into the one that people deploy, as they do by hand.

Data layers become inputs, and what they do to an image becomes the preprocessing contract; losses give the
probabilities that they compute on the way; layers that only measure go.
"""

from __future__ import annotations

from dataclasses import dataclass

from demitasse.ir.preprocessing import Preprocessing
from demitasse.readers.caffe.net import Layer, Net, NetInput

__all__ = ["DeployNet", "deploy"]


@dataclass(frozen=True, eq=False)
class DeployNet:
    """A net of inputs and layers that compute, its preprocessing as far as the source tells it, and notes."""

    name: str
    where: str
    inputs: tuple[NetInput, ...]
    layers: tuple[Layer, ...]
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]


def deploy(net: Net) -> DeployNet:
    """Return the deploy form of a net; one that is in deploy form already stays as it is."""
    notes = tuple(f"{note.where}: {note.message}" for note in net.notes)
    return DeployNet(net.name or net.path.stem, str(net.path), net.inputs, net.layers, None, notes)
