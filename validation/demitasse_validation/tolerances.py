"""Says how far a layer may be off: rules as data, each with its reason.

The last rule that fits a layer decides alone, so an override stands after the defaults. Overrides come from a TOML file
that is reviewed like code; one without a reason is refused, and one that fits nothing is reported.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from demitasse.errors import UsageError
from demitasse_validation.metrics import METRICS

__all__ = ["DEFAULT", "DEFAULTS", "BlobKind", "Rule", "Tolerances"]


class BlobKind(enum.Enum):
    """Says what a blob's numbers are, which decides how to measure them."""

    VALUES = "values"  # real numbers on a scale of their own
    DISTRIBUTION = "distribution"  # probabilities that the net gives as a result
    INTEGERS = "integers"  # indices, counts, truth values
    DETECTIONS = "detections"  # boxes that were chosen by comparing scores and overlaps


@dataclass(frozen=True, slots=True)
class Rule:
    """Limits metrics for the layers it fits; `target` and `layer` are shell patterns.

    `target` is an artifact's target (`onnx`, `tflite-int8`) or the name of a source runtime (`opencv`); `layer` is
    matched against the source layer's name and the blob's. `top1_margin` is the lead of the best class over the second
    below which another winner is noise. No limits at all means: report, and never fail.
    """

    limits: Mapping[str, float]
    reason: str
    target: str = "*"
    layer: str = "*"
    kind: BlobKind | None = None
    top1_margin: float = 0.0

    def fits(self, target: str, names: Iterable[str], kind: BlobKind) -> bool:
        return (
            (self.kind is None or self.kind is kind)
            and fnmatchcase(target, self.target)
            and any(fnmatchcase(name, self.layer) for name in names)
        )


DEFAULTS: tuple[Rule, ...] = (
    Rule(
        {"relative_to_peak": 1e-4},
        "two float32 runtimes that sum in different orders agree to about 1e-6 of a layer's peak, a hundredth of this",
        top1_margin=2e-4,
    ),
    Rule(
        {"max_abs": 1e-5},
        "probabilities lie between 0 and 1, where float32 resolves 6e-8",
        kind=BlobKind.DISTRIBUTION,
        top1_margin=2e-5,
    ),
    Rule({"max_abs": 0.0}, "an index or a truth value is right or wrong", kind=BlobKind.INTEGERS),
    Rule(
        {"relative_to_peak": 1e-2},
        "float16 weights are rounded to 11 bits: 5e-4 of each, which a deep net adds up",
        target="*f16",
        top1_margin=2e-2,
    ),
    Rule(
        {"max_abs": 1e-2},
        "float16 weights shift logits by some thousandths",
        target="*f16",
        kind=BlobKind.DISTRIBUTION,
        top1_margin=2e-2,
    ),
    Rule(
        {"sqnr_db": 10.0},
        "8 bits resolve 40 to 50 dB; a deep net keeps 15 to 30 of it; a layer below 10 dB is noise or wrong",
        target="*int8",
        top1_margin=0.1,
    ),
    Rule(
        {"max_abs": 0.2},
        "quantized logits are off by some tenths, which moves a probability most where it is undecided",
        target="*int8",
        kind=BlobKind.DISTRIBUTION,
        top1_margin=0.1,
    ),
    Rule({}, "an index may flip wherever two candidates are nearly equal", target="*int8", kind=BlobKind.INTEGERS),
    *(
        rule
        for target, activations in (("*16x8", "16-bit"), ("*dynamic", "real"))
        for rule in (
            Rule(
                {"sqnr_db": 15.0},
                f"8-bit kernels resolve 40 to 50 dB, of which a deep net of {activations} activations keeps 20 to 40",
                target=target,
                top1_margin=0.1,
            ),
            Rule(
                {"max_abs": 0.2},
                "8-bit kernels shift logits by some tenths, which moves a probability most where it is undecided",
                target=target,
                kind=BlobKind.DISTRIBUTION,
                top1_margin=0.1,
            ),
            Rule(
                {}, "an index may flip wherever two candidates are nearly equal", target=target, kind=BlobKind.INTEGERS
            ),
        )
    ),
    *(
        Rule(
            {},
            "boxes come, go and change places wherever scores or overlaps are nearly equal; their scores are compared",
            target=target,
            kind=BlobKind.DETECTIONS,
        )
        for target in ("*f16", "*int8", "*16x8", "*dynamic")
    ),
)

# The keys of a rule in a TOML file.
KEYS = frozenset({"target", "layer", "kind", "limits", "reason", "top1_margin"})


@dataclass(frozen=True, slots=True)
class Tolerances:
    """An ordered list of rules; the last that fits decides."""

    rules: tuple[Rule, ...] = DEFAULTS
    overrides: tuple[Rule, ...] = field(default=())

    def rule(self, target: str, names: Iterable[str], kind: BlobKind) -> Rule:
        """Return the rule for a blob; `names` are the source layer's and its own."""
        candidates = (*self.rules, *self.overrides)
        named = tuple(names)
        return next(rule for rule in reversed(candidates) if rule.fits(target, named, kind))

    @classmethod
    def load(cls, path: Path) -> Tolerances:
        """Read overrides from a TOML file: tables `[[tolerance]]` with `limits`, `reason` and what they apply to.

            [[tolerance]]
            layer = "conv5*"
            target = "tflite-int8"
            limits = { sqnr_db = 6 }
            reason = "its channels differ in range by 2^9; retrained in the next release"

        Raises:
            UsageError: the file can't be read, or tables are wrong; all faults are listed.
        """
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: can't be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: not TOML: {error}") from error
        tables = data.pop("tolerance", [])
        if data or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UsageError(f"{path}: tolerances stand in tables [[tolerance]] and nowhere else")
        faults = [
            f"{path}: [[tolerance]] number {number}: {fault}"
            for number, table in enumerate(tables, 1)
            for fault in _faults(table)
        ]
        if faults:
            raise UsageError("\n".join(faults))
        return cls(overrides=tuple(map(_rule, tables)))


def _faults(table: Mapping[str, Any]) -> list[str]:
    faults = [f"{key!r} is no key of it; there are {', '.join(sorted(KEYS))}" for key in table if key not in KEYS]
    if not str(table.get("reason", "")).strip():
        faults.append("it needs a reason")
    limits = table.get("limits")
    if not isinstance(limits, dict):
        return [*faults, "it needs limits, such as { relative_to_peak = 1e-3 }"]
    faults += [f"{name!r} is no metric; there are {', '.join(METRICS)}" for name in limits if name not in METRICS]
    numbers = {**limits, "top1_margin": table.get("top1_margin", 0)}
    faults += [
        f"{name} must be a number, not {value!r}"
        for name, value in numbers.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value
    ]
    if table.get("kind") not in {None, *(kind.value for kind in BlobKind)}:
        faults.append(f"kind must be one of {', '.join(kind.value for kind in BlobKind)}")
    return faults


def _rule(table: Mapping[str, Any]) -> Rule:
    kind = table.get("kind")
    return Rule(
        limits=MappingProxyType({name: float(value) for name, value in table["limits"].items()}),
        reason=str(table["reason"]).strip(),
        target=str(table.get("target", "*")),
        layer=str(table.get("layer", "*")),
        kind=None if kind is None else BlobKind(kind),
        top1_margin=float(table.get("top1_margin", 0.0)),
    )


# What is used where nobody says otherwise.
DEFAULT = Tolerances()
