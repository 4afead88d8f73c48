"""Convert: read a source, simplify it, and write the artifacts that are asked for.

Everything that can be refused is refused before the first byte is written; the files are then made in a hidden folder
beside their place and moved there at the end, so that a run which fails or is interrupted leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from demitasse import __version__
from demitasse.errors import Offence, Unsupported, UsageError
from demitasse.ir.document import BlobRecord, Document, SourceFile, describe
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Layout, Shape
from demitasse.ir.preprocessing import Preprocessing
from demitasse.passes import can_change_batch, fold_preprocessing, with_batch
from demitasse.quantize.artifact import Order, Settings, make
from demitasse.quantize.doctor import Diagnosis
from demitasse.quantize.engines import EngineKind
from demitasse.quantize.storage import Recipe, save_recipe
from demitasse.readers import read, source_format
from demitasse.route import ROUTE, WRITES, KerasNet, mark, write
from demitasse.samples import Samples, from_path
from demitasse.targets import TARGETS, Target, lower, simplify, target_of

__all__ = ["DEFAULT_TARGETS", "MANIFEST", "Artifact", "Manifest", "Step", "convert"]

DEFAULT_TARGETS = ("onnx", "tflite", "savedmodel")
MANIFEST = "demitasse.json"
"""What the manifest is called in the folder that it describes."""
WEIGHTS = "weights"
WEIGHT_SUFFIXES = (".safetensors", ".npz")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file (or folder) that was written."""

    target: str
    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Step:
    """How long a part of the work took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a conversion read, did and wrote."""

    source: tuple[SourceFile, ...]
    source_format: str
    options: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    provenance: Mapping[str, tuple[BlobRecord, ...]]
    notes: tuple[str, ...]
    steps: tuple[Step, ...] = field(default=(), compare=False)
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict, compare=False)

    def to_json(self) -> str:
        """Serialize what stays the same from run to run: everything but the times."""
        return json.dumps(
            {
                "tool": f"demitasse {__version__}",
                "source_format": self.source_format,
                "source": [asdict(file) for file in self.source],
                "options": self.options,
                "artifacts": [asdict(artifact) | {"path": artifact.path.name} for artifact in self.artifacts],
                "notes": self.notes,
                "provenance": {
                    target: [asdict(record) for record in records] for target, records in self.provenance.items()
                },
            },
            indent=1,
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True)
class _Planned:
    """An artifact to write: its target (None for the weight map), and where it goes."""

    name: str
    target: Target | None
    path: Path


@dataclass(slots=True)
class _Clock:
    """Collects how long each step takes, and tells a listener what is being done."""

    progress: Progress | None
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(name, 0, 0)
        start = time.perf_counter()
        yield
        self.steps.append(Step(name, time.perf_counter() - start))


