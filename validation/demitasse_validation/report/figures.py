"""Spells figures, and says which layers are worst: the same in every form of a report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from demitasse.ir.graph import Status
from demitasse_validation.metrics import METRICS, Metric
from demitasse_validation.report import ArtifactReport, Finding, LayerResult, RankResult, Report, Severity

__all__ = [
    "DIAGNOSIS",
    "agreement",
    "bound",
    "by_severity",
    "counted",
    "covered",
    "decibels",
    "describe",
    "figure",
    "key_metric",
    "line_of",
    "local_figure",
    "measured",
    "named_together",
    "number",
    "preprocessing_text",
    "score",
    "seconds",
    "share_text",
    "share_used",
    "size",
    "titles",
    "tolerance_groups",
    "verdict",
    "worst",
]


def number(value: float) -> str:
    """Spell a figure with two digits, as short as it goes: `0`, `2.1e-6`, `0.034`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def bound(value: float) -> str:
    """Spell a limit, which a person chose: without digits that say nothing."""
    return number(value).replace(".0e", "e")


def decibels(value: float) -> str:
    """Spell a ratio of powers; without noise it is exact."""
    if value == math.inf:
        return "exact"
    return f"{value:.1f} dB" if math.isfinite(value) else f"{number(value)} dB"


def figure(name: str, value: float) -> str:
    """Spell the figure of a metric, with its unit."""
    metric = METRICS.get(name)
    return decibels(value) if metric is not None and metric.unit == "dB" else number(value)


def key_metric(layer: LayerResult) -> str:
    """Name the metric that a layer is judged by, or else the one that compares layers of any scale."""
    return next(iter(layer.limits or {"relative_to_peak": 0.0}))


def local_figure(layer: LayerResult) -> str:
    """Spell what a layer alone is off by, in the metric that it is judged by if that was measured."""
    local = layer.local or {}
    name = next((name for name in (key_metric(layer), "relative_to_peak", *local) if name in local), None)
    return "" if name is None else figure(name, local[name])


def describe(metrics: Mapping[str, float]) -> str:
    """Spell all figures of a layer in one line."""
    return ", ".join(
        f"{METRICS[name].title if name in METRICS else name} {figure(name, value)}"
        for name, value in metrics.items()
        if name != "nonfinite" or value
    )


def share_used(layer: LayerResult) -> float:
    """Return how much of its tolerance a layer uses up, at the worst of its limits: above 1 it fails.

    A layer that fails for another reason than its figures uses up infinitely much; one that nothing limits, nothing.
    """
    metrics, limits = layer.metrics or {}, layer.limits or {}
    shares = [METRICS[name].slack(metrics[name], limit) for name, limit in limits.items() if name in metrics]
    worst_share = max(shares, default=0.0)
    return math.inf if layer.passed is False and worst_share <= 1 else worst_share


def share_text(layer: LayerResult) -> str:
    """Spell how much of its tolerance a layer uses up: a percentage below the limit, a multiple above it."""
    share = share_used(layer)
    if not layer.limits or not math.isfinite(share):
        return ""
    if share > 1:
        return f"{share:.2g} ×" if share < 10 else f"{share:,.0f} ×" if share < 1e6 else f"{number(share)} ×"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{number(100 * share)} %"


def measured(layers: Iterable[LayerResult]) -> list[LayerResult]:
    """Return the layers that have figures."""
    return [layer for layer in layers if layer.metrics]


def worst(layers: Iterable[LayerResult], count: int) -> list[LayerResult]:
    """Return those measured layers that use up most of their tolerance; equals are ranked by their error."""

    def badness(layer: LayerResult) -> tuple[float, float]:
        error = (layer.metrics or {}).get("relative_to_peak", 0.0)
        return share_used(layer), math.inf if math.isnan(error) else error

    return sorted(measured(layers), key=badness, reverse=True)[:count]


def named_together(layer: LayerResult) -> str:
    """Name a layer with those whose results are in the same tensor: `conv1 + bn1 + scale1`."""
    return " + ".join([*layer.together_with, layer.layer])


def line_of(layer: LayerResult) -> str:
    """Return the line of the source that a layer stands in, or nothing where the source has no lines."""
    found = re.search(r":(\d+)(?:,|$)", layer.where)
    return found[1] if found else ""


def covered(artifact: ArtifactReport) -> str:
    """Say how many blobs of the source were compared, and what became of the others: `17, 10 folded`."""
    counts = dict(artifact.coverage)
    others = [f"{count} {status}" for status, count in sorted(counts.items()) if status != Status.COMPARED.value]
    return ", ".join([str(counts.get(Status.COMPARED.value, 0)), *others])


