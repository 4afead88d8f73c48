"""Predicts with an artifact alone: images in, the best classes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.document import Document, Port
from demitasse.ir.ops import Layout, Shape
from demitasse.ir.preprocessing import Preprocessing
from demitasse.ir.weights import Array
from demitasse.preprocess import fit, for_input, load_image, normalize
from demitasse_validation.comparison import document_of
from demitasse_validation.metrics import rank
from demitasse_validation.ranks import named
from demitasse_validation.report import Class
from demitasse_validation.runtimes import Runner, open_runner

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes of an image, best first."""

    image: Path
    classes: tuple[Class, ...]


def predict(
    artifact: Path | str,
    images: Sequence[Path],
    *,
    top: int = 5,
    output: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Prediction, ...]:
    """Rank the classes of images.

    Args:
        artifact: a file or folder that `demitasse convert` wrote.
        images: image files; see `demitasse.preprocess.images_in`.
        top: how many classes to return for each.
        output: the output with the scores, where several outputs have one score a class.
        labels: names of the classes; by default those that the artifact carries, else their numbers.
        preprocessing: how images become inputs; by default what the artifact carries.
        threads: limits what the runtime uses.
        progress: called with how many images are done, and how many there are.

    Raises:
        UsageError: the artifact has no single image input, no preprocessing, or no output with a score a class; an
            image can't be read; or the number of labels isn't that of the classes.
        MalformedModel: the artifact gives scores that are not finite.
    """
    path = Path(artifact)
    document = document_of(path)
    runner = open_runner(path, threads=threads)
    port, layout = _image_port(path, document), Layout(document.source_layout)
    contract = for_input(_contract(path, document, preprocessing), _source_shape(port), layout)
    scores_port = _scores_port(path, document, output)
    class_labels = tuple(labels) if labels is not None else document.labels
    predictions = []
    for done, image in enumerate(images):
        if progress is not None:
            progress("predict", done, len(images))
        prepared = normalize(fit(load_image(image), contract), contract, layout)
        results = runner.run({port.tensor: _fed(port, prepared, runner)})
        scores = scores_port.storage.restore(results[scores_port.tensor])[0].ravel()
        if class_labels is not None and len(class_labels) != scores.size:
            raise UsageError(f"{path}: gives scores of {scores.size} classes, and there are {len(class_labels)} labels")
        if not np.isfinite(scores).all():
            raise MalformedModel(f"its scores for {image} are not finite", where=str(path))
        predictions.append(Prediction(image, named(rank(scores, top), class_labels) or ()))
    return tuple(predictions)


def _image_port(path: Path, document: Document) -> Port:
    if len(document.inputs) != 1:
        names = ", ".join(port.name for port in document.inputs)
        raise UsageError(f"{path}: has the inputs {names}; predicting takes a net with one image input")
    return document.inputs[0]


def _contract(path: Path, document: Document, given: Preprocessing | None) -> Preprocessing:
    if given is not None:
        return given
    if document.preprocessing is not None:
        return Preprocessing.from_dict(document.preprocessing, where=str(path))
    raise UsageError(
        f"{path}: nothing says how images are prepared for it: give --preprocess FILE or CARD, or --mean, --scale, "
        "--channels, --resize and --crop"
    )


def _source_shape(port: Port) -> Shape:
    """Return an input's shape in the source's order, for one image."""
    return tuple(1 if axis == 0 else port.shape[port.axes.index(axis)] or 1 for axis in range(len(port.shape)))


def _fed(port: Port, prepared: Array, runner: Runner) -> Array:
    """Store a prepared image as the artifact takes it; one with a fixed batch gets the image as often as that."""
    spec = runner.inputs[port.tensor]
    batch = spec.shape[port.axes.index(0)] or 1
    return np.ascontiguousarray(port.storage.store(np.repeat(prepared, batch, axis=0)), spec.dtype)


def _scores_port(path: Path, document: Document, wanted: str | None) -> Port:
    """Find the output that holds one score a class: one dimension apart from the batch is longer than 1."""
    ports = [port for port in document.outputs if wanted in (None, port.name)]
    scoring = [port for port in ports if sum(dim != 1 for dim in _source_shape(port)[1:]) == 1]
    if len(scoring) == 1:
        return scoring[0]
    outputs = ", ".join(f"{port.name} {[dim or '?' for dim in port.shape]}" for port in document.outputs)
    choice = "several outputs hold one score a class; name one" if scoring else "no output holds one score a class"
    raise UsageError(f"{path}: {choice}: its outputs are {outputs}")
