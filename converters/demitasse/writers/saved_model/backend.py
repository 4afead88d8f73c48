"""Import TensorFlow where it is needed: it is optional, and slow to import."""

from __future__ import annotations

import os
from typing import Any

from demitasse.errors import MissingDependency

__all__ = ["import_tensorflow"]


def import_tensorflow(needed_for: str) -> Any:
    """Import TensorFlow and return the module.

    Args:
        needed_for: what asks for it, as a sentence begins: "Writing a SavedModel".

    Raises:
        MissingDependency: TensorFlow isn't installed; the message names the extra.
    """
    # TensorFlow reads this once, when its library is loaded. Without it, every process is told on stderr about the
    # processor's instruction sets and about graphics drivers that aren't there; what really fails is raised as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise MissingDependency(needed_for, "tensorflow", "tensorflow") from error
    return tensorflow
