"""Describes well-known trained networks: model cards, and the ResNet family as Keras models."""

from __future__ import annotations

from demitasse_models.catalogue import card, names
from demitasse_models.resnets import freeze, replace_head, resnet, weights_of

__all__ = ["card", "freeze", "names", "replace_head", "resnet", "weights_of"]
