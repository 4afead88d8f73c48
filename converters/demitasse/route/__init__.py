"""The second route for Keras files, for people who trust theirs and have TensorFlow: Keras loads, TensorFlow writes.

Keras runs what a file holds (Lambda layers, custom classes), so this route is never taken unless it is asked for. The
converters of TensorFlow and tf2onnx say nowhere which of their tensors is which layer: an artifact made here is
compared by its outputs, its document calls all other layers internal, and its options name the route.
"""

from __future__ import annotations

from demitasse.route.artifacts import ROUTE, WRITES, mark, write
from demitasse.route.net import KerasNet

__all__ = ["ROUTE", "WRITES", "KerasNet", "mark", "write"]
