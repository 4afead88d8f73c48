"""Bring the architecture JSON of every generation of Keras into one normal form.

Four spellings are read: Keras 1 and 2 (lists of `[layer, node, tensor, arguments]`), tf.keras, whose operations on
tensors are layers too (`TFOpLambda`), and Keras 3 (`{"args": [...], "kwargs": {...}}` with `__keras_tensor__` objects),
both as a .keras archive and as a legacy .h5 file has it. What comes out is a `Model`: layers, each with the calls
made of it, and the tensors that go in and come out. A Sequential is a chain of calls, and has an input layer whether
the file says so or not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from demitasse.errors import MalformedModel
from demitasse.readers.keras.node_def import translate
from demitasse.readers.keras.upgrade import modern_config, modern_kind

__all__ = [
    "STRANGE",
    "Call",
    "Generation",
    "Layer",
    "Model",
    "Tensor",
    "generation_of",
    "parse_json",
    "parse_layer",
    "parse_model",
    "strange",
]

Json: TypeAlias = Mapping[str, Any]

MODEL_KINDS = frozenset({"Functional", "Model", "Sequential"})
"""Class names of nets that are layers of a net."""


class Generation(NamedTuple):
    """The Keras that wrote a file: its version, whether it was TensorFlow's own, and the backend, if that is known."""

    major: int
    minor: int
    is_tensorflow: bool
    backend: str | None = None

    @property
    def is_theano(self) -> bool:
        return self.backend == "theano"

    @classmethod
    def parse(cls, version: str, backend: str | None) -> Generation:
        """Read a version such as `2.2.4-tf`; standalone Keras never had 2.5 or a later 2.x."""
        numbers = [int(part) if part.isdecimal() else 0 for part in version.partition("-")[0].split(".")]
        major, minor = [*numbers, 0, 0][:2]
        return cls(major, minor, version.endswith("-tf") or (major == 2 and minor >= 4), backend)


class Tensor(NamedTuple):
    """A result of a call of a layer: number `output` of call number `call`."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer is called with: `Tensor`s and constants, in nested lists and dicts."""

    args: tuple[Any, ...]
    kwargs: Json

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor among the arguments."""
        yield from _tensors((self.args, self.kwargs))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a net.

    Attributes:
        name: its name, which no other layer of the net has.
        kind: its class name in today's spelling (`Conv2D` for Keras 1's `Convolution2D`). An operation of Keras 3 on
            tensors is `ops.Add` and the like, one of tf.keras `tf.nn.relu` and the like.
        config: its configuration in today's spelling.
        calls: the calls of it, in the order in which tensors count them.
        model: the net that it is, where it is one.
        source_kind: its class name as the file spells it.
        origin: the Python class that the file asks for, where it names one: `module>registered name`.
    """

    name: str
    kind: str
    config: Json
    calls: tuple[Call, ...]
    model: Model | None
    source_kind: str
    origin: str


@dataclass(frozen=True, slots=True)
class Model:
    """A net: its layers, and the tensors that go in and come out."""

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        MalformedModel: it is no JSON, no object, or nested too deeply.
    """
    try:
        parsed = json.loads(text)
    except RecursionError as error:
        raise MalformedModel("the JSON is nested too deeply", where=where) from error
    except ValueError as error:
        raise MalformedModel(f"not valid JSON: {error}", where=where) from error
    if not isinstance(parsed, dict):
        raise MalformedModel("the JSON is no object: no Keras architecture", where=where)
    if not _is_shallow(parsed):
        raise MalformedModel("the JSON is nested too deeply", where=where)
    return parsed


def _is_shallow(parsed: object) -> bool:
    """Tell whether nothing is nested so deeply that functions which call themselves would run out of stack."""
    level = [parsed]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


_NEWEST = 1 << 16
"""The minor version of a Keras 3 that nothing states: an architecture alone doesn't, and most are of late."""

_DEEPEST = 150
"""Levels of nested JSON that are read; a net within a net takes five."""


