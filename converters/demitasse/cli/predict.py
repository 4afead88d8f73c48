"""`demitasse predict`: the best classes of photographs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from demitasse.cli import options
from demitasse.cli.progress import show_progress

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Declare the command."""
    parser = subparsers.add_parser("predict", help="show the best classes of photographs")
    parser.add_argument("artifact", metavar="ARTIFACT", type=Path)
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    parser.add_argument("--top", default="5", metavar="K")
    options.add_preprocessing(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Predict and print."""
    from demitasse_validation.prediction import predict

    with show_progress(arguments.quiet) as progress:
        predictions = predict(
            arguments.artifact,
            arguments.images,
            top=options.positive("--top", arguments.top),
            labels=options.labels(arguments.labels),
            preprocessing=options.preprocessing(arguments),
            progress=progress,
        )
    if arguments.json:
        data = [
            {"image": str(each.image), "classes": [asdict(ranked) for ranked in each.classes]} for each in predictions
        ]
        print(json.dumps(data, ensure_ascii=False))
        return 0
    for each in predictions:
        print(f"{each.image}:")
        for ranked in each.classes:
            print(f"  {ranked.score:10.6f}  {ranked.label}")
    return 0
