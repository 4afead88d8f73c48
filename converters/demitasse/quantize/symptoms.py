"""Look for what commonly spoils 8-bit models: too few samples, wrong preprocessing, dead and saturated tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from demitasse.ir.graph import Graph
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.quantize.histogram import Histogram
from demitasse.quantize.ranges import Ranges

__all__ = ["FEW", "beyond", "outside", "symptoms"]

FEW = 32
"""With fewer samples, ranges still grow with each further one (open_nsfw: 5 dB between 10 and 100)."""

# More than this part of a tensor's elements at its limits is no longer what is rare.
SATURATED = 0.01
# An input that reaches beyond its calibrated range by less than this part of it is cut by a few steps.
OVERSHOOT = 0.02
# Channel means that differ by less don't tell an order.
DISTINCT = 4.0


def symptoms(
    graph: Graph,
    histograms: Mapping[str, Histogram],
    ranges: Ranges,
    count: int,
    preprocessing: Preprocessing | None = None,
) -> tuple[str, ...]:
    """Say what is odd about `count` samples and the ranges that they gave, one sentence each."""
    notes = []
    if count < FEW:
        notes.append(f"calibrated with {count} samples: ranges are reliable from about a hundred on")
    for name in graph.inputs:
        if name in histograms and preprocessing is not None:
            notes += _unlike(name, histograms[name], preprocessing)
    dead = [name for name, each in histograms.items() if each.low == each.high == 0.0 and name in graph.values]
    if dead:
        notes.append(f"always zero over all calibration samples: {_some(dead)}")
    notes += _saturated(histograms, ranges)
    return tuple(notes)


def outside(graph: Graph, histograms: Mapping[str, Histogram], ranges: Ranges) -> tuple[str, ...]:
    """Say which samples' tensors lie outside of ranges that were calibrated on others, one sentence each."""
    notes = []
    for name in graph.inputs:
        if name not in histograms or name not in ranges:
            continue
        (low, high), found = ranges[name], histograms[name]
        slack = OVERSHOOT * (high - low)
        if found.low < low - slack or found.high > high + slack:
            notes.append(
                f"input {name!r} reaches from {found.low:.4g} to {found.high:.4g}, beyond the {low:.4g} to {high:.4g} "
                "that it was calibrated for: what lies outside is cut off; was it preprocessed in the same way?"
            )
    return (*notes, *_saturated(histograms, ranges))


def _saturated(histograms: Mapping[str, Histogram], ranges: Ranges) -> Iterator[str]:
    shares = {name: beyond(histograms[name], *ranges[name]) for name in ranges if name in histograms}
    saturated = [name for name, share in shares.items() if share > SATURATED]
    if saturated:
        yield f"more than {SATURATED:.0%} of the elements are cut off: {_some(saturated)}"


def beyond(histogram: Histogram, low: float, high: float) -> float:
    """Return the part of a tensor's elements that lies outside a range."""
    outside = (histogram.centers < min(low, 0.0) - histogram.width) | (
        histogram.centers > max(high, 0.0) + histogram.width
    )
    return float(histogram.counts[outside].sum() / max(histogram.counts.sum(), 1))


def _unlike(name: str, histogram: Histogram, contract: Preprocessing) -> Iterator[str]:
    """Compare what an input was fed with what images look like behind the preprocessing."""
    mean = np.atleast_1d(np.asarray(contract.mean or 0.0, np.float64))
    scale = np.atleast_1d(np.asarray(contract.scale, np.float64))
    if not (scale > 0).all():
        return
    if contract.mean_image is not None:
        return
    limits = np.array([(limit - mean) * scale for limit in (0.0, 255.0)])
    low, high = float(limits.min()), float(limits.max())
    slack = 0.05 * (high - low)
    fed = f"input {name!r} was fed {histogram.low:.4g} to {histogram.high:.4g}"
    promised = f"{low:.4g} to {high:.4g}"
    if histogram.low < low - slack or histogram.high > high + slack:
        yield f"{fed}, but the preprocessing gives {promised}: were samples scaled, and means subtracted, as it says?"
    elif histogram.high - histogram.low < slack:
        yield f"{fed}, a small part of what the preprocessing gives ({promised}): were samples scaled twice?"
    elif _are_swapped(histogram.means, mean, scale):
        order = "BGR" if contract.channels is ChannelOrder.BGR else "RGB"
        yield f"the channels of input {name!r} look reversed: the preprocessing says {order}"


def _are_swapped(found: npt.NDArray[np.float32], mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> bool:
    """Tell whether channels come nearer to the means that the preprocessing subtracts in reverse order."""
    if len(found) != 3 or len(mean) != 3 or abs(mean[0] - mean[2]) < DISTINCT:
        return False
    pixels = found / scale + mean
    offset = pixels - pixels.mean() - (mean - mean.mean())
    turned = pixels - pixels.mean() - (mean[::-1] - mean.mean())
    return bool(np.square(turned).sum() < 0.25 * np.square(offset).sum())


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