def generation_of(config: Json, version: str | None, backend: str | None, otherwise: str | None = None) -> Generation:
    """Tell which Keras wrote an architecture; where no version is stated, its spelling tells the generation.

    Args:
        config: the architecture.
        version: the version that the file states besides.
        backend: the backend that it states.
        otherwise: the backend where nothing states one.
    """
    said = backend or config.get("backend") or otherwise
    ran_on = said if isinstance(said, str) else None
    stated = version or config.get("keras_version")
    if isinstance(stated, str):
        return Generation.parse(stated, ran_on)
    text = json.dumps(config)
    if '"batch_shape"' in text or '"DTypePolicy"' in text or '"keras_history"' in text:
        return Generation(3, _NEWEST, is_tensorflow=False)
    if any(f'"{word}"' in text for word in ("border_mode", "nb_filter", "W_regularizer", "dim_ordering")):
        return Generation(1, 0, is_tensorflow=False, backend=ran_on)
    return Generation(2, 0, is_tensorflow='"module"' in text or '"Functional"' in text, backend=ran_on)


def parse_model(config: Json, where: str) -> Model:
    """Bring a whole architecture, `{"class_name": ..., "config": ...}`, into normal form.

    Raises:
        MalformedModel: it isn't laid out as any generation of Keras does it, or refers to layers that it hasn't.
    """
    kind, inner = config.get("class_name"), config.get("config")
    if not isinstance(kind, str) or inner is None:
        raise MalformedModel("the architecture has no class_name and config: no Keras model", where=where)
    try:
        return _with_one_order(_model(kind, inner, "model", where))
    except RecursionError as error:
        raise MalformedModel("the architecture is nested too deeply", where=where) from error
    except STRANGE as error:
        raise strange("the architecture", error, where) from error


STRANGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What code raises that meets a description of another form than Keras writes. Descriptions come from strangers."""


def strange(what: str, error: Exception, where: str) -> MalformedModel:
    """Make the error that says that a description isn't one of Keras', and what about it was in the way."""
    return MalformedModel(f"{what} isn't described as Keras does it ({type(error).__name__}: {error})", where=where)


def _with_one_order(model: Model) -> Model:
    """Give the layers that don't state the order of their axes the order that the others state.

    Keras 1 left it out for some kinds of layers, and took it from the user's settings when it read a file.
    """
    if "channels_first" not in _orders(model):
        return model
    return _ordered(model, "channels_first")


def _orders(model: Model) -> set[str]:
    nested = (_orders(layer.model) for layer in model.layers if layer.model is not None)
    return {str(layer.config.get("data_format")) for layer in model.layers}.union(*nested)


def _ordered(model: Model, order: str) -> Model:
    layers = []
    for layer in model.layers:
        if layer.model is not None:
            layer = replace(layer, model=_ordered(layer.model, order))
        elif layer.kind in _UNORDERED and layer.config.get("data_format") is None:
            layer = replace(layer, config={**layer.config, "data_format": order})
        layers.append(layer)
    return replace(model, layers=tuple(layers))


_UNORDERED = frozenset(f"{kind}{rank}D" for kind in ("UpSampling", "Cropping", "ZeroPadding") for rank in (2, 3))
"""Kinds of layers whose order of axes files of Keras 1 don't state."""


def parse_layer(config: object, where: str) -> Layer:
    """Bring a layer that another one wraps into normal form; it has no calls.

    Raises:
        MalformedModel: it isn't laid out as a layer.
    """
    return _layer(config, (), where)


