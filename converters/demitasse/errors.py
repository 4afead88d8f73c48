"""The errors that Demitasse raises, sorted by whose fault they are.

`MalformedModel`, `Unsupported` and `UsageError` are for the user to act on: the command line prints them without a
traceback and exits with 2. `InvalidGraph` is a bug of ours: it exits with 3 and asks for a report. Each message says
where, what is wrong, and what would help.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "DemitasseError",
    "InvalidGraph",
    "MalformedModel",
    "MissingDependency",
    "Offence",
    "Unsupported",
    "UsageError",
]


class DemitasseError(Exception):
    """Base of every error that Demitasse raises on purpose; `exit_status` is what the command line returns."""

    exit_status: ClassVar[int] = 2


class MalformedModel(DemitasseError):
    """Says that a model file breaks its own format's rules, or contradicts itself.

    Args:
        message: what is wrong, and what would help.
        where: the place in the user's terms: `deploy.prototxt:12:3`, `net.caffemodel, byte 1234`, `layer 'conv1'`.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where


class UsageError(DemitasseError):
    """Says that a call asks for something that can't be: an option, a path, a combination."""


class MissingDependency(UsageError):
    """Names the optional extra that a target needs and that isn't installed."""

    def __init__(self, needed_for: str, module: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the Python package {module!r}, which is not installed; "
            f"install it with: pip install 'demitasse[{extra}]'"
        )
        self.module = module
        self.extra = extra


@dataclass(frozen=True, slots=True)
class Offence:
    """One thing that a reader or a target can't carry: where it stands, and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


class Unsupported(DemitasseError):
    """Lists everything in a model that can't be carried; all offenders are collected before it is raised."""

    def __init__(self, what: str, offences: Iterable[Offence]) -> None:
        self.what = what
        self.offences = tuple(offences)
        super().__init__("\n  ".join([f"{what}:", *map(str, self.offences)]))


class InvalidGraph(DemitasseError):
    """Says that a graph broke an invariant: a bug in Demitasse, not in the user's model."""

    exit_status: ClassVar[int] = 3

    def __init__(self, message: str) -> None:
        super().__init__(
            f"{message} (this is a bug in Demitasse; please report it with the model's prototxt or config)"
        )
