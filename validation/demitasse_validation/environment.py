"""Says where figures were made: processor, threads, Python, and the packages that computed them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["cpu_name", "environment"]

PACKAGES = ("demitasse", "numpy", "onnxruntime", "ai-edge-litert", "tensorflow", "opencv-python-headless", "pillow")


def cpu_name() -> str:
    """Return the processor's name as its vendor gives it, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Describe the machine and the installed packages that matter to a figure; one that is absent is left out."""
    found = {
        "processor": cpu_name(),
        "threads": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
