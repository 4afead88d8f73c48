"""Write the ResNets of He et al. 2016 as Caffe nets with random weights, in the spelling of the authors' own release.

They stand in for the real files where only size and structure matter: ResNet-152's caffemodel is 242 MB.
`python resnet.py DEPTH FOLDER` writes one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

Floats = npt.NDArray[np.float32]


class CaffeNet:
    """Collects layers as prototxt text and as caffemodel bytes, fields as `caffe.proto` numbers them."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        shape = "input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } }"
        self.prototxt = [f'name: "{name}"', f'layer {{ name: "data" type: "Input" top: "data" {shape} }}']
        self.model = [_field(1, name.encode())]

    def layer(self, kind: str, name: str, bottoms: list[str], top: str, params: str = "", *blobs: Floats) -> str:
        """Append a layer; returns its top."""
        reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.prototxt.append(f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{top}" {params} }}')
        if blobs:
            self.model.append(caffe_layer(name, kind, blobs))
        return top

    def conv(self, source: str, suffix: str, channels: tuple[int, int], kernel: int, stride: int, relu: bool) -> str:
        """Append convolution, BatchNorm, Scale and perhaps ReLU, all but the first in place."""
        given, out = channels
        name = f"res{suffix}" if suffix != "conv1" else "conv1"
        weights = self.random.normal(0, (2 / (given * kernel * kernel)) ** 0.5, (out, given, kernel, kernel))
        params = (
            f"convolution_param {{ num_output: {out} kernel_size: {kernel} pad: {kernel // 2} stride: {stride} "
            "bias_term: false }"
        )
        top = self.layer("Convolution", name, [source], name, params, weights.astype(np.float32))
        mean, variance = self.random.normal(0, 0.1, out), self.random.uniform(0.8, 1.2, out)
        statistics = [mean.astype(np.float32), variance.astype(np.float32), np.ones(1, np.float32)]
        norm = f"_{suffix}" if suffix == "conv1" else suffix
        self.layer("BatchNorm", f"bn{norm}", [top], top, "batch_norm_param { use_global_stats: true }", *statistics)
        scale = [self.random.uniform(0.4, 0.8, out).astype(np.float32), np.zeros(out, np.float32)]
        self.layer("Scale", f"scale{norm}", [top], top, "scale_param { bias_term: true }", *scale)
        if relu:
            self.layer("ReLU", f"{name}_relu", [top], top)
        return top


def write_resnet(depth: int, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write `resnetDEPTH.prototxt` and `.caffemodel`, and return their paths."""
    net = CaffeNet(f"ResNet-{depth}", seed)
    top = net.conv("data", "conv1", (3, 64), 7, 2, relu=True)
    top = net.layer("Pooling", "pool1", [top], "pool1", "pooling_param { kernel_size: 3 stride: 2 pool: MAX }")
    given = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        width = 64 << stage
        for block in range(blocks):
            # The release letters the blocks of short stages, and numbers those of the long ones after the first.
            numbered = depth > 50 and stage in (1, 2) and block > 0
            label = f"{stage + 2}{f'b{block}' if numbered else 'abcdef'[block]}"
            stride = 2 if stage and block == 0 else 1
            top, given = _bottleneck(net, top, label, (given, width), stride, projects=block == 0), 4 * width
    top = net.layer("Pooling", "pool5", [top], "pool5", "pooling_param { kernel_size: 7 stride: 1 pool: AVE }")
    weights = net.random.normal(0, 0.01, (1000, given)).astype(np.float32)
    params = "inner_product_param { num_output: 1000 }"
    top = net.layer("InnerProduct", "fc1000", [top], "fc1000", params, weights, np.zeros(1000, np.float32))
    net.layer("Softmax", "prob", [top], "prob")
    prototxt, caffemodel = folder / f"resnet{depth}.prototxt", folder / f"resnet{depth}.caffemodel"
    prototxt.write_text("\n".join(net.prototxt) + "\n", "utf-8")
    with caffemodel.open("wb") as file:
        file.writelines(net.model)
    return prototxt, caffemodel


def _bottleneck(
    net: CaffeNet, source: str, label: str, channels: tuple[int, int], stride: int, *, projects: bool
) -> str:
    given, width = channels
    shortcut = source
    if projects:
        shortcut = net.conv(source, f"{label}_branch1", (given, 4 * width), 1, stride, relu=False)
    top = net.conv(source, f"{label}_branch2a", (given, width), 1, stride, relu=True)
    top = net.conv(top, f"{label}_branch2b", (width, width), 3, 1, relu=True)
    top = net.conv(top, f"{label}_branch2c", (width, 4 * width), 1, 1, relu=False)
    top = net.layer("Eltwise", f"res{label}", [shortcut, top], f"res{label}")
    return net.layer("ReLU", f"res{label}_relu", [top], top)


def caffe_layer(name: str, kind: str, blobs: Iterable[Floats]) -> bytes:
    """Encode a layer of a caffemodel: field 100 of NetParameter, with name (1), type (2) and blobs (7)."""
    return _field(100, _field(1, name.encode()) + _field(2, kind.encode()) + b"".join(map(_blob, blobs)))


def _blob(array: Floats) -> bytes:
    shape = _field(7, _field(1, b"".join(map(_varint, array.shape))))
    return _field(7, shape + _field(5, array.tobytes()))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts: Iterator[int] = iter(range(0, max(value.bit_length(), 1), 7))
    groups = [value >> shift & 0x7F for shift in parts]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


if __name__ == "__main__":
    write_resnet(int(sys.argv[1]), Path(sys.argv[2]))
