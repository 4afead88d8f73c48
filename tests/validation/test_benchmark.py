"""What a benchmark says of samples: against LoadGen's own logs, and of simulated runs. Nothing is timed."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from demitasse.errors import UsageError
from demitasse_validation.benchmark import Plan, Report, Result, load, machine
from demitasse_validation.benchmark.clock import Warmth, block, warm_up
from demitasse_validation.benchmark.interleave import COMPUTE, RUN, Track, interleave, paired_ratio
from demitasse_validation.benchmark.placement import Node, place
from demitasse_validation.benchmark.plot import plot
from demitasse_validation.benchmark.regression import compare_with
from demitasse_validation.benchmark.results import Comparison, Failure, Latency
from demitasse_validation.benchmark.scenarios import offline, scenarios, single_stream
from demitasse_validation.benchmark.statistics import (
    Interval,
    estimate_median,
    estimate_paired_ratio,
    estimate_ratio,
    percentile,
    percentile_bound,
    samples_needed,
)
from demitasse_validation.benchmark.terminal import render
from demitasse_validation.benchmark.verdicts import Verdict, judge, noise_of

PLAN = Plan(seconds=5.0, threads=2)
SIMULATIONS = 100


# --- percentiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "needed"), [(0.5, 11), (0.9, 64), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_samples_as_loadgen_demands(p: float, needed: int) -> None:
    assert samples_needed(p) == needed
    assert percentile(np.arange(needed - 1.0), p) is None
    assert percentile_bound(np.arange(needed - 1.0), p) is None
    assert percentile(np.arange(float(needed)), p) == int(needed * p)
    assert percentile_bound(np.arange(float(needed)), p) == needed - 1


@pytest.mark.parametrize(("queries", "discarded"), [(64, 0), (100, 2), (201, 9), (708, 51), (79944, 7796)])
def test_the_bound_of_a_percentile_is_that_of_loadgens_published_logs(queries: int, discarded: int) -> None:
    """The logs say: processed at least 64 queries (201), would discard 9 highest latency queries."""
    ordered = np.random.default_rng(0).permutation(np.arange(float(queries)))
    assert percentile_bound(ordered, 0.9) == queries - 1 - discarded


# --- intervals -------------------------------------------------------------------------------------------------


def test_intervals_are_seeded_and_hold_their_estimate() -> None:
    blocks = np.random.default_rng(1).lognormal(0, 0.1, 20)
    assert estimate_median(blocks, 3) == estimate_median(blocks, 3) != estimate_median(blocks, 4)
    for interval in (estimate_median(blocks, 0), estimate_paired_ratio(blocks, blocks[::-1], 0)):
        assert interval.low <= interval.value <= interval.high
    assert estimate_paired_ratio(blocks, blocks, 0) == (1, 1, 1)


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    random, truth = np.random.default_rng(2), 1.07
    covered = 0
    for seed in range(400):
        weather = random.lognormal(0, 0.3, 20)
        baseline, contender = weather * random.lognormal(0, 0.05, (2, 20))
        interval = estimate_paired_ratio(truth * contender, baseline, seed)
        covered += interval.low <= truth <= interval.high
    assert 0.89 <= covered / 400 <= 0.98


def test_pairing_cancels_what_all_have_in_common_and_nothing_else_can() -> None:
    random = np.random.default_rng(3)
    weather = random.lognormal(0, 0.3, 20)
    baseline, contender = weather * random.lognormal(0, 0.01, (2, 20))
    paired, unpaired = estimate_paired_ratio(contender, baseline, 0), estimate_ratio(contender, baseline, 0)
    assert paired.high / paired.low < 1.02 < 1.1 < unpaired.high / unpaired.low


def test_a_few_disturbed_rounds_do_not_move_an_estimate() -> None:
    calm = np.full(20, 0.010)
    disturbed = calm.copy()
    disturbed[[3, 11, 17]] = 0.5
    assert estimate_paired_ratio(disturbed, calm, 0).value == pytest.approx(1)


# --- verdicts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        ((1.10, 1.07, 1.13), 0.01, Verdict.SLOWER),
        ((0.90, 0.87, 0.94), 0.01, Verdict.FASTER),
        ((1.01, 0.98, 1.04), 0.01, Verdict.SAME),
        ((1.04, 1.02, 1.06), 0.01, Verdict.INCONCLUSIVE),
        ((1.00, 0.80, 1.25), 0.01, Verdict.INCONCLUSIVE),
        ((1.10, 1.07, 1.13), 0.08, Verdict.INCONCLUSIVE),  # the noise floor lies within the interval
        ((1.00, 0.99, 1.01), 0.08, Verdict.INCONCLUSIVE),  # a run that tells a model from itself shows no sameness
        ((1.50, 1.40, 1.60), 0.12, Verdict.SLOWER),
        ((0.953, 0.9525, 0.9535), 0.0, Verdict.SAME),  # margins are symmetric as ratios are: 1 / 1.05 is 0.952
    ],
)
def test_a_verdict_follows_from_interval_margin_and_noise(
    ratio: tuple[float, float, float], noise: float, verdict: Verdict
) -> None:
    judgement = judge(Interval(*ratio), noise)
    assert judgement.verdict is verdict
    assert judgement.reason
    assert bool(judgement.advice) == (verdict is Verdict.INCONCLUSIVE)


def test_the_noise_floor_is_the_farthest_that_a_model_may_lie_from_itself() -> None:
    assert noise_of(Interval(1, 0.98, 1.01)) == pytest.approx(1 / 0.98 - 1)
    assert noise_of(Interval(1, 1, 1)) == 0


# --- whole runs, simulated -------------------------------------------------------------------------------------


@dataclass
class Weather:
    """What slows the whole machine down for a while: a random walk that is drawn back to where it began."""

    random: np.random.Generator
    level: float = 0.0

    def now(self) -> float:
        self.level = 0.95 * self.level + self.random.normal(0, 0.03)
        return math.exp(self.level)


@dataclass
class SimulatedLane:
    """Gives samples around `seconds`, as real ones lie: skewed, with outliers, and with a bias of the process's own."""

    seconds: float
    weather: Weather
    random: np.random.Generator
    bias: float = field(init=False)

    def __post_init__(self) -> None:
        self.bias = self.random.lognormal(0, 0.005)

    def warm(self, what: str, limit: float) -> Warmth:
        return Warmth(3, limit, settled=True)

    def block(self, what: str, seconds: float) -> list[float]:
        typical = self.seconds * self.bias * self.weather.now()
        count = max(1, round(seconds / typical))
        outliers = np.where(self.random.random(count) < 0.05, self.random.uniform(1.5, 4, count), 1)
        return list(typical * self.random.lognormal(0, 0.05, count) * outliers)


