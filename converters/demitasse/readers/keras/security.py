"""Look for what isn't safe in the description of a net: code, and objects that only importing or unpickling makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from demitasse.readers.keras.dangers import Danger, Finding

__all__ = ["config_findings"]

_OWN_MODULES = frozenset({"", "keras", "keras_core", "tf_keras", "tensorflow", "builtins", "numpy"})
"""Packages whose classes are Keras' own; none is ever imported, the names alone are read."""

_OWN_PACKAGES = frozenset({"", "keras", "Keras"})
"""The packages under which Keras registers classes of its own."""

_OWN_CLASSES = frozenset({"Custom>CustomScaleLayer"})
"""Classes that Keras registers as if they were an author's: the one in keras.applications' InceptionResNetV2."""

_BUILTINS = frozenset(
    {"function", "type", "NoneType", "slice", "ellipsis", "tuple", "list", "dict", "str", "int", "float"}
)
"""What Keras 3 calls the classes of plain values; anything else of Python's builtins is a way to run code."""

_FOREIGN = {
    "TFSMLayer": (Danger.OTHER_FILE, "Keras would load and run a SavedModel from elsewhere"),
    "TorchModuleWrapper": (Danger.PICKLE, "Keras would unpickle a PyTorch module, which runs code"),
    "JaxLayer": (Danger.FOREIGN_OBJECT, "Keras would call a JAX function of the author's own"),
    "FlaxLayer": (Danger.FOREIGN_OBJECT, "Keras would call a Flax module of the author's own"),
}
_WITH_VOCABULARY = frozenset({"StringLookup", "IntegerLookup", "TextVectorization"})
_TRAINING = ("_initializer", "_regularizer", "_constraint")


def config_findings(config: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Yield what isn't safe in an architecture, as parsed from JSON."""
    yield from _in_value(config, where, "", of_training=False)


def _in_value(value: object, where: str, layer: str, *, of_training: bool) -> Iterator[Finding]:
    if isinstance(value, list):
        for entry in value:
            yield from _in_value(entry, where, layer, of_training=of_training)
    elif isinstance(value, dict):
        yield from _in_object(value, where, layer, of_training=of_training)


def _in_object(value: Mapping[str, Any], where: str, layer: str, *, of_training: bool) -> Iterator[Finding]:
    kind, config = value.get("class_name"), value.get("config")
    inner = config if isinstance(config, dict) else {}
    if isinstance(kind, str):
        layer = str(inner.get("name") or value.get("name") or layer)
        bare = kind.rpartition(">")[2]
        place = f"{where}, layer {layer!r}" if layer else where
        if bare in ("Lambda", "__lambda__"):
            yield Finding(Danger.LAMBDA, place, _code(bare, inner), layer, "Lambda")
            return
        if bare in _FOREIGN:
            danger, detail = _FOREIGN[bare]
            yield Finding(danger, place, detail, layer, bare)
            return
        vocabulary = inner.get("vocabulary")
        if bare in _WITH_VOCABULARY and isinstance(vocabulary, str):
            yield Finding(Danger.OTHER_FILE, place, f"Keras would read its vocabulary from {vocabulary!r}", layer, bare)
        if not of_training and (author := _author(value, kind, inner)):
            detail = f"{author} is code that the file doesn't hold, and Keras would import"
            yield Finding(Danger.USER_CLASS, place, detail, layer, bare)
    for key, entry in value.items():
        if key not in ("compile_config", "build_config"):
            yield from _in_value(entry, where, layer, of_training=of_training or key.endswith(_TRAINING))


def _code(kind: str, config: Mapping[str, Any]) -> str:
    function = config.get("function")
    if kind == "Lambda" and isinstance(function, str):
        return f"a Lambda layer that calls the function {function!r}"
    return "a Lambda layer with a compiled Python function" if kind == "Lambda" else "a compiled Python function"


def _author(value: Mapping[str, Any], kind: str, config: Mapping[str, Any]) -> str:
    """Return the name of a class or function that isn't Keras' own; empty if it is, or a net that lists its layers."""
    module, registered = str(value.get("module") or ""), str(value.get("registered_name") or "")
    root = module.partition(".")[0]
    if {"layers", "input_layers", "output_layers"} <= set(config):
        return ""
    if root in _OWN_MODULES and not _OWN_CLASSES.isdisjoint({kind, registered}):
        return ""
    packages = {name.rpartition(">")[0] for name in (kind, registered)}
    if root == "builtins" and kind not in _BUILTINS:
        return f"{module}.{kind}"
    if root not in _OWN_MODULES:
        name = config.get("name") if kind == "function" else None
        return f"{module}.{name or (value.get('config') if kind == 'function' else kind)}"
    return "" if packages <= _OWN_PACKAGES else registered or kind
