"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demitasse.errors import UsageError

if TYPE_CHECKING:
    from demitasse.ir.preprocessing import Preprocessing

__all__ = [
    "add_preprocessing",
    "add_route",
    "add_source",
    "artifacts",
    "batch",
    "input_shapes",
    "labels",
    "names",
    "positive",
    "preprocessing",
    "reading",
    "source_options",
]


def artifacts(given: Sequence[Path]) -> list[Path]:
    """Return artifacts; a folder that a conversion wrote stands for those in it, and its manifest for nothing.

    Raises:
        UsageError: nothing is left, or a manifest can't be read.
    """
    from demitasse.conversion import MANIFEST

    found: list[Path] = []
    for path in given:
        if (path / MANIFEST).is_file():
            found += _listed(path / MANIFEST)
        elif path.name != MANIFEST:  # which `out/*` names too
            found.append(path)
    if not found:
        raise UsageError(f"{', '.join(map(str, given))}: there are no artifacts")
    return found


def _listed(manifest: Path) -> list[Path]:
    """Return what a manifest lists; a file of weights alone computes nothing."""
    try:
        listed = json.loads(manifest.read_text("utf-8"))["artifacts"]
        return [manifest.with_name(Path(each["path"]).name) for each in listed if each["target"] != "weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{manifest}: this is no manifest of a conversion") from error


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add what says how a source is read."""
    group = parser.add_argument_group("source")
    group.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME=1,3,224,224",
        help="give an input another shape, in the source's layout; `batch` as the first dimension keeps it dynamic",
    )
    group.add_argument("--outputs", metavar="NAME[,NAME]", help="cut the net at these blobs")
    group.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="Python file with readers for further layer types; it is run: give only files you trust",
    )
    group.add_argument("--phase", choices=("TEST", "TRAIN"), help="Caffe: the phase that include and exclude rules see")
    group.add_argument("--level", type=int, metavar="N", help="Caffe: the level that they see")
    group.add_argument("--stage", action="append", default=[], metavar="NAME", help="Caffe: a stage that they see")
    group.add_argument(
        "--lambda",
        action="append",
        default=[],
        dest="lambdas",
        metavar="NAME=EXPR",
        help="Keras: what a Lambda layer computes, as arithmetic on x: scale=x / 255",
    )
    group.add_argument(
        "--backend",
        choices=("tensorflow", "theano"),
        help="Keras 1: what the model was trained on, which its files don't say; Theano turns kernels round",
    )


def add_route(parser: argparse.ArgumentParser) -> None:
    """Add the other way to load a Keras file."""
    parser.add_argument(
        "--route",
        choices=("tensorflow",),
        help="let Keras load the source, which runs what is in it: for files you trust",
    )


def source_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the reader's options as `demitasse.read` takes them."""
    return {
        "input_shapes": input_shapes(arguments.input_shape),
        "outputs": names(arguments.outputs),
        "plugins": arguments.plugin,
    }


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what one source format's reader alone takes, as far as it was given."""
    lambdas = {}
    for text in arguments.lambdas:
        name, separator, expression = text.partition("=")
        if not separator or not name.strip() or not expression.strip():
            raise UsageError(f"--lambda {text}: write it as NAME=EXPR, with x for the layer's input")
        lambdas[name.strip()] = expression.strip()
    given = {
        "phase": arguments.phase,
        "level": arguments.level,
        "stages": arguments.stage or None,
        "lambdas": lambdas or None,
        "backend": arguments.backend,
    }
    return {name: value for name, value in given.items() if value is not None}


def names(text: str | None) -> list[str] | None:
    """Split a comma list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def input_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read `NAME=1,3,224,224`; `batch` stands for a dynamic first dimension, which is read at 1."""
    shapes = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = [part.strip() for part in dims.split(",")]
        if parts[0] == "batch":
            parts[0] = "1"
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(f"--input-shape {text}: write it as NAME=1,3,224,224")
        shapes[name] = tuple(map(int, parts))
    return shapes


def batch(text: str | None, shapes: Sequence[str] = ()) -> int | str | None:
    """Read `--batch N|dynamic`; an input shape that starts with `batch` asks for a dynamic one too."""
    if text is None:
        return "dynamic" if any(shape.rpartition("=")[2].split(",")[0].strip() == "batch" for shape in shapes) else None
    if text == "dynamic":
        return text
    return positive("--batch", text)


def positive(option: str, text: str) -> int:
    """Read a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option} {text}: must be a whole number, 1 or more")
    return int(text)


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """Add what says how images become inputs."""
    group = parser.add_argument_group("preprocessing of images")
    group.add_argument("--preprocess", metavar="FILE|CARD", help="a TOML file, or the name of a model card")
    group.add_argument(
        "--mean", metavar="104,117,123|FILE", help="a value a channel, or a mean.binaryproto or .npy file"
    )
    group.add_argument("--scale", metavar="0.017", help="factor after the mean is taken off; one, or one a channel")
    group.add_argument("--channels", choices=("bgr", "rgb", "gray"), help="the order that the net expects")
    group.add_argument("--resize", metavar="256", help="size before the crop: one number, or HEIGHT,WIDTH")
    group.add_argument("--crop", metavar="224", help="size of the centre crop: one number, or HEIGHT,WIDTH")
    group.add_argument("--labels", type=Path, metavar="FILE", help="one label a line")


def preprocessing(arguments: argparse.Namespace) -> Preprocessing | None:
    """Put the contract together from a file or card and the single options over it; None where nothing is said."""
    pieces = (arguments.mean, arguments.scale, arguments.channels, arguments.resize, arguments.crop)
    base = _named_contract(arguments.preprocess) if arguments.preprocess else None
    if not any(piece is not None for piece in pieces):
        return base
    from demitasse.preprocess import from_flags

    return from_flags(
        base=base,
        mean=_mean(arguments.mean),
        scale=_numbers("--scale", arguments.scale),
        channels=arguments.channels,
        resize=_sizes("--resize", arguments.resize),
        crop=_sizes("--crop", arguments.crop),
    )


def _named_contract(name: str) -> Preprocessing:
    from demitasse.preprocess import from_toml
    from demitasse.readers.caffe import read_mean

    if Path(name).suffix == ".toml":
        return from_toml(Path(name), read_mean=read_mean)
    from demitasse_models.catalogue import card

    return card(name).preprocessing


def _mean(text: str | None) -> Any:
    if text is None:
        return None
    if Path(text).suffix in (".binaryproto", ".npy"):
        if Path(text).suffix == ".npy":
            import numpy as np

            try:
                return np.load(text, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UsageError(f"--mean {text}: not a readable .npy array: {error}") from error
        from demitasse.readers.caffe import read_mean

        return read_mean(Path(text))
    return _numbers("--mean", text)


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: must be numbers separated by commas") from error


def _sizes(option: str, text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    sizes = [positive(option, part.strip()) for part in text.split(",")]
    return sizes[0] if len(sizes) == 1 else sizes


def labels(path: Path | None) -> list[str] | None:
    """Read a file of one label a line."""
    if path is None:
        return None
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: can't be read: {error}") from error
