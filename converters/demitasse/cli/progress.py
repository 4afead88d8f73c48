"""Show what is being done, on stderr, where that is a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["Progress", "native_messages_in", "show_progress"]

# Anything quicker is done before a person has read the bar.
PATIENCE = 1.0

Progress = Callable[[str, int, int], None]


@contextmanager
def native_messages_in(path: Path) -> Iterator[TextIO]:
    """Send what runtimes write to stderr from native code into a file; give the real stderr for what is meant to show.

    TensorFlow and LiteRT announce their delegates and missing GPU drivers there before any setting can stop them.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with path.open("w", encoding="utf-8") as log, os.fdopen(kept, "w", encoding="utf-8") as terminal:
        os.dup2(log.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)


@contextmanager
def show_progress(quiet: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """Give a function that shows a step's name and how much of it is done: a bar on a terminal, else nothing."""
    stream = stream or sys.stderr
    if quiet or not stream.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=True)
    task = bar.add_task("", total=None)
    start = time.monotonic()

    def report(step: str, done: int, total: int) -> None:
        bar.update(task, description=step, completed=done, total=total or None)
        if not bar.live.is_started and time.monotonic() - start > PATIENCE:
            bar.start()

    try:
        yield report
    finally:
        bar.stop()


def _ignore(step: str, done: int, total: int) -> None:
    pass
