"""Layers of forks that change the size of an image (PSPNet's and DeepLab's Interp, SegNet's Upsample, YOLO's Reorg)."""

from __future__ import annotations

from demitasse.ir.ops import Coordinates, Identity, Interpolation, MaxUnpool, Reshape, Resize, Size, Slice, Transpose
from demitasse.readers.caffe.builder import LayerBuilder
from demitasse.readers.caffe.params import Params
from demitasse.readers.caffe.registry import reads


def _image_size(layer: LayerBuilder, value: str) -> Size:
    shape = layer.shape(value)
    if len(shape) != 4:
        raise layer.malformed(f"its input has to be N, C, H, W, and is of shape {shape}")
    return Size(*shape[2:])


@reads("Interp")
def interp(layer: LayerBuilder) -> None:
    """Interpolate linearly, corners aligned, to a size or by a factor, after cutting off a border."""
    param = layer.param("interp_param")
    x, *reference = layer.inputs(1, 2)
    size = _image_size(layer, x)
    begin, end = param.integer("pad_beg"), param.integer("pad_end")
    if begin > 0 or end > 0 or min(size) + begin + end < 1:
        raise layer.malformed(f"pad_beg {begin} and pad_end {end} can only cut off a part of {size}")
    kept = Size(size.height + begin + end, size.width + begin + end)
    wanted = _interp_size(layer, param, kept, reference)
    if (begin, end) != (0, 0):
        x = layer.step("cut", Slice((2, 3), (-begin, -begin), (end or None, end or None)), x)
    if wanted == kept:
        layer.emit(Identity(), x)
        return
    layer.trap("interpolates with corners aligned, which not every runtime does")
    layer.emit(Resize(wanted, Interpolation.LINEAR, Coordinates.ALIGN_CORNERS), x)


def _interp_size(layer: LayerBuilder, param: Params, size: Size, reference: list[str]) -> Size:
    """Return the size that an Interp layer gives (InterpLayer::Reshape): shrunk, then zoomed, or as told."""
    zoom, shrink = param.integer("zoom_factor"), param.integer("shrink_factor")
    if "zoom_factor" in param or "shrink_factor" in param:
        if zoom < 1 or shrink < 1:
            raise layer.malformed(f"zoom_factor {zoom} and shrink_factor {shrink} have to be positive")
        param.ignore("height", "width")
        height, width = ((side - 1) // shrink + 1 for side in size)
        return Size(height + (height - 1) * (zoom - 1), width + (width - 1) * (zoom - 1))
    if "height" in param and "width" in param:
        return Size(param.integer("height"), param.integer("width"))
    if reference:
        return _image_size(layer, reference[0])
    raise layer.malformed("it gives neither height and width, nor zoom_factor or shrink_factor")


@reads("Upsample")
def upsample(layer: LayerBuilder) -> None:
    """Put values where a pooling's mask says (SegNet), or without a mask repeat each element (YOLO's forks)."""
    param = layer.param("upsample_param")
    x, *mask = layer.inputs(1, 2)
    size = _upsampled(layer, param, _image_size(layer, x))
    if mask:
        layer.emit(MaxUnpool(size), x, layer.whole(mask[0]))
        return
    if size.height % layer.shape(x)[2] or size.width % layer.shape(x)[3]:
        raise layer.unsupported(f"upsampling to {size}, no multiple of the input, without a mask")
    layer.emit(Resize(size, Interpolation.NEAREST, Coordinates.ASYMMETRIC), x)


def _upsampled(layer: LayerBuilder, param: Params, size: Size) -> Size:
    if "upsample_h" in param and "upsample_w" in param:
        param.ignore("scale", "scale_h", "scale_w", "pad_out_h", "pad_out_w")
        return Size(param.integer("upsample_h"), param.integer("upsample_w"))
    if "scale_h" in param or "scale_w" in param:
        scale = Size(param.integer("scale_h"), param.integer("scale_w"))
    else:
        scale = Size(param.integer("scale"), param.integer("scale"))
    if min(scale) < 1:
        raise layer.malformed(f"scale {scale} has to be positive")
    return Size(
        size.height * scale.height - param.flag("pad_out_h"), size.width * scale.width - param.flag("pad_out_w")
    )


@reads("Reorg")
def reorg(layer: LayerBuilder) -> None:
    """Move blocks of `stride` x `stride` elements into channels, in Darknet's order; `reverse` moves them back."""
    param = layer.param("reorg_param")
    stride, reverse = param.integer("stride"), param.flag("reverse")
    height, width = _image_size(layer, layer.x)
    channels = layer.shape(layer.x)[1]
    if stride < 1 or channels % stride**2 or (not reverse and (height % stride or width % stride)):
        raise layer.malformed(f"stride {stride} doesn't divide an input of shape {layer.shape(layer.x)}")
    deep = channels // stride**2
    if reverse:
        apart = layer.step("apart", Reshape((0, stride, stride, deep, height, width)), layer.x)
        mixed = layer.step("mixed", Transpose((0, 3, 4, 1, 5, 2)), apart)
        layer.emit(Reshape((0, deep, height * stride, width * stride)), mixed)
        return
    # Darknet reads the same memory as deep x (height * stride) x (width * stride), and takes that apart: reorg_cpu in
    # blas.c, whose indices mean an image stride times as large as the one at hand.
    layer.trap("channels come in Darknet's order, which is not that of a plain space-to-depth")
    apart = layer.step("apart", Reshape((0, deep, height, stride, width, stride)), layer.x)
    mixed = layer.step("mixed", Transpose((0, 3, 5, 1, 2, 4)), apart)
    layer.emit(Reshape((0, channels * stride**2, height // stride, width // stride)), mixed)
