"""report.html: one page that asks nothing of a network, runs nothing that a file says, and stays under a megabyte."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import reports
from demitasse.ir.graph import Status
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse_validation.report import Report
from demitasse_validation.report.charts import GRADES, SHARE, grade, margins, speeds, staircase
from demitasse_validation.report.html import LIMIT, to_html
from demitasse_validation.report.matrix import Matrix
from reports import artifact, compared, mixed, ranking, ranks, report, unmeasured

VOID = {"br", "img", "input", "meta"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


REPORTS = {
    "mixed": mixed(),
    "hostile": reports.hostile(),
    "large": reports.large(120, 5),
    "empty": report(artifact("net.onnx", [], outputs=(), ranks=())),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_whole_and_asks_nothing_of_a_network(name: str) -> None:
    text = to_html(REPORTS[name])
    page = Page(text)
    assert {"link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in page.elements)
    for _, attributes in page.elements:
        assert all(attributes[key].startswith(("data:", "#")) for key in ("src", "href") if key in attributes)
        assert not [key for key in attributes if key.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize("name", REPORTS)
def test_no_coordinate_is_not_a_number(name: str) -> None:
    numbers = ("x", "y", "cx", "cy", "width", "height", "d", "viewbox", "transform")
    for tag, attributes in Page(to_html(REPORTS[name])).elements:
        if tag in {"svg", "path", "rect", "circle", "text", "g"}:
            values = " ".join(attributes.get(key, "") for key in numbers)
            assert not re.search("nan|inf|none|e-", values, re.IGNORECASE), (tag, attributes)


def test_nothing_that_a_file_says_acts() -> None:
    page = Page(to_html(reports.hostile()))
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert not page.all("img")
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_a_page_shows_verdicts_findings_layers_and_provenance() -> None:
    page = Page(to_html(mixed()))
    for part in (
        "Failed: 1 of 2 artifacts",
        "first diverges at layer 'conv1', net.prototxt:3",
        "net.onnx was made from another net.prototxt",
        "net.tflite: first divergence at conv1",
        "line: accumulated, dots: the layer alone",
        "max error / peak ≤ 1e-4",
        f"sha256 {'0' * 64}",
        "another best class",
        "OpenCV 4.1 (CPU)",
    ):
        assert part in page.text
    rows = re.findall(r'<tr class="([xmf])" data-o="([^"]*)">', to_html(mixed()))
    assert [kind for kind, _ in rows] == ["x", "f", "x", "x", "m"]
    assert float(rows[0][1]) == 2500


def test_a_good_report_has_no_findings() -> None:
    page = Page(to_html(report(mixed().artifacts[0])))
    assert "Every gate holds" in page.text
    assert "findings" not in [section.get("id") for section in page.all("section")]


# --- size ---


def test_a_large_net_with_many_samples_stays_under_the_limit() -> None:
    large = reports.large(3000, 200)
    text = to_html(large)
    assert len(text.encode()) <= LIMIT
    page = Page(text)
    shown = len(re.findall(r'<tr class="[xmf]" data-o', text))
    assert f"{shown} of 3000 rows are shown, the worst" in page.text
    assert len(re.findall(r'<tr class="x" data-o', text)) == min(shown, 1000)
    strips = int(re.findall(r"(\d+) of 200 samples are shown", page.text)[0])
    assert len(re.findall('<strong class="small">photograph_', text)) == strips < 200
    # Samples on which an artifact differs come before those on which all agree.
    assert text.count("another best class") == min(strips, len(range(0, 200, 7)))


def test_a_page_can_be_smaller_still() -> None:
    text = to_html(reports.large(300, 40), limit=150_000)
    assert len(text.encode()) <= 150_000
    Page(text)


# --- images ---


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def thumbnails(text: str) -> list[Image.Image]:
    sources = [attributes["src"] for attributes in Page(text).all("img")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def pictured(samples: Sequence[str], contract: Preprocessing | None = None) -> Report:
    """Make a report whose samples are shown in their own order: the source leads by more and more."""
    ranked = ranks(*(ranking(name, margin=0.1 + 0.01 * place) for place, name in enumerate(samples)))
    made = report(artifact("net.onnx", [compared("c", 1e-6)], ranks=(ranked,)), samples=samples)
    return replace(made, inputs={**made.inputs, "preprocessing": contract.to_dict() if contract else None})


def test_images_become_thumbnails_of_what_the_net_sees(tmp_path: Path) -> None:
    images = [save(tmp_path / "red.png", (250, 0, 0)), save(tmp_path / "blue.png", (0, 0, 250))]
    contract = Preprocessing(ChannelOrder.BGR, resize=Size(120, 120), crop=Size(100, 100), mean=(104, 117, 123))
    red, blue = thumbnails(to_html(pictured(["red.png", "blue.png"], contract), images=images))
    assert red.size == blue.size == (100, 100)
    assert red.getpixel((50, 50))[0] > 200  # type: ignore[index]
    assert blue.getpixel((50, 50))[2] > 200  # type: ignore[index]
    whole, _ = thumbnails(to_html(pictured(["red.png", "blue.png"]), images=images))
    assert whole.size == (144, 96)


def test_images_of_one_name_are_told_apart_by_their_place(tmp_path: Path) -> None:
    images = [save(tmp_path / "a" / "x.png", (250, 0, 0)), save(tmp_path / "b" / "x.png", (0, 0, 250))]
    red, blue = thumbnails(to_html(pictured(["x.png", "x.png"]), images=images))
    assert red.getpixel((5, 5))[0] > blue.getpixel((5, 5))[0]  # type: ignore[index]


def test_an_image_that_is_gone_or_damaged_leaves_a_sample_without_one(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    text = to_html(pictured(["damaged.png", "gone.png"]), images=[damaged, tmp_path / "gone.png"])
    assert not thumbnails(text)
    assert "damaged.png" in Page(text).text


# --- charts ---


def heights(path: str) -> list[float]:
    """Return the levels of a path of steps, from left to right."""
    return [float(level) for level in re.findall(r"(?:M[\d.]+ |V)([\d.-]+)", path)]


def chart_of(*layers: float) -> str:
    one = artifact("net.onnx", [compared(f"c{place}", error) for place, error in enumerate(layers)])
    chart = staircase(Matrix.of(report(one)))
    assert chart is not None
    return chart.lines[0].path


def test_the_staircase_rises_with_the_error() -> None:
    nothing, small, large, nan = heights(chart_of(0.0, 1e-6, 1e-2, math.nan))
    assert nan < large < small < nothing
    low, middle, high = heights(chart_of(1e-6, 2e-5, 4e-4))
    assert low - middle == pytest.approx(middle - high, abs=0.2)


def test_a_layer_reaches_back_over_those_that_were_folded_into_it() -> None:
    layers = [compared("a", 1e-6), unmeasured("b", Status.FOLDED, into="c"), compared("c", 1e-3)]
    chart = staircase(Matrix.of(report(artifact("net.onnx", layers))))
    assert chart is not None
    ends = [float(x) for x in re.findall(r"H([\d.]+)", chart.lines[0].path)]
    width = chart.frame.right - chart.frame.left
    assert ends == pytest.approx([chart.frame.left + width / 3, chart.frame.right], abs=0.1)


def test_a_limit_stands_at_the_height_of_such_an_error() -> None:
    chart = staircase(Matrix.of(report(artifact("net.onnx", [compared("a", 1e-4, 1e-4), compared("b", 1e-7, 1e-4)]))))
    assert chart is not None
    (limit,) = chart.limits
    assert limit.text == "limit 1e-4"
    assert heights(limit.path) == heights(chart.lines[0].path)[:1] == [limit.y]


def test_shares_of_tolerances_have_the_limit_at_one() -> None:
    layers = [compared("a", 1e-4, 1e-4), compared("b", 1e-2, 1e-2)]
    chart = staircase(Matrix.of(report(artifact("net.onnx", layers))), SHARE)
    assert chart is not None
    assert [limit.text for limit in chart.limits] == ["limit 1"]
    assert heights(chart.lines[0].path) == [chart.limits[0].y]


def test_a_chart_of_very_many_layers_keeps_its_peaks() -> None:
    errors = [1e-6] * 20_000
    errors[12_345] = 0.5
    path = chart_of(*errors)
    assert len(path) < 30_000
    assert min(heights(path)) == min(heights(chart_of(1e-6, 0.5)))


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_grade(status: Status) -> None:
    assert grade(unmeasured("a", status)) in GRADES


def test_grades_follow_the_share_of_the_tolerance() -> None:
    graded = [grade(compared("a", error)) for error in (0.0, 5e-6, 4e-5, 6e-5, 9e-5, 2e-4, math.nan)]
    assert graded == ["g0", "g1", "g2", "g3", "g4", "fail", "fail"]
    assert grade(compared("a", 1.0, 10.0, limits={})) == "free"


def test_margins_tell_noise_from_faults() -> None:
    chart = margins(
        [("net", [ranking("a"), ranking("b", other=True), ranking("c", margin=1e-6, noise=1e-5, other=True)])]
    )
    assert chart is not None
    (row,) = chart.rows
    assert [mark.kind for mark in row.marks] == ["agrees", "flip", "fault"]
    assert row.noise is not None
    assert row.marks[1].x < row.noise < row.marks[0].x
    assert margins([("net", [ranking("a", margin=math.nan)])]) is None


MEASURED = {"runtime": "ONNX Runtime", "device": "CPU", "bounds": [0.009, 0.011], "percentiles": {"90": 0.012}}


def test_speed_is_shown_where_it_was_measured() -> None:
    rows = [
        MEASURED | {"artifact": "net.onnx", "batch": batch, "median": 0.01 * batch**0.5, "throughput": 100 * batch**0.5}
        for batch in (1, 8)
    ]
    assert "Throughput over latency" not in Page(to_html(mixed())).text
    page = Page(to_html(mixed(), benchmark=rows))
    assert "Throughput over latency" in page.text
    assert "9.0 to 11.0" in page.text
    assert "p90 12.0" in page.text
    chart = speeds(rows)
    assert chart is not None
    first, second = chart.lines[0].marks
    assert first.x < second.x
    assert first.y > second.y
    assert speeds(rows[:1]) is None
    assert speeds([rows[0], rows[1] | {"verdict": "INVALID"}]) is None
