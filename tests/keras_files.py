"""Makes small Keras files with h5py and JSON alone, as each generation of Keras would, and as nobody should."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Array = np.ndarray[Any, Any]
Weights = Mapping[str, list[tuple[str, Array]]]


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **config}}


def input_layer(name: str, *shape: int | None) -> dict[str, Any]:
    return layer("InputLayer", name, batch_input_shape=[None, *shape], dtype="float32")


def sequential(*layers: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "net", "layers": list(layers)}}


def functional(
    layers: Iterable[tuple[Mapping[str, Any], list[Any]]], inputs: list[Any], outputs: list[Any]
) -> dict[str, Any]:
    """A functional net; each layer comes with the nodes of its calls."""
    entries = [{**entry, "name": entry["config"]["name"], "inbound_nodes": nodes} for entry, nodes in layers]
    config = {"name": "net", "layers": entries, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": "Functional", "config": config}


def write_weights(group: h5py.Group, weights: Weights) -> None:
    group.attrs["layer_names"] = [name.encode() for name in weights]
    for name, arrays in weights.items():
        holder = group.create_group(name)
        holder.attrs["weight_names"] = [weight.encode() for weight, _ in arrays]
        for weight, array in arrays:
            holder.create_dataset(weight, data=array)


def write_h5(
    path: Path, config: Mapping[str, Any], weights: Weights | None = None, version: str = "2.4.0", **attributes: str
) -> Path:
    """Writes a whole model."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        for name, value in {"keras_version": version, "backend": "tensorflow", **attributes}.items():
            if value:
                file.attrs[name] = value
        write_weights(file.create_group("model_weights"), weights or {})
    return path


def write_archive(
    path: Path,
    config: Mapping[str, Any],
    arrays: Mapping[str, Array] | None = None,
    *,
    weights: bytes | None = None,
    members: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Writes a .keras archive; `arrays` are datasets by their path in its weight file, unless `weights` is the file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers")
        for name, array in (arrays or {}).items():
            file[name] = array
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", buffer.getvalue() if weights is None else weights)
        for name, content in (members or {}).items():
            archive.writestr(name, content)
    return path


def dense_net(units: int = 2) -> dict[str, Any]:
    return sequential(input_layer("x", 3), layer("Dense", "dense", units=units, activation="linear", use_bias=True))


def dense_weights(units: int = 2) -> dict[str, list[tuple[str, Array]]]:
    kernel = np.arange(3 * units, dtype=np.float32).reshape(3, units)
    return {"dense": [("dense/kernel:0", kernel), ("dense/bias:0", np.ones(units, np.float32))]}
