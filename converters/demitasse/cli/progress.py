"""Show what is being done, on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["show_progress"]

# Anything quicker is done before a person has read the bar.
PATIENCE = 1.0

Progress = Callable[[str, int, int], None]


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """Give a function that shows a step's name and how much of it is done: a bar on a terminal, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
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
