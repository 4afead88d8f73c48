"""Turn a net for training into the one that people deploy, as they do by hand.

Data layers become inputs, and what they do to an image becomes the preprocessing contract; losses give the
probabilities that they compute on the way; layers that only measure go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from demitasse.errors import UsageError
from demitasse.ir.ops import Size
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.readers.caffe.mean import find_mean
from demitasse.readers.caffe.net import Layer, Net, NetInput

__all__ = ["DATA_LAYERS", "LOSSES", "MEASURES", "DeployNet", "deploy"]

DATA_LAYERS: dict[str, str] = {
    "AnnotatedData": "annotated_data_param",
    "Data": "data_param",
    "DenseImageData": "dense_image_data_param",
    "DummyData": "dummy_data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "MemoryData": "memory_data_param",
    "VideoData": "video_data_param",
    "WindowData": "window_data_param",
}
"""Layers that feed a net, and the parameter block of each; a Python layer without bottoms is one too."""

LOSSES = frozenset(("InfogainLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"))
"""Losses that compute probabilities from their first bottom; the readers of these types give those."""

MEASURES = frozenset(
    ("Accuracy", "DetectionEvaluate", "HDF5Output", "HingeLoss", "ImageOutput", "MultinomialLogisticLoss")
)
"""Layers that only measure or record. Any other type that ends in `Loss` is one too; `EuclideanLoss` is one in a net
with data layers, and computed in one without."""

_WITH_LABELS = frozenset(("AnnotatedData", "Data", "DenseImageData", "ImageData", "MemoryData", "WindowData"))
"""Data layers whose first top is an image, and whose others are what a net is trained to say of it."""


@dataclass(frozen=True, eq=False)
class DeployNet:
    """A net of inputs and layers that compute, its preprocessing as far as the source tells it, and notes."""

    name: str
    where: str
    inputs: tuple[NetInput, ...]
    layers: tuple[Layer, ...]
    dropped: tuple[Layer, ...]
    has_weights: bool
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]


def deploy(net: Net, known: Iterable[str] = ()) -> DeployNet:
    """Return the deploy form of a net; one that is in deploy form already stays as it is.

    Args:
        net: what the files say.
        known: types that a reader is there for, and that therefore stay.
    """
    net = replace(net, layers=tuple(_spelled_as_known(layer, known) for layer in net.layers))
    if net.path == net.weights:
        # A snapshot's layers carry the phase of the net that was trained, whatever they are used for now.
        for layer in net.layers:
            layer.reads.add(("phase",))
    sources = [layer for layer in net.layers if _is_source(layer)]
    feeds = [_Feed(layer, net) for layer in sources]
    labels = {top for feed in feeds for top in feed.labels}
    rest = _without_labels([layer for layer in net.layers if layer not in sources], labels)
    training = _training_only(rest, frozenset(known), from_data=bool(sources))
    kept = [layer for layer in rest if layer not in training]
    notes = [f"{note.where}: {note.message}" for note in net.notes]
    layers = tuple(_with_probabilities(kept, notes))
    preprocessing = next((found for feed in feeds if (found := feed.preprocessing(notes)) is not None), None)
    return DeployNet(
        name=net.name or net.path.stem,
        where=str(net.path),
        inputs=(*net.inputs, *(entry for feed in feeds for entry in feed.inputs())),
        layers=layers,
        dropped=tuple(layer for layer in net.layers if layer in training or layer not in (*rest, *sources)),
        has_weights=net.weights is not None,
        preprocessing=preprocessing,
        notes=tuple(notes),
    )


def _spelled_as_known(layer: Layer, known: Iterable[str]) -> Layer:
    """Spell the type of a fork's V1 layer (`CONVOLUTION3D`) as its current one (`Convolution3D`), if there is one."""
    if layer.type in known or layer.type in DATA_LAYERS or layer.type != layer.type.upper():
        return layer
    bare = layer.type.replace("_", "").lower()
    fitting = [name for name in (*known, *DATA_LAYERS) if name.lower() == bare]
    return replace(layer, type=fitting[0]) if len(fitting) == 1 else layer


def _is_source(layer: Layer) -> bool:
    return not layer.bottoms and bool(layer.tops) and (layer.type in DATA_LAYERS or layer.type == "Python")


def _without_labels(layers: Sequence[Layer], labels: set[str]) -> list[Layer]:
    """Leave out layers that work on labels alone."""
    derived = set(labels)
    rest = []
    for layer in layers:
        if layer.bottoms and derived.issuperset(layer.bottoms):
            derived.update(layer.tops)
        else:
            derived.difference_update(layer.tops)
            rest.append(layer)
    return rest


def _training_only(layers: Sequence[Layer], known: frozenset[str], *, from_data: bool) -> list[Layer]:
    """Find the layers that only measure, and losses whose probabilities the net computes anyway."""
    softmaxes = {bottom for layer in layers if layer.type in ("Softmax", "Sigmoid") for bottom in layer.bottoms}
    found = []
    for layer in layers:
        if layer.type in MEASURES or (layer.type == "EuclideanLoss" and from_data):
            found.append(layer)
        elif layer.type in LOSSES:
            if layer.bottoms and layer.bottoms[0] in softmaxes:
                found.append(layer)
        elif layer.type.endswith("Loss") and layer.type not in known:
            found.append(layer)
    return found


