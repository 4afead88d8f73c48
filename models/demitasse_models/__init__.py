"""Describes well-known trained networks: model cards, and the ResNet family as Keras models."""
