"""The preprocessing contract and what it does to photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demitasse.errors import UsageError
from demitasse.ir.ops import Layout, Size
from demitasse.ir.preprocessing import ChannelOrder, ImageFilter, Preprocessing, ResizeMode
from demitasse.preprocess import (
    apply,
    fit,
    for_input,
    from_flags,
    from_toml,
    images_in,
    load_image,
    normalize,
)

CAFFENET = Preprocessing(
    ChannelOrder.BGR, resize=Size(256, 256), crop=Size(227, 227), mean=(104, 117, 123), scale=(0.017,)
)
WITH_MEAN_IMAGE = Preprocessing(
    resize=Size(8, 8),
    resize_mode=ResizeMode.SHORTEST_SIDE,
    crop=Size(4, 4),
    mean_image=np.arange(192, dtype=np.float32).reshape(3, 8, 8),
    filter=ImageFilter.LANCZOS,
)


def noise(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def png(path: Path, array: np.ndarray[Any, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


# --- the contract ---


@pytest.mark.parametrize("contract", [Preprocessing(), CAFFENET, WITH_MEAN_IMAGE])
def test_a_contract_survives_json(contract: Preprocessing) -> None:
    text = json.dumps(contract.to_dict())
    read = Preprocessing.from_dict(json.loads(text), where="net.onnx")
    assert read == contract
    assert read.to_dict() == contract.to_dict()


def test_contracts_differ_by_every_field() -> None:
    variants = [
        Preprocessing(),
        Preprocessing(ChannelOrder.BGR),
        Preprocessing(resize=Size(4, 4)),
        Preprocessing(resize=Size(4, 4), resize_mode=ResizeMode.SHORTEST_SIDE),
        Preprocessing(crop=Size(4, 4)),
        Preprocessing(mean=(1.0,)),
        Preprocessing(mean_image=np.zeros((3, 2, 2), np.float32)),
        Preprocessing(mean_image=np.ones((3, 2, 2), np.float32)),
        Preprocessing(scale=(2.0,)),
        Preprocessing(filter=ImageFilter.BOX),
    ]
    assert all(a != b for i, a in enumerate(variants) for b in variants[:i])
    assert len({*variants, Preprocessing()}) == len(variants)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"mean": (1, 2)}, "the mean has 2 values for 3 channel"),
        ({"channels": "gray", "scale": (1, 2, 3)}, "the scale has 3 values for 1 channel"),
        ({"scale": 0}, "no scale 0"),
        ({"mean": [1, 2, float("nan")]}, "must be finite"),
        ({"resize": [2, 3], "resize_mode": "shortest_side"}, "takes one number"),
        ({"resize": 8, "crop": 9}, "a crop of 9 x 9 doesn't fit into 8 x 8"),
        ({"crop": 0}, "leaves no image"),
        ({"channels": "brg"}, "channels can't be 'brg': choose one of rgb, bgr, gray"),
        ({"resize": [1, 2, 3]}, "give one number, or a height and a width"),
        ({"crop": "224"}, "crop can't be '224'"),
        ({"mean": ["104"]}, "give numbers"),
        ({"mena": 1, "crop": []}, "'mena' is no field of it; crop can't be"),
        ({"mean_image": {"shape": [3, 1, 1], "data": "eJw="}}, "mean_image can't be"),
        ({"mean_image": {"shape": [3, 10**6, 10**6], "data": ""}}, "its shape is"),
    ],
)
def test_a_contract_that_can_not_be_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=r"^card.toml: .*preprocessing") as caught:
        Preprocessing.from_dict(fields, where="card.toml")
    assert fault in str(caught.value)


def test_flags_change_a_card() -> None:
    assert from_flags(base=CAFFENET) == CAFFENET
    assert from_flags(base=CAFFENET, crop=[224, 224], channels="rgb") == Preprocessing(
        resize=Size(256, 256), crop=Size(224, 224), mean=(104, 117, 123), scale=(0.017,)
    )
    image = np.ones((3, 256, 256), np.float32)
    assert from_flags(base=CAFFENET, mean=image).mean == ()
    assert from_flags(base=from_flags(base=CAFFENET, mean=image), mean=[1, 2, 3]).mean_image is None
    with pytest.raises(UsageError, match=r"these options: .*resize_mode can't be 'stretch'"):
        from_flags(resize_mode="stretch")


def test_a_toml_file_holds_a_contract_or_a_card(tmp_path: Path) -> None:
    path = tmp_path / "pre.toml"
    path.write_text('channels = "bgr"\nresize = 256\ncrop = 227\nmean = [104, 117, 123]\nscale = 0.017\n')
    assert from_toml(path) == CAFFENET
    path.write_text(f"[preprocessing]\n{path.read_text()}")
    assert from_toml(path) == CAFFENET


def test_a_toml_file_may_name_a_mean_image(tmp_path: Path) -> None:
    image = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    np.save(tmp_path / "mean.npy", image)
    path = tmp_path / "pre.toml"
    path.write_text('mean = "mean.npy"')
    assert from_toml(path) == Preprocessing(mean_image=image)
    path.write_text('mean = "mean.binaryproto"')
    read = from_toml(path, read_mean=lambda file: image * (file == tmp_path / "mean.binaryproto"))
    assert read == Preprocessing(mean_image=image)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mean = ", "not TOML"),
        ("preprocessing = 1", "must be a table"),
        ('mean = "absent.npy"', "absent.npy: not a readable .npy array"),
        ('mean = "mean.png"', "read from an .npy file"),
    ],
)
def test_a_bad_toml_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "pre.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=fault):
        from_toml(path)
    with pytest.raises(UsageError, match=r"absent.toml: can't be read"):
        from_toml(tmp_path / "absent.toml")


def test_a_contract_is_completed_for_an_input() -> None:
    assert for_input(CAFFENET, (10, 3, 227, 227), Layout.CHANNELS_FIRST) == CAFFENET
    completed = for_input(Preprocessing(), (1, 32, 64, 3), Layout.CHANNELS_LAST)
    assert completed == Preprocessing(resize=Size(32, 64))


@pytest.mark.parametrize(
    ("contract", "shape", "fault"),
    [
        (CAFFENET, (1, 3, 224, 224), "takes images of 224 x 224, and the preprocessing gives 227 x 227"),
        (CAFFENET, (1, 1, 227, 227), "takes 1 channel.*say that its channels are gray"),
        (Preprocessing(ChannelOrder.GRAY), (1, 3, 28, 28), "rgb or bgr"),
        (CAFFENET, (1, 4, 227, 227), "give its arrays in an .npz file"),
        (CAFFENET, (1, 10), "takes no images"),
        (
            Preprocessing(resize=Size(8, 8), resize_mode=ResizeMode.SHORTEST_SIDE),
            (1, 3, 8, 8),
            "gives any ratio",
        ),
    ],
)
def test_a_contract_that_does_not_fit_the_input_is_refused(
    contract: Preprocessing, shape: tuple[int, ...], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        for_input(contract, shape, Layout.CHANNELS_FIRST)


# --- arithmetic ---


def test_caffe_arithmetic_by_hand() -> None:
    image = np.array([[[10, 20, 30]]], np.uint8)
    contract = Preprocessing(ChannelOrder.BGR, mean=(1, 2, 3), scale=(2.0, 1.0, 0.5))
    result = apply(image, contract, Layout.CHANNELS_FIRST)
    assert result.dtype == np.float32
    assert result.shape == (1, 3, 1, 1)
    assert result.ravel().tolist() == [(30 - 1) * 2, 20 - 2, (10 - 3) * 0.5]


def test_both_layouts_hold_the_same() -> None:
    first = apply(noise(9, 7), CAFFENET, Layout.CHANNELS_FIRST)
    last = apply(noise(9, 7), CAFFENET, Layout.CHANNELS_LAST)
    assert last.shape == (1, 227, 227, 3)
    assert first.flags.c_contiguous
    assert np.array_equal(first.transpose(0, 2, 3, 1), last)


def test_gray_pixels_stay_what_they_are() -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(normalize(gray, Preprocessing(ChannelOrder.GRAY), Layout.CHANNELS_LAST)[0], gray[..., :1])
    colour = noise(16, 16)
    expected = np.asarray(Image.fromarray(colour).convert("L"), np.float32)
    assert np.array_equal(normalize(colour, Preprocessing(ChannelOrder.GRAY), Layout.CHANNELS_FIRST)[0, 0], expected)


def test_the_crop_is_central_and_rounded_to_the_top_left() -> None:
    image = noise(7, 8)
    assert np.array_equal(fit(image, Preprocessing(crop=Size(4, 3))), image[1:5, 2:5])
    with pytest.raises(UsageError, match="a crop of 9 x 3 doesn't fit into an image of 7 x 8"):
        fit(image, Preprocessing(crop=Size(9, 3)))


@pytest.mark.parametrize(("height", "width", "result"), [(20, 31, (10, 15)), (31, 20, (15, 10)), (5, 5, (10, 10))])
def test_the_shortest_side_keeps_the_ratio(height: int, width: int, result: tuple[int, int]) -> None:
    contract = Preprocessing(resize=Size(10, 10), resize_mode=ResizeMode.SHORTEST_SIDE)
    assert fit(noise(height, width), contract).shape[:2] == result


def test_a_mean_image_is_cut_where_the_image_is_cut() -> None:
    image = noise(8, 8)
    mean_image = image.transpose(2, 0, 1).astype(np.float32)
    contract = Preprocessing(crop=Size(5, 4), mean_image=mean_image)
    assert not apply(image, contract, Layout.CHANNELS_FIRST).any()
    with pytest.raises(UsageError, match="a mean image of 8 x 8 doesn't cover an input of 9 x 9"):
        apply(noise(9, 9), Preprocessing(mean_image=mean_image), Layout.CHANNELS_FIRST)


# --- files ---


def test_images_of_a_folder_are_sorted(tmp_path: Path) -> None:
    for name in ["b.png", "a/z.JPG", "a.png", ".hidden.png", ".cache/c.png"]:
        png(tmp_path / name, noise(2, 2))
    (tmp_path / "labels.csv").write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path)] == ["a.png", "a/z.JPG", "b.png"]


def test_a_list_names_images(tmp_path: Path) -> None:
    for name in ["a b.png", "c.png", "d 7"]:
        png(tmp_path / "sub" / name, noise(2, 2), format="png")
    listing = tmp_path / "sub" / "val.txt"
    listing.write_text("# held out\n\nc.png 281\na b.png\nd 7\n")
    assert [path.name for path in images_in(listing)] == ["c.png", "a b.png", "d 7"]
    assert images_in(tmp_path / "sub" / "c.png") == [tmp_path / "sub" / "c.png"]


def test_missing_images_are_all_named(tmp_path: Path) -> None:
    listing = tmp_path / "val.txt"
    listing.write_text("x.png\ny.png 3\n")
    with pytest.raises(UsageError, match=r"(?s)val.txt:1: .*x.png.*val.txt:2: .*y.png"):
        images_in(listing)
    listing.write_text("\n")
    with pytest.raises(UsageError, match="names no images"):
        images_in(listing)
    with pytest.raises(UsageError, match="there are no images in this folder"):
        images_in(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        images_in(tmp_path / "absent")


def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path) -> None:
    colour = noise(4, 6)
    assert np.array_equal(load_image(png(tmp_path / "rgb.png", colour)), colour)
    alpha = np.dstack([colour, np.zeros((4, 6), np.uint8)])
    assert np.array_equal(load_image(png(tmp_path / "rgba.png", alpha)), colour)
    gray = colour[..., 0]
    repeated = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(load_image(png(tmp_path / "gray.png", gray)), repeated)
    deep = gray.astype(np.uint16) * 256 + 255
    assert np.array_equal(load_image(png(tmp_path / "deep.png", deep)), repeated)
    palette = Image.fromarray(colour).quantize(24)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(load_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_the_orientation_of_a_photograph_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top is on the right
    path = png(tmp_path / "turned.png", noise(4, 6), exif=exif)
    assert np.array_equal(load_image(path), np.rot90(noise(4, 6), -1))


def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(tmp_path / "whole.jpg", noise(64, 64)).read_bytes()
    for name, data in [("cut.jpg", whole[:1500]), ("text.png", b"no image"), ("empty.png", b"")]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=rf"{name}: not "):
            load_image(tmp_path / name)
    with pytest.raises(UsageError, match=r"absent.png: not a readable image"):
        load_image(tmp_path / "absent.png")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UsageError, match=r"float.tif: .* without a fixed range"):
        load_image(tmp_path / "float.tif")
    monkeypatch.setattr("demitasse.preprocess.MAX_PIXELS", 100)
    with pytest.raises(UsageError, match=r"whole.jpg: 64 x 64 pixels are too many"):
        load_image(tmp_path / "whole.jpg")


def test_open_nsfw_sees_what_real_caffe_saw(zoo: Path) -> None:
    """Real Caffe's probabilities for photographs that Pillow resized, here through an independent importer."""
    cv2 = pytest.importorskip("cv2")
    folder = zoo / "caffe" / "open_nsfw"
    net = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "weights.caffemodel"))
    contract = from_flags(mean=(104, 117, 123), channels="bgr", resize=224)
    expected = json.loads((zoo / "images" / "expected_real_caffe.json").read_text("utf-8"))["open_nsfw"]
    assert len(expected) > 10
    for name in ["astronaut.png", "coral_pets.jpg", "camera.png"]:
        net.setInput(apply(load_image(zoo / "images" / name), contract, Layout.CHANNELS_FIRST))
        assert net.forward()[0] == pytest.approx(expected[name], abs=2e-6)
