"""`demitasse inspect`: say what a source or an artifact holds."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.cli import options
from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse.ir.document import Document
    from demitasse.ir.graph import Graph
    from demitasse.readers.reading import Reading

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser(
        "inspect",
        help="list layers, shapes, parameters, cost and traps of a source, or what an artifact says of itself",
    )
    parser.add_argument("source", metavar="SOURCE|ARTIFACT", type=Path)
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, nargs="?")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="list the traps that apply to each layer, and what each target makes of them",
    )
    parser.add_argument(
        "--security", action="store_true", help="list what in a Keras file could do harm, and read no more"
    )
    parser.add_argument("--graph", action="store_true", help="print the graph that the source is read into")
    options.add_source(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Inspect, without writing anything."""
    from demitasse.targets import target_of

    target = target_of(arguments.source)
    if target is not None:
        if not arguments.source.exists():
            raise UsageError(f"{arguments.source}: there is no such file")
        document = target.read_document(arguments.source)
        if document is None:
            raise UsageError(
                f"{arguments.source}: was not written by demitasse: it says nothing of where it comes from"
            )
        _print_document(document, arguments.json)
        return 0
    if arguments.security:
        return _security(arguments.source, arguments.json)
    reading = _read(arguments)
    graph = reading.graph
    if arguments.graph:
        from demitasse.ir.text import dump

        print(dump(graph))
        return 0
    traps = [{"where": trap.origin.where, "trap": trap.message} for trap in reading.traps]
    if arguments.explain:
        traps = _with_targets(graph, traps)
    rows, summary = _rows(reading), _summary(reading)
    if arguments.json:
        print(json.dumps(summary | {"layers": rows, "traps": traps}, ensure_ascii=False))
        return 0
    _print_table(rows, summary)
    if arguments.explain:
        _print_traps(traps)
    elif traps:
        print(f"{len(traps)} traps apply; --explain lists them")
    return 0


def _security(source: Path, as_json: bool) -> int:
    """List the dangers in a source; the status is 1 if there are any."""
    from demitasse.readers import source_format

    if not source.exists():
        raise UsageError(f"{source}: there is no such file")
    findings = []
    if source_format(source) == "keras":
        from demitasse.readers.keras import security_findings

        findings = security_findings(source)
    if as_json:
        found = [{"danger": each.danger.name, "where": each.where, "detail": each.detail} for each in findings]
        print(json.dumps({"file": str(source), "findings": found}, ensure_ascii=False))
    else:
        for finding in findings:
            print(finding)
        print(
            f"{source}: {len(findings)} finding{'s' if len(findings) > 1 else ''}; nothing in the file was run"
            if findings
            else f"{source}: nothing found"
        )
    return 1 if findings else 0


def _read(arguments: argparse.Namespace) -> Reading:
    """Read the source, without weights if none are given."""
    from demitasse.readers import READERS, read, source_format
    from demitasse.readers.reading import Reading

    read_options = options.source_options(arguments) | options.reading(arguments)
    name = source_format(arguments.source)
    module = next(reader for reader in READERS if reader.name == name).load(read_options)
    if not hasattr(module, "explain") or arguments.source.suffix == ".caffemodel":
        return Reading(read(arguments.source, arguments.weights, **read_options), ())
    missing = [str(path) for path in (arguments.source, arguments.weights) if path is not None and not path.exists()]
    if missing:
        raise UsageError(f"there is no such file: {', '.join(missing)}")
    reading: Reading = module.explain(
        arguments.source, arguments.weights, allow_missing_weights=arguments.weights is None, **read_options
    )
    return reading


