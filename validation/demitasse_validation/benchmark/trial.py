"""Tries an engine on a net of one operation: drivers that are installed are no card that works."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.document import describe
from demitasse.ir.graph import Graph, Origin
from demitasse.ir.ops import DType, Relu, TensorType
from demitasse.targets import lower, simplify, target_of

if TYPE_CHECKING:
    from demitasse_validation.benchmark.engines import Engine, Settings

__all__ = ["try_out"]


def try_out(engine: Callable[..., Engine], suffix: str, settings: Settings, **options: Any) -> str | None:
    """Run a net on an engine, and say what went wrong; None if it ran where it was told to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"trial{suffix}"
        _write(path)
        try:
            trial = engine(path, settings, **options)
            trial.prepare(1, seed=0)
            placement = trial.placement()
        except (MalformedModel, UsageError) as error:
            return str(error).removeprefix(f"{path}: ")
    return (
        f"it leaves a net of one operation to another device: {placement.describe_strays()}"
        if placement.strays
        else None
    )


def _write(path: Path) -> None:
    target = target_of(path)
    if target is None:
        raise UsageError(f"{path}: no artifact's name ends like this")
    graph = Graph("trial")
    graph.add_input("data", TensorType((1, 3), DType.FLOAT32))
    graph.add(Relu(), ["data"], ["result"], Origin("trial", "Relu"))
    graph.outputs.append("result")
    lowered = lower(simplify(graph), target)
    document = describe(lowered, target=target.name, tool="", source_format="", source=(), options={})
    target.write(lowered, path, document)
