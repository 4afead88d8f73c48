"""Carries trained networks out of Caffe and Keras H5 into SavedModel, TFLite and ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demitasse.conversion import convert
    from demitasse.readers import read

__all__ = ["__version__", "convert", "read"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is first asked for, so that `demitasse --help` imports nothing heavy."""
    if name == "convert":
        from demitasse.conversion import convert

        return convert
    if name == "read":
        from demitasse.readers import read

        return read
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
