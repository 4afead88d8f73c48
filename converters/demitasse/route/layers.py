"""Looks into a functional Keras model: which layers it calls, what these results are called, and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

__all__ = ["Call", "Layers", "flat", "layer_of", "numbered"]


class Call(NamedTuple):
    """A call of a layer in a model: its name (`conv`, `conv:1` for the second), and Keras' record of it."""

    name: str
    node: Any

    @property
    def results(self) -> dict[str, Any]:
        """What it gives, by name; Keras' tensors."""
        tensors = self.node.output_tensors
        return {self.name if place == 0 else f"{self.name}/{place}": each for place, each in enumerate(tensors)}


class Layers:
    """The layers of a functional model and of the models in it, whose layers are called `inner/conv`.

    `names` gives results names of their own, by the identity of Keras' tensors.
    """

    def __init__(self, keras: Any, model: Any, names: Mapping[int, str] | None = None) -> None:
        self._keras = keras
        self._model = model
        self._names = names or {}
        self._probes: dict[tuple[int, ...], Any] = {}

    def __iter__(self) -> Iterator[Call]:
        """Yield the calls of the model's own layers in the order in which they run."""
        counts: dict[str, int] = {}
        # Not public, and the only place that tells the calls in this model from those in others.
        for depth in sorted(self._model._nodes_by_depth, reverse=True):
            for node in self._model._nodes_by_depth[depth]:
                if not node.is_input:
                    yield Call(numbered(node.operation.name, counts), node)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """Keras' tensors that the model's own layers give, by name."""
        results = (entry for call in self for entry in call.results.items())
        return {self._names.get(id(tensor), name): tensor for name, tensor in results}

    @cached_property
    def _inner(self) -> dict[str, tuple[Layers, Sequence[Any]]]:
        """Map the calls of models in this one to their layers, and to the tensors that go in."""
        found = {}
        for call in self:
            model = call.node.operation
            if isinstance(model, self._keras.Model) and getattr(model, "inputs", None):
                # A model of its own: the one inside is called with what its caller thinks fit.
                inside = self._keras.Model(list(model.inputs), list(model.outputs))
                found[call.name] = (Layers(self._keras, inside), call.node.input_tensors)
        return found

    @cached_property
    def blobs(self) -> frozenset[str]:
        """The names of all results, also of the models inside."""
        inside = {f"{name}/{blob}" for name, (layers, _) in self._inner.items() for blob in layers.blobs}
        return frozenset(self.tensors) | inside

    def compute(self, inputs: Sequence[Any], wanted: Iterable[str]) -> dict[str, Any]:
        """Compute results by name, for the model's inputs in their order."""
        wanted = frozenset(wanted)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in wanted}
        entered: dict[str, frozenset[str]] = {}
        for name in self._inner:
            inside = frozenset(blob.removeprefix(f"{name}/") for blob in wanted if blob.startswith(f"{name}/"))
            if inside & self._inner[name][0].blobs:
                entered[name] = inside
        gates = [tensor for name in entered for tensor in self._inner[name][1]]
        values = self._probe(inputs, [*tensors.values(), *gates])
        results = dict(zip(tensors, values, strict=False))
        left = iter(values[len(tensors) :])
        for name, inside in entered.items():
            layers, given = self._inner[name]
            found = layers.compute([next(left) for _ in given], inside)
            results |= {f"{name}/{blob}": value for blob, value in found.items()}
        return results

    def _probe(self, inputs: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
        """Compute tensors of this model; the model that does so is kept, as making it takes longer than running it."""
        key = tuple(map(id, tensors))
        if not tensors:
            return []
        if key not in self._probes:
            self._probes[key] = self._keras.Model(self._model.inputs, list(tensors))
        return flat(self._probes[key](list(inputs), training=False))


def layer_of(tensor: Any) -> Any:
    """Return the layer that gives a tensor, as Keras notes on it."""
    return tensor._keras_history.operation


def numbered(name: str, counts: dict[str, int]) -> str:
    """Return a name, with a number from its second use on."""
    count = counts[name] = counts.get(name, -1) + 1
    return name if count == 0 else f"{name}:{count}"


def flat(results: Any) -> list[Any]:
    """Return what a model gives as a list."""
    return list(results) if isinstance(results, list | tuple) else [results]