def score(value: float) -> str:
    """Spell a class's score with four digits, so that scores in a column line up, and never a small one as zero."""
    if not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return number(value)
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:#.4g}".removesuffix(".")


# The kind of a finding that says what another comes from, and the kinds of those.
DIAGNOSIS, EXPLAINED = "diagnosis", ("divergence", "shape")


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with failures first, and what explains one right behind it."""
    order = list(Severity)
    ordered = sorted(findings, key=lambda finding: order.index(finding.severity))
    explained = next((each for each in ordered if each.kind in EXPLAINED), None)
    if explained is None:
        return ordered
    words = [each for each in ordered if each.kind == DIAGNOSIS]
    rest = [each for each in ordered if each.kind != DIAGNOSIS]
    place = rest.index(explained) + 1
    return [*rest[:place], *words, *rest[place:]]


def verdict(report: Report) -> str:
    """Say in a few words whether the validation passed, and what failed."""
    if report.passed:
        return "Every gate holds"
    artifacts = sum(not artifact.passed for artifact in report.artifacts)
    parts = [f"{artifacts} of {counted(len(report.artifacts), 'artifact')}"] if artifacts else []
    parts += [f"the source in {runtime.runtime}" for runtime in report.runtimes if not runtime.passed]
    return f"Failed: {' and '.join(parts) or 'see the findings'}"


def counted(count: int, what: str) -> str:
    """Spell a number of things: `1 sample`, `16 samples`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def titles(report: Report) -> list[str]:
    """Call each artifact by its file's name, or by its path where two files have the same name."""
    names = [artifact.name for artifact in report.artifacts]
    return [artifact.path if names.count(artifact.name) > 1 else artifact.name for artifact in report.artifacts]


def tolerance_groups(layers: Iterable[LayerResult]) -> dict[tuple[str, str], int]:
    """Count the layers that each kind of tolerance was applied to: `(limits, reason) -> layers`.

    Tolerances that are derived for each layer differ in numbers alone: they are one kind, with the range of each.
    """
    kinds: dict[tuple[tuple[str, ...], str], list[LayerResult]] = {}
    for layer in measured(layers):
        kinds.setdefault((tuple(layer.limits or {}), _NUMBER.sub("#", layer.reason)), []).append(layer)
    groups = {}
    for (names, _), alike in kinds.items():
        spans = ((METRICS[name], [(layer.limits or {})[name] for layer in alike]) for name in names)
        limits = ", ".join(_limit(metric, min(bounds), max(bounds)) for metric, bounds in spans)
        groups[limits or "no limit", _spanned([layer.reason for layer in alike])] = len(alike)
    return groups


# A number in a reason, as it is spelled there.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")


def _spanned(reasons: Sequence[str]) -> str:
    """Join reasons that differ in numbers alone, with the range of each number."""
    spellings = [_NUMBER.findall(reason) for reason in reasons]
    spans = []
    for column in zip(*spellings, strict=True):
        low, high = min(column, key=float), max(column, key=float)
        spans.append(low if float(low) == float(high) else f"{low} to {high}")
    numbers = iter(spans)
    return _NUMBER.sub(lambda _: next(numbers), reasons[0])


def _limit(metric: Metric, low: float, high: float) -> str:
    span = bound(low) if bound(low) == bound(high) else f"{bound(low)} to {bound(high)}"
    return f"{metric.title} {'≥' if metric.higher_is_better else '≤'} {span} {metric.unit}".rstrip()


def agreement(ranks: RankResult) -> str:
    """Say on how many samples the best class agrees, with the bounds of its share at 95 %."""
    return f"{ranks.agreeing} of {ranks.samples} (95 %: {ranks.low:.2f} to {ranks.high:.2f})"


def preprocessing_text(report: Report) -> dict[str, str]:
    """Spell the preprocessing contract of the inputs, field by field; a mean image by its size."""
    contract = report.inputs.get("preprocessing") or {}
    spelled = {}
    for name, value in contract.items():
        if value is None or value == []:
            continue
        if name == "mean_image":
            value = f"an image of {' × '.join(map(str, value['shape']))}"
        elif isinstance(value, list):
            value = (" × " if name in {"resize", "crop"} else ", ").join(f"{entry:g}" for entry in value)
        spelled[name.replace("_", " ")] = str(value)
    return spelled


def seconds(value: float) -> str:
    """Spell a duration."""
    return f"{value:.1f} s" if value >= 0.1 else f"{value * 1e3:.1f} ms"


def size(count: int) -> str:
    """Spell a number of bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
