"""Draws throughput over latency as SVG: a line a model, a point a batch. Up and to the left is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from demitasse_validation.benchmark.results import Report, Result

__all__ = ["plot"]

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 36, 48

# Told apart by people with any colour vision. Okabe and Ito 2008, https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")

# Where the largest value is more than this many times the smallest, steps of the axis multiply.
LOGARITHMIC_BEYOND = 8

LABEL_HEIGHT = 15


@dataclass(frozen=True)
class _Axis:
    """Places values between two ends of a drawing, by their size or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        if high > LOGARITHMIC_BEYOND * low:
            return cls(low / 1.2, high * 1.2, start, end, is_logarithmic=True)
        return cls(0.0, high * 1.1, start, end, is_logarithmic=False)

    def __call__(self, value: float) -> float:
        if self.is_logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """Yield round values within the axis."""
        if self.is_logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (digit * 10.0**decade for decade in decades for digit in (1, 2, 5))
            yield from (step for step in steps if self.low <= step <= self.high)
            return
        rough = self.high / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(digit * unit for digit in (1, 2, 5, 10) if digit * unit >= rough)
        yield from (step * number for number in range(int(self.high / step) + 1))


def plot(report: Report) -> str:
    """Return the SVG of a report's valid results; latency is p50 host to host, its interval drawn beside it."""
    sweeps = _sweeps(report)
    results = [result for sweep in sweeps for result in sweep]
    if not results:
        return _document(['<text x="20" y="40">no valid result</text>'])
    x = _Axis.over([1e3 * bound for result in results for bound in result.latency.median], LEFT, WIDTH - RIGHT)
    y = _Axis.over([result.throughput for result in results], HEIGHT - BOTTOM, TOP)
    parts = [*_frame(x, y)]
    labels: list[tuple[float, str]] = []
    for place, sweep in enumerate(sweeps):
        colour = COLOURS[place % len(COLOURS)]
        parts += _line(sweep, x, y, colour)
        labels.append((y(sweep[-1].throughput), _label(sweep[0], colour)))
    parts += _spread(labels)
    return _document(parts)


def _sweeps(report: Report) -> list[list[Result]]:
    """Group valid results by model and engine, each by rising batch; the fastest model comes first."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        if result.is_valid:
            groups.setdefault((result.artifact, result.engine), []).append(result)
    return [sorted(group, key=lambda result: result.batch) for group in groups.values()]


def _line(sweep: Sequence[Result], x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    points = [(x(1e3 * result.latency.median.value), y(result.throughput)) for result in sweep]
    if len(points) > 1:
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for result, (across, up) in zip(sweep, points, strict=True):
        low, high = x(1e3 * result.latency.median.low), x(1e3 * result.latency.median.high)
        yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{up:.1f}" y2="{up:.1f}" stroke="{colour}" stroke-width="1"/>'
        words = f"{result.name}, batch {result.batch}: {result}"
        yield f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{colour}"><title>{escape(words)}</title></circle>'
        yield f'<text x="{across:.1f}" y="{up - 8:.1f}" class="batch" text-anchor="middle">{result.batch}</text>'


def _label(result: Result, colour: str) -> str:
    return f'fill="{colour}">{escape(result.artifact)} · {escape(result.engine)}</text>'


def _spread(labels: Sequence[tuple[float, str]]) -> Iterator[str]:
    """Place labels beside their lines, from the top, so that none covers another."""
    lowest = -math.inf
    for wanted, label in sorted(labels):
        lowest = max(wanted, lowest + LABEL_HEIGHT)
        yield f'<text x="{WIDTH - RIGHT + 12}" y="{lowest + 4:.1f}" {label}'


def _frame(x: _Axis, y: _Axis) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in x.ticks():
        at = x(tick)
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}" class="grid"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    for tick in y.ticks():
        at = y(tick)
        yield f'<line x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>'
    yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">latency p50, host to host, ms</text>'
    yield f'<text x="{LEFT}" y="{TOP - 14}">images/s (each point names its batch)</text>'


def _document(parts: Sequence[str]) -> str:
    style = "text{font:12px system-ui,sans-serif}.batch{font-size:10px}.grid{stroke:currentColor;stroke-opacity:.15}"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="currentColor" '
        'aria-label="throughput over latency">'
    )
    return "\n".join([opening, f"<style>{style}</style>", *parts, "</svg>"])
