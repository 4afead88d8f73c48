"""Make an 8-bit artifact: calibrate, look for what is odd, keep real what has to stay real, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse.ir.document import Document, blob_records
from demitasse.ir.graph import Graph, detections
from demitasse.ir.preprocessing import Preprocessing
from demitasse.passes import channel_products
from demitasse.quantize.calibrate import choose, observe
from demitasse.quantize.doctor import Diagnosis, Goal, examine
from demitasse.quantize.engines import EngineKind, cores, open_engine, open_real, stored_inputs
from demitasse.quantize.equalize import Channels, Exponents, Peaks, add_peaks, choose_exponents, equalize
from demitasse.quantize.kernels import Moments, round_kernels, round_up, with_rounded
from demitasse.quantize.processor import prefers_signed
from demitasse.quantize.ranges import Method
from demitasse.quantize.storage import Calibration, load_calibration, load_recipe, save_calibration
from demitasse.quantize.symptoms import outside, symptoms
from demitasse.samples import Samples

__all__ = ["Order", "Settings", "make"]

# One sample in so many is held back where a goal has to be measured; with few, one winner more or less decides.
HELD_BACK = 3
LEAST_SAMPLES = 10

# So many samples, spread over all, tell how large each channel becomes, and whether stored ranges are theirs.
FEW_SAMPLES = 8

# 16 bits hold small channels beside large ones.
WIDE = frozenset({"tflite-16x8"})

Progress = Callable[[str, int, int], None]
Writer = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How 8-bit artifacts are made.

    Attributes:
        method: how ranges are chosen.
        bias_correction: whether biases make up for what rounding the kernels shifts in the mean.
        compensate: whether weights make up for what rounding others loses, as calibration found.
        equalize: whether channels of 8-bit tensors are brought to a like size where the net computes the same.
        signed: whether the integers of ONNX models have a sign; None leaves that to the kind of this processor.
        ranges: a file with ranges; it is read where it holds those of a target, else written.
        goal: what an artifact must reach; as few layers as can be stay real for it.
        recipe: a file that says which layers stay real; with a goal, it is written.
    """

    method: Method = Method.AUTO
    bias_correction: bool = True
    compensate: bool = True
    equalize: bool = True
    signed: bool | None = None
    ranges: Path | None = None
    goal: Goal | None = None
    recipe: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what an artifact's document records."""
        return {
            "calibrate": self.method.value,
            "bias_correction": self.bias_correction,
            "compensate": self.compensate,
            "equalize": self.equalize,
            "target": None if self.goal is None else str(self.goal),
        }


@dataclass(frozen=True, slots=True)
class Order:
    """What to make: a lowered graph, by which writer, to which place."""

    target: str
    graph: Graph
    path: Path
    document: Document
    write: Writer
    engine: EngineKind


