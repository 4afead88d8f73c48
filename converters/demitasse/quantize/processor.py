"""Tell which 8-bit integers a processor multiplies best.

x86 multiplies unsigned by signed bytes (`VPMADDUBSW`, and `VPDPBUSD` of VNNI), for which ONNX Runtime has its fast
kernels; ARM multiplies signed by signed ones (`SDOT`). Without VNNI, pairs of products are added in 16 bits: 255 * 127
twice is more than these hold. https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["may_saturate", "prefers_signed"]

X86 = frozenset({"x86_64", "amd64", "i386", "i686", "x86"})
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
CPUINFO = Path("/proc/cpuinfo")


def prefers_signed(machine: str | None = None) -> bool:
    """Tell whether a kind of processor (this one's by default) is faster with signed activations."""
    return (machine or platform.machine()).lower() not in X86


def may_saturate(machine: str | None = None, cpuinfo: Path = CPUINFO) -> bool:
    """Tell whether sums of unsigned by signed products may saturate: on x86 without VNNI, as far as the system says."""
    if prefers_signed(machine):
        return False
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), None)
    return flags is not None and VNNI.isdisjoint(flags)
