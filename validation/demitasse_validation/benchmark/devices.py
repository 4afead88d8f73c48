"""What graphics cards this machine has, by its drivers' own word; every answer says what was looked for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Card", "cards", "has_library", "memory_in_use", "nvidia_absent", "vulkan_absent"]

# A driver that hangs must not hang us.
PATIENCE = 20

DEVICE_FILE = Path("/dev/nvidiactl")


class Card(NamedTuple):
    """A graphics card as its driver describes it; `memory` in MiB."""

    name: str
    driver: str
    memory: int


def cards() -> tuple[Card, ...]:
    """List the NVIDIA cards that the driver's own tool knows; none where there is no such tool."""
    rows = _nvidia_smi("name,driver_version,memory.total")
    # A card that shares the host's memory has no size of its own.
    return tuple(Card(row[0], row[1], int(row[2]) if row[2].isdecimal() else 0) for row in rows if len(row) == 3)


def memory_in_use() -> int | None:
    """Return how many bytes are in use on the first card, by whatever process; None where nothing tells."""
    rows = _nvidia_smi("memory.used")
    return int(rows[0][0]) * 2**20 if rows and rows[0][0].isdecimal() else None


def nvidia_absent() -> str | None:
    """Say what is missing for CUDA; None if there are a card and a driver."""
    missing = []
    if not has_library("libcuda.so.1"):
        missing.append("libcuda.so.1 (the NVIDIA driver) can't be loaded")
    if shutil.which("nvidia-smi") is None:
        missing.append("nvidia-smi isn't on the PATH")
    elif not cards():
        missing.append("nvidia-smi lists no card")
    if not missing:
        return None
    if not DEVICE_FILE.exists():
        missing.append(f"{DEVICE_FILE} doesn't exist")
    return ", ".join(missing)


def vulkan_absent() -> str | None:
    """Say what is missing for Vulkan, or for Metal on a Mac; None if it can be loaded."""
    if sys.platform == "darwin" or has_library("libvulkan.so.1"):
        return None
    return "libvulkan.so.1 (the Vulkan loader) can't be loaded"


def has_library(name: str) -> bool:
    """Say whether the system finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _nvidia_smi(query: str) -> list[list[str]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run(
            [tool, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
