"""Rewrite nets of Caffe's first two generations into current spelling.

V0 nets (`layers { layer { type: "conv" } }`, 2013) become V1 nets (`layers { type: CONVOLUTION }`, 2014), and
these become V2 nets (`layer { type: "Convolution" }`), as Caffe itself does when it loads them
(src/caffe/util/upgrade_proto.cpp). Values keep the lines they came from. A V0 field that has no place in its
layer's type stays on the layer under its old name, where it is reported as a parameter that nobody read.
"""

from __future__ import annotations

from collections.abc import Iterable

from demitasse.errors import MalformedModel
from demitasse.readers.caffe.message import Field, Message, Word
from demitasse.readers.caffe.schema import V0_TYPES, V1_TYPES

__all__ = ["generation_of", "upgraded_layers"]

_CONV, _POOL, _DENSE = "convolution_param", "pooling_param", "inner_product_param"
_DATA = {"data": "data_param", "images": "image_data_param", "window_data": "window_data_param"}
_HDF5 = {"hdf5_data": "hdf5_data_param"}
_IMAGES = {"images": "image_data_param"}
_WINDOWS = {"window_data": "window_data_param"}

_V0_FIELDS: dict[str, tuple[dict[str, str], str]] = {
    "num_output": ({"conv": _CONV, "innerproduct": _DENSE}, "num_output"),
    "biasterm": ({"conv": _CONV, "innerproduct": _DENSE}, "bias_term"),
    "weight_filler": ({"conv": _CONV, "innerproduct": _DENSE}, "weight_filler"),
    "bias_filler": ({"conv": _CONV, "innerproduct": _DENSE}, "bias_filler"),
    "pad": ({"conv": _CONV, "pool": _POOL}, "pad"),
    "kernelsize": ({"conv": _CONV, "pool": _POOL}, "kernel_size"),
    "group": ({"conv": _CONV}, "group"),
    "stride": ({"conv": _CONV, "pool": _POOL}, "stride"),
    "pool": ({"pool": _POOL}, "pool"),
    "dropout_ratio": ({"dropout": "dropout_param"}, "dropout_ratio"),
    "local_size": ({"lrn": "lrn_param"}, "local_size"),
    "alpha": ({"lrn": "lrn_param"}, "alpha"),
    "beta": ({"lrn": "lrn_param"}, "beta"),
    "k": ({"lrn": "lrn_param"}, "k"),
    "source": (_DATA | _HDF5 | {"infogain_loss": "infogain_loss_param"}, "source"),
    "batchsize": (_DATA | _HDF5, "batch_size"),
    "rand_skip": ({"data": "data_param"} | _IMAGES, "rand_skip"),
    "shuffle_images": (_IMAGES, "shuffle"),
    "new_height": (_IMAGES, "new_height"),
    "new_width": (_IMAGES, "new_width"),
    "concat_dim": ({"concat": "concat_param"}, "concat_dim"),
    "det_fg_threshold": (_WINDOWS, "fg_threshold"),
    "det_bg_threshold": (_WINDOWS, "bg_threshold"),
    "det_fg_fraction": (_WINDOWS, "fg_fraction"),
    "det_context_pad": (_WINDOWS, "context_pad"),
    "det_crop_mode": (_WINDOWS, "crop_mode"),
}
"""Where a V0 layer's field went: by the layer's type, the block that took it, and its name there."""

_V0_TRANSFORMS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_V1_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
_V1_DATA = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
_V1_SPECS = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}


def generation_of(net: Message) -> int:
    """Tell which generation a net is spelled in: 0, 1 or 2; one of several spellings counts as the oldest."""
    if "layers" not in net:
        return 2
    return 0 if any("layer" in layers for layers in net.messages("layers")) else 1


def upgraded_layers(net: Message) -> list[Message]:
    """Return a net's layers in current spelling.

    A net that mixes spellings keeps all its layers, in the order in which they stand.

    Raises:
        MalformedModel: if V0 padding layers are connected in a way that Caffe leaves undefined.
    """
    layers = net.messages("layers")
    if generation_of(net) == 0:
        layers = [_from_v0(layer) for layer in _without_padding(layers)]
    upgraded = [_from_v1(layer) for layer in layers]
    current = net.messages("layer")
    if upgraded and current:
        return sorted([*upgraded, *current], key=lambda layer: layer.position)
    return upgraded or current


