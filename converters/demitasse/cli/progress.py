"""Show what is being done, on stderr, where that is a terminal."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr

from demitasse.errors import DemitasseError

__all__ = ["Progress", "quiet_natives", "show_progress"]

# Anything quicker is done before a person has read the bar.
PATIENCE = 1.0

Progress = Callable[[str, int, int], None]


@contextmanager
def quiet_natives() -> Iterator[None]:
    """Keep what runtimes write to stderr from native code off the terminal; `sys.stderr` still reaches it.

    TensorFlow and LiteRT announce their delegates, and graphics drivers that aren't there, before any setting can stop
    them. What goes wrong in them is raised as well; if that is a bug of ours, all that they said is shown.
    """
    try:
        terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError:  # started without stderr
        yield
        return
    with terminal, tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as log:
        os.dup2(log.fileno(), 2)
        try:
            with redirect_stderr(terminal) if sys.stderr is sys.__stderr__ else nullcontext():
                yield
        except DemitasseError:
            raise
        except Exception:
            log.seek(0)
            terminal.write(log.read())
            raise
        finally:
            terminal.flush()
            os.dup2(terminal.fileno(), 2)


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """Give a function that shows a step's name and how much of it is done: a bar on a terminal, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
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
