"""The command line: parses a call, runs it, and turns errors into messages and an exit status.

Status 0: done, and every gate holds. 1: a comparison or gate failed. 2: the call or a file is bad. 3: a bug of ours.
Commands import what they need when they run, so that `demitasse --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from demitasse import __version__
from demitasse.cli import benchmark, convert, demo, inspect, layers, predict, validate
from demitasse.cli.progress import quiet_natives
from demitasse.errors import DemitasseError, InvalidGraph

__all__ = ["main"]

COMMANDS = (convert, inspect, validate, predict, benchmark, layers, demo)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="demitasse",
        description="Carry trained networks out of Caffe and Keras H5, and prove that they still compute the same.",
        epilog="exit status: 0 good, 1 a comparison or gate failed, 2 the call or a file is bad, 3 a bug in demitasse",
    )
    parser.add_argument("--version", action="version", version=f"demitasse {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = command.add_parser(subparsers)
        subparser.add_argument(
            "--json", action="store_true", help="print the result as JSON on stdout, all else on stderr"
        )
        subparser.add_argument("-q", "--quiet", action="store_true", help="print no progress")
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one call of the command line and return its exit status."""
    arguments = build_parser().parse_args(argv)
    if sys.stderr is None:  # started without one, and messages must not end up in the results on stdout
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - in use until the end
    signal.signal(signal.SIGTERM, _stop)
    try:
        with quiet_natives():
            status: int = arguments.run(arguments)
        sys.stdout.flush()
    except DemitasseError as error:
        return _fail(arguments, str(error), error.exit_status)
    except BrokenPipeError:
        # The reader of our output went away; point stdout at nothing, so that closing it raises no second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail(arguments, "interrupted; nothing was left behind", 130)
    except Exception as error:  # noqa: BLE001 - whatever else reaches this place is a bug of ours, and says so
        traceback.print_exc()
        return _fail(arguments, str(InvalidGraph(f"{type(error).__name__}: {error}")), InvalidGraph.exit_status)
    return status


def _stop(_signal_number: int, _frame: FrameType | None) -> None:
    """End as an interrupt does, so that half-made files are removed."""
    raise KeyboardInterrupt


def _fail(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.json:
        print(json.dumps({"status": status, "error": message}, ensure_ascii=False))
    print(f"demitasse: error: {message}", file=sys.stderr)
    return status
