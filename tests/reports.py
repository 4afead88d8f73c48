"""Reports for the tests of their forms: small ones, large ones, and one whose every name is an attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from demitasse.ir.graph import Status
from demitasse_validation.report import (
    ArtifactReport,
    Class,
    Finding,
    LayerResult,
    Ranked,
    RankResult,
    Report,
    Role,
    RuntimeReport,
    Severity,
)

# What a model file may call a layer: markup of each form that a report has, and what no XML can hold.
HOSTILE = (
    "</td><script>alert(1)</script>\"'><img src=x onerror=alert(1)> | `a``b` @someone #1 [x](http://x.example) *b* _i_ "
    "</details> {{ 7 * 7 }} \x00\x1b\ud800"
)


def figures(relative: float) -> dict[str, float]:
    """Make figures as they would be with an error of so much of the peak."""
    decibels = math.inf if relative == 0 else -20 * math.log10(relative) if math.isfinite(relative) else math.nan
    bad = 0.0 if math.isfinite(relative) else 1.0
    return {"relative_to_peak": relative, "max_abs": 2 * relative, "sqnr_db": decibels, "nonfinite": bad}


def compared(name: str, relative: float, limit: float = 1e-4, **more: Any) -> LayerResult:
    """Make a layer that was measured; it fails where the error is over the limit, or is none."""
    made = LayerResult(
        name, "Convolution", name, f"net.prototxt:3, layer {name!r} (Convolution)", Status.COMPARED, relative <= limit
    )
    options = {"metrics": figures(relative), "limits": {"relative_to_peak": limit}, "reason": "float32 rounds"}
    return replace(made, **options | {"worst_sample": "cat.jpg", "tensor": name} | more)


def unmeasured(name: str, status: Status, **more: Any) -> LayerResult:
    failed = False if status is Status.UNMAPPED else None
    made = LayerResult(name, "BatchNorm", f"{name}@", f"net.prototxt:9, layer {name!r} (BatchNorm)", status, failed)
    return replace(made, **more)


def ranking(sample: str, *, margin: float = 0.5, noise: float = 1e-5, other: bool = False) -> Ranked:
    best = (Class(1, "cat", 0.75), Class(0, "dog", 0.25))
    return Ranked(sample, best, best[::-1] if other else best, margin, noise)


def ranks(*ranked: Ranked) -> RankResult:
    agreeing = sum(each.agrees for each in ranked)
    return RankResult("prob", 5, len(ranked), agreeing, 1.0, 0.2, 1.0, ranked)


def artifact(name: str, layers: Sequence[LayerResult], *findings: Finding, **more: Any) -> ArtifactReport:
    made = ArtifactReport(
        name=name,
        path=f"out/{name}",
        target="onnx",
        bytes=23_700_000,
        runtime="ONNX Runtime 1.0 (CPU)",
        coverage={"compared": 2, "folded": 1},
        layers=tuple(layers),
        outputs=(compared("prob", 1e-7),),
        ranks=(ranks(ranking("cat.jpg"), ranking("dog.jpg")),),
        divergence=(),
        findings=findings,
        seconds=1.25,
    )
    return replace(made, **more)


def failure(kind: str, message: str, layer: str | None = None) -> Finding:
    return Finding(Severity.FAILURE, kind, message, layer)


def report(*artifacts: ArtifactReport, samples: Sequence[str] = ("cat.jpg", "dog.jpg"), **more: Any) -> Report:
    made = Report(
        tool="demitasse 1",
        source_format="caffe",
        source=({"name": "net.prototxt", "sha256": "0" * 64, "bytes": 1},),
        inputs={"kind": "images", "samples": list(samples), "preprocessing": None},
        environment={"python": "3.11"},
        evaluator="evaluator",
        runtimes=(),
        artifacts=artifacts,
        findings=(),
        seconds=3.5,
    )
    return replace(made, **more)


def mixed() -> Report:
    """Make a report with one of everything: a sound artifact, a broken one, a witness, every status and finding."""
    bn = unmeasured("bn1", Status.FOLDED, into="conv1")
    sound = [
        compared("conv1", 2e-6, together_with=("bn1",), local=figures(1e-7)),
        bn,
        compared("data", 0.0),
        unmeasured("split", Status.UNUSED),
        compared("fc", 1e-6),
    ]
    broken = [
        compared("conv1", 0.25, role=Role.SOURCE, local=figures(0.2)),
        bn,
        compared("data", math.nan),
        unmeasured("split", Status.UNMAPPED, note="the map forgot it"),
        compared("fc", 3e-5, limits={}),
    ]
    findings = (
        failure("divergence", "first diverges at layer 'conv1', net.prototxt:3", "conv1"),
        failure("unmapped", "layer 'split' is not accounted for", "split"),
        failure("missing-output", "it lacks the source's output 'aux'", "aux"),
        Finding(Severity.NOTE, "approximation", "a LRN became another"),
    )
    flips = ranks(ranking("cat.jpg", other=True), ranking("dog.jpg", margin=math.nan))
    return report(
        artifact("net.onnx", sound),
        artifact("net.tflite", broken, *findings, divergence=("conv1",), ranks=(flips,)),
        runtimes=(RuntimeReport("opencv", "OpenCV 4.1 (CPU)", tuple(sound), (), 0.5),),
        findings=(Finding(Severity.WARNING, "other-source", "net.onnx was made from another net.prototxt"),),
    )


def large(layers: int, samples: int, formats: int = 5) -> Report:
    """Make a report of a large net, of which one artifact fails in every third layer."""
    names = [f"stage{place // 100}/block{place // 10}/a_rather_long_name_of_a_layer_{place}" for place in range(layers)]
    sample_names = [f"photograph_{place:05}.jpg" for place in range(samples)]
    parts = []
    for number in range(formats):
        results = [compared(name, 0.1 if number == 1 and not place % 3 else 1e-6) for place, name in enumerate(names)]
        ranked = ranks(*(ranking(name, other=number == 1 and not place % 7) for place, name in enumerate(sample_names)))
        faults = [failure("divergence", f"diverges at layer {name!r}", name) for name in names[::3]]
        parts.append(artifact(f"net{number}.onnx", results, *(faults if number == 1 else ()), ranks=(ranked,)))
    return report(*parts, samples=sample_names)


def hostile() -> Report:
    """Make a failing report in which everything that comes from a file is an attack."""
    best = (Class(1, HOSTILE, 0.75), Class(0, "dog", 0.25))
    flipped = ranks(Ranked(HOSTILE, best, best[::-1], 0.5, 0.0))
    layers = [
        compared(
            HOSTILE, 0.5, type=HOSTILE, where=HOSTILE, worst_sample=HOSTILE, together_with=(HOSTILE,), note=HOSTILE
        ),
        unmeasured("bn", Status.FOLDED, into=HOSTILE),
    ]
    finding = failure("divergence", f"first diverges at layer {HOSTILE}", HOSTILE)
    facts: Mapping[str, Any] = {"path": HOSTILE, "runtime": HOSTILE, "divergence": (HOSTILE,)}
    return report(
        artifact(HOSTILE, layers, finding, ranks=(replace(flipped, output=HOSTILE),), **facts),
        samples=[HOSTILE],
        source=({"name": HOSTILE, "sha256": "0" * 64, "bytes": 1},),
        environment={"python": HOSTILE},
        findings=(Finding(Severity.WARNING, "other-source", HOSTILE),),
    )