def simulated_verdict(seed: int, slowdown: float) -> Verdict:
    """The verdict of a run of a model, its twin, and a contender that takes `slowdown` times as long."""
    streams = np.random.default_rng(seed).spawn(4)
    weather = Weather(streams[3])
    latencies = (0.007, 0.007, 0.007 * slowdown)
    first, twin, contender = (
        Track(SimulatedLane(seconds, weather, random), str(seconds), (RUN,))
        for seconds, random in zip(latencies, streams, strict=False)
    )
    interleave([first, contender, twin], PLAN)
    noise = noise_of(paired_ratio(twin, first, seed))
    return judge(paired_ratio(contender, first, seed), noise).verdict


def test_a_model_is_the_same_as_itself_in_95_of_100_runs() -> None:
    verdicts = Counter(simulated_verdict(seed, 1.0) for seed in range(SIMULATIONS))
    assert verdicts[Verdict.SAME] >= 95, verdicts
    assert not verdicts[Verdict.FASTER] + verdicts[Verdict.SLOWER], verdicts


def test_ten_percent_more_time_are_found_in_95_of_100_runs() -> None:
    verdicts = Counter(simulated_verdict(seed, 1.1) for seed in range(SIMULATIONS))
    assert verdicts[Verdict.SLOWER] >= 95, verdicts
    assert not verdicts[Verdict.FASTER] + verdicts[Verdict.SAME], verdicts


# --- turns -----------------------------------------------------------------------------------------------------


@dataclass
class ScriptedLane:
    """Gives one sample a block, notes who was asked, and fails when told to."""

    name: str
    asked: list[str]
    fails_at: int | None = None

    def warm(self, what: str, limit: float) -> Warmth:
        return Warmth(3, limit, settled=self.name != "cold")

    def block(self, what: str, seconds: float) -> list[float]:
        if self.fails_at is not None and self.asked.count(self.name) == self.fails_at:
            raise UsageError("out of memory")
        self.asked.append(self.name)
        return [seconds]


