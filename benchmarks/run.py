"""Time conversions as whole processes, and say what they peak at: `make bench`.

Every row runs in processes of its own, interleaved with the others, so that a slow minute hits all alike.
The table goes to the terminal and to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnet import write_resnet

REPOSITORY = Path(__file__).parent.parent
DEMITASSE = [sys.executable, "-m", "demitasse"]


@dataclass
class Task:
    """A command line to time, and the limits that it should keep (seconds, megabytes)."""

    name: str
    command: list[str]
    seconds_limit: float | None = None
    megabytes_limit: float | None = None
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run once, and note the wall time and the peak of resident memory (mapped file pages count)."""
        start = time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        self.megabytes.append(usage.ru_maxrss / 1024)
        if os.waitstatus_to_exitcode(status):
            said = process.stderr.read().decode() if process.stderr else ""
            sys.exit(f"{self.name} failed: {' '.join(self.command)}\n{said}")

    def row(self) -> str:
        seconds, megabytes = statistics.median(self.seconds), max(self.megabytes)
        limits = ", ".join(
            f"{value:.2f} of {limit:g} {unit}" + ("" if value <= limit else " EXCEEDED")
            for value, limit, unit in (
                (seconds, self.seconds_limit, "s"),
                (megabytes, self.megabytes_limit, "MB"),
            )
            if limit is not None
        )
        spread = f"{min(self.seconds):.2f}-{max(self.seconds):.2f}"
        return f"| {self.name} | {seconds:.2f} | {spread} | {megabytes:.0f} | {limits} |"


def conversions(net: str, source: Sequence[Path], out: Path, seconds: tuple[float, float]) -> list[Task]:
    """Return the tasks that carry one net to ONNX and to TFLite."""
    megabytes = 1.5 * source[-1].stat().st_size / 1e6 + 150
    return [
        Task(
            f"{net} to {kind}",
            [*DEMITASSE, "convert", *map(str, source), "-o", str(out / f"{net}.{suffix}"), "-q"],
            limit,
            megabytes,
        )
        for kind, suffix, limit in (("ONNX", "onnx", seconds[0]), ("TFLite", "tflite", seconds[1]))
    ]


def opencv_load(net: str, source: Sequence[Path]) -> Task:
    """Return a task that only loads the net into OpenCV's importer: a yardstick in C++."""
    call = f"import cv2; cv2.dnn.readNetFromCaffe({str(source[0])!r}, {str(source[1])!r})"
    return Task(f"{net} loaded by OpenCV, nothing written", [sys.executable, "-c", call])


def machine() -> str:
    """Describe the machine in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((line.split(":")[1].strip() for line in cpuinfo.open() if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a folder with open_nsfw's two files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        tasks = [Task("demitasse --help", [*DEMITASSE, "--help"], 0.3)]
        nets: list[tuple[str, tuple[Path, Path], tuple[float, float]]] = []
        if arguments.model is not None:
            from demitasse_models.catalogue import card

            found = card("open_nsfw").locate(arguments.model)
            nets.append(("open_nsfw", (found["source"], found["weights"]), (0.6, 1.0)))
        nets.append(("ResNet-50", write_resnet(50, out), (1.0, 1.5)))
        nets.append(("ResNet-152", write_resnet(152, out), (2.0, 3.0)))
        for net, source, limits in nets:
            tasks += conversions(net, source, out, limits)
            tasks.append(opencv_load(net, source))
        for repeat in range(arguments.repeats + 1):
            for task in tasks:
                task.run()
                if repeat == 0:  # the first run reads the files from disk, and compiles Python's bytecode
                    task.seconds.clear()
        lines = [
            "# Benchmarks",
            "",
            f"Whole processes, {arguments.repeats} runs each, interleaved, on {machine()}; written by `make bench`.",
            "",
            "| task | median s | range | peak MB | against its limits |",
            "|---|---|---|---|---|",
            *[task.row() for task in tasks],
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    place = REPOSITORY / "docs" / "benchmarks.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text, "utf-8")
    return int(any("EXCEEDED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
