"""What tells one machine from another, and what else was going on there while something was timed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from demitasse_validation.benchmark import devices
from demitasse_validation.environment import cpu_name

__all__ = ["Activity", "differences", "fingerprint", "usable_cores", "warnings"]

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# Of all processor time; less is the system's own housekeeping.
OTHERS_SHARE = 0.05

# How the system counts processor time.
TICKS = os.sysconf("SC_CLK_TCK")


def usable_cores() -> int:
    """Return how many processors this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint() -> dict[str, Any]:
    """Describe what a figure depends on and no software can change."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "cards": [f"{card.name}, {card.memory} MiB" for card in devices.cards()],
    }


def differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """List what differs between two machines."""
    return [
        f"{key}: {now.get(key)!r} here, {then.get(key)!r} there"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]


def warnings(threads: int) -> Iterator[str]:
    """Say what will disturb the figures, as far as the system tells."""
    cores = usable_cores()
    if threads > cores:
        yield f"{threads} threads share {cores} cores"
    try:
        governor = GOVERNOR.read_text("ascii").strip()
    except OSError:
        return
    if governor != "performance":
        yield f"the processor's frequency follows the governor {governor!r}; 'performance' gives steadier figures"


class _Times(NamedTuple):
    wall: float
    busy: float
    own: float


class Activity:
    """Watches what other programs use of the processors, from its creation on, where the system tells."""

    def __init__(self) -> None:
        self._start = _times()

    def warning(self) -> str | None:
        """Say how much other programs used, if it was enough to disturb. Call it after child processes have ended."""
        end = _times()
        if self._start is None or end is None:
            return None
        wall, busy, own = (after - before for after, before in zip(end, self._start, strict=True))
        share = (busy - own) / (wall * (os.cpu_count() or 1)) if wall else 0.0
        if share <= OTHERS_SHARE:
            return None
        return f"other programs used {share:.0%} of the processors meanwhile; end them for steadier figures"


def _times() -> _Times | None:
    """Return seconds: of the wall clock, of all processors' work, and of this process and its ended children.

    https://man7.org/linux/man-pages/man5/proc_stat.5.html
    """
    try:
        first = Path("/proc/stat").read_text("ascii").splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, irq, softirq, *more = map(int, first[1:])
    stolen = more[0] if more else 0
    used = os.times()
    own = used.user + used.system + used.children_user + used.children_system
    return _Times(time.monotonic(), (user + nice + system + irq + softirq + stolen) / TICKS, own)
