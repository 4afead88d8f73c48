"""`demitasse layers`: the table of source layers and targets, from the code's own tables."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType

__all__ = ["add_parser", "run"]


@dataclass(frozen=True, slots=True)
class Row:
    """A layer type of a source format: what is carried, and for each target that can't hold it the reason."""

    format: str
    type: str
    text: str
    refused: dict[str, str]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "layers", help="list the source layers that can be read, and the targets that hold them"
    )
    parser.add_argument("--target", metavar="NAME", help="this target alone")
    parser.add_argument("--source", metavar="FORMAT", help="this source format alone: caffe or keras")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table, as in the README")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from demitasse.errors import UsageError
    from demitasse.targets import TARGETS

    if arguments.target is not None and arguments.target not in TARGETS:
        raise UsageError(f"unknown target {arguments.target!r}; there are {', '.join(TARGETS)}")
    targets = [arguments.target] if arguments.target else ["onnx", "tflite", "tflite-int8", "savedmodel"]
    rows = [row for row in _rows(targets) if arguments.source in (None, row.format)]
    if not rows:
        raise UsageError(f"unknown source format {arguments.source!r}; there are caffe and keras")
    if arguments.json:
        data = [{"format": row.format, "type": row.type, "text": row.text, "refused": row.refused} for row in rows]
        print(json.dumps(data, ensure_ascii=False))
    elif arguments.markdown:
        print("\n".join(markdown(rows, targets)))
    else:
        for line in _lines(rows, targets):
            print(line)
    return 0


def _rows(targets: list[str]) -> Iterator[Row]:
    from demitasse.readers import READERS
    from demitasse.targets import TARGETS

    limits = {name: TARGETS[name].limits() for name in targets}
    for reader in READERS:
        texts = importlib.import_module(reader.module).supported_layers()
        functions = importlib.import_module(f"{reader.module}.layers").LAYERS
        for kind, text in texts.items():
            used = _operations(functions[kind]) if kind in functions else set[str]()
            refused = {
                target: next(reason for op, reason in table.items() if op in used)
                for target, table in limits.items()
                if used & set(table)
            }
            yield Row(reader.name, kind, text, refused)


def _operations(function: FunctionType) -> set[str]:
    """Find the operations that a layer's function can emit: those that it, or a function that it calls, names."""
    from demitasse.ir.ops import OPS

    names = {op.__name__ for op in OPS}
    found: set[str] = set()
    seen: set[CodeType] = set()
    waiting = [(function.__code__, function.__globals__)]
    while waiting:
        code, namespace = waiting.pop()
        if code in seen:
            continue
        seen.add(code)
        found.update(names.intersection(code.co_names))
        waiting += [(const, namespace) for const in code.co_consts if isinstance(const, CodeType)]
        called = [namespace.get(name) for name in code.co_names]
        waiting += [
            (each.__code__, each.__globals__)
            for each in called
            if isinstance(each, FunctionType) and each.__module__.startswith("demitasse.readers")
        ]
    return found


def _lines(rows: list[Row], targets: list[str]) -> Iterator[str]:
    width = max(len(row.type) for row in rows)
    for name in dict.fromkeys(row.format for row in rows):
        own = [row for row in rows if row.format == name]
        yield f"{name}: {len(own)} layer types"
        for row in own:
            refused = f"  [not in {', '.join(row.refused)}]" if row.refused else ""
            yield f"  {row.type:{width}}  {row.text}{refused}"
    reasons = {(target, reason) for row in rows for target, reason in row.refused.items()}
    for target, reason in sorted(reasons):
        yield f"{target}: {reason}"
    if not reasons:
        yield f"{', '.join(targets)}: all of them"


def markdown(rows: list[Row], targets: list[str]) -> Iterator[str]:
    """Yield the table as Markdown, one row a layer type."""
    yield f"| source | layer | {' | '.join(targets)} | what is carried |"
    yield f"|---|---|{'---|' * len(targets)}---|"
    for row in rows:
        cells = ["no" if target in row.refused else "yes" for target in targets]
        yield f"| {row.format} | {row.type} | {' | '.join(cells)} | {row.text} |"
