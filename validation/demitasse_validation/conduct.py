"""Watches how a model behaves, apart from what it computes: whether a second run gives the same, and a batch too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.weights import Array
from demitasse_validation.metrics import METRICS, Sums
from demitasse_validation.report import Finding, Severity
from demitasse_validation.runtimes import Runner

__all__ = ["Conduct"]

# What the same sample may differ by, alone and in a batch, in shares of the output's peak: the same kernels may take
# other blocks for other sizes, and sum in another order.
BATCH_LIMIT = 1e-4


@dataclass
class Conduct:
    """Runs samples a second time, and together, and keeps what was different.

    `may_stack` says that the artifact takes any number of samples along the first axis of all its inputs. `layers` maps
    tensors to the source's layers, in the order in which they run, so that the first that differs can be named.
    """

    runner: Runner
    may_stack: bool
    layers: Mapping[str, str]
    _first: tuple[Mapping[str, Array], Mapping[str, Array]] | None = None
    _faults: dict[str, Finding] = field(default_factory=dict)

    def add(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Take what was fed and what came out: the first sample is run again, and with each of the others."""
        if self._first is None:
            outputs = {name: np.array(array) for name, array in outputs.items()}
            self._first = {name: np.array(array) for name, array in feeds.items()}, outputs
            self._repeat(feeds, outputs)
        elif self.may_stack and "batch" not in self._faults:
            self._stack(feeds, {name: np.array(array) for name, array in outputs.items()})

    def findings(self) -> Iterator[Finding]:
        """Say what was different."""
        yield from self._faults.values()

    def _repeat(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        for name, again in self.runner.run(feeds).items():
            if not np.array_equal(again, outputs[name], equal_nan=again.dtype.kind == "f"):
                message = f"output {name!r} differs from run to run on the same input"
                self._faults["nondeterministic"] = Finding(Severity.FAILURE, "nondeterministic", message, name)

    def _stack(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        assert self._first is not None
        first_feeds, first_outputs = self._first
        if any(first_feeds[name].shape[1:] != array.shape[1:] for name, array in feeds.items()):
            return
        stacked = {name: np.concatenate([first_feeds[name], array]) for name, array in feeds.items()}
        try:
            together = self.runner.run(stacked)
        except (MalformedModel, UsageError) as error:
            message = f"it promises to take any number of samples, and doesn't take two: {error}"
            self._faults["batch"] = Finding(Severity.FAILURE, "batch", message)
            return
        for name, array in together.items():
            if first_outputs[name].ndim == 0 or len(first_outputs[name]) != len(next(iter(first_feeds.values()))):
                continue  # one result for the whole batch
            alone = np.concatenate([first_outputs[name], outputs[name]])
            if alone.shape != array.shape:
                what = f"it gives {list(array.shape)} for two samples together, {list(alone.shape)} for each alone"
            else:
                metric = METRICS["relative_to_peak"]
                error_share = metric.of(Sums.of(alone, array))
                if metric.holds(error_share, BATCH_LIMIT) or np.array_equal(alone, array, equal_nan=True):
                    continue
                what = f"a sample gives something else in a batch than alone: {metric.title} {error_share:.3g}"
            layer = self._first_apart(first_feeds, feeds, stacked)
            where = f"first at layer {layer!r}, " if layer else ""
            message = f"{where}output {name!r}: {what}"
            self._faults["batch"] = Finding(Severity.FAILURE, "batch", message, layer or name)
            return

    def _first_apart(self, *feeds: Mapping[str, Array]) -> str | None:
        """Find the first layer that gives something else for two samples together than for each alone."""
        present = [tensor for tensor in self.layers if tensor not in self.runner.missing(self.layers)]
        first, second, together = (
            {name: np.array(array) for name, array in self.runner.run_layers(each, present).items()} for each in feeds
        )
        for tensor in present:
            if first[tensor].ndim:
                alone = np.concatenate([first[tensor], second[tensor]])
                if alone.shape != together[tensor].shape or not METRICS["relative_to_peak"].holds(
                    METRICS["relative_to_peak"].of(Sums.of(alone, together[tensor])), BATCH_LIMIT / 10
                ):
                    return self.layers[tensor]
        return None
