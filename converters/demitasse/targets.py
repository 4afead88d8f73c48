"""The table of targets: what each format is called, how a graph is brought into its shape, and who writes it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demitasse.errors import MissingDependency, Offence
from demitasse.ir.document import Document
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Layout, Op, Recurrent
from demitasse.passes import (
    drop_identities,
    fold_affine,
    fold_constants,
    fuse_activations,
    merge_pads,
    prune,
    to_layout,
    unroll,
)

__all__ = ["TARGETS", "Target", "lower", "simplify", "target_of", "written_out"]


@dataclass(frozen=True, slots=True)
class Target:
    """An artifact format.

    Attributes:
        name: what `--to` calls it.
        suffix: what its files end in; folders too.
        layout: the layout of its spatial operations, and of its images unless told otherwise.
        writer: the module that writes it, and the function there.
        needs: the package that writing it imports and the core does not bring, and the extra that does.
        fuses_activations: whether its operations apply an activation to their own result.
        has_recurrent: whether it has operators for recurrent layers; else these are written out, step by step.
        calibrated: whether it needs ranges from sample inputs.
        engine: the runtime that finds these ranges (`demitasse.quantize.engines.EngineKind`).
        batch: the batch that an artifact gets where nobody says otherwise; None keeps it dynamic.
    """

    name: str
    suffix: str
    layout: Layout
    writer: tuple[str, str]
    needs: tuple[str, str] | None = None
    fuses_activations: bool = False
    has_recurrent: bool = False
    calibrated: bool = False
    engine: str = "litert"
    batch: int | None = None

    def check_dependency(self) -> None:
        """Make sure that the package which the writer needs is installed.

        Raises:
            MissingDependency: it isn't; the message names the extra.
        """
        if self.needs is not None and importlib.util.find_spec(self.needs[0]) is None:
            raise MissingDependency(f"target {self.name!r}", *self.needs)

    def offences(self, lowered: Graph) -> list[Offence]:
        """List what the target can't hold of a graph that was lowered for it."""
        find: Callable[[Graph], list[Offence]] = importlib.import_module(self.writer[0]).offences
        return find(lowered)

    def limits(self) -> dict[str, str]:
        """Map the operations that the target can't hold, in whatever way `lower` has of writing them, to the reason."""
        table: dict[type[Op], str] = importlib.import_module(self.writer[0]).LIMITS
        return {op.__name__: reason for op, reason in table.items() if op is not Recurrent}

    def read_document(self, path: Path) -> Document | None:
        """Read what an artifact says about itself; None if it says nothing."""
        read: Callable[[Path], Document | None] = importlib.import_module(self.writer[0]).read_document
        return read(path)

    def write(self, lowered: Graph, path: Path, *arguments: Any, **options: Any) -> None:
        """Write a lowered graph; see the writer for its options."""
        function = getattr(importlib.import_module(self.writer[0]), self.writer[1])
        function(lowered, path, *arguments, **options)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("onnx", ".onnx", Layout.CHANNELS_FIRST, ("demitasse.writers.onnx", "write"), has_recurrent=True),
        Target(
            "onnx-int8",
            ".int8.onnx",
            Layout.CHANNELS_FIRST,
            ("demitasse.writers.onnx", "write_int8"),
            calibrated=True,
            engine="onnxruntime",
            batch=1,
        ),
        Target(
            "onnx-f16",
            ".f16.onnx",
            Layout.CHANNELS_FIRST,
            ("demitasse.writers.onnx", "write_f16"),
            has_recurrent=True,
        ),
        Target(
            "tflite",
            ".tflite",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.tflite", "write"),
            fuses_activations=True,
        ),
        Target(
            "tflite-int8",
            ".int8.tflite",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.tflite", "write_int8"),
            fuses_activations=True,
            calibrated=True,
            batch=1,
        ),
        Target(
            "tflite-f16",
            ".f16.tflite",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.tflite", "write_f16"),
            fuses_activations=True,
        ),
        Target(
            "tflite-16x8",
            ".16x8.tflite",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.tflite", "write_16x8"),
            fuses_activations=True,
            calibrated=True,
            batch=1,
        ),
        Target(
            "tflite-dynamic",
            ".dynamic.tflite",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.tflite", "write_dynamic"),
            fuses_activations=True,
        ),
        Target(
            "savedmodel",
            ".savedmodel",
            Layout.CHANNELS_LAST,
            ("demitasse.writers.saved_model", "write"),
            needs=("tensorflow", "tensorflow"),
        ),
    )
}


def target_of(path: Path) -> Target | None:
    """Return the target that a file name's suffix asks for, the longest suffix first; None if it names none."""
    matching = [target for target in TARGETS.values() if path.name.endswith(target.suffix)]
    return max(matching, key=lambda target: len(target.suffix), default=None)


def simplify(graph: Graph) -> Graph:
    """Run the passes that serve every target: fewer operations, the same layout."""
    for each in (prune, drop_identities, fold_constants, merge_pads, fold_affine, prune):
        graph = each(graph)
    return graph


def written_out(simplified: Graph, target: Target | None) -> Graph:
    """Write out, in other operations, what a target has no operators for; one that isn't known has them all."""
    written = simplified if target is None or target.has_recurrent else unroll(simplified)
    return simplified if written is simplified else simplify(written)


def lower(simplified: Graph, target: Target, io_layout: Layout | None = None) -> Graph:
    """Bring a simplified graph into the shape that a target's writer takes."""
    graph = to_layout(written_out(simplified, target), target.layout, io_layout)
    graph = prune(drop_identities(graph))
    return fuse_activations(graph) if target.fuses_activations else graph
