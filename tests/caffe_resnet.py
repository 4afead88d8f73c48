"""Writes ResNets as Caffe files with random weights, in the spelling of the authors' release, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caffe_encoder import blob, layer, net, packed

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass
class CaffeResNet:
    """Collects a net's prototxt and caffemodel, layer by layer."""

    text: list[str]
    binary: list[bytes] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def layer(
        self, kind: str, name: str, bottoms: str, top: str, params: str = "", *blobs: NDArray[np.floating]
    ) -> str:
        reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
        self.text.append(f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{top}" {params} }}')
        if blobs:
            self.binary.append(layer(name, kind, *(blob(one.shape, packed(one)) for one in blobs)))
        return top

    def conv(
        self, bottom: str, suffix: str, given: int, out: int, kernel: int, stride: int, *, bias: bool = False
    ) -> str:
        """Add Convolution, BatchNorm and Scale; the statistics are sums over three batches, some scales negative."""
        name, norm = ("conv1", "_conv1") if suffix == "conv1" else (f"res{suffix}", suffix)
        kernels = self.random.normal(0, (2 / (given * kernel**2)) ** 0.5, (out, given, kernel, kernel))
        biases = [self.random.normal(0, 0.3, out)] if bias else []
        params = (
            f"num_output: {out} kernel_size: {kernel} stride: {stride} pad: {kernel // 2} bias_term: {bias}".lower()
        )
        self.layer("Convolution", name, bottom, name, f"convolution_param {{ {params} }}", kernels, *biases)
        statistics = [3 * self.random.normal(0, 0.2, out), 3 * self.random.uniform(0.3, 1.5, out), np.full(1, 3.0)]
        self.layer("BatchNorm", f"bn{norm}", name, name, "", *statistics)
        gamma, beta = self.random.uniform(-0.2, 0.9, out), self.random.normal(0, 0.2, out)
        return self.layer("Scale", f"scale{norm}", name, name, "scale_param { bias_term: true }", gamma, beta)

    def relu(self, name: str) -> str:
        return self.layer("ReLU", f"{name}_relu", name, name)

    def block(self, bottom: str, label: str, given: int, width: int, out: int, stride: int, *, projects: bool) -> str:
        """Add a residual block; one that gives more channels than it computes with is a bottleneck."""
        shortcut = self.conv(bottom, f"{label}_branch1", given, out, 1, stride) if projects else bottom
        if out > width:
            top = self.relu(self.conv(bottom, f"{label}_branch2a", given, width, 1, stride))
            top = self.relu(self.conv(top, f"{label}_branch2b", width, width, 3, 1))
            top = self.conv(top, f"{label}_branch2c", width, out, 1, 1)
        else:
            top = self.relu(self.conv(bottom, f"{label}_branch2a", given, width, 3, stride))
            top = self.conv(top, f"{label}_branch2b", width, out, 3, 1)
        self.layer("Eltwise", f"res{label}", f"{shortcut} {top}", f"res{label}")
        return self.relu(f"res{label}")


def write_caffe_resnet(
    depth: int, folder: Path, *, size: int, classes: int = 1000, head: str = "fc1000", projects_first: bool = False
) -> tuple[Path, Path]:
    """Write a prototxt and a caffemodel, and return their paths; `size` is the images'."""
    shape = f"input_param {{ shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} }}"
    caffe = CaffeResNet([f'name: "ResNet-{depth}"', f'layer {{ name: "data" type: "Input" top: "data" {shape} }}'])
    # The release's ResNet-50 has a bias in its first convolution, and in no other.
    top = caffe.relu(caffe.conv("data", "conv1", 3, 64, 7, 2, bias=depth == 50))
    top = caffe.layer("Pooling", "pool1", top, "pool1", "pooling_param { kernel_size: 3 stride: 2 pool: MAX }")
    given = 64
    for stage, count in enumerate(BLOCKS[depth], start=2):
        width = 64 << (stage - 2)
        out = width if depth < 50 else 4 * width
        for place in range(count):
            counted = depth > 50 and stage in (3, 4) and place
            label = f"{stage}b{place}" if counted else f"{stage}{'abcdef'[place]}"
            projects = place == 0 and (given != out or projects_first)
            stride = 2 if stage > 2 and place == 0 else 1
            top, given = caffe.block(top, label, given, width, out, stride, projects=projects), out
    top = caffe.layer("Pooling", "pool5", top, "pool5", "pooling_param { pool: AVE global_pooling: true }")
    weights, biases = caffe.random.normal(0, given**-0.5, (classes, given)), caffe.random.normal(0, 0.1, classes)
    params = f"inner_product_param {{ num_output: {classes} }}"
    top = caffe.layer("InnerProduct", head, top, head, params, weights, biases)
    caffe.layer("Softmax", "prob", top, "prob")
    prototxt, caffemodel = folder / f"resnet{depth}.prototxt", folder / f"resnet{depth}.caffemodel"
    prototxt.write_text("\n".join(caffe.text), "utf-8")
    caffemodel.write_bytes(net(*caffe.binary, name=f"ResNet-{depth}"))
    return prototxt, caffemodel
