"""What layers say of the types that they compute in: Keras' dtype policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from demitasse.errors import Offence
from demitasse.readers.keras.config import Layer, Model

__all__ = ["policy_name", "precision_notes", "quantized_layers"]

_WHOLE = frozenset({"", "float32", "None"})


def policy_name(config: Mapping[str, Any]) -> str:
    """Return the name of a layer's policy, or of its type; empty if it states none."""
    stated = config.get("dtype")
    if isinstance(stated, Mapping):
        inner = stated.get("config")
        # A quantized one states how, and not its name: `{"mode": "int8", "source_name": "float32"}`.
        return str(inner.get("name") or inner.get("mode") or "") if isinstance(inner, Mapping) else ""
    return str(stated or "")


def _layers(model: Model, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    for layer in model.layers:
        if layer.model is not None:
            yield from _layers(layer.model, f"{prefix}{layer.name}/")
        elif layer.kind != "InputLayer" and not layer.kind.startswith(("ops.", "tf.")):
            yield prefix + layer.name, layer


def precision_notes(model: Model, file: str) -> list[str]:
    """Say so if the model computes in other types than float32, in which artifacts do."""
    names = {policy_name(layer.config) for _, layer in _layers(model)}
    floating = sorted(name for name in names - _WHOLE if "float" in name)
    if not floating:
        return []
    return [f"{file}: Keras computes it in part with {', '.join(floating)}; here everything is float32"]


def quantized_layers(model: Model, file: str) -> list[Offence]:
    """List the layers whose weights Keras has quantized."""
    found = []
    for name, layer in _layers(model):
        policy = policy_name(layer.config)
        if policy.startswith(("int8", "int4", "float8", "gptq", "awq")) or layer.config.get("quantization_config"):
            where = f"{file}, layer {name!r} ({layer.source_kind})"
            found.append(Offence(where, f"its weights are quantized ({policy}); save the model before quantizing it"))
    return found
