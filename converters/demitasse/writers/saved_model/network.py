"""Build a graph as a `tf.Module`: variables under the weights' names, and one traced function.

The function is spelled operator by operator from the graph, so that what is written holds no more than what the graph
says. The same module object holds what people look for in a loaded one: `weights`, by name; `variables` and
`trainable_variables`; and `__call__`, as TensorFlow Hub's reusable SavedModels have it
(https://www.tensorflow.org/hub/reusable_saved_models).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from demitasse.errors import InvalidGraph
from demitasse.ir.graph import Graph, Node, infer_types
from demitasse.ir.ops import Shape, ShapeError, TensorType
from demitasse.writers.saved_model.emit import EMITTERS
from demitasse.writers.saved_model.kernels import Order, order_of, orders, trained
from demitasse.writers.saved_model.site import Dims, Site, Tensor, raw

__all__ = ["Network"]


class Network:
    """A graph in TensorFlow.

    Attributes:
        module: the `tf.Module` to save.
        keywords: for each graph input, how TensorFlow calls it: an identifier, as Python's arguments are named.
        tensors: for each value of the graph, the name of the tensor that holds it; known once the module is saved.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes = _shapes(graph)
        self.keywords = _keywords(graph.inputs)
        self.tensors: dict[str, str] = {}
        self._orders = orders(graph)
        self._operators = _operator_names(graph, self.keywords.values())
        self._variables = self._make_variables()
        self.module = self._make_module()

    def _make_variables(self) -> dict[str, Any]:
        import tensorflow

        parameters = trained(self.graph)
        names = _unique({name: _node_name(name) for name in self._orders})
        return {
            # An array is fetched late and dropped at once: a weight may be computed anew each time it is asked for.
            name: tensorflow.Variable(
                order.store(np.asarray(self.graph.weights[name])), trainable=name in parameters, name=names[name]
            )
            for name, order in self._orders.items()
        }

    def _make_module(self) -> Any:
        import tensorflow

        # tf.Module computes these two from its attributes, which a loaded module no longer can: they are stored.
        stored = {"variables": (), "trainable_variables": ()}
        module = type("Network", (tensorflow.Module,), stored)()
        variables = self._variables
        module.weights = variables
        module.variables = list(variables.values())
        module.trainable_variables = [variable for variable in variables.values() if variable.trainable]
        module.regularization_losses = []
        specs = {name: self._spec(name) for name in self.graph.inputs}
        signature = [*specs.values()] if len(specs) == 1 else [specs]
        module.__call__ = tensorflow.function(self._network, input_signature=signature, autograph=False)
        return module

    def _spec(self, name: str) -> Any:
        import tensorflow

        dtype = self.graph.type(name).dtype.value
        return tensorflow.TensorSpec(self.shapes[name], dtype, name=self.keywords[name])

    def _network(self, inputs: Any) -> dict[str, Tensor]:
        """Compute the outputs, by the source's names; TensorFlow calls this to trace it."""
        given = {self.graph.inputs[0]: inputs} if len(self.graph.inputs) == 1 else dict(inputs)
        values = {name: given[name] for name in self.graph.inputs}
        for node in self.graph.nodes:
            results = self._emit(node, values)
            for name, result in zip(node.outputs, results, strict=True):
                self._check(node, name, result)
                values[name] = result
        self.tensors = {name: tensor.name for name, tensor in values.items()}
        return {name: values[name] for name in self.graph.outputs}

    def _emit(self, node: Node, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        names = [self._operators[name] for name in node.outputs]
        operands = [
            values[name] if name in values else self._read(node, position, names[0])
            for position, name in enumerate(node.inputs)
        ]
        site = Site(self.graph, node, operands, names, self.shapes)
        results = EMITTERS[type(node.op)](site, node.op)
        return results if isinstance(results, tuple) else (results,)

    def _read(self, node: Node, position: int, name: str) -> Tensor:
        """Read a weight in the order that a node wants."""
        import tensorflow

        weight = node.inputs[position]
        with tensorflow.name_scope(f"{name}/"):
            held = tensorflow.convert_to_tensor(self._variables[weight])
        shape = self.graph.weights.type(weight).shape
        wanted, order = order_of(node, position, shape), self._orders[weight]
        return held if wanted == order else _reordered(held, order, wanted, shape, f"{name}/{_node_name(weight)}")

    def _check(self, node: Node, name: str, result: Tensor) -> None:
        """Note the shape that the graph states for a result, which TensorFlow infers in part.

        Raises:
            InvalidGraph: TensorFlow infers another one.
        """
        shape, dtype = self.shapes[name], self.graph.type(name).dtype.value
        if not result.shape.is_compatible_with(shape) or result.dtype.name != dtype:
            raise InvalidGraph(
                f"{node.origin.where}: {type(node.op).__name__} gives {name!r} as {dtype}{list(shape)},"
                f" but its operators give {result.dtype.name}{result.shape}"
            )
        result.set_shape(shape)


def _reordered(held: Tensor, order: Order, wanted: Order, shape: Shape, name: str) -> Tensor:
    """Bring a weight, held as another reader wants it, into the order that this one wants."""
    permuted, back = order.restored(shape)
    x = raw("Reshape", tensor=held, shape=list(permuted), name=f"{name}/permuted")
    x = raw("Transpose", x=x, perm=list(back), name=f"{name}/restored")
    x = raw("Transpose", x=x, perm=list(wanted.axes), name=f"{name}/reordered")
    return raw("Reshape", tensor=x, shape=list(wanted.shape), name=name)


def _shapes(graph: Graph) -> dict[str, Dims]:
    """Map every value to its shape; a dimension that grows with a free batch is None, by what two batches give."""
    if not graph.batch_is_dynamic:
        return {name: value.type.shape for name, value in graph.values.items()}
    two, three = (_types_at(graph, batch) for batch in (2, 3))
    return {
        name: tuple(
            dim if dim == other else None for dim, other in zip(two[name].shape, three[name].shape, strict=True)
        )
        for name in graph.values
    }


def _types_at(graph: Graph, batch: int) -> dict[str, TensorType]:
    shapes = {name: graph.type(name).shape for name in graph.inputs}
    try:
        return infer_types(graph, {name: (batch, *shape[1:]) for name, shape in shapes.items() if shape})
    except ShapeError as error:
        raise InvalidGraph(f"the batch of {graph.name!r} isn't free: with {batch} samples, {error}") from error


def _unique(names: Mapping[str, str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Number names that differ from another, or a taken one, in nothing but their case: TensorFlow tells none apart."""
    seen = {name.lower() for name in taken}
    result = {}
    for key, name in names.items():
        candidate, count = name, 1
        while candidate.lower() in seen:
            count += 1
            candidate = f"{name}_{count}"
        seen.add(candidate.lower())
        result[key] = candidate
    return result


def _keywords(inputs: Iterable[str]) -> dict[str, str]:
    """Name the inputs as Python's arguments are named, by TensorFlow's own rule: it takes the source's names too."""
    plain = {name: re.sub(r"[^A-Za-z0-9_]", "_", name) for name in inputs}
    return _unique({name: word if word[:1].isalpha() else f"arg_{word}" for name, word in plain.items()})


def _node_name(name: str) -> str:
    """Return a name in the alphabet of TensorFlow's: letters, digits, and `_ . - /` inside."""
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
    # A slash at the end names a scope; an empty part between two of them is no name.
    plain = re.sub(r"/(?=/|$)", "_", plain)
    return plain if re.match(r"[A-Za-z0-9.]", plain) else f"value_{plain}"


def _operator_names(graph: Graph, keywords: Iterable[str]) -> dict[str, str]:
    """Name the operators after the values that they give; an argument of the function has its keyword in lower case."""
    given = {name: _node_name(name) for node in graph.nodes for name in node.outputs}
    return _unique(given, keywords)