def _with_targets(graph: Graph, traps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each trap what every float target makes of its layer: exact, approximated, or refused and why."""
    from demitasse.conversion import DEFAULT_TARGETS
    from demitasse.targets import TARGETS, lower, simplify

    simplified = simplify(graph)
    refused: dict[str, dict[str, str]] = {}
    for name, target in TARGETS.items():
        is_missing = target.needs is not None and importlib.util.find_spec(target.needs[0]) is None
        if name not in DEFAULT_TARGETS or is_missing:
            continue
        found = target.offences(lower(simplified, target))
        refused[name] = {offence.where: offence.reason for offence in found}
    noted = [note.partition(": ")[0] for note in graph.notes]
    return [
        trap
        | {
            "targets": {
                name: f"refused: {reasons[trap['where']]}"
                if trap["where"] in reasons
                else "approximated"
                if trap["where"] in noted
                else "exact"
                for name, reasons in refused.items()
            }
        }
        for trap in traps
    ]


def _print_traps(traps: list[dict[str, Any]]) -> None:
    for trap in traps:
        print(f"trap: {trap['where']}: {trap['trap']}")
        print("      " + ", ".join(f"{name} {what}" for name, what in trap["targets"].items()))
    if not traps:
        print("no traps apply")


def _rows(reading: Reading) -> list[dict[str, Any]]:
    """Describe each source layer: its results' shapes, its parameters and its multiply-accumulates."""
    from demitasse.ir.cost import node_macs

    graph = reading.graph
    cost: dict[str, int] = {}
    weights: dict[str, set[str]] = {}
    for node in graph.nodes:
        cost[node.origin.layer] = cost.get(node.origin.layer, 0) + node_macs(graph, node)
        weights.setdefault(node.origin.layer, set()).update(name for name in node.inputs if name in graph.weights)
    held = reading.parameters
    if held is None:
        held = {layer: sum(graph.type(name).size for name in names) for layer, names in weights.items()}
    return [
        {
            "name": layer.origin.layer,
            "type": layer.origin.kind,
            "line": layer.origin.line,
            "shapes": [list(graph.type(name).shape) for name in layer.outputs if name in graph.values],
            "parameters": held.get(layer.origin.layer, 0),
            "macs": cost.get(layer.origin.layer, 0),
        }
        for layer in graph.layers
    ]


def _summary(reading: Reading) -> dict[str, Any]:
    from demitasse.ir.cost import macs
    from demitasse.passes import can_change_batch

    graph = reading.graph
    fixed = can_change_batch(graph)
    return {
        "name": graph.name,
        "inputs": {name: list(graph.type(name).shape) for name in graph.inputs},
        "outputs": {name: list(graph.type(name).shape) for name in graph.outputs},
        "parameters": graph.weights.size if reading.parameters is None else sum(reading.parameters.values()),
        "macs": macs(graph),
        "dynamic_batch": fixed is None,
        "fixed_batch_reason": fixed,
        "notes": graph.notes,
    }


def _print_table(rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    name_width = max([5, *(len(row["name"]) for row in rows)])
    type_width = max([4, *(len(row["type"]) for row in rows)])
    print(f"{'layer':{name_width}}  {'type':{type_width}}  {'parameters':>11}  {'MMACs':>9}  shape")
    for row in rows:
        shapes = " ".join("x".join(map(str, shape)) for shape in row["shapes"])
        print(
            f"{row['name']:{name_width}}  {row['type']:{type_width}}  {row['parameters']:>11,}  "
            f"{row['macs'] / 1e6:>9.2f}  {shapes}"
        )
    for kind in ("inputs", "outputs"):
        print(f"{kind}: " + ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, dims in summary[kind].items()))
    print(f"{len(rows)} layers, {summary['parameters']:,} parameters, {summary['macs'] / 1e6:,.1f} million MACs")
    print("batch: dynamic" if summary["dynamic_batch"] else f"batch: fixed, as {summary['fixed_batch_reason']}")
    for note in summary["notes"]:
        print(f"note: {note}")


def _print_document(document: Document, as_json: bool) -> None:
    if as_json:
        print(document.to_json())
        return
    print(f"{document.target}, written by {document.tool} from {document.source_format}:")
    for file in document.source:
        print(f"  {file.name}  {file.bytes:,} bytes  sha256 {file.sha256}")
    for kind, ports in (("input", document.inputs), ("output", document.outputs)):
        for port in ports:
            shape = "x".join("N" if dim is None else str(dim) for dim in port.shape)
            print(f"{kind} {port.name}: {port.dtype} {shape}")
    if document.preprocessing is not None:
        said = {key: value for key, value in document.preprocessing.items() if value and key != "mean_image"}
        print(f"preprocessing: {said}")
    counts: dict[str, int] = {}
    for record in document.provenance:
        counts[record.status] = counts.get(record.status, 0) + 1
    print("source blobs: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    for note in document.notes:
        print(f"note: {note}")
