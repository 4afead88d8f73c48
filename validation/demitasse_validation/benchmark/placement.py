"""Where the nodes of a graph really ran, by what the runtime itself says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Node", "Placement", "place"]

# How many stray nodes a message names.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a runtime's graph, and what ran it: a provider, a delegate or a device."""

    name: str
    type: str
    place: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Says where the nodes ran.

    Attributes:
        counts: how many nodes ran in each place.
        strays: the nodes that ran on another device than was asked for, each with its type and place; none where the
            whole graph stayed on it.
        evidence: whose word this is.
    """

    counts: Mapping[str, int]
    strays: tuple[str, ...]
    evidence: str

    @property
    def fell_back(self) -> bool:
        """Whether part of the graph left the device that was asked for."""
        return bool(self.strays)

    @property
    def summary(self) -> str:
        """Say in a few words where the nodes ran: `107 of 109 in CUDAExecutionProvider`."""
        total = sum(self.counts.values())
        first, count = max(self.counts.items(), key=lambda item: item[1], default=("nothing", 0))
        return f"all {total} in {first}" if count == total else f"{count} of {total} in {first}"

    def describe_strays(self) -> str:
        """Name the first stray nodes, and say how many there are."""
        more = len(self.strays) - NAMED
        return ", ".join(self.strays[:NAMED]) + (f" and {more} more" if more > 0 else "")


def place(nodes: Iterable[Node], wanted: Iterable[str], evidence: str) -> Placement:
    """Count nodes by place; those in none of the `wanted` places are strays."""
    nodes, right = list(nodes), frozenset(wanted)
    strays = tuple(f"{node.type} {node.name!r} in {node.place}" for node in nodes if node.place not in right)
    return Placement(dict(Counter(node.place for node in nodes)), strays, evidence)
