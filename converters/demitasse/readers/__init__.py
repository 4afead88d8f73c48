"""The table of source formats, and the one function that reads any of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Shape

__all__ = ["READERS", "SourceFormat", "read", "source_format"]


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """A format that nets are read from.

    Attributes:
        name: what documents and manifests call it.
        suffixes: what its structure files end in.
        module: the package that reads it; its `read` takes the structure file, the weight file and options.
        options: the options of `read` below that it understands.
    """

    name: str
    suffixes: tuple[str, ...]
    module: str
    options: frozenset[str]

    @property
    def reader(self) -> Callable[..., Graph]:
        """The function that reads the format; imported when it is first asked for."""
        function: Callable[..., Graph] = importlib.import_module(self.module).read
        return function


READERS: dict[str, SourceFormat] = {
    form.name: form
    for form in (
        SourceFormat(
            "caffe",
            (".prototxt", ".prototxt.txt", ".pbtxt", ".caffemodel", ".caffemodel.h5"),
            "demitasse.readers.caffe",
            frozenset(("input_shapes", "outputs", "plugins", "phase", "stages", "allow_missing_weights")),
        ),
        SourceFormat(
            "keras",
            (".h5", ".hdf5", ".keras", ".json"),
            "demitasse.readers.keras",
            frozenset(("input_shapes", "outputs")),
        ),
    )
}


def source_format(source: Path) -> str:
    """Tell a source's format by its name's suffix, the longest that fits.

    Raises:
        UsageError: no format has such a suffix.
    """
    name = source.name.lower()
    fitting = [
        (len(suffix), form.name) for form in READERS.values() for suffix in form.suffixes if name.endswith(suffix)
    ]
    if not fitting:
        known = "; ".join(f"{form.name}: {', '.join(form.suffixes)}" for form in READERS.values())
        raise UsageError(f"{source}: no source format has such a suffix ({known})")
    return max(fitting)[1]


def read(
    source: Path,
    weights: Path | None = None,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    phase: str | None = None,
    stages: Sequence[str] = (),
    allow_missing_weights: bool = False,
) -> Graph:
    """Read a net of any source format.

    Args:
        source: the structure: a prototxt, a caffemodel that carries its own, or a Keras file.
        weights: the file with the weights, where the source doesn't hold them.
        input_shapes: shapes that replace those of the source, in its own layout.
        outputs: blobs to cut the net at.
        plugins: Python files with readers of further Caffe layers; they are run.
        phase: for Caffe, the phase whose layers count: TEST (the default) or TRAIN.
        stages: for Caffe, the stages that the layers' rules are checked against.
        allow_missing_weights: for Caffe, put zeros in the place of weights that no file holds, to look at a net.

    Raises:
        UsageError: the suffix is unknown, or an option isn't one of the format's.
        MalformedModel: a file is damaged, or the files don't fit each other.
        Unsupported: the net has layers or parameters that can't be carried; all are listed.
    """
    form = READERS[source_format(source)]
    given: dict[str, Any] = {
        "input_shapes": input_shapes,
        "outputs": outputs,
        "plugins": tuple(plugins),
        "phase": phase,
        "stages": tuple(stages),
        "allow_missing_weights": allow_missing_weights,
    }
    options = {name: value for name, value in given.items() if value}
    foreign = sorted(options.keys() - form.options)
    if foreign:
        raise UsageError(f"{source}: {', '.join(foreign)} means nothing for a {form.name} source")
    if form.name == "caffe" and source.name.lower().endswith((".caffemodel", ".caffemodel.h5")):
        if weights is not None:
            raise UsageError(f"{source} and {weights}: two weight files; the first should be the structure, a prototxt")
        return form.reader(None, source, **options)
    return form.reader(source, weights, **options)
