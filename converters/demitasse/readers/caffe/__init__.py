"""Read Caffe nets: prototxt and caffemodel, of any generation and of the forks that matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Shape
from demitasse.readers.caffe.assemble import assemble
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.deploy import DATA_LAYERS, MEASURES, deploy
from demitasse.readers.caffe.layers import LAYERS
from demitasse.readers.caffe.mean import read_mean
from demitasse.readers.caffe.net import read_net
from demitasse.readers.caffe.registry import REGISTRY, reads
from demitasse.readers.reading import Reading, Trap
from demitasse.readers.registry import described

__all__ = ["LayerBuilder", "Reading", "Trap", "explain", "read", "read_mean", "reads", "supported_layers"]


def read(
    prototxt: Path | None,
    weights: Path | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    allow_missing_weights: bool = False,
) -> Graph:
    """Read a Caffe net into a graph.

    Args:
        prototxt: the structure: deploy.prototxt, or train_val.prototxt, which is turned into its deploy form. None
            takes it from the weight file.
        weights: a .caffemodel or .caffemodel.h5. None is enough for a net whose layers have none.
        phase: which layers `include` and `exclude` rules leave: TEST or TRAIN. Layers compute as at test time in both.
        level: the net's level, for such rules.
        stages: the net's stages, for such rules; `("deploy",)` in many files that hold both forms.
        input_shapes: shapes that replace those that the net states, in N, C, H, W order.
        outputs: blobs to cut the net at, by name; `blob@layer` names what an in-place layer later overwrote. None
            takes the blobs that no layer reads.
        plugins: Python files with readers of further layer types (see `reads`). They are run: give only files that
            you trust.
        allow_missing_weights: put zeros in the place of weights that no file holds, to look at a net without them.

    Returns:
        A graph in the source's layout, channels first. Its kernels are views into the mapped file. `batch_is_dynamic`
        tells whether it holds for other batch sizes.

    Raises:
        MalformedModel: a file is damaged or contradicts itself, or the weights don't fit; all misfits are listed.
        Unsupported: layers or parameters that can't be carried; all are listed, with their places.
        UsageError: an output or input that the net doesn't have, an input whose shape nobody says, or a bad plugin.
    """
    return explain(
        prototxt,
        weights,
        phase=phase,
        level=level,
        stages=stages,
        input_shapes=input_shapes,
        outputs=outputs,
        plugins=plugins,
        allow_missing_weights=allow_missing_weights,
    ).graph


def explain(
    prototxt: Path | None,
    weights: Path | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    allow_missing_weights: bool = False,
) -> Reading:
    """Read a Caffe net as `read` does, and return the traps that its layers met along with the graph."""
    if prototxt is None and weights is None:
        raise UsageError("nothing to read: give a prototxt, a caffemodel, or both")
    readers = dict(LAYERS)
    for path in plugins:
        readers |= REGISTRY.load_plugin(path)
    net = read_net(prototxt, weights, phase=phase, level=level, stages=stages)
    return assemble(
        deploy(net, readers),
        readers,
        input_shapes=input_shapes or {},
        outputs=outputs,
        missing_allowed=allow_missing_weights,
    )


def supported_layers() -> dict[str, str]:
    """Map each layer type that a net may have to a sentence on what becomes of it, in alphabetical order."""
    table = described(LAYERS)
    table |= dict.fromkeys(DATA_LAYERS, "Becomes an input; its transform_param becomes the preprocessing.")
    table |= dict.fromkeys(MEASURES, "Is left out: it measures or records, and gives nothing to a deployed net.")
    table["Input"] = "Declares an input."
    return dict(sorted(table.items(), key=lambda entry: entry[0].lower()))