def test_every_round_times_every_model_and_none_keeps_its_place() -> None:
    asked: list[str] = []
    tracks = [Track(ScriptedLane(name, asked), name, (RUN,)) for name in "abc"]
    interleave(tracks, replace(PLAN, samples=1))
    rounds = ["".join(asked[start : start + 3]) for start in range(0, len(asked), 3)]
    assert len(rounds) == PLAN.rounds
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert {one[0] for one in rounds} == set("abc")
    assert {(one[one.index("b") - 1]) for one in rounds if one[0] != "b"} == {"a", "c"}


def test_rounds_go_on_until_there_are_enough_samples_or_patience_ends() -> None:
    track = Track(ScriptedLane("a", []), "a", (RUN,))
    interleave([track], replace(PLAN, samples=65))
    assert track.count == 65
    slow = Track(ScriptedLane("a", []), "a", (RUN,))
    interleave([slow], replace(PLAN, samples=1000))
    assert slow.count == 3 * PLAN.rounds


def test_slow_calls_fill_their_time_in_fewer_rounds_but_no_less_than_an_interval_needs() -> None:
    class SlowLane(ScriptedLane):
        def block(self, what: str, seconds: float) -> list[float]:
            return [PLAN.seconds / 15]

    slow = Track(SlowLane("a", []), "a", (RUN,))
    interleave([slow], replace(PLAN, samples=1))
    assert slow.count == 15
    glacial = Track(SlowLane("a", []), "a", (RUN,))
    interleave([glacial], replace(PLAN, samples=1, seconds=0.1))
    assert glacial.count == 12


def test_compute_only_takes_its_share_of_the_time_and_no_more() -> None:
    class SlowLane(ScriptedLane):
        def block(self, what: str, seconds: float) -> list[float]:
            return [max(seconds, 1.0)]

    quick, slow = Track(ScriptedLane("a", []), "a"), Track(SlowLane("a", []), "a")
    interleave([quick, slow], replace(PLAN, samples=1))
    for track in (quick, slow):
        assert track.spent[COMPUTE] == pytest.approx(track.spent[RUN] / 3, rel=0.1)


def test_one_model_that_fails_leaves_the_others_their_figures() -> None:
    asked: list[str] = []
    good, bad = Track(ScriptedLane("good", asked), "good"), Track(ScriptedLane("bad", asked, fails_at=4), "bad")
    interleave([good, bad], replace(PLAN, samples=1))
    assert bad.failure == "out of memory"
    assert not bad.is_alive
    assert good.is_alive
    assert len(good.blocks[RUN]) == PLAN.rounds


# --- the clock -------------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """A clock that calls advance by the durations that they are given, the last one for ever."""

    durations: list[float]
    now: float = 0.0
    calls: int = 0

    def __call__(self) -> int:
        return round(self.now * 1e9)

    def call(self) -> None:
        self.now += self.durations[min(self.calls, len(self.durations) - 1)]
        self.calls += 1


def test_warming_up_ends_when_nothing_gets_faster() -> None:
    watch = Stopwatch([0.5] * 3 + [0.2] * 3 + [0.1] * 3 + [0.1])
    warmth = warm_up(watch.call, 60, watch)
    assert warmth.settled
    assert warmth.calls == watch.calls == 18
    assert warmth.seconds == pytest.approx(watch.now)


def test_warming_up_that_does_not_end_says_so() -> None:
    watch = Stopwatch([0.9**number for number in range(1000)])
    assert not warm_up(watch.call, 5, watch).settled


def test_a_block_leaves_out_the_first_calls_after_another_model() -> None:
    watch = Stopwatch([0.03, 0.02, 0.02, 0.01])
    assert block(watch.call, 1, watch) == pytest.approx([0.01] * 100)
    lengthy = Stopwatch([0.25, 0.125])
    assert block(lengthy.call, 1, lengthy) == pytest.approx([0.125] * 8)
    slow = Stopwatch([3.0, 0.01])
    assert block(slow.call, 1, slow) == [3.0]  # too long to be thrown away


# --- reports ---------------------------------------------------------------------------------------------------


