"""Holds a model that Keras itself has loaded, as far as it is seen from outside: inputs, layers, outputs, results."""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import Offence, Unsupported, UsageError
from demitasse.ir.graph import Graph, Origin, SourceLayer, Storage, Value
from demitasse.ir.ops import DType, Layout, Shape, TensorType
from demitasse.ir.weights import Array
from demitasse.route.layers import Layers, flat, layer_of, numbered
from demitasse.writers.saved_model.backend import import_tensorflow

__all__ = ["KerasNet", "saying_what_failed"]

FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError)
"""What Keras, TensorFlow's converters and people's own layers raise, besides ValueError, for whatever they can't do."""


@contextmanager
def saying_what_failed(
    what: str, error_class: type[Unsupported] | type[UsageError], *also: type[Exception]
) -> Iterator[None]:
    """Turn what foreign code raises into an error of ours: its first lines, behind `what`.

    Raises:
        Unsupported, UsageError: as `error_class` says.
    """
    faults: tuple[type[Exception], ...] = (*FAULTS, ValueError, *also)
    try:
        yield
    except faults as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()][:6]
        told = f"{type(error).__name__}: " + " ".join(lines)
        if error_class is UsageError:
            raise UsageError(f"{what}: {told}") from error
        raise Unsupported(what, [Offence("", told)]) from error


@dataclass(frozen=True, slots=True)
class _Port:
    """An input or output: the source's name for it, and Keras' tensor."""

    name: str
    tensor: Any


