"""`demitasse benchmark`: time artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser("benchmark", help="time artifacts")
    parser.add_argument("artifacts", metavar="ARTIFACT", type=Path, nargs="+")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--batch", default="1", metavar="1,8,32")
    parser.add_argument("--seconds", default="5", metavar="S", help="how long each artifact and batch is timed")
    parser.add_argument("--threads", metavar="N")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Time, and print a table."""
    raise NotImplementedError