def result(name: str = "net.onnx", engine: str = "onnxruntime", batch: int = 1, seconds: float = 0.01) -> Result:
    random = np.random.default_rng(batch)
    blocks = [list(seconds * random.lognormal(0, 0.02, 40)) for _ in range(20)]
    latency = Latency.of(blocks, 0)
    return Result(
        artifact=name,
        engine=engine,
        runtime="ONNX Runtime 1.0 (CPU)",
        device="cpu",
        batch=batch,
        threads=2,
        latency=latency,
        compute=latency,
        import_seconds=0.1,
        load_seconds=0.2,
        first_seconds=0.3,
        host_memory=10**8,
        device_memory=None,
        bytes=10**7,
        placement=place([Node("conv1", "Conv", "CPUExecutionProvider")], ["CPUExecutionProvider"], "the test"),
    )


def report(*results: Result, yardstick: float = 0.001, noise: float = 0.01) -> Report:
    random = np.random.default_rng(5)
    return Report(
        tool="demitasse",
        machine=machine.fingerprint(),
        environment={"onnxruntime": "1.0"},
        plan=PLAN,
        results=results,
        noise={1: noise},
        yardstick=tuple(yardstick * random.lognormal(0, 0.01, 20)),
    )


def stored(path: Path, one: Report) -> Path:
    path.write_text(one.to_json(), "utf-8")
    return path


def verdicts_of(one: Report) -> list[Verdict]:
    return [each.judgement.verdict for each in one.regressions]


def test_a_stored_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = report(result(), result(batch=8))
    assert load(stored(tmp_path / "base.json", one)) == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no stored benchmark"),
        ("[]", "no stored benchmark"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "results": []}', "no stored benchmark"),
    ],
)
def test_what_is_no_stored_report_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "base.json").write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "base.json")
    with pytest.raises(UsageError, match="can't be read"):
        load(tmp_path / "absent.json")


def test_a_slowdown_since_a_stored_result_is_status_1(tmp_path: Path) -> None:
    base = stored(tmp_path / "base.json", report(result(), result(batch=8)))
    slower = compare_with(report(result(seconds=0.012), result(batch=8)), base)
    assert verdicts_of(slower) == [Verdict.SLOWER, Verdict.SAME]
    assert slower.exit_status == 1
    same = compare_with(report(result()), base)
    assert verdicts_of(same) == [Verdict.SAME]
    assert same.exit_status == 0
    assert compare_with(report(result(seconds=0.005)), base).exit_status == 0


def test_a_machine_that_is_slower_itself_blames_no_model(tmp_path: Path) -> None:
    base = stored(tmp_path / "base.json", report(result()))
    tired = compare_with(report(result(seconds=0.0115), yardstick=0.00115), base)
    assert verdicts_of(tired) == [Verdict.INCONCLUSIVE]
    assert tired.exit_status == 0
    assert any("+15.0% time for the same arithmetic" in note for note in tired.notes)
    assert verdicts_of(compare_with(report(result(seconds=0.02), yardstick=0.00115), base)) == [Verdict.SLOWER]


def test_results_of_another_machine_or_precision_are_no_measure(tmp_path: Path) -> None:
    one = report(result())
    elsewhere = stored(tmp_path / "elsewhere.json", replace(one, machine=dict(one.machine) | {"cores": 96}))
    with pytest.raises(UsageError, match=r"another machine.*\n  cores: .* here, 96 there"):
        compare_with(one, elsewhere)
    rounded = stored(tmp_path / "tf32.json", replace(one, plan=replace(PLAN, tf32=True)))
    with pytest.raises(UsageError, match="was stored with --tf32"):
        compare_with(one, rounded)
    other = stored(tmp_path / "other.json", report(result("other.onnx")))
    with pytest.raises(UsageError, match=r"it has other.onnx in onnxruntime at batch 1 with 2 threads"):
        compare_with(one, other)


def test_an_invalid_result_is_compared_with_nothing_and_is_status_1(tmp_path: Path) -> None:
    base = stored(tmp_path / "base.json", report(result()))
    fallen = report(replace(result(), faults=("part of it did not run on the GPU",)))
    assert fallen.exit_status == 1
    assert verdicts_of(compare_with(fallen, base)) == [Verdict.INVALID]
    assert str(fallen.results[0]).startswith("INVALID: part of it")
    failed = replace(report(result()), failures=(Failure("net.onnx", "onnxruntime", 64, "out of memory"),))
    assert failed.exit_status == 1


def test_software_that_changed_is_named(tmp_path: Path) -> None:
    base = stored(tmp_path / "base.json", replace(report(result()), environment={"onnxruntime": "0.9"}))
    assert "onnxruntime: 0.9 then, 1.0 now" in compare_with(report(result()), base).notes


