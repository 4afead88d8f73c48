"""8-bit artifacts that are made to order: files of ranges and recipes, goals, and notes on what is odd."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import case
from demitasse.errors import UsageError
from demitasse.ir.document import Document, describe
from demitasse.ir.graph import Graph
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.ir.weights import Array
from demitasse.quantize.artifact import Order, Settings, make
from demitasse.quantize.doctor import Diagnosis, Goal, around, sqnr, top1, with_between
from demitasse.quantize.engines import EngineKind, open_artifact, open_real, stored_inputs
from demitasse.quantize.histogram import Histogram
from demitasse.quantize.ranges import Method
from demitasse.quantize.storage import Recipe, load_recipe, save_recipe
from demitasse.quantize.symptoms import symptoms
from demitasse.samples import Samples
from demitasse.targets import TARGETS, lower, simplify

NET = "residual_net"
QUANTIZED = ["tflite-int8", "tflite-16x8", "onnx-int8"]


def lowered(target: str) -> Graph:
    return lower(simplify(case(NET).graph), TARGETS[target])


def samples(count: int, factor: float = 1.0) -> Samples:
    shape = case(NET).inputs["data"].shape

    def make_one(index: int) -> dict[str, Array]:
        return {"data": np.random.default_rng(index).normal(0, factor, shape).astype(np.float32)}

    return Samples(tuple(map(str, range(count))), make_one)


def made(
    target: str,
    path: Path,
    given: Samples | None,
    settings: Settings = Settings(),  # noqa: B008
    graph: Graph | None = None,
) -> Diagnosis | None:
    graph = lowered(target) if graph is None else graph
    document = describe(graph, target=target, tool="demitasse", source_format="caffe", source=(), options={})
    writer = partial(TARGETS[target].write)
    return make(Order(target, graph, path, document, writer, EngineKind(TARGETS[target].engine)), given, settings)


def document_of(target: str, path: Path) -> Document:
    document = TARGETS[target].read_document(path)
    assert document is not None
    return document


def place(target: str, folder: Path, name: str = "net") -> Path:
    return folder / f"{name}{TARGETS[target].suffix}"


@pytest.mark.parametrize("target", QUANTIZED)
def test_an_artifact_is_near_the_real_net(target: str, tmp_path: Path) -> None:
    path, graph = place(target, tmp_path), lowered(target)
    made(target, path, samples(40))
    feed = stored_inputs(graph, samples(1).make(0), "one")
    (output,) = graph.outputs
    found, expected = (
        engine.run(feed)[output].astype(np.float64)
        for engine in (open_artifact(path), open_real(graph, EngineKind(TARGETS[target].engine), tmp_path))
    )
    assert sqnr(found, expected) > 25
    assert document_of(target, path).notes == ()


@pytest.mark.parametrize("target", QUANTIZED)
def test_ranges_are_kept_and_taken_again(target: str, tmp_path: Path) -> None:
    settings = Settings(ranges=tmp_path / "ranges.json")
    first, second = (place(target, tmp_path, name) for name in ("first", "second"))
    made(target, first, samples(4), settings)
    made(target, second, None, settings)
    assert first.read_bytes() == second.read_bytes()
    assert document_of(target, second).notes == (
        "calibrated with 4 samples: ranges are reliable from about a hundred on",
    )


def test_what_the_writer_takes_apart_keeps_all_of_its_range(tmp_path: Path) -> None:
    one, (settings, others) = case("prelu_last_axis"), (Settings(ranges=tmp_path / f"{n}.json") for n in range(2))
    graph, (name,) = lower(simplify(one.graph), TARGETS["tflite-int8"]), one.graph.inputs

    def heavy_tailed(index: int) -> dict[str, Array]:
        return {name: np.random.default_rng(index).standard_t(2, one.inputs[name].shape).astype(np.float32)}

    given = Samples(tuple(map(str, range(20))), heavy_tailed)
    made("tflite-int8", place("tflite-int8", tmp_path), given, settings, graph)
    made("tflite-int8", place("tflite-int8", tmp_path), given, replace(others, method=Method.MIN_MAX), graph)
    found, whole = (
        json.loads(each.read_text())["ranges"]["tflite-int8"]["tensors"]
        for each in (tmp_path / "0.json", tmp_path / "1.json")
    )
    inner = found.keys() - graph.values.keys()
    assert inner
    assert {each: found[each] for each in inner} == {each: whole[each] for each in inner}


@pytest.mark.parametrize("target", QUANTIZED)
def test_samples_beyond_the_ranges_that_are_taken_again_are_noted(target: str, tmp_path: Path) -> None:
    settings, path = Settings(ranges=tmp_path / "ranges.json"), place(target, tmp_path)
    made(target, path, samples(40), settings)
    kept = (tmp_path / "ranges.json").read_bytes()
    made(target, path, samples(40), settings)
    assert document_of(target, path).notes == ()
    made(target, path, samples(40, factor=4.0), settings)
    first, second = document_of(target, path).notes
    assert re.match(r"input 'data' reaches from -1\d\.\d+ to 1\d\.\d+, beyond the -4", first)
    assert re.match("more than 1% of the elements are cut off: 'data', ", second)
    assert (tmp_path / "ranges.json").read_bytes() == kept


def test_ranges_of_another_net_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    settings = Settings(ranges=tmp_path / "ranges.json")
    path = place("tflite-int8", tmp_path)
    with pytest.raises(UsageError, match="holds no ranges for it"):
        made("tflite-int8", path, None, settings)
    made("tflite-int8", path, samples(2), settings)
    data: dict[str, Any] = json.loads((tmp_path / "ranges.json").read_text())
    (kernel, *_) = data["ranges"]["tflite-int8"]["up"]
    for change, message in (
        ({"net": "other"}, "another net"),
        ({"tensors": {"data": [1]}}, "damaged"),
        ({"up": {kernel: "AAAA"}}, "has other weights"),
        ({"up": {kernel: "?"}}, "damaged"),
        ({"up": {"no such kernel": ""}}, "damaged"),
    ):
        entry = data["ranges"]["tflite-int8"] | change
        (tmp_path / "ranges.json").write_text(json.dumps(data | {"ranges": {"tflite-int8": entry}}))
        with pytest.raises(UsageError, match=message):
            made("tflite-int8", path, None, settings)
    (tmp_path / "ranges.json").write_text("{")
    with pytest.raises(UsageError, match="can't be read"):
        made("tflite-int8", path, None, settings)


def test_an_artifact_records_its_factors_and_keeps_them_with_its_ranges(tmp_path: Path) -> None:
    path, ranges = place("tflite-int8", tmp_path), tmp_path / "ranges.json"
    made("tflite-int8", path, samples(20), Settings(ranges=ranges))
    equalized = document_of("tflite-int8", path).options["int8"]["equalized"]
    assert equalized
    assert all(any(exponents) for exponents in equalized.values())
    made("tflite-int8", path, None, Settings(ranges=ranges))
    assert document_of("tflite-int8", path).options["int8"]["equalized"] == equalized
    made("tflite-int8", path, samples(20), Settings(equalize=False))
    assert document_of("tflite-int8", path).options["int8"]["equalized"] == {}
    wide = place("tflite-16x8", tmp_path)
    made("tflite-16x8", wide, samples(20))
    assert document_of("tflite-16x8", wide).options["int8"]["equalized"] == {}


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_a_goal_is_met_with_real_layers_and_stored_as_a_recipe(target: str, tmp_path: Path) -> None:
    easy = made(target, place(target, tmp_path), samples(20), Settings(goal=Goal("sqnr", 5.0)))
    assert easy is not None
    assert easy.met
    assert easy.chosen.real == ()
    base = easy.chosen.sqnr
    hard = made(target, place(target, tmp_path), samples(20), Settings(goal=Goal("sqnr", base + 0.5)))
    assert hard is not None
    assert hard.met
    assert hard.chosen.real
    assert hard.chosen.sqnr >= base + 0.5
    assert document_of(target, place(target, tmp_path)).options["int8"]["real"] == list(hard.chosen.real)
    save_recipe(tmp_path / "recipe.json", Recipe({target: hard.chosen.real}))
    again = place(target, tmp_path, "again")
    made(target, again, samples(20), Settings(recipe=tmp_path / "recipe.json"))
    assert document_of(target, again).options["int8"]["real"] == list(hard.chosen.real)


def test_a_goal_out_of_reach_gives_the_best_found(tmp_path: Path) -> None:
    path = place("tflite-16x8", tmp_path)
    diagnosis = made("tflite-16x8", path, samples(10), Settings(goal=Goal("sqnr", 500.0)))
    assert diagnosis is not None
    assert diagnosis.met is (diagnosis.chosen.sqnr >= 500)
    assert diagnosis.chosen.sqnr == max(point.sqnr for point in diagnosis.curve)
    assert path.exists()


def test_a_goal_needs_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are 9"):
        made("tflite-int8", place("tflite-int8", tmp_path), samples(9), Settings(goal=Goal("sqnr", 5.0)))


def test_another_nets_recipe_is_refused(tmp_path: Path) -> None:
    save_recipe(tmp_path / "recipe.json", Recipe({"tflite-int8": ("nowhere",)}))
    assert load_recipe(tmp_path / "recipe.json").real == {"tflite-int8": ("nowhere",)}
    with pytest.raises(UsageError, match="another net's recipe; this one has no 'nowhere'"):
        made("tflite-int8", place("tflite-int8", tmp_path), samples(2), Settings(recipe=tmp_path / "recipe.json"))


def test_a_group_is_what_gives_a_tensor_and_all_that_read_it() -> None:
    groups = around(lowered("tflite-int8"))
    products = [node.outputs[0] for node in lowered("tflite-int8").nodes if type(node.op).__name__ in ("Conv", "Dense")]
    first, last = products[0], products[-1]
    assert groups.keys() == {"data", *products}
    assert groups["data"] == (first,)
    assert groups[last] == (last,)
    assert groups[first][0] == first
    assert len(groups[first]) > 2  # a residual block reads it, and what adds it to its result


def test_what_stands_between_real_layers_alone_is_real() -> None:
    graph = lowered("tflite-int8")
    products = [node.outputs[0] for node in graph.nodes if type(node.op).__name__ in ("Conv", "Dense")]
    every = {node.outputs[0] for node in graph.nodes}
    assert set(with_between(graph, products)) == every
    assert set(products[:1]) <= set(with_between(graph, products[:1])) < every
    assert with_between(graph, ()) == ()


@pytest.mark.parametrize("text", ["top1=2", "sqnr=-1", "sqnr=nan", "psnr=3", "top1", ""])
def test_a_goal_is_one_of_two(text: str) -> None:
    with pytest.raises(UsageError, match=r"top1=0\.99 or sqnr=20"):
        Goal.parse(text)


def test_figures_do_not_excuse_what_is_not_finite() -> None:
    expected = np.array([[0.0, 2.0], [5.0, 1.0]])
    assert (top1(expected, expected), sqnr(expected, expected)) == (1.0, np.inf)
    assert top1(expected[:, ::-1], expected) == 0
    assert top1(np.full((2, 2), np.nan), expected) == 0
    assert sqnr(np.full((2, 2), np.nan), expected) == -np.inf
    assert sqnr(1.1 * expected, expected) == pytest.approx(20)


# --- what is odd ---------------------------------------------------------------------------------------------------

CONTRACT = Preprocessing(ChannelOrder.BGR, mean=(104, 117, 123))


def notes_on(pixels: Array, contract: Preprocessing = CONTRACT) -> tuple[str, ...]:
    graph, histogram = lowered("tflite-int8"), Histogram()
    histogram.add(pixels.astype(np.float32))
    histograms = {"data": histogram}
    return symptoms(graph, histograms, {"data": (histogram.low, histogram.high)}, 100, contract)


def test_samples_that_preprocessing_would_not_give_are_noted() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3)) + np.array([-20, 0, 20])
    pixels = np.clip(pixels, 0, 255)
    mean = np.array(CONTRACT.mean)
    bgr = Preprocessing(ChannelOrder.BGR, mean=(110, 128, 146))
    assert notes_on(pixels - np.array(bgr.mean), bgr) == ()
    assert "look reversed" in notes_on(pixels[..., ::-1] - np.array(bgr.mean), bgr)[0]
    assert "were samples scaled, and means subtracted" in notes_on(pixels)[0]
    assert "scaled twice" in notes_on((pixels - mean) / 255)[0]


def test_dead_and_saturated_tensors_are_noted() -> None:
    graph, dead, cut = lowered("tflite-int8"), Histogram(), Histogram()
    dead.add(np.zeros((1, 3), np.float32))
    cut.add(np.linspace(0, 10, 1000, dtype=np.float32))
    name = graph.outputs[0]
    (note,) = symptoms(graph, {name: dead}, {name: (0.0, 0.0)}, 100)
    assert note == f"always zero over all calibration samples: {name!r}"
    (note,) = symptoms(graph, {name: cut}, {name: (0.0, 9.0)}, 100)
    assert note == f"more than 1% of the elements are cut off: {name!r}"