def _without_padding(layers: list[Message]) -> list[Message]:
    """Move the pad of V0 padding layers into the convolutions and poolings that read them."""
    producers: dict[str, Message] = {}
    kept: list[Message] = []
    for layer in layers:
        core = layer.merged("layer")
        kind = _text(core, "type") if core is not None else ""
        for bottom in [entry.value for entry in layer.all("bottom") if isinstance(entry.value, str)]:
            source = producers.get(bottom)
            padding = source.merged("layer") if source is not None else None
            if source is None or padding is None or _text(padding, "type") != "padding":
                continue
            if kind not in ("conv", "pool") or len(layer.all("bottom")) != 1 or len(source.all("bottom")) != 1:
                raise MalformedModel(
                    "a padding layer of a V0 net must have one bottom, and feed a conv or pool layer of one bottom",
                    where=layer.where(),
                )
            layer = _with_pad(layer, source, padding)
        if kind != "padding":
            kept.append(layer)
        producers.update({entry.value: layer for entry in layer.all("top") if isinstance(entry.value, str)})
    return kept


def _with_pad(layer: Message, source: Message, padding: Message) -> Message:
    """Return a V0 layer that pads by itself and reads what its padding layer read."""
    moved = Message(layer.source, layer.position)
    for name, group in layer.fields.items():
        if name not in ("bottom", "layer"):
            moved.extend(name, group)
    moved.extend("bottom", source.all("bottom"))
    core = Message(layer.source, layer.position)
    joined = layer.merged("layer") or core
    for name, group in joined.fields.items():
        if name != "pad":
            core.extend(name, group)
    core.extend("pad", padding.all("pad"))
    moved.add("layer", core, joined.position)
    return moved


def _from_v0(layer: Message) -> Message:
    """Spell a V0 layer's parameters as a V1 layer's blocks."""
    result = Message(layer.source, layer.position)
    for name, group in layer.fields.items():
        if name != "layer":
            result.extend(name, group)
    core = layer.merged("layer")
    if core is None:
        return result
    kind = _text(core, "type")
    blocks: dict[str, Message] = {}
    for name, group in core.fields.items():
        takers, new_name = _V0_FIELDS.get(name, ({}, name))
        block = takers.get(kind, "transform_param" if name in _V0_TRANSFORMS else "")
        if block:
            part = blocks.setdefault(block, Message(core.source, group[0].position))
            part.extend(_V0_TRANSFORMS.get(name, new_name) if block == "transform_param" else new_name, group)
        elif name == "type":
            result.add("type", Word(V0_TYPES[kind]) if kind in V0_TYPES else kind, group[-1].position)
        else:
            result.extend(name, group)
    for name, part in blocks.items():
        result.add(name, part, part.position)
    return result


def _from_v1(layer: Message) -> Message:
    """Spell a V1 layer as a V2 layer."""
    result = Message(layer.source, layer.position)
    word = layer.last("type")
    moved = _V1_DATA.get(str(word.value)) if word is not None else None
    for name, group in layer.fields.items():
        if name == "type":
            result.extend(name, (_current_type(entry) for entry in group))
        elif name not in _V1_SPECS and name != moved and (name != "transform_param" or moved is None):
            result.extend(name, group)
    for spec in _param_specs(layer):
        result.add("param", spec, spec.position)
    if moved is not None:
        _move_transforms(layer, moved, result)
    return result


def _current_type(entry: Field) -> Field:
    """Translate a V1 type; a fork's own stays as it is, and so does one that is spelled in the current way already."""
    word = entry.value
    return Field(entry.name, V1_TYPES.get(str(word), str(word)), entry.position)


def _param_specs(layer: Message) -> Iterable[Message]:
    """Gather a V1 layer's parallel lists of names, share modes and multipliers into one ParamSpec a blob."""
    specs: list[Message] = []
    for old, new in _V1_SPECS.items():
        for index, entry in enumerate(layer.all(old)):
            if isinstance(entry.value, Message):  # a V2 spelling within a V1 layer
                specs.append(entry.value)
                continue
            while len(specs) <= index:
                specs.append(Message(layer.source, entry.position))
            specs[index].add(new, entry.value, entry.position)
    return specs


def _move_transforms(layer: Message, block: str, result: Message) -> None:
    """Move a V1 data layer's scale, mean, crop and mirror to where they belong since: transform_param."""
    transforms = Message(layer.source, layer.position)
    rest = Message(layer.source, layer.position)
    for name, group in (layer.merged("transform_param") or transforms).fields.items():
        transforms.extend(name, group)
    old = layer.merged(block)
    for name, group in old.fields.items() if old is not None else ():
        (transforms if name in _V1_TRANSFORMS else rest).extend(name, group)
    if transforms.fields:
        result.add("transform_param", transforms, transforms.position)
    if old is not None:
        result.add(block, rest, old.position)


def _text(message: Message | None, name: str) -> str:
    entry = message.last(name) if message is not None else None
    return entry.value if entry is not None and isinstance(entry.value, str) else ""