def test_a_result_is_told_in_a_line() -> None:
    assert str(result()) == "9.99 ms p50 (9.97-10), 100 images/s, 2 threads, CPU"
    assert "images/s, batch 8, GPU" in str(replace(result(batch=8), device="gpu"))


# --- scenarios -------------------------------------------------------------------------------------------------


def test_scenarios_have_loadgens_figures_and_objections() -> None:
    sweep = [result(), result(batch=8, seconds=0.04)]
    one, other = single_stream(sweep[0]), offline(sweep)
    assert (one.name, one.figure) == ("SingleStream", sweep[0].latency.p90_bound)
    assert one.objections == ("8 s of 600",)
    assert (other.name, other.figure, other.batch) == ("Offline", sweep[1].throughput, 8)
    assert other.objections == ("6400 samples of 24576", "32 s of 600")
    few = replace(sweep[0], latency=Latency.of([[0.01]] * 20, 0))
    assert single_stream(few).figure is None
    assert "20 queries of the 64 that early stopping needs" in single_stream(few).objections
    assert [scenario.name for scenario in scenarios(report(*sweep))] == ["SingleStream", "Offline"]


def test_an_invalid_run_is_no_best_throughput() -> None:
    invalid = replace(result(batch=8), faults=("part of it did not run on the GPU",))
    assert offline([result(), invalid]).batch == 1
    assert offline([invalid]).objections[0] == invalid.faults[0]


# --- forms -----------------------------------------------------------------------------------------------------


def shown(one: Report, width: int = 200) -> str:
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(render(one))
    return captured.get()


def compared() -> Report:
    results = (result(), result("net.tflite", "litert", seconds=0.005), result(batch=8, seconds=0.04))
    ratio = Interval(0.5, 0.49, 0.51)
    comparison = Comparison(results[1].name, results[0].name, 1, ratio, judge(ratio, 0.01))
    failure = Failure("net.tflite", "litert", 8, "out of memory")
    return replace(report(*results), comparisons=(comparison,), failures=(failure,))


def test_the_table_says_what_was_found_and_what_was_too_few() -> None:
    text = shown(compared())
    assert "FASTER" in text
    assert "0.50 (0.49-0.51)" in text
    assert "first, noise 1.0%" in text
    assert "FAILED       net.tflite in litert at batch 8: out of memory" in text
    few = replace(result(), latency=Latency.of([[0.01]] * 20, 0))
    assert "20 of 64" in shown(report(few))
    assert "20 of 662" in shown(report(few))
    assert "INVALID" in shown(report(replace(result(), faults=("it fell back",))))


def test_a_narrow_terminal_is_shown_fewer_columns_and_whole_words() -> None:
    wide, narrow = shown(compared()), shown(compared(), 80)
    head = narrow.splitlines()[2]
    assert "p99" in wide
    assert "compute only" in wide
    assert "p99" not in head
    assert "compute only" not in head
    assert re.search(r"net\.tflite +1 +.* 0\.50 \(0\.49-0\.51\) +FASTER", narrow)
    assert all(len(line) <= 80 for line in narrow.splitlines())


def test_rows_for_a_validations_report_carry_the_verdict() -> None:
    first, second, _ = compared().speeds()
    assert (first["artifact"], first["verdict"], first["percentiles"].keys()) == ("net.onnx", "", {"90", "99"})
    assert (second["verdict"], second["batch"]) == ("FASTER", 1)
    assert report(replace(result(), faults=("it fell back",))).speeds()[0]["verdict"] == "INVALID"


def marks(svg: str) -> Iterator[str]:
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle"):
        yield element[0].text or ""


@pytest.mark.parametrize("slow", [0.04, 4.0], ids=["linear", "logarithmic"])
def test_the_plot_has_a_point_a_batch(slow: float) -> None:
    one = report(result("<&>.onnx"), result("<&>.onnx", batch=8, seconds=slow), result("b.tflite", "litert"))
    assert [text.partition(":")[0] for text in marks(plot(one))] == [
        "<&>.onnx in onnxruntime, batch 1",
        "<&>.onnx in onnxruntime, batch 8",
        "b.tflite in litert, batch 1",
    ]


def test_a_plot_of_nothing_valid_says_so() -> None:
    assert "no valid result" in plot(report(replace(result(), faults=("it fell back",))))
