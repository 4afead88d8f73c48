"""Read Keras models of any generation, with h5py and JSON alone: nothing in a file is ever run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from demitasse.errors import Offence, Unsupported, UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Shape
from demitasse.readers.keras.assemble import assemble
from demitasse.readers.keras.builder import LayerBuilder, LayerFunction
from demitasse.readers.keras.config import parse_model
from demitasse.readers.keras.dangers import Danger, Finding
from demitasse.readers.keras.expression import Expression
from demitasse.readers.keras.layers import LAYERS
from demitasse.readers.keras.registry import REGISTRY, reads
from demitasse.readers.keras.source import combine, open_file
from demitasse.readers.keras.weights import BlankWeights
from demitasse.readers.reading import Reading
from demitasse.readers.registry import described

__all__ = [
    "Danger",
    "Finding",
    "LayerBuilder",
    "explain",
    "read",
    "reads",
    "security_findings",
    "supported_layers",
]


def read(
    path: Path,
    weights: Path | None = None,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    lambdas: Mapping[str, str] | None = None,
    backend: str | None = None,
) -> Graph:
    """Read a Keras model into a graph.

    Args:
        path: a .h5 file with the whole model, a .keras archive, or an architecture as .json.
        weights: the file with the weights, where they are apart: .h5, .weights.h5 or .keras.
        input_shapes: shapes that replace those that the model states, batch and all, in its own order of axes.
        outputs: layers or values to cut the net at, by name. None takes the model's own outputs.
        plugins: Python files with readers of further layers (see `reads`). They are run: only give files you trust.
        lambdas: for Lambda layers, by name, what they compute: a small expression such as `x / 127.5 - 1`.
        backend: what the model was trained on, where the file doesn't say so, as those of Keras 1 don't: `theano`
            (whose kernels are the other way round) or `tensorflow`.

    Returns:
        A graph in the source's layout. Its kernels are views into the mapped file wherever that is possible. Values
        bear the names of layers: `conv1`, `outer/conv1` in a nested net, `conv1:1` for the second call of a shared one.
        `batch_is_dynamic` tells whether it holds for other batch sizes; an open batch dimension is 1 in it.

    Raises:
        MalformedModel: a file is damaged or contradicts itself, or the weights don't fit; all misfits are listed.
        Unsupported: the file holds what isn't safe, or layers or parameters that can't be carried; all are listed.
        UsageError: an output or input that the net doesn't have, an input whose shape nobody says, missing weights,
            or a bad plugin or expression.
    """
    return explain(
        path,
        weights,
        input_shapes=input_shapes,
        outputs=outputs,
        plugins=plugins,
        lambdas=lambdas,
        backend=backend,
    ).graph


def explain(
    path: Path,
    weights: Path | None = None,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    outputs: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    lambdas: Mapping[str, str] | None = None,
    backend: str | None = None,
    allow_missing_weights: bool = False,
) -> Reading:
    """Read a Keras model as `read` does, and return the traps that its layers met along with the graph.

    `allow_missing_weights` puts zeros in the place of weights where no file holds any, to look at a net without them.
    """
    if backend not in (None, "theano", "tensorflow"):
        raise UsageError(f"{backend!r} is no backend; there are 'theano' and 'tensorflow'")
    expressions = {name: Expression.parse(text, name) for name, text in (lambdas or {}).items()}
    added: dict[str, LayerFunction] = {}
    for plugin in plugins:
        added |= REGISTRY.load_plugin(plugin)
    with ExitStack() as stack:
        contents = [stack.enter_context(closing(open_file(each))) for each in (path, weights) if each is not None]
        _refuse_dangers(path, [each for content in contents for each in content.findings], expressions, added)
        source = combine(contents[0], contents[1] if weights is not None else None, backend)
        return assemble(
            parse_model(source.config, str(path)),
            source.generation,
            str(path),
            {**LAYERS, **added},
            BlankWeights() if source.weights is None and allow_missing_weights else source.weights,
            input_shapes=input_shapes or {},
            outputs=outputs,
            expressions=expressions,
        )


def _refuse_dangers(
    path: Path,
    findings: Iterable[Finding],
    expressions: Mapping[str, Expression],
    added: Mapping[str, LayerFunction],
) -> None:
    """Raise `Unsupported` with everything that isn't safe and that nobody gave another meaning."""
    named = {name.rpartition("/")[2] for name in expressions}
    refused = [
        finding
        for finding in findings
        if not (finding.danger is Danger.LAMBDA and finding.layer in named)
        and not (finding.kind and finding.kind in added)
    ]
    if refused:
        offences = [Offence(finding.where, f"{finding.danger.value}: {finding.detail}") for finding in refused]
        if any(finding.danger is Danger.LAMBDA for finding in refused):
            offences.append(Offence("", "a Lambda layer can be given a meaning: --lambda NAME='x / 127.5 - 1'"))
        raise Unsupported(
            f"refused to read {path}, which holds more than numbers and the description of a net", offences
        )


def security_findings(path: Path) -> list[Finding]:
    """List everything in a file that isn't safe, without reading it as a model.

    Raises:
        MalformedModel: the file is damaged or no Keras file.
    """
    with closing(open_file(path)) as content:
        return list(content.findings)


def supported_layers() -> dict[str, str]:
    """Map each kind of layer that can be read to a sentence on it, in alphabetical order."""
    return dict(sorted(described(LAYERS).items(), key=lambda entry: entry[0].lower()))
