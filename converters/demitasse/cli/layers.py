"""`demitasse layers`: the table of source layers and targets, from the code's own tables."""

from __future__ import annotations

import argparse
import importlib
import json

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser("layers", help="list the source layers that can be read")
    parser.add_argument("--target", metavar="NAME", help="show what this target can't hold, too")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from demitasse.errors import UsageError
    from demitasse.readers import READERS
    from demitasse.targets import TARGETS

    tables = {reader.name: importlib.import_module(reader.module).supported_layers() for reader in READERS}
    if arguments.target is not None and arguments.target not in TARGETS:
        raise UsageError(f"unknown target {arguments.target!r}; there are {', '.join(TARGETS)}")
    wanted = [TARGETS[arguments.target]] if arguments.target else list(TARGETS.values())
    limits = {target.name: target.limits() for target in wanted}
    if arguments.json:
        print(json.dumps({"layers": tables, "limits": limits}, ensure_ascii=False))
        return 0
    for name, table in tables.items():
        _print_table(name, table, markdown=arguments.markdown)
    for name, reasons in limits.items():
        for op, reason in reasons.items():
            print(f"{name}: no {op}: {reason}")
    return 0


def _print_table(name: str, table: dict[str, str], *, markdown: bool) -> None:
    if markdown:
        print(f"| {name} layer | what is carried |\n|---|---|")
        for layer, text in table.items():
            print(f"| {layer} | {text} |")
        print()
        return
    width = max(map(len, table), default=0)
    print(f"{name}: {len(table)} layer types")
    for layer, text in table.items():
        print(f"  {layer:{width}}  {text}")
