"""Times what was converted: our artifacts against those of others in the same runtimes, and against OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from conversions import Net

from demitasse_validation.benchmark import Contender, Plan, Report, measure, select
from demitasse_validation.benchmark.results import Comparison

__all__ = ["latencies"]

FORMATS = (".onnx", ".tflite", ".int8.tflite", ".savedmodel")


def latencies(nets: Sequence[Net], out: Path, plan: Plan, progress: Callable[[str], None]) -> Iterator[str]:
    """Yield the lines of a table for each net and format; the first model of each is the baseline."""
    for net in nets:
        for title, chosen in groups(net, out):
            progress(f"latency of {net.name}: {title}")
            yield from (f"### {net.name}: {title}", "", *table(measure(chosen, plan)), "")


def groups(net: Net, out: Path) -> Iterator[tuple[str, list[Contender]]]:
    """Yield what is timed in turns: of a Keras net theirs and ours of each format, of a Caffe net OpenCV and ours."""
    stem = out / net.name.replace(" ", "-")
    ours = [Path(f"{stem}.ours{suffix}") for suffix in FORMATS]
    if net.is_keras:
        for suffix, one in zip(FORMATS, ours, strict=True):
            yield f"{suffix} of others and ours", select([Path(f"{stem}.theirs{suffix}"), one], device="cpu")
        return
    found = [path for path in ours if path.exists()]
    *converted, source = select(found, source=net.files[0], weights=net.files[1], device="cpu")
    yield "in OpenCV and converted", [source, *converted]


def table(report: Report) -> Iterator[str]:
    """Yield a table in Markdown: figures, and the verdict on each against the first."""
    yield "| model | runtime | p50 ms (95 %) | p90 ms | compute only ms | images/s | time against the first | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    compared = {each.contender: each for each in report.comparisons}
    for result in report.results:
        median, low, high = (f"{1e3 * value:.1f}" for value in result.latency.median)
        p90 = "" if result.latency.p90 is None else f"{1e3 * result.latency.p90:.1f}"
        compute, against = f"{1e3 * result.compute.median.value:.1f}", _against(compared.get(result.name))
        yield (
            f"| {result.artifact} | {result.runtime} | {median} ({low} to {high}) | {p90} | {compute} | "
            f"{result.throughput:.1f} | {against} |"
        )
    noise = report.noise.get(1, 0.0)
    yield ""
    yield f"The first against itself: up to {noise:.1%} apart. {'. '.join(report.notes)}".strip()


def _against(comparison: Comparison | None) -> str:
    if comparison is None or comparison.ratio is None:
        return "1 | "
    ratio = comparison.ratio
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) | {comparison.judgement.verdict.value}"
