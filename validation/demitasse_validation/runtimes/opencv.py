"""Runs Caffe nets in OpenCV's own Caffe importer: an independent opinion on what the source means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from demitasse.errors import MalformedModel, MissingDependency
from demitasse.ir.graph import Graph
from demitasse.ir.weights import Array
from demitasse.readers.caffe.net import Layer, read_net
from demitasse_validation.runtimes import check_feeds
from demitasse_validation.runtimes.evaluator import specs
from demitasse_validation.runtimes.prototxt_cut import Cut, CutNet, input_name, refused_layers

__all__ = ["OpenCvRunner"]


class _Quirk(NamedTuple):
    """A parameter that OpenCV's importer takes no notice of, as comparing it with Caffe itself showed."""

    type: str
    applies: Callable[[Layer], bool]
    reason: str


# Where OpenCV 4 computes something else than Caffe does, its opinion is none.
QUIRKS: tuple[_Quirk, ...] = (
    _Quirk(
        "InnerProduct",
        lambda layer: layer.param("inner_product_param").flag("transpose", False),
        "OpenCV ignores `transpose`",
    ),
    _Quirk(
        "Log",
        lambda layer: any(name in layer.param("log_param") for name in ("base", "scale", "shift")),
        "OpenCV ignores `base`, `scale` and `shift` of Log",
    ),
    _Quirk("Axpy", lambda _: True, "OpenCV scales the other operand of Axpy"),
    _Quirk("DetectionOutput", lambda _: True, "OpenCV orders and counts detections otherwise"),
    _Quirk(
        "PriorBox",
        lambda layer: any(
            size % 1 for name in ("min_size", "max_size") for size in layer.param("prior_box_param").numbers(name)
        ),
        "OpenCV keeps the fractions of `min_size` and `max_size`, which Caffe cuts off",
    ),
    _Quirk("Swish", lambda layer: "beta" in layer.param("swish_param"), "OpenCV ignores `beta` of Swish"),
    _Quirk(
        "Deconvolution",
        lambda layer: any(
            step != 1 for name in ("dilation", "hole") for step in layer.param("convolution_param").numbers(name)
        ),
        "OpenCV ignores `dilation` of Deconvolution",
    ),
    _Quirk(
        "LRN",
        lambda layer: (
            layer.param("lrn_param").number("k") != 1
            and layer.param("lrn_param").enum("norm_region") != "WITHIN_CHANNEL"
        ),
        "OpenCV ignores `k` of LRN",
    ),
    _Quirk(
        "MVN",
        lambda layer: "eps" in layer.param("mvn_param"),
        "OpenCV adds `eps` of MVN to the variance, Caffe to its root",
    ),
    _Quirk(
        "Scale",
        lambda layer: len(layer.bottoms) > 1 and layer.param("scale_param").flag("bias_term", False),
        "OpenCV ignores the bias of a Scale with two bottoms",
    ),
    _Quirk("Slice", lambda layer: "slice_dim" in layer.param("slice_param"), "OpenCV ignores `slice_dim`"),
    _Quirk("Concat", lambda layer: "concat_dim" in layer.param("concat_param"), "OpenCV ignores `concat_dim`"),
)


class _Place(NamedTuple):
    """Where OpenCV keeps a blob: its name for the layer, and which of the layer's outputs it is."""

    layer: str
    output: int


