"""Open whatever a Keras model comes in, told by its content: .h5 files, .keras archives, .json with weights apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel, UsageError
from demitasse.readers.keras.archive import Archive, is_zip
from demitasse.readers.keras.config import Generation, generation_of, parse_json
from demitasse.readers.keras.dangers import Danger, Finding, is_pickle
from demitasse.readers.keras.h5 import Extent, H5File, H5Group, is_hdf5, map_file
from demitasse.readers.keras.security import config_findings
from demitasse.readers.keras.weights import NamedWeights, NumberedWeights, WeightStore

__all__ = ["Content", "Source", "combine", "open_file"]

_LONGEST_JSON = 256 << 20


@dataclass(frozen=True)
class Content:
    """What one file holds.

    Attributes:
        path: the file.
        config: the architecture, if it has one.
        version: the version of Keras that it states.
        backend: the backend that it states.
        weights: the group that holds weights, if it has any.
        findings: what isn't safe in it.
        file: the HDF5 file in it, open, if there is one.
    """

    path: Path
    config: Mapping[str, Any] | None
    version: str | None
    backend: str | None
    weights: H5Group | None
    findings: tuple[Finding, ...]
    file: H5File | None = None

    def close(self) -> None:
        """Let go of the file; weights can be read all the same."""
        if self.file is not None:
            self.file.close()


@dataclass(frozen=True)
class Source:
    """A model: its architecture, the Keras that wrote it, and its weights, if there are any."""

    path: Path
    config: Mapping[str, Any]
    generation: Generation
    weights: WeightStore | None


def combine(first: Content, second: Content | None, backend: str | None) -> Source:
    """Take the architecture of one file, and the weights of it or of another one.

    `backend` is what the model was trained on, where no file says so.

    Raises:
        UsageError: the first file holds no architecture, or the second no weights.
    """
    if first.config is None:
        raise UsageError(
            f"{first.path}: holds weights only; give the architecture first, as the .json that model.to_json() "
            "returns, then this file"
        )
    if second is not None and second.weights is None:
        raise UsageError(f"{second.path}: holds no weights; they come in .h5 files and .keras archives")
    held = second or first
    # A full .h5 file without a version is Keras 1's, which wrote none at first (hdf5_format.py takes it so too).
    version = first.version or ("1" if first.weights is not None and "keras_version" not in first.config else None)
    generation = generation_of(first.config, version, held.backend or first.backend, backend)
    store = _store(held.weights, str(held.path)) if held.weights is not None else None
    return Source(first.path, first.config, generation, store)


def _store(group: H5Group, where: str) -> WeightStore:
    if group.find_group("layers") or group.find_group("_layer_checkpoint_dependencies"):
        return NumberedWeights(group, where)
    return NamedWeights(group, where)


def open_file(path: Path) -> Content:
    """Open one file of whatever kind.

    Raises:
        MalformedModel: it is damaged or no Keras file.
    """
    if path.is_dir():
        raise MalformedModel("a folder; name a file in it", where=str(path))
    extent = map_file(path)
    if is_hdf5(extent):
        return _hdf5(path, H5File(extent, str(path), path))
    if is_zip(extent):
        return _archive(path, Archive(extent, str(path)))
    start = extent.bytes_at(0, 64)
    if is_pickle(start):
        finding = Finding(Danger.PICKLE, str(path), "unpickling a file runs what it says; it is not read")
        return Content(path, None, None, None, None, (finding,))
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
        return _json(path, extent)
    raise MalformedModel("neither HDF5, nor a .keras archive, nor JSON: no Keras file", where=str(path))


def _hdf5(path: Path, file: H5File) -> Content:
    root = file.root
    text = root.text("model_config")
    config = parse_json(text, f"{path}, attribute 'model_config'") if text is not None else None
    group = root.find_group("model_weights")
    if group is None and (config is None or root.texts("layer_names") is not None):
        group = root
    stated = [holder for holder in (group, root) if holder is not None]
    version = next((found for holder in stated if (found := holder.text("keras_version"))), None)
    backend = next((found for holder in stated if (found := holder.text("backend"))), None)
    findings = (*file.findings, *(config_findings(config, str(path)) if config is not None else ()))
    return Content(path, config, version, backend, group, findings, file)


def _archive(path: Path, archive: Archive) -> Content:
    if "config.json" not in archive:
        raise MalformedModel("a zip archive without config.json: no .keras file", where=str(path))
    config = parse_json(
        _text(archive.member("config.json"), archive.place("config.json")), archive.place("config.json")
    )
    version = None
    if "metadata.json" in archive:
        place = archive.place("metadata.json")
        stated = parse_json(_text(archive.member("metadata.json"), place), place).get("keras_version")
        version = stated if isinstance(stated, str) else None
    findings = (*archive.findings, *config_findings(config, archive.place("config.json")))
    if "model.weights.h5" not in archive:
        return Content(path, config, version, None, None, findings)
    member = archive.member("model.weights.h5")
    if not is_hdf5(member):
        raise MalformedModel("its weights are no HDF5 file", where=archive.place("model.weights.h5"))
    file = H5File(member, archive.place("model.weights.h5"))
    return Content(path, config, version, None, file.root, (*findings, *file.findings), file)


def _json(path: Path, extent: Extent) -> Content:
    config = parse_json(_text(extent, str(path)), str(path))
    return Content(path, config, None, None, None, tuple(config_findings(config, str(path))))


def _text(extent: Extent, where: str) -> bytes:
    if extent.size > _LONGEST_JSON:
        raise MalformedModel(
            f"{extent.size} bytes of JSON; an architecture has no more than {_LONGEST_JSON}", where=where
        )
    return extent.bytes_at(0, extent.size)
