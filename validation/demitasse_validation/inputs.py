"""What a validation runs on: images through the preprocessing contract, arrays of the user, or seeded noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.graph import Graph
from demitasse.ir.ops import Cast, Gather, Identity, Layout, Reshape, TensorType, Transpose
from demitasse.ir.preprocessing import ChannelOrder, Preprocessing
from demitasse.ir.weights import Array
from demitasse.passes.batch import batched_shapes, can_change_batch
from demitasse.preprocess import fit, for_input, images_in, load_image, normalize
from demitasse.samples import Samples, from_path, seeded

__all__ = ["Inputs", "Random", "Sample", "Step", "inputs_for"]


@dataclass(frozen=True, slots=True)
class Random:
    """Asks for noise: `count` samples that `seed` determines."""

    count: int = 4
    seed: int = 0


class Sample(NamedTuple):
    """One input of the net, in the source's layout: real feeds, and the pixels that they were made from, if any.

    `pixels` is uint8 `[1, C, H, W]` or `[1, H, W, C]`, RGB or gray: what an artifact with folded preprocessing takes.
    """

    feeds: Mapping[str, Array]
    pixels: Array | None


class Step(NamedTuple):
    """As many samples as an artifact takes at once; the last ones repeat earlier ones where `names` has fewer."""

    names: tuple[str, ...]
    feeds: Mapping[str, Array]
    pixels: Array | None

    @property
    def label(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """A number of named samples, each made when it is needed.

    `stacked` names the inputs whose leading dimension is the batch; `preprocessing` is the contract that images went
    through, as it was completed for the net.
    """

    kind: str
    names: tuple[str, ...]
    make: Callable[[int], Sample]
    stacked: frozenset[str]
    preprocessing: Preprocessing | None = None

    def __len__(self) -> int:
        return len(self.names)

    def steps(self, batch: int) -> Iterator[Step]:
        """Yield all samples, `batch` at a time; the last step is filled up with the first samples."""
        for start in range(0, len(self), batch):
            samples = [self.make(index % len(self)) for index in range(start, start + batch)]
            feeds = {
                name: np.concatenate([sample.feeds[name] for sample in samples]) if name in self.stacked else array
                for name, array in samples[0].feeds.items()
            }
            pixels = [sample.pixels for sample in samples if sample.pixels is not None]
            yield Step(
                self.names[start : start + batch], feeds, np.concatenate(pixels) if len(pixels) == batch else None
            )


def inputs_for(
    graph: Graph, source: Path | str | Random | Sequence[Path], preprocessing: Preprocessing | None
) -> Inputs:
    """Find out what `source` gives for the inputs of a graph: images, arrays (.npz, .npy), or noise.

    Noise for a net that takes images of a known contract is noise in the pixels, so that activations have the size
    that they have in use; for any other net it is standard normal.

    Raises:
        UsageError: the source can't be read, is empty, or doesn't fit the graph.
    """
    types = {name: graph.type(name) for name in graph.inputs}
    stacked: frozenset[str] = frozenset()
    if can_change_batch(graph) is None:
        one, two = batched_shapes(graph, 1), batched_shapes(graph, 2)
        types = {name: type_._replace(shape=one[name]) for name, type_ in types.items()}
        stacked = frozenset(name for name in types if one[name] != two[name])
    if isinstance(source, Random):
        return _noise(source, graph, types, stacked, preprocessing)
    if isinstance(source, str | Path) and Path(source).suffix.lower() in {".npz", ".npy"}:
        samples = from_path(Path(source), types, graph.layout, preprocessing)
        return Inputs("arrays", samples.names, lambda index: Sample(samples.make(index), None), stacked)
    paths = images_in(Path(source)) if isinstance(source, str | Path) else list(source)
    name, contract = _image_input(types, graph.layout, preprocessing)

    def make(index: int) -> Sample:
        return _sample(name, fit(load_image(paths[index]), contract), contract, graph.layout)

    return Inputs("images", tuple(path.name for path in paths), make, stacked, contract)


def _image_input(
    types: Mapping[str, TensorType], layout: Layout, preprocessing: Preprocessing | None
) -> tuple[str, Preprocessing]:
    if len(types) != 1:
        raise UsageError(f"the net has the inputs {', '.join(types)}; images can fill one alone: give an .npz file")
    if preprocessing is None:
        raise UsageError(
            "nothing says how images are prepared for this net: give --preprocess FILE or CARD, or --mean, --scale, "
            "--channels, --resize and --crop"
        )
    ((name, type_),) = types.items()
    return name, for_input(preprocessing, type_.shape, layout)


def _sample(name: str, pixels: npt.NDArray[np.uint8], contract: Preprocessing, layout: Layout) -> Sample:
    plain = Preprocessing(ChannelOrder.GRAY if contract.channels is ChannelOrder.GRAY else ChannelOrder.RGB)
    raw = normalize(pixels, plain, layout).astype(np.uint8)
    return Sample({name: normalize(pixels, contract, layout)}, raw)


def _noise(
    source: Random,
    graph: Graph,
    types: Mapping[str, TensorType],
    stacked: frozenset[str],
    preprocessing: Preprocessing | None,
) -> Inputs:
    layout = graph.layout
    if source.count < 1:
        raise UsageError(f"can't validate on {source.count} random inputs; ask for 1 or more")
    samples = _with_indices(seeded(types, source.count, source.seed), source.seed, graph)
    name, type_ = next(iter(types.items()))
    is_image = (
        len(types) == 1
        and type_.rank == 4
        and preprocessing is not None
        and (type_.shape[0], type_.shape[layout.channel_axis(4)]) == (1, preprocessing.channels.count)
    )
    if preprocessing is None or not is_image:
        return Inputs("noise", samples.names, lambda index: Sample(samples.make(index), None), stacked)
    height, width = (type_.shape[axis] for axis in layout.spatial_axes(4))
    contract = replace(preprocessing, resize=None, crop=None)

    def make(index: int) -> Sample:
        random = np.random.default_rng([source.seed, index])
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        return _sample(name, pixels, contract, layout)

    return Inputs("noise in pixels", samples.names, make, stacked, contract)


def _with_indices(samples: Samples, seed: int, graph: Graph) -> Samples:
    """Replace the noise in inputs that pick entries of a table (an embedding's words) by places that it has."""
    sizes = _table_sizes(graph)

    def make(index: int) -> Mapping[str, Array]:
        random = np.random.default_rng([seed, index, 1])
        return {
            name: random.integers(0, sizes[name], array.shape).astype(array.dtype) if name in sizes else array
            for name, array in samples.make(index).items()
        }

    return Samples(samples.names, make)


def _table_sizes(graph: Graph) -> dict[str, int]:
    """Find inputs that, but for casts and reshapes, are the indices of a Gather, and how many entries it picks from."""
    origin = {name: name for name in graph.inputs}
    sizes: dict[str, int] = {}
    for node in graph.nodes:
        match node.op:
            case Cast() | Reshape() | Identity() | Transpose() if node.inputs[0] in origin:
                origin[node.outputs[0]] = origin[node.inputs[0]]
            case Gather(axis=axis) if node.inputs[1] in origin:
                name, count = origin[node.inputs[1]], graph.type(node.inputs[0]).shape[axis]
                sizes[name] = min(count, sizes.get(name, count))
    return sizes
