"""Measure the project itself, and write docs/benchmarks.md: `make bench`.

First conversions, ours and others', as whole processes; then what they made, in the same runtimes; and then whether the
benchmark can tell a model from itself. About ten minutes; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from conversions import Net, Task, make_nets, run_in_turns, tables, tasks_for

REPOSITORY = Path(__file__).parent.parent


def main() -> int:
    """Measure, print and write the page; status 1 if a conversion takes more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="of each conversion, 2 to 10 (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="for each latency (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="checks of the benchmark itself (default: %(default)s)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a folder with open_nsfw's two files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        nets = make_nets(Path(scratch), arguments.model)
        tasks = [Task("", "demitasse --help", [sys.executable, "-m", "demitasse", "--help"], 0.3)]
        tasks += [task for net in nets for task in tasks_for(net, Path(scratch))]
        run_in_turns(tasks, arguments.repeats, _tell)
        lines = list(_page(nets, tasks, Path(scratch), arguments))
    text = "\n".join(lines) + "\n"
    print(text)
    place = REPOSITORY / "docs" / "benchmarks.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text, "utf-8")
    return int(any(task.exceeded for task in tasks))


def _page(nets: Sequence[Net], tasks: Sequence[Task], out: Path, arguments: argparse.Namespace) -> Iterator[str]:
    # Only now: what is imported here would count as the peak of every process that is started after it.
    from instrument import lines as instrument_lines
    from latencies import latencies

    from demitasse_validation.benchmark import Plan
    from demitasse_validation.benchmark.machine import fingerprint, usable_cores
    from demitasse_validation.environment import environment

    plan = Plan(arguments.seconds, usable_cores())
    machine = fingerprint()
    others = {name: metadata.version(name) for name in ("tf2onnx", "keras")}
    packages = {key: value for key, value in environment().items() if key not in {*machine, "threads"}}
    yield from ("# Benchmarks", "", "Written by `make bench`, on this machine:", "")
    yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in machine.items() if key != "cards")
    yield f"- graphics cards: {', '.join(machine['cards']) or 'none; nothing below ran on one'}"
    yield from (f"- {key} {value}" for key, value in (packages | others).items())
    yield from ("", "## Conversions", "")
    yield f"Whole processes, {arguments.repeats} runs of each in turns, after one that isn't counted."
    yield from ("", *tables(tasks), "", "## Latency", "")
    yield (
        f"Host to host, batch 1, {plan.threads} threads, at least {plan.seconds:g} s each, in turns, each in a process "
        "of its own; the first of each table is the baseline."
    )
    compared = [net for net in nets if net.name != "ResNet-152"]
    yield from ("", *latencies(compared, out, plan, _tell))
    yield from ("## The benchmark itself", "")
    yield from instrument_lines(out / "ResNet-50.ours.onnx", replace(plan, threads=1), arguments.runs, _tell)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