def _object(value: object, what: str, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise MalformedModel(f"{what} is no JSON object", where=where)
    return value


def _list(value: object, what: str, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise MalformedModel(f"{what} is no list", where=where)
    return value


def _model(kind: str, config: object, name: str, where: str) -> Model:
    if isinstance(config, list):  # a Sequential before Keras 2.2.3
        return _sequential(name, config, None, where)
    body = _object(config, f"the config of {name!r}", where)
    name = str(body.get("name") or name)
    if "layers" not in body:
        raise MalformedModel(
            f"the {kind} {name!r} lists no layers: it is a class of its own, whose code the file doesn't hold",
            where=where,
        )
    layers = _list(body["layers"], "layers", where)
    if "output_layers" in body:
        return _functional(name, body, layers, where)
    return _sequential(name, layers, body.get("build_input_shape"), where)


def _layer(data: object, calls: Sequence[Call], where: str, *, maybe_operation: bool = False) -> Layer:
    """Read a layer; `maybe_operation` says that it may be one of Keras 3's operations on tensors."""
    entry = _object(data, "a layer", where)
    kind, config = entry.get("class_name"), entry.get("config")
    if not isinstance(kind, str):
        raise MalformedModel("a layer has no class_name", where=where)
    stated = config.get("name") if isinstance(config, Mapping) else None
    name = str(entry.get("name") or stated or kind.lower())
    if not name.isprintable():  # it would be printed to a terminal
        raise MalformedModel(f"the name {name[:100]!r} has characters that can't be printed", where=where)
    module, registered = str(entry.get("module") or ""), str(entry.get("registered_name") or "")
    origin = f"{module}>{registered}" if module or registered else ""
    bare = kind.rpartition(">")[2]
    if bare in MODEL_KINDS:
        return Layer(name, bare, {}, tuple(calls), _model(bare, config, name, where), kind, origin)
    body = _object(config, f"the config of the layer {name!r}", where)
    if bare == "TensorFlowOpLayer":
        return _operation_layer(name, body, calls, where)
    modern = _kind(kind, body, module, maybe_operation)
    if modern.startswith("tf."):  # the function is the kind now
        body = {key: value for key, value in body.items() if key != "function"}
    return Layer(name, modern, modern_config(modern, body), tuple(calls), None, kind, origin)


def _operation_layer(name: str, config: Json, calls: Sequence[Call], where: str) -> Layer:
    """Read a layer that holds a node of a TensorFlow graph."""
    stated = config.get("node_def")
    node = parse_json(stated, where) if isinstance(stated, str) else _object(stated, "a node_def", where)
    place = f"{where}, layer {name!r}"
    translated = [translate(config, node, list(call.tensors()), place) for call in calls]
    kinds = {each.function for each in translated if each is not None}
    known = [Call(each.args, each.kwargs) for each in translated if each is not None]
    kind = f"tf.{kinds.pop()}" if kinds else f"TensorFlowOpLayer {node.get('op')}"
    return Layer(name, kind, {}, tuple(known or calls), None, "TensorFlowOpLayer", "")


def _kind(kind: str, config: Json, module: str, maybe_operation: bool) -> str:
    """Spell a class name in one way; tell operations from the layers of the same name."""
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return f"tf.{config.get('function', '__operators__.getitem')}"
    # A legacy .h5 file of Keras 3 leaves the module out; but layers there are trainable or not, and operations aren't.
    unnamed = maybe_operation and not module and "trainable" not in config and kind != "InputLayer"
    return f"ops.{kind}" if ".ops." in module or ".activations." in module or unnamed else modern_kind(kind)


# --- nets -------------------------------------------------------------------------------------------------------------


def _sequential(name: str, entries: Sequence[Any], built: object, where: str) -> Model:
    """Chain layers; add the input layer that Keras makes up for a first layer that states its input's shape."""
    if not entries:
        raise MalformedModel(f"the Sequential {name!r} has no layers", where=where)
    layers = [_layer(entry, (), where) for entry in entries]
    chain: list[Layer] = []
    inputs: list[Tensor] = []
    if layers[0].kind == "Merge":
        chain, call = _branches(layers[0], where)
        inputs = [Tensor(layer.name, 0, 0) for layer in chain if layer.kind == "InputLayer"]
        chain.append(replace(layers.pop(0), calls=(call,)))
    elif layers[0].kind != "InputLayer":
        chain.append(_made_up_input(layers[0], built))
    for layer in layers:
        calls = (Call((Tensor(chain[-1].name, 0, 0),), {}),) if chain else ()
        chain.append(replace(layer, calls=calls))
    _refuse_namesakes(name, chain, where)
    return Model(name, tuple(chain), tuple(inputs) or (Tensor(chain[0].name, 0, 0),), (Tensor(chain[-1].name, 0, 0),))


def _refuse_namesakes(name: str, layers: Sequence[Layer], where: str) -> None:
    if len({layer.name for layer in layers}) != len(layers):
        raise MalformedModel(f"the net {name!r} has two layers of the same name", where=where)


def _branches(merge: Layer, where: str) -> tuple[list[Layer], Call]:
    """Lay out the nets that a Sequential of Keras 1 begins with, which its first layer joins.

    Returns:
        Their inputs and the nets themselves, and the call that joins them.
    """
    inputs: list[Layer] = []
    nets: list[Layer] = []
    for number, entry in enumerate(_list(merge.config.get("layers"), "the layers of a Merge", where)):
        net = _layer(entry, (), where)
        net = replace(net, name=f"{net.name}_{number}")  # a Sequential of Keras 1 has no name in the file
        if net.model is None:
            raise MalformedModel(f"the Merge {merge.name!r} joins a {net.kind}, which is no net", where=where)
        ends = {tensor.layer for tensor in net.model.inputs}
        inputs += [layer for layer in net.model.layers if layer.name in ends]
        nets.append(replace(net, calls=(Call(([*net.model.inputs],), {}),)))
    return [*inputs, *nets], Call(([Tensor(net.name, 0, 0) for net in nets],), {})


def _made_up_input(first: Layer, built: object) -> Layer:
    """Make the input layer `NAME_input`, as Keras 1 and 2 do."""
    config = {"batch_shape": _first_shape(first) or built, "dtype": _first_dtype(first)}
    return Layer(f"{first.name}_input", "InputLayer", config, (), None, "InputLayer", "")


def _first_shape(layer: Layer) -> Any:
    if layer.model is not None:
        return next((inner.config.get("batch_shape") for inner in layer.model.layers), None)
    return layer.config.get("batch_input_shape")


def _first_dtype(layer: Layer) -> Any:
    if layer.model is not None:
        return next((inner.config.get("dtype") for inner in layer.model.layers), None)
    # Keras makes the input of an Embedding float32 as well, unless the layer says otherwise.
    return layer.config.get("input_dtype") or layer.config.get("dtype")


def _functional(name: str, body: Json, entries: Sequence[Any], where: str) -> Model:
    parsed = [_object(entry, "a layer", where) for entry in entries]
    nodes = [[node for node in _list(data.get("inbound_nodes", []), "inbound_nodes", where) if node] for data in parsed]
    is_keras3 = any(map(_is_keras3_node, itertools.chain.from_iterable(nodes)))
    layers = [
        _layer(data, [_call(node, where) for node in calls], where, maybe_operation=is_keras3)
        for data, calls in zip(parsed, nodes, strict=True)
    ]
    names = {layer.name for layer in layers}
    _refuse_namesakes(name, layers, where)
    outputs = _ends(body.get("output_layers"), where)
    within, at_the_end = _first_calls(layers, outputs, is_keras3)
    model = Model(
        name,
        tuple(replace(layer, calls=tuple(_renumbered(call, within) for call in layer.calls)) for layer in layers),
        tuple(_ends(body.get("input_layers"), where)),
        tuple(_mapped(output, at_the_end) for output in outputs),
    )
    missing = sorted({tensor.layer for tensor in _all_tensors(model) if tensor.layer not in names})
    if missing:
        raise MalformedModel(f"the net {name!r} refers to layers that it hasn't: {', '.join(missing)}", where=where)
    return model


def _all_tensors(model: Model) -> Iterator[Tensor]:
    yield from model.inputs
    yield from model.outputs
    for layer in model.layers:
        for call in layer.calls:
            yield from call.tensors()


def _first_calls(
    layers: Sequence[Layer], outputs: Sequence[Tensor], is_keras3: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Say for each nested net which number its first call has: among the arguments of calls, and among the outputs.

    To Keras 1 and 2 a nested net's own definition is its call number 0, so that the calls of it count from 1; in some
    versions, for some kinds of nets. If the largest number in use is one too large, then it is so. Keras 3 counts from
    1 among the outputs alone, and there for functional nets alone (`get_tensor` in its models/functional.py).
    """
    nets = [layer for layer in layers if layer.model is not None]
    if is_keras3:
        return {}, {layer.name: 1 for layer in nets if layer.kind != "Sequential"}
    highest: dict[str, int] = {}
    for tensor in itertools.chain(outputs, *(call.tensors() for layer in layers for call in layer.calls)):
        highest[tensor.layer] = max(highest.get(tensor.layer, 0), tensor.call)
    from_one = {layer.name: 1 for layer in nets if layer.calls and highest.get(layer.name, 0) >= len(layer.calls)}
    return from_one, from_one


def _renumbered(call: Call, first: Mapping[str, int]) -> Call:
    return Call(tuple(_mapped(argument, first) for argument in call.args), _mapped(dict(call.kwargs), first))


def _mapped(value: Any, first: Mapping[str, int]) -> Any:
    """Subtract the number of each layer's first call from the tensors in a nested structure."""
    if isinstance(value, Tensor):
        return value._replace(call=max(0, value.call - first.get(value.layer, 0)))
    if isinstance(value, list):
        return [_mapped(entry, first) for entry in value]
    if isinstance(value, dict):
        return {key: _mapped(entry, first) for key, entry in value.items()}
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):  # the order in which Keras flattens dicts
            yield from _tensors(value[key])


def _ends(value: object, where: str) -> list[Tensor]:
    """Read `input_layers` or `output_layers`: one reference, or references in nested lists and dicts."""
    found = list(_tensors(_references(value)))
    if not found:
        raise MalformedModel("the net has no inputs, or no outputs", where=where)
    return found


# --- calls ------------------------------------------------------------------------------------------------------------

_CONSTANT = "_CONSTANT_VALUE"


def _is_reference(value: object) -> bool:
    """Tell whether this is `[layer, node, tensor]`, maybe with arguments at its end."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(isinstance(number, int) and not isinstance(number, bool) for number in value[1:3])
    )


def _references(value: Any) -> Any:
    """Replace the references in a nested structure by tensors."""
    if _is_reference(value):
        return Tensor(value[0], max(value[1], 0), max(value[2], 0))
    if isinstance(value, list):
        return [_references(entry) for entry in value]
    if isinstance(value, dict):
        if value.get("class_name") == "__ellipsis__":
            return ...
        return {key: _references(entry) for key, entry in value.items()}
    return value


def _is_keras3_node(node: object) -> bool:
    return isinstance(node, dict) and "args" in node and "kwargs" in node


def _call(node: Any, where: str) -> Call:
    if _is_keras3_node(node):
        args = _list(node.get("args", []), "args", where)
        kwargs = _object(node.get("kwargs", {}), "kwargs", where)
        named = {key: _argument(value, where) for key, value in kwargs.items()}
        return Call(tuple(_argument(value, where) for value in args), named)
    inputs, kwargs = _legacy_inputs(node)
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    return Call((inputs,), {key: _references(value) for key, value in kwargs.items()})


def _legacy_inputs(node: Any) -> tuple[Any, dict[str, Any]]:
    """Split a node of Keras 1 or 2 into what the layer is called on, and the further arguments of the call."""
    if isinstance(node, list) and len(node) in (3, 4) and node[0] == _CONSTANT:
        return node[2], _keywords(node)
    if _is_reference(node):
        return Tensor(node[0], max(node[1], 0), max(node[2], 0)), _keywords(node)
    if isinstance(node, list):
        parts = [_legacy_inputs(entry) for entry in node]
        return [part for part, _ in parts], {key: value for _, kwargs in parts for key, value in kwargs.items()}
    if isinstance(node, dict):
        named = {key: _legacy_inputs(entry) for key, entry in node.items()}
        kwargs = {key: value for _, each in named.values() for key, value in each.items()}
        return {key: part for key, (part, _) in named.items()}, kwargs
    return node, {}


def _keywords(node: Sequence[Any]) -> dict[str, Any]:
    return dict(node[3]) if len(node) == 4 and isinstance(node[3], dict) else {}


def _argument(value: Any, where: str) -> Any:
    """Read an argument of a call in Keras 3's spelling."""
    if isinstance(value, list):
        return [_argument(entry, where) for entry in value]
    if not isinstance(value, dict):
        return value
    config = value.get("config")
    match value.get("class_name"):
        case "__keras_tensor__" if isinstance(config, dict) and _is_reference(config.get("keras_history")):
            return _references(config["keras_history"][:3])
        case "__numpy__" | "__tensor__" if isinstance(config, dict):
            return _constant(config, where)
        case "__slice__" if isinstance(config, dict):
            return slice(*(config.get(key) for key in ("start", "stop", "step")))
        case "__ellipsis__":
            return ...
        case str() if "config" in value:
            return value  # an object, such as a dtype policy: whoever reads the argument decides
    return {key: _argument(entry, where) for key, entry in value.items()}


def _constant(config: Json, where: str) -> Any:
    try:
        return np.asarray(config.get("value"), np.dtype(str(config.get("dtype", "float32"))))
    except (TypeError, ValueError) as error:
        raise MalformedModel(f"a constant in the architecture is no array: {error}", where=where) from error
