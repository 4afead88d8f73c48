"""Readers: each turns one source format into a graph; this table says which reads what."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Shape

__all__ = ["READERS", "Reader", "read", "source_format"]


@dataclass(frozen=True, slots=True)
class Reader:
    """A source format: its name, what its main files end in, and the module whose `read` reads them.

    `alone` lists the suffixes of weight files that carry their own structure: such a file may come as the source.
    """

    name: str
    suffixes: tuple[str, ...]
    module: str
    alone: tuple[str, ...] = ()

    def load(self, options: Iterable[str]) -> Any:
        """Return the module, which has a `read` that takes all of the options.

        Raises:
            UsageError: it doesn't take some; all of them are named.
        """
        module = importlib.import_module(self.module)
        others = sorted(set(options) - set(inspect.signature(module.read).parameters))
        if others:
            raise UsageError(f"{', '.join(others)}: not for sources of {self.name.capitalize()}")
        return module


READERS: tuple[Reader, ...] = (
    Reader("caffe", (".prototxt", ".pbtxt", ".pt"), "demitasse.readers.caffe", alone=(".caffemodel",)),
    Reader("keras", (".h5", ".hdf5", ".keras", ".json"), "demitasse.readers.keras"),
)


def _reader_of(source: Path) -> Reader:
    name = source.name.lower()
    # A Caffe snapshot ends in .caffemodel.h5: it holds weights alone, and is no Keras file.
    if name.endswith(".caffemodel.h5"):
        raise UsageError(f"{source}: holds weights only; give the net's prototxt first, then this file")
    for reader in READERS:
        if name.endswith(reader.suffixes + reader.alone):
            return reader
    known = ", ".join(suffix for reader in READERS for suffix in reader.suffixes + reader.alone)
    raise UsageError(f"{source}: no reader for this kind of file; sources end in {known}")


def source_format(source: Path) -> str:
    """Return the name of the format that a source file is read as.

    Raises:
        UsageError: its suffix is no source format's.
    """
    return _reader_of(source).name


def read(
    source: Path | str,
    weights: Path | str | None = None,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    **options: Any,
) -> Graph:
    """Read a source model into a graph; the suffix of `source` tells the format.

    Args:
        source: a prototxt, a .caffemodel with its own structure, a .h5/.hdf5/.keras file, or a .json architecture.
        weights: the file with the weights, where the source doesn't hold them.
        input_shapes: shapes that replace those of the source, in its own layout.
        outputs: blobs to cut the net at.
        plugins: Python files with readers for further layer types; they are run.
        options: what the format's own `read` takes besides.

    Raises:
        UsageError: no such file, no reader for it, or an option that doesn't fit the model.
        MalformedModel: a file breaks its own format's rules.
        Unsupported: the model has what can't be carried; all of it is listed.
    """
    source = Path(source)
    reader = _reader_of(source)
    paths = [source] if weights is None else [source, Path(weights)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UsageError(f"there is no such file: {', '.join(missing)}")
    structure: Path | None = source
    given = Path(weights) if weights is not None else None
    if source.name.lower().endswith(reader.alone) and reader.alone:
        if given is not None:
            raise UsageError(f"{source}: is a weight file; give the structure first, then the weights")
        structure, given = None, source
    module = reader.load(options)
    graph: Graph = module.read(structure, given, input_shapes=input_shapes, outputs=outputs, plugins=plugins, **options)
    return graph