class KerasNet:
    """A Keras model, loaded by Keras, which runs what its file says.

    Attributes:
        graph: its inputs and outputs with their types, and its layers by name; without nodes, which nobody reads.
        model: the functional model, cut where it was asked for, called on a list and giving a list.
        made_with: the software that stands behind it, with versions.

    Args:
        source: a .h5, .hdf5 or .keras file, or an architecture as .json.
        weights: the file with the weights, for a .json.
        plugins: Python files with the classes and functions that the model is made of; they are run.
        input_shapes: shapes for inputs that leave sides open.
        outputs: layers to cut the model at.

    Raises:
        UsageError: Keras can't load it, a plugin isn't there, an input's shape is unknown, or no layer has an output's
            name.
        Unsupported: the model is no graph of layers.
        MissingDependency: TensorFlow isn't installed.
    """

    def __init__(
        self,
        source: Path,
        weights: Path | None = None,
        *,
        plugins: Iterable[Path] = (),
        input_shapes: Mapping[str, Shape] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._file = source.name
        self._tensorflow = import_tensorflow("--route tensorflow")
        import keras

        self._keras = keras
        self.made_with = f"Keras {keras.__version__}, TensorFlow {self._tensorflow.__version__}"
        loaded = self._load(source, weights, _objects_in(plugins))
        self.model = self._functional(loaded, source, outputs)
        self._inputs = [_Port(layer_of(tensor).name, tensor) for tensor in self.model.inputs]
        self._outputs = list(_named(self.model.outputs, outputs))
        self._shapes = self._input_shapes(input_shapes or {})
        self._layers = Layers(keras, self.model, {id(port.tensor): port.name for port in self._outputs})
        self.graph = self._describe(self._shapes)

    def shaped(self, batch: int | None) -> Graph:
        """Return the graph for a batch: None for any, -1 for the model's own."""
        shapes = {
            name: shape if batch == -1 else (batch or 1, *shape[1:]) if shape else shape
            for name, shape in self._shapes.items()
        }
        result = self._describe(shapes)
        result.batch_is_dynamic = batch is None
        return result

    @property
    def blobs(self) -> frozenset[str]:
        """What `run` can give: inputs, and the results of layers, also of models inside (`inner/conv`), by name."""
        return self._layers.blobs | {port.name for port in self._inputs}

    def run(self, feeds: Mapping[str, Array], blobs: Iterable[str]) -> dict[str, Array]:
        """Compute results of layers for inputs, both by name.

        Raises:
            UsageError: Keras can't run the model on these feeds.
        """
        wanted = frozenset(blobs)
        arrays = [self._tensorflow.constant(np.ascontiguousarray(feeds[port.name])) for port in self._inputs]
        with saying_what_failed("Keras can't run the model", UsageError, self._tensorflow.errors.OpError):
            results = self._layers.compute(arrays, wanted)
        given = {port.name: feeds[port.name] for port in self._inputs if port.name in wanted}
        return given | {name: np.asarray(result) for name, result in results.items()}

    def serving(self) -> Any:
        """Return a Python function of the inputs, in order, that gives the outputs by name."""

        def serve(*images: Any) -> dict[str, Any]:
            results = flat(self.model(list(images), training=False))
            return {port.name: result for port, result in zip(self._outputs, results, strict=True)}

        return serve

    def signature(self, graph: Graph) -> list[Any]:
        """Return TensorFlow's description of the inputs, as `graph`, which `shaped` made, has them."""
        specs = []
        for name in graph.inputs:
            shape, dtype = graph.type(name)
            dims = (None, *shape[1:]) if graph.batch_is_dynamic else shape
            specs.append(self._tensorflow.TensorSpec(dims, dtype.value, name=name))
        return specs

    # --- loading ------------------------------------------------------------------------------------------------------

    def _load(self, source: Path, weights: Path | None, objects: Mapping[str, Any]) -> Any:
        if weights is not None and source.suffix != ".json":
            raise UsageError(f"{source}: holds its own weights; weights apart belong to an architecture as .json")
        if weights is None and source.suffix == ".json":
            raise UsageError(f"{source}: holds no weights; give the file with the weights, too")
        hint = "its own classes come with --plugin, and files of older Keras are read without --route"
        what = f"{source}: Keras {self._keras.__version__} can't load it ({hint})"
        with saying_what_failed(what, UsageError):
            if weights is not None:
                model = self._keras.models.model_from_json(source.read_text("utf-8"), dict(objects))
                model.load_weights(weights)
                return model
            return self._keras.models.load_model(source, dict(objects), compile=False, safe_mode=False)

    def _functional(self, loaded: Any, source: Path, outputs: Sequence[str] | None) -> Any:
        """Return the model as one of lists, which ends at `outputs`."""
        inputs, results = getattr(loaded, "inputs", None), getattr(loaded, "outputs", None)
        if not inputs or not results:
            raise Unsupported(f"{source}: it is no graph of layers", [Offence(type(loaded).__name__, "has no inputs")])
        model = self._keras.Model(list(inputs), list(results), name=loaded.name)
        if type(loaded).call not in {type(model).call, self._keras.Sequential.call}:
            message = "computes by a `call` of its own, which the graph of its layers may not show"
            raise Unsupported(f"{source}: it is no graph of layers", [Offence(type(loaded).__name__, message)])
        if outputs is None:
            return model
        tensors = Layers(self._keras, model).tensors
        unknown = [name for name in outputs if name not in tensors]
        if unknown:
            raise UsageError(f"{source}: it has no layer {', '.join(unknown)}; it has {', '.join(tensors)}")
        return self._keras.Model(model.inputs, [tensors[name] for name in outputs], name=loaded.name)

    def _input_shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shapes of the inputs, an open batch as 1.

        Raises:
            UsageError: a shape is unknown, or doesn't fit; all are listed.
        """
        names = [port.name for port in self._inputs]
        faults = [f"there is no input {name!r}; there are {', '.join(names)}" for name in given if name not in names]
        shapes = {}
        for port in self._inputs:
            stated = tuple(port.tensor.shape)
            shape = given.get(port.name, (1, *stated[1:]) if stated and stated[0] is None else stated)
            fits = len(shape) == len(stated) and all(b is None or a == b for a, b in zip(shape, stated, strict=True))
            if None in shape:
                faults.append(f"input {port.name!r} is {list(stated)}: give its sides with --input-shape")
            elif not fits:
                faults.append(f"input {port.name!r} is {list(stated)}, and can't be {list(shape)}")
            shapes[port.name] = shape
        if faults:
            raise UsageError("; ".join(faults))
        return shapes

    # --- what it looks like from outside ------------------------------------------------------------------------------

    def _describe(self, shapes: Mapping[str, Shape]) -> Graph:
        graph = Graph(self.model.name, layout=self._layout())
        for port in self._inputs:
            graph.add_input(port.name, _type(shapes[port.name], port.tensor.dtype))
        given = [self._keras.KerasTensor(shapes[port.name], dtype=port.tensor.dtype) for port in self._inputs]
        with saying_what_failed("the model can't take inputs of these shapes", UsageError):
            results = flat(self.model.compute_output_spec(given, training=False))
        for port, result in zip(self._outputs, results, strict=True):
            if port.name not in graph.values:
                type_ = _type(tuple(result.shape), result.dtype)
                graph.values[port.name] = Value(port.name, type_, Storage.identity(type_.rank))
            graph.outputs.append(port.name)
        graph.layers = list(self._source_layers())
        graph.batch_is_dynamic = all(tuple(port.tensor.shape)[:1] == (None,) for port in self._inputs)
        return graph

    def _layout(self) -> Layout:
        formats = {getattr(layer, "data_format", None) for layer in self.model.layers}
        return Layout.CHANNELS_FIRST if Layout.CHANNELS_FIRST.value in formats else Layout.CHANNELS_LAST

    def _source_layers(self) -> Iterator[SourceLayer]:
        for port in self._inputs:
            yield SourceLayer(Origin(port.name, "InputLayer", self._file), (), (port.name,))
        known = {id(tensor): name for name, tensor in self._layers.tensors.items()}
        known |= {id(port.tensor): port.name for port in self._inputs}
        for call in self._layers:
            inputs = tuple(known[id(tensor)] for tensor in call.node.input_tensors)
            outputs = tuple(known[id(tensor)] for tensor in call.node.output_tensors)
            yield SourceLayer(Origin(call.name, type(call.node.operation).__name__, self._file), inputs, outputs)


def _objects_in(plugins: Iterable[Path]) -> dict[str, Any]:
    """Run a user's Python files, and return the classes and functions that they define, by name."""
    objects: dict[str, Any] = {}
    for path in plugins:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such plugin file")
        found = runpy.run_path(str(path), run_name=path.stem)
        objects |= {
            name: value
            for name, value in found.items()
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == path.stem
        }
    return objects


def _named(tensors: Sequence[Any], names: Sequence[str] | None) -> Iterator[_Port]:
    """Name outputs as they were asked for, or after the layers that give them; further ones of a layer are numbered."""
    if names is not None:
        yield from map(_Port, names, tensors)
        return
    counts: dict[str, int] = {}
    for tensor in tensors:
        yield _Port(numbered(layer_of(tensor).name, counts), tensor)


def _type(shape: Sequence[int | None], dtype: str) -> TensorType:
    sides = tuple(dim for dim in shape if dim is not None)
    if len(sides) != len(shape) or dtype not in {each.value for each in DType}:
        raise Unsupported(
            "inputs and outputs have to be arrays of known size",
            [Offence("", f"one is {dtype} {list(shape)}; types are {', '.join(each.value for each in DType)}")],
        )
    return TensorType(sides, DType(dtype))
