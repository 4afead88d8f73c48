"""Times conversions as whole processes, ours and others' in turns, and what each of them peaks at.

Nothing large is imported or made in this process: Linux counts a process's peak from its parent's on.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["Net", "Task", "make_nets", "run_in_turns", "tables", "tasks_for"]

HERE = Path(__file__).parent
DEMITASSE = [sys.executable, "-m", "demitasse"]
RIVALS = [sys.executable, str(HERE / "rivals.py")]

# Student's t for 95 % on both sides, by the number of runs: so few say little, and the interval must show it.
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


class Interval(NamedTuple):
    """An estimate, and the bounds of the true value at 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Net:
    """A net to convert.

    Attributes:
        files: the source, and its weights where they are a file of their own.
        limits: seconds that carrying it to ONNX and to TFLite should take at most; None where nothing is promised.
        is_keras: whether the tools for Keras files can convert it too.
    """

    name: str
    files: tuple[Path, ...]
    limits: tuple[float, float] | None = None
    is_keras: bool = False


@dataclass
class Task:
    """A command line to time.

    `label` names who does it and what; `seconds_limit` and `megabytes_limit` are what it should keep.
    """

    net: str
    label: str
    command: list[str]
    seconds_limit: float | None = None
    megabytes_limit: float | None = None
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run once, and note the wall time and the peak of resident memory (mapped file pages count)."""
        start = time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        self.megabytes.append(usage.ru_maxrss / 1024)
        if os.waitstatus_to_exitcode(status):
            sys.exit(f"{self.label} of {self.net} failed: {' '.join(self.command)}\n{said.decode()}")

    @property
    def exceeded(self) -> list[str]:
        """The limits that were not kept."""
        seconds, megabytes = statistics.median(self.seconds), max(self.megabytes)
        limits = ((seconds, self.seconds_limit, "s"), (megabytes, self.megabytes_limit, "MB"))
        return [f"{value:.2f} of {limit:g} {unit}" for value, limit, unit in limits if limit and value > limit]

    def row(self) -> str:
        seconds = f"{statistics.median(self.seconds):.2f} | {min(self.seconds):.2f}-{max(self.seconds):.2f}"
        limit = "" if self.seconds_limit is None else f"{self.seconds_limit:g} s"
        limit += "" if self.megabytes_limit is None else f", {self.megabytes_limit:.0f} MB"
        kept = f"{limit}: **{', '.join(self.exceeded)}**" if self.exceeded else limit
        return f"| {self.net} | {self.label} | {seconds} | {max(self.megabytes):.0f} | {kept} |"


def make_nets(folder: Path, model: Path | None) -> list[Net]:
    """Write the nets, in processes of their own, and find open_nsfw where a folder with it is given."""
    nets = []
    if model is not None:
        call = (
            "import json, sys; from pathlib import Path; from demitasse_models.catalogue import card; "
            "found = card('open_nsfw').locate(Path(sys.argv[1])); "
            "print(json.dumps([str(found[key]) for key in ('source', 'weights')]))"
        )
        found = json.loads(subprocess.check_output([sys.executable, "-c", call, str(model)]))
        nets.append(Net("open_nsfw", tuple(map(Path, found)), (0.6, 1.0)))
    for depth, limits in ((50, (1.0, 1.5)), (152, (2.0, 3.0))):
        subprocess.run([sys.executable, str(HERE / "resnet.py"), str(depth), str(folder)], check=True)
        stem = folder / f"resnet{depth}"
        nets.append(Net(f"ResNet-{depth}", (stem.with_suffix(".prototxt"), stem.with_suffix(".caffemodel")), limits))
    keras, images = folder / "keras.h5", folder / "images.npy"
    subprocess.run([*RIVALS, "write_keras_resnet50", str(keras)], check=True)
    subprocess.run([*RIVALS, "write_images", str(images)], check=True)
    nets.append(Net("Keras ResNet-50", (keras,), is_keras=True))
    return nets


def tasks_for(net: Net, out: Path) -> list[Task]:
    """Return what is to be timed on a net: our routes, and those of others that end in the same format."""
    source, seconds = list(map(str, net.files)), net.limits or (None, None)
    megabytes = 1.5 * net.files[-1].stat().st_size / 1e6 + 150 if net.limits else None
    stem = out / net.name.replace(" ", "-")
    tasks = [_ours(net, f"{stem}.ours.onnx", "ONNX", seconds[0], megabytes)]
    tasks.append(_ours(net, f"{stem}.ours.tflite", "TFLite", seconds[1], megabytes))
    if not net.is_keras:
        return [*tasks, Task(net.name, "OpenCV: load, write nothing", [*RIVALS, "opencv", *source])]
    images = str(net.files[0].with_name("images.npy"))
    int8 = _ours(net, f"{stem}.ours.int8.tflite", "TFLite INT8", None, None)
    int8.command += ["--calibration", images]
    theirs = (
        ("tf2onnx: ONNX", "tf2onnx", [*source, f"{stem}.theirs.onnx"]),
        ("TFLiteConverter: TFLite", "tflite", [*source, f"{stem}.theirs.tflite"]),
        ("TFLiteConverter: TFLite INT8", "tflite_int8", [*source, images, f"{stem}.theirs.int8.tflite"]),
        ("Keras: SavedModel", "savedmodel", [*source, f"{stem}.theirs.savedmodel"]),
    )
    tasks += [int8, _ours(net, f"{stem}.ours.savedmodel", "SavedModel", None, None)]
    return tasks + [Task(net.name, label, [*RIVALS, job, *arguments]) for label, job, arguments in theirs]


def _ours(net: Net, out: str, kind: str, seconds: float | None, megabytes: float | None) -> Task:
    command = [*DEMITASSE, "convert", *map(str, net.files), "-o", out, "-q"]
    return Task(net.name, f"Demitasse: {kind}", command, seconds, megabytes)


def run_in_turns(tasks: Sequence[Task], repeats: int, progress: Callable[[str], None]) -> None:
    """Run all tasks round by round; the first round isn't counted: it reads files and compiles Python's bytecode."""
    for repeat in range(repeats + 1):
        for task in tasks:
            progress(f"round {repeat} of {repeats}: {task.label} of {task.net}")
            task.run()
            if repeat == 0:
                task.seconds.clear()
                task.megabytes.clear()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Estimate how many times as much the others take, from the rounds that both were in (Student's t of the logs)."""
    logarithms = [math.log(other / one) for one, other in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(logarithms)
    half = STUDENT[len(logarithms)] * statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def tables(tasks: Sequence[Task]) -> Iterator[str]:
    """Yield the lines of two tables: every task, and ours against theirs."""
    yield from ("| net | who: what | median s | range | peak MB | limit |", "|---|---|---|---|---|---|")
    yield from (task.row() for task in tasks)
    yield ""
    yield "How many times as much the others take (95 % interval):"
    yield ""
    yield from ("| net | against | time | memory |", "|---|---|---|---|")
    for one, other in pairs(tasks):
        time_ratio, memory_ratio = ratio(one.seconds, other.seconds), ratio(one.megabytes, other.megabytes)
        yield f"| {one.net} | {other.label} | {time_ratio} | {memory_ratio} |"


def pairs(tasks: Sequence[Task]) -> Iterator[tuple[Task, Task]]:
    """Yield ours and theirs that end in the same format; OpenCV's load, which ends in none, against ours to ONNX."""
    for other in tasks:
        who, _, what = other.label.partition(": ")
        if who == "Demitasse":
            continue
        wanted = "ONNX" if who == "OpenCV" else what
        yield from ((one, other) for one in tasks if (one.net, one.label) == (other.net, f"Demitasse: {wanted}"))
