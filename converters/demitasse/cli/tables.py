"""Print what rich lays out: as wide as the terminal, or in a file or a pipe as wide as tables like to be."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["show"]

# What logs of continuous integration show without wrapping; a file has no width of its own.
FILE_WIDTH = 150


def show(what: RenderableType) -> None:
    """Print on stdout. `COLUMNS` gives the width where it is set."""
    from rich.console import Console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if has_width else FILE_WIDTH).print(what)