class OpenCvRunner:
    """Runs a prototxt and a caffemodel in OpenCV 4, every layer for itself.

    OpenCV knows results by their layers, so values that an in-place layer overwrites are there too. Fusion and Winograd
    convolution are off: each layer is computed as it stands. What OpenCV can't run, or is known to misread, is no
    error here: `missing` tells the reason, as this runtime only supports findings about the others. A net with layers
    that OpenCV refuses is cut there: `cut` names the blobs that the layers behind have to be fed with, besides inputs.

    Raises:
        MissingDependency: OpenCV isn't installed, or is a release without the Caffe importer.
    """

    def __init__(self, source: Path, weights: Path | None, graph: Graph, *, threads: int | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingDependency("the independent runtime for Caffe nets", "cv2", "caffe") from error
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise MissingDependency("OpenCV 5 reads no Caffe nets: the independent runtime", "cv2 (4)", "caffe")
        self.graph = graph
        self.runtime = f"OpenCV {cv2.__version__} (CPU)"
        self.inputs = specs(graph, graph.inputs)
        self.outputs = specs(graph, graph.outputs)
        self._threads = threads
        self._refusal = ""
        self._is_cut = False
        self._known: frozenset[str] = frozenset()
        self.cut: dict[str, str] = {}
        self._places: dict[str, _Place] = {}
        self._unusable: dict[str, str] = {}
        self._net: Any = None
        if source.suffix == ".caffemodel":
            self._refusal = "it reads structures from a prototxt alone"
            return
        layers = {layer.name: layer for layer in read_net(source, None).layers}
        self._places = _places(graph, layers)
        self._unusable = _namesakes(graph, self._places) | _misread(graph, layers)
        self._source, self._weights = source, weights
        try:
            self._net = self._opened(source.read_bytes())
        except cv2.error as error:
            self._cut(_reason(error))

    def _opened(self, prototxt: bytes) -> Any:
        """Load a net.

        Raises:
            cv2.error: OpenCV refuses it.
        """
        import cv2

        weights = b"" if self._weights is None else self._weights.read_bytes()
        with _quiet():
            net = cv2.dnn.readNetFromCaffe(
                np.frombuffer(prototxt, np.uint8),
                np.frombuffer(weights, np.uint8) if weights else np.zeros(0, np.uint8),
            )
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.enableFusion(False)
        net.enableWinograd(False)
        self._known = frozenset(net.getLayerNames())
        return net

    def _cut(self, reason: str) -> None:
        """Load the net without the layers that OpenCV refuses; what they give is fed to the layers behind them."""
        self._net, self._refusal, self._is_cut = None, reason, True
        try:
            whole = CutNet.of(self._source.read_text("utf-8"))
        except (MalformedModel, UnicodeDecodeError):
            return
        blobs: dict[str, list[str]] = {}
        for each in self.graph.layers:
            blobs.setdefault(each.origin.layer, []).extend(each.outputs)
        given = {
            f"{layer.name}/{top}": (layer.name, input_name(layer, top), blob)
            for layer in whole.layers
            for top, blob in zip(layer.tops, blobs.get(layer.name, ()), strict=False)
            if blob in self.graph.values
        }
        shapes = {name: self.graph.type(blob).shape for name, (_, _, blob) in given.items()}
        refused = refused_layers(whole, shapes, self._tried)
        if refused:
            self._net, self._refusal = self._opened(whole.without(refused, shapes).text.encode()), ""
            self.cut = {
                blob: name for layer, name, blob in given.values() if layer in refused and blob not in self.inputs
            }
            reasons = {blob: refused[layer] for layer, _, blob in given.values() if layer in refused}
            self._unusable |= {blob: f"OpenCV can't run this layer: {why}" for blob, why in reasons.items()}

    def _tried(self, cut: Cut) -> str:
        """Load a net and run it on zeros; return why OpenCV refuses, or nothing."""
        import cv2

        inputs = {name: self.graph.type(name).shape for name in self.inputs if f'"{name}"' in cut.text}
        try:
            net = self._opened(cut.text.encode())
            with _quiet(), self._limited_threads():
                for name, shape in (inputs | cut.inputs).items():
                    net.setInput(np.zeros(shape, np.float32), name)
                if len(net.getLayerNames()):
                    net.forward(net.getUnconnectedOutLayersNames())
        except cv2.error as error:
            return _reason(error) or "it says no more"
        return ""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.run_layers(feeds, self.outputs)

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        import cv2

        check_feeds(self.graph.name, self.inputs, {name: array for name, array in feeds.items() if name in self.inputs})
        wanted = list(dict.fromkeys(tensors))
        absent = self.missing(wanted)
        results = {name: feeds[name] for name in wanted if name in feeds}
        computed = [name for name in wanted if name not in absent and name not in feeds]
        if not computed:
            return results
        try:
            with _quiet(), self._limited_threads():
                for name, array in feeds.items():
                    self._net.setInput(np.ascontiguousarray(array, np.float32), self.cut.get(name, name))
                given = self._forward([self._places[name] for name in computed])
        except cv2.error as error:
            if self._is_cut:
                self._refusal = _reason(error)
                return results
            self._cut(_reason(error))
            return results if self.cut or self._refusal else self.run_layers(feeds, wanted)
        for name in computed:
            layer, output = self._places[name]
            if output < len(given[layer]):
                results[name] = self._shaped(name, given[layer][output])
            else:
                self._unusable[name] = "OpenCV's layer has no such output"
        return results

    def _forward(self, places: Iterable[_Place]) -> dict[str, Sequence[Array]]:
        """Return all outputs of the layers at these places.

        A layer of several outputs is run on its own: when OpenCV runs on past it, it keeps the first of them alone and
        gives the others' memory away.
        """
        outputs: dict[str, int] = {}
        for place in places:
            outputs[place.layer] = max(place.output, outputs.get(place.layer, 0))
        several = [layer for layer, output in outputs.items() if output > 0]
        given = {layer: self._net.forwardAndRetrieve([layer])[0] for layer in several}
        others = [layer for layer in outputs if layer not in given]
        if others:
            given |= dict(zip(others, self._net.forwardAndRetrieve(others), strict=True))
        return given

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        absent = {}
        for name in tensors:
            if name in self.graph.inputs:
                continue
            if self._refusal:
                absent[name] = f"OpenCV can't run this net: {self._refusal}"
            elif name not in self._places:
                absent[name] = "no layer of the source gives it"
            elif name in self._unusable:
                absent[name] = self._unusable[name]
            elif self._places[name].layer not in self._known:
                absent[name] = "OpenCV's importer drops this layer"
        return absent

    def _shaped(self, name: str, array: Array) -> Array:
        """Give blobs of rank 0 or 1 their shape back: OpenCV's matrices have two dimensions at least."""
        rank = self.graph.type(name).rank
        return array.reshape([-1] if rank == 1 else []) if rank < 2 and array.ndim == 2 else array

    @contextmanager
    def _limited_threads(self) -> Iterator[None]:
        """Limit OpenCV's threads for a run; the setting is one for the whole process, so it is put back."""
        import cv2

        before = cv2.getNumThreads()
        if self._threads is not None:
            cv2.setNumThreads(self._threads)
        try:
            yield
        finally:
            cv2.setNumThreads(before)


def _places(graph: Graph, layers: Mapping[str, Layer]) -> dict[str, _Place]:
    """Say what OpenCV calls the layer of each blob: a convolution goes by its top, any other layer by its name."""
    places = {}
    for layer in graph.layers:
        source = layers.get(layer.origin.layer)
        by_top = source is not None and source.type in {"Convolution", "Deconvolution"}
        for output, blob in enumerate(layer.outputs):
            if source is not None and by_top and output < len(source.tops):
                places[blob] = _Place(source.tops[output], 0)
            elif blob in graph.values:
                places[blob] = _Place(layer.origin.layer, output)
    return {blob: place for blob, place in places.items() if blob in graph.values}


def _namesakes(graph: Graph, places: Mapping[str, _Place]) -> dict[str, str]:
    """Find blobs of layers that OpenCV calls by the same name: which of them it gives can't be told."""
    owners: dict[str, set[int]] = {}
    for index, layer in enumerate(graph.layers):
        for blob in layer.outputs:
            if blob in places:
                owners.setdefault(places[blob].layer, set()).add(index)
    return {
        blob: "OpenCV calls two layers by the same name"
        for blob, place in places.items()
        if len(owners[place.layer]) > 1
    }


def _misread(graph: Graph, layers: Mapping[str, Layer]) -> dict[str, str]:
    """Find blobs that OpenCV computes otherwise than Caffe, and what depends on them."""
    reasons: dict[str, str] = {}
    for layer in graph.layers:
        source = layers.get(layer.origin.layer)
        quirks = [quirk.reason for quirk in QUIRKS if source and source.type == quirk.type and quirk.applies(source)]
        inherited = [reasons[name] for name in layer.inputs if name in reasons]
        for reason in (*quirks[:1], *inherited[:1]):
            reasons.update(dict.fromkeys(layer.outputs, reason))
    return reasons


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what it raises as well; the level is one for the whole process."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _reason(error: Exception) -> str:
    """Cut OpenCV's message, `OpenCV(4.11) /file.cpp:12: error: (-2:kind) reason in function 'f'`, to the reason."""
    text = str(error).split("error: (", 1)[-1]
    return " ".join(text.split(") ", 1)[-1].split())