def make(
    order: Order,
    samples: Samples | None,
    settings: Settings,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Diagnosis | None:
    """Write an 8-bit artifact; with a goal, say what was measured.

    Raises:
        UsageError: samples don't fit, or are too few for a goal; a file of ranges or a recipe is damaged or another's.
    """
    held: Samples | None = None
    if settings.goal is not None:
        samples, held = _split(samples)
    calibration = _calibration(order, samples, settings, preprocessing, progress)
    # 256 steps are too few to tell coordinates and scores of boxes by.
    real, always = _kept(order, settings), detections(order.graph)
    graph = _prepared(order, calibration.equalized)
    notes = (*order.document.notes, *calibration.notes)
    order = replace(order, graph=graph, document=replace(order.document, provenance=blob_records(graph), notes=notes))
    signed = None
    if order.engine is EngineKind.ONNX_RUNTIME:
        signed = prefers_signed() if settings.signed is None else settings.signed
    equalized = {name: list(exponents) for name, exponents in calibration.equalized.items()}
    up = calibration.up if settings.compensate else {}
    rounded = round_kernels(graph, up=up, means=calibration.means if settings.bias_correction else None)

    def write(path: Path, kept: Sequence[str]) -> None:
        document, kept = order.document, tuple(dict.fromkeys((*always, *kept)))
        made = {"compensate": bool(up), "real": list(kept), "equalized": equalized}
        options = {**document.options, "int8": settings.to_dict() | made}
        given: dict[str, Any] = {"real": kept}
        if signed is not None:
            options["int8"] |= {"activations": "int8" if signed else "uint8"}
            given["signed"] = signed
        written = with_rounded(order.graph, rounded, kept)
        order.write(written, path, replace(document, options=options), calibration.ranges, **given)

    if settings.goal is None or held is None:
        write(order.path, real)
        return None

    def ranked(done: int, total: int) -> None:
        if progress is not None:
            progress("rank layers", done, total)

    with tempfile.TemporaryDirectory(prefix="demitasse-") as folder:
        reference = open_real(order.graph, order.engine, Path(folder))
        feeds = [stored_inputs(order.graph, held.make(place), name) for place, name in enumerate(held.names)]
        place = Path(folder) / f"trial{order.path.suffix}"
        diagnosis = examine(order.graph, settings.goal, reference, feeds, write, place, ranked)
    write(order.path, diagnosis.chosen.real)
    return diagnosis


def _split(samples: Samples | None) -> tuple[Samples, Samples]:
    """Hold back one sample in three, spread over all."""
    if samples is None or len(samples) < LEAST_SAMPLES:
        count = 0 if samples is None else len(samples)
        raise UsageError(
            f"--int8-target needs {LEAST_SAMPLES} calibration samples or more, one in {HELD_BACK} of which is held "
            f"back; there are {count}"
        )
    parts: tuple[list[int], list[int]] = ([], [])
    for place in range(len(samples)):
        parts[place % HELD_BACK == HELD_BACK - 1].append(place)
    return samples.pick(parts[0]), samples.pick(parts[1])


def _calibration(
    order: Order,
    samples: Samples | None,
    settings: Settings,
    preprocessing: Preprocessing | None,
    progress: Progress | None,
) -> Calibration:
    stored = load_calibration(settings.ranges, order.target, order.graph) if settings.ranges is not None else None
    if stored is not None:
        return stored if samples is None else _checked(order, stored, samples)
    if samples is None:
        raise UsageError(f"{order.target} needs calibration: {settings.ranges} holds no ranges for it")

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("calibrate", done, total)

    exponents = _exponents(order, samples) if settings.equalize and order.target not in WIDE else {}
    graph = _prepared(order, exponents)
    moments = Moments(graph, len(samples)) if settings.compensate else None
    histograms = observe(graph, samples, report, engine=order.engine, moments=moments)
    inner = [name for name in histograms if name not in graph.values]  # sums that the writer takes apart
    ranges = choose(histograms, settings.method, whole=(*graph.inputs, *graph.outputs, *inner))
    means = {name: histogram.means for name, histogram in histograms.items() if histogram.means.size}
    real = detections(graph)
    seen = {name: histogram for name, histogram in histograms.items() if name not in real}
    notes = symptoms(graph, seen, ranges, len(samples), preprocessing)
    up = round_up(graph, moments, cores()) if moments is not None else {}
    calibration = Calibration(ranges, means, notes, exponents, up)
    if settings.ranges is not None:
        save_calibration(settings.ranges, order.target, order.graph, calibration)
    return calibration


def _checked(order: Order, stored: Calibration, samples: Samples) -> Calibration:
    """Add to stored ranges what a few samples say of them."""
    graph, few = _prepared(order, stored.equalized), _spread(samples)
    notes = outside(graph, observe(graph, few, engine=order.engine), stored.ranges)
    return replace(stored, notes=(*stored.notes, *notes))


def _spread(samples: Samples) -> Samples:
    """Pick a few samples, spread over all."""
    return samples.pick(range(0, len(samples), -(-len(samples) // FEW_SAMPLES)))


def _exponents(order: Order, samples: Samples) -> Exponents:
    """Run a few samples, and choose by what each channel is multiplied."""
    channels = Channels(order.graph)
    if not channels.free:
        return {}
    few = _spread(samples)
    with tempfile.TemporaryDirectory(prefix="demitasse-") as folder:
        engine = open_engine(order.graph, order.engine, Path(folder))
        peaks: Peaks = {}
        with ThreadPoolExecutor(cores()) as pool:
            for place, name in enumerate(few.names):
                feed = stored_inputs(order.graph, few.make(place), name)
                engine.show(feed, partial(add_peaks, peaks, channels), pool)
    return choose_exponents(channels, peaks)


def _prepared(order: Order, exponents: Exponents) -> Graph:
    """Return the graph that is written, with its channels equalized."""
    graph = equalize(order.graph, exponents)
    # ONNX's integers leave constants beside a product's kernel real.
    return channel_products(graph) if order.engine is EngineKind.LITERT else graph


def _kept(order: Order, settings: Settings) -> tuple[str, ...]:
    """Return the results whose nodes a recipe keeps real."""
    if settings.recipe is None or settings.goal is not None:
        return ()
    names = load_recipe(settings.recipe).real.get(order.target, ())
    unknown = [name for name in names if name not in order.graph.values]
    if unknown:
        missing = ", ".join(map(repr, unknown))
        raise UsageError(f"{settings.recipe}: it is another net's recipe; this one has no {missing}")
    return names