def convert(
    source: Path | str,
    weights: Path | str | None = None,
    *,
    out: Path | str,
    to: Sequence[str] | None = None,
    calibration: Path | str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    batch: int | str | None = None,
    io_layout: Layout | None = None,
    outputs: Sequence[str] | None = None,
    opset: int | None = None,
    int8_io: bool = False,
    preprocessing: Preprocessing | None = None,
    fold: bool = False,
    labels: Sequence[str] | None = None,
    plugins: Iterable[Path] = (),
    reading: Mapping[str, Any] | None = None,
    route: str | None = None,
    quantization: Settings | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Convert a source model into one or more artifacts.

    Args:
        source: prototxt, .h5, .keras or .json; see `demitasse.readers.read`.
        weights: the file with the weights, where the source doesn't hold them.
        out: a file whose suffix names a target, or a folder that receives one artifact a target and demitasse.json.
        to: names of targets, for a folder; by default ONNX, TFLite and SavedModel, and INT8 where there is calibration.
        calibration: images or arrays for the ranges of INT8 artifacts; see `demitasse.samples.from_path`.
        input_shapes: shapes that replace those of the source, in its own layout.
        batch: a number, or "dynamic"; by default dynamic where source and target can, and 1 for INT8.
        io_layout: the layout of images that go in and come out; by default the target's own.
        outputs: blobs to cut the net at.
        opset: of ONNX artifacts; by default the writer's.
        int8_io: whether INT8 artifacts take and give integers.
        preprocessing: the contract that artifacts carry and calibration images go through; by default the source's.
        fold: whether to put the preprocessing's arithmetic into the artifacts, which then take uint8 RGB.
        labels: one a class, stored in the artifacts.
        plugins: Python files with readers for further layer types; they are run.
        reading: what the format's own `read` takes besides: `phase`, `level`, `stages` (Caffe), `lambdas`, `backend`
            (Keras).
        route: "tensorflow" lets Keras load a Keras file, which runs what is in it, and TensorFlow's converters write.
        quantization: how INT8 artifacts are made; see `demitasse.quantize.artifact.Settings`.
        progress: called with a step's name, how much of it is done, and how much there is (0 where unknown).

    Returns:
        The manifest; for a folder it is also written there.

    Raises:
        MalformedModel, Unsupported, UsageError: see `demitasse.errors`. Nothing is written then.
    """
    source, weights, out = Path(source), Path(weights) if weights is not None else None, Path(out)
    quantization = quantization or Settings()
    has_ranges = quantization.ranges is not None and quantization.ranges.exists()
    planned = _plan(source, out, to, calibrated=calibration is not None or has_ranges)
    _check_place(out)
    clock = _Clock(progress)
    if route is not None:
        _check_route(route, source, planned, fold=fold, io_layout=io_layout)
    with clock.step("read"):
        given: dict[str, Any] = {"input_shapes": input_shapes, "outputs": outputs, "plugins": plugins}
        net = KerasNet(source, weights, **given) if route is not None else None
        graph = net.graph if net is not None else read(source, weights, **given, **(reading or {}))
        files = tuple(SourceFile.of(path) for path in (source, weights) if path is not None)
    contract = preprocessing or graph.preprocessing
    folded = contract.to_dict() if fold and contract is not None else None
    if fold:
        if contract is None:
            raise UsageError("there is no preprocessing to fold: give --preprocess, or --mean, --scale and --channels")
        graph, contract = fold_preprocessing(graph, contract)
    samples = _calibration(Path(calibration), graph, contract) if calibration is not None else None
    options: dict[str, Any] = {
        "batch": batch,
        "io_layout": io_layout.value if io_layout else None,
        "outputs": list(outputs) if outputs else None,
        "opset": opset,
        "int8_io": int8_io,
        "fold_preprocessing": folded,
        "route": route,
        "reading": dict(reading or {}),
        "input_shapes": {name: list(shape) for name, shape in (input_shapes or {}).items()},
    }
    with clock.step("simplify"):
        lowered = _lower_all(planned, graph, batch, io_layout) if net is None else _shape_all(planned, net, batch)

    def document(item: _Planned, lowered_graph: Graph) -> Document:
        described = describe(
            lowered_graph,
            target=item.name,
            tool=f"demitasse {__version__}",
            source_format=source_format(source),
            source=files,
            options=options,
            preprocessing=contract.to_dict() if contract else None,
            labels=tuple(labels) if labels is not None else None,
        )
        return described if net is None else mark(described, net)

    documents: dict[str, Document] = {}
    diagnoses: dict[str, Diagnosis] = {}
    with _staging(out) as staging:
        for item in planned:
            path = staging / item.path.name
            with clock.step(f"write {item.name}"):
                if item.target is None:
                    graph.weights.save(path)
                    continue
                documents[item.name] = document(item, lowered[item.name])
                call = (lowered[item.name], path, documents[item.name])
                if net is not None:
                    write(net, *call, samples=samples, opset=opset, int8_io=int8_io)
                elif item.target.calibrated:
                    order = Order(
                        item.name, *call, _writer(item.target, opset, int8_io), EngineKind(item.target.engine)
                    )
                    diagnosis = make(order, samples, quantization, contract, progress)
                    diagnoses |= {item.name: diagnosis} if diagnosis is not None else {}
                else:
                    _writer(item.target, opset)(*call)
                # Read back: the writer knows what the format made of the tensors' names.
                documents[item.name] = item.target.read_document(path) or documents[item.name]
        artifacts = tuple(_artifact(item, staging / item.path.name) for item in planned)
        manifest = Manifest(
            source=files,
            source_format=source_format(source),
            options=options,
            artifacts=artifacts,
            provenance={name: each.provenance for name, each in documents.items()},
            notes=tuple(dict.fromkeys(note for each in documents.values() for note in each.notes)),
            steps=tuple(clock.steps),
            diagnoses=diagnoses,
        )
        if planned[0].path != out:
            (staging / MANIFEST).write_text(manifest.to_json() + "\n", "utf-8")
        _move_all(staging, out, single=planned[0].path == out)
    if quantization.recipe is not None and diagnoses:
        save_recipe(quantization.recipe, Recipe({name: each.chosen.real for name, each in diagnoses.items()}))
    return manifest


def _writer(target: Target, opset: int | None, int8_io: bool = False) -> Callable[..., None]:
    """Return what writes an artifact of a target, with the options that it takes."""
    options: dict[str, Any] = {"opset": opset} if target.name.startswith("onnx") and opset is not None else {}
    if target.calibrated:
        options["int8_io"] = int8_io
    return partial(target.write, **options)


def _check_route(
    route: str, source: Path, planned: Sequence[_Planned], *, fold: bool, io_layout: Layout | None
) -> None:
    """Refuse what the other route can't do, before Keras runs anything.

    Raises:
        UsageError: all of it is listed.
    """
    faults = [] if route == ROUTE else [f"there is no route {route!r}; the other way is {ROUTE!r}"]
    if source_format(source) != "keras":
        faults.append(f"{source.name} is no Keras file")
    beyond = [item.name for item in planned if item.name not in WRITES]
    if beyond:
        faults.append(f"it writes no {' or '.join(beyond)}: leave --route away for that")
    if fold:
        faults.append("it can't fold preprocessing")
    if io_layout is not None:
        faults.append("it keeps the layout of the source: leave --io-layout away")
    if faults:
        raise UsageError(f"--route {route}: {'; '.join(faults)}")


def _shape_all(planned: Sequence[_Planned], net: KerasNet, batch: int | str | None) -> dict[str, Graph]:
    """Describe a net that Keras holds for the batch of each artifact."""
    return {
        item.name: net.shaped(_batch_for(item.target, net.graph, batch)) for item in planned if item.target is not None
    }


def _plan(source: Path, out: Path, to: Sequence[str] | None, *, calibrated: bool) -> list[_Planned]:
    """Say which artifacts are wanted and where they go, and check what can be checked without reading the source."""
    single = target_of(out)
    if out.name.endswith(WEIGHT_SUFFIXES):
        names = [WEIGHTS]
    elif single is not None:
        names = [single.name]
    else:
        names = list(to or [*DEFAULT_TARGETS, *(["tflite-int8"] if calibrated else [])])
    if to and (single or out.name.endswith(WEIGHT_SUFFIXES)) and list(to) != names:
        raise UsageError(f"{out.name} is a file for {names[0]}, but {', '.join(to)} is asked for; name a folder")
    unknown = [name for name in names if name not in TARGETS and name != WEIGHTS]
    if unknown:
        raise UsageError(f"unknown target {', '.join(unknown)}; there are {', '.join([*TARGETS, WEIGHTS])}")
    planned = []
    for name in dict.fromkeys(names):
        target = TARGETS.get(name)
        if target is not None:
            target.check_dependency()
            if target.calibrated and not calibrated:
                raise UsageError(
                    f"{name} needs the ranges of real inputs: give --calibration with images or an .npz file"
                )
        suffix = target.suffix if target else WEIGHT_SUFFIXES[0]
        is_file = single is not None or out.name.endswith(WEIGHT_SUFFIXES)
        place = out if is_file else out / f"{source.stem}{suffix}"
        planned.append(_Planned(name, target, place))
    return planned


def _check_place(out: Path) -> None:
    """Make sure that something can be written at `out`."""
    if not out.parent.exists():
        raise UsageError(f"{out}: the folder {out.parent} does not exist")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: {out.parent} is not a folder")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out`, and remove it whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".demitasse-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: can't be written: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise UsageError(f"{out}: can't be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_all(staging: Path, out: Path, *, single: bool) -> None:
    """Move finished artifacts into place, over earlier ones of the same name."""
    if not single:
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out}: is a file; name a folder that does not exist yet, or an artifact's file name")
        out.mkdir(exist_ok=True)
    for path in sorted(staging.iterdir()):
        place = out.with_name(path.name) if single else out / path.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        path.replace(place)


def _artifact(item: _Planned, written: Path) -> Artifact:
    digest = hashlib.sha256()
    size = 0
    if written.is_dir():
        files = sorted(path for path in written.rglob("*") if path.is_file())
    else:
        # An ONNX model over 2 GiB keeps its weights in a second file beside it.
        files = [path for path in (written, written.with_name(f"{written.name}.data")) if path.exists()]
    for path in files:
        if len(files) > 1:
            digest.update(f"{path.relative_to(written.parent).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    return Artifact(item.name, item.path, size, digest.hexdigest())


def _lower_all(
    planned: Sequence[_Planned], graph: Graph, batch: int | str | None, io_layout: Layout | None
) -> dict[str, Graph]:
    """Bring the graph into each target's shape; what the targets can't hold is listed for all of them at once."""
    simplified: dict[int | None, Graph] = {}
    lowered: dict[str, Graph] = {}
    offences: list[Offence] = []
    for item in planned:
        if item.target is None:
            continue
        size = _batch_for(item.target, graph, batch)
        if size not in simplified:
            simplified[size] = simplify(_with_batch(graph, size))
        lowered[item.name] = lower(simplified[size], item.target, io_layout)
        found = item.target.offences(lowered[item.name])
        offences += [replace(offence, reason=f"{item.name}: {offence.reason}") for offence in found]
    if offences:
        raise Unsupported("the net can't be carried to every format asked for", offences)
    return lowered


def _batch_for(target: Target, graph: Graph, batch: int | str | None) -> int | None:
    """Return the batch of an artifact, None for a dynamic one, -1 for the source's own."""
    if isinstance(batch, int) and batch == graph.type(graph.inputs[0]).shape[0]:
        return -1
    reason = _fixed_batch(graph)
    if batch == "dynamic":
        if reason is not None:
            raise UsageError(f"the batch can't be dynamic: {reason}")
        return None
    if isinstance(batch, int):
        if reason is not None:
            raise UsageError(f"the batch can't be {batch}: {reason}")
        return batch
    return -1 if reason is not None else target.batch


def _fixed_batch(graph: Graph) -> str | None:
    """Return why the net computes for its own batch alone; None where it takes any."""
    reason = can_change_batch(graph)
    if reason is None and not graph.batch_is_dynamic:
        return "a layer mixes the samples of a batch, or has as many rows of its own"
    return reason


def _with_batch(graph: Graph, batch: int | None) -> Graph:
    if batch == -1:
        return replace(graph, batch_is_dynamic=False)
    return with_batch(graph, batch or 1, dynamic=batch is None)


def _calibration(source: Path, graph: Graph, contract: Preprocessing | None) -> Samples:
    types = {name: graph.type(name) for name in graph.inputs}
    one = {name: type_._replace(shape=(1, *type_.shape[1:])) for name, type_ in types.items()}
    return from_path(source, one if _fixed_batch(graph) is None else types, graph.layout, contract)