def _with_probabilities(layers: Sequence[Layer], notes: list[str]) -> Iterator[Layer]:
    """Give each loss its scores alone to read, and a top for the probabilities.

    That is its second top, if it has one; otherwise `prob`, as in deploy files, or `layer/prob` where that is taken.
    """
    taken = {blob for layer in layers for blob in (*layer.bottoms, *layer.tops)}
    for layer in layers:
        if layer.type not in LOSSES or not layer.bottoms:
            yield layer
            continue
        top = layer.tops[1] if len(layer.tops) > 1 else "prob"
        if len(layer.tops) < 2 and top in taken:
            top = f"{layer.name}/prob"
        taken.add(top)
        notes.append(f"{layer.where}, layer {layer.name!r} ({layer.type}): gives its probabilities as {top!r}")
        yield replace(layer, bottoms=layer.bottoms[:1], tops=(top,))


class _Feed:
    """A data layer, as the inputs and the preprocessing that it stands for."""

    def __init__(self, layer: Layer, net: Net) -> None:
        self._layer = layer
        self._net = net
        self._data = layer.param(DATA_LAYERS.get(layer.type, "python_param"))
        if layer.type == "VideoData" and "image_data_param" in layer.params:
            self._data = layer.param("image_data_param")  # C3D's spelling
        self._transform = layer.param("transform_param")

    @property
    def labels(self) -> tuple[str, ...]:
        """The tops that hold labels."""
        return self._layer.tops[1:] if self._layer.type in _WITH_LABELS else ()

    def inputs(self) -> Iterator[NetInput]:
        """Yield an input for each top, with what is known of its shape."""
        for index, top in enumerate(self._layer.tops):
            shape = self._dummy_shape(index) if self._layer.type == "DummyData" else None
            if index == 0 and shape is None:
                shape = self._image_shape()
            elif top in self.labels:
                shape = (1,)
            yield NetInput(top, shape, self._layer.where, self._layer.name)

    def _dummy_shape(self, index: int) -> tuple[int, ...] | None:
        shapes = self._data.blocks("shape")
        if shapes:
            return shapes[index if len(shapes) > 1 else 0].integers("dim")
        sizes = [self._data.integers(name) for name in ("num", "channels", "height", "width")]
        if not all(sizes):
            return None
        return tuple(size[index] if index < len(size) else size[0] for size in sizes)

    def _image_shape(self) -> tuple[int, ...] | None:
        """Return the shape of one sample in a batch, as far as the file tells it."""
        channels, size = self._channels(), self._crop() or self._stated_size()
        frames = self._data.integer("new_length", 0)
        return None if channels is None or size is None else (1, channels, *((frames,) if frames else ()), *size)

    def _crop(self) -> Size | None:
        side = self._transform.integer("crop_size") or self._data.integer("crop_size", 0)
        height = self._transform.integer("crop_h") or side
        width = self._transform.integer("crop_w") or side
        return Size(height, width) if height and width else None

    def _stated_size(self) -> Size | None:
        """Return the size that images have before they are cropped."""
        resize = self._transform.block("resize_param")
        for block, height, width in (
            (self._data, "new_height", "new_width"),
            (self._data, "height", "width"),
            (resize, "height", "width"),
        ):
            if height in block and width in block:
                size = Size(block.integer(height), block.integer(width))
                if min(size) > 0:
                    return size
        return None

    def _channels(self) -> int | None:
        if "channels" in self._data:
            return self._data.integer("channels")
        if self._transform.flag("force_gray"):
            return 1
        if self._transform.flag("force_color") or self._layer.type in ("AnnotatedData", "VideoData", "WindowData"):
            return 3
        if self._layer.type in ("ImageData", "DenseImageData"):
            return 3 if self._data.flag("is_color", True) else 1
        if len(self._transform.numbers("mean_value")) == 3:
            return 3
        return self._channels_by_weights()

    def _channels_by_weights(self) -> int | None:
        """Ask the kernel of the first convolution that reads the data."""
        for layer in self._net.layers:
            if layer.type == "Convolution" and self._layer.tops[0] in layer.bottoms and layer.blobs:
                shape = layer.blobs[0].shape
                if len(shape) == 4:
                    return shape[1] * layer.param("convolution_param").integer("group")
        return None

    def preprocessing(self, notes: list[str]) -> Preprocessing | None:
        """Return what the layer does to an image, if it says anything of that."""
        layer, transform = self._layer, self._transform
        channels = self._channels()
        if layer.type == "DummyData" or channels not in (1, 3):
            return None
        where = f"{layer.where}, layer {layer.name!r} ({layer.type})"
        scale, mean = transform.number("scale"), transform.numbers("mean_value")
        image = None
        if "mean_file" in transform:
            name = transform.text("mean_file")
            image = find_mean(self._net.path.parent, name)
            if image is None:
                notes.append(f"{where}: subtracts {name!r}, which isn't beside the net; its mean has to be told")
        # What fills a MemoryData or HDF5Data layer has resized its images already.
        crop, resize = self._crop(), None if layer.type in ("HDF5Data", "MemoryData") else self._stated_size()
        if not (mean or image is not None or scale != 1 or crop or resize):
            return None
        if "resize_param" in transform and transform.block("resize_param").enum("resize_mode") != "WARP":
            notes.append(f"{where}: resizes keeping the ratio, which is not carried over")
            resize = None
        order = ChannelOrder.BGR if channels == 3 else ChannelOrder.GRAY
        try:
            return Preprocessing(order, resize, crop=crop, mean=mean, mean_image=image, scale=(scale,))
        except UsageError as error:
            notes.append(f"{where}: {error}; preprocessing has to be told")
            return None
