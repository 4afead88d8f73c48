"""Inputs for a net, one sample at a time: images by the preprocessing contract, stored arrays, or seeded noise.

A sample maps each graph input to an array with a batch of one, in the source's layout: what calibration, validation and
benchmarks feed. Samples are made when they are asked for, so any number of images takes the memory of one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from demitasse.errors import UsageError
from demitasse.ir.ops import Layout, TensorType
from demitasse.ir.preprocessing import Preprocessing
from demitasse.ir.weights import Array
from demitasse.preprocess import apply, for_input, images_in, load_image

__all__ = ["Sample", "Samples", "from_arrays", "from_images", "from_path", "seeded"]

Sample: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True)
class Samples:
    """A number of named samples; iterating makes them anew, one after the other."""

    names: tuple[str, ...]
    make: Callable[[int], Sample]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return (self.make(index) for index in range(len(self)))

    def head(self, count: int) -> Samples:
        """Return the first few."""
        return Samples(self.names[:count], self.make)

    def pick(self, places: Sequence[int]) -> Samples:
        """Return those at some places."""
        return Samples(tuple(self.names[place] for place in places), lambda index: self.make(places[index]))


def from_path(
    source: Path, inputs: Mapping[str, TensorType], layout: Layout, preprocessing: Preprocessing | None
) -> Samples:
    """Make samples of a folder of images, a list of them (.txt), one image, or arrays (.npz, .npy).

    `inputs` gives the type of each graph input in the source's `layout`.

    Raises:
        UsageError: there is nothing to read, arrays don't fit the inputs, or images come without preprocessing.
    """
    if source.suffix.lower() in (".npz", ".npy"):
        return from_arrays(_load_arrays(source, inputs), inputs, str(source))
    return from_images(images_in(source), inputs, layout, preprocessing)


def from_images(
    paths: list[Path], inputs: Mapping[str, TensorType], layout: Layout, preprocessing: Preprocessing | None
) -> Samples:
    """Make one sample an image, for a net with a single input.

    Raises:
        UsageError: the net has several inputs, or nobody said how images are prepared for it.
    """
    if len(inputs) != 1:
        raise UsageError(f"the net has the inputs {', '.join(inputs)}; images can fill one alone: give an .npz file")
    if preprocessing is None:
        raise UsageError(
            "nothing says how images are prepared for this net: give --preprocess FILE or CARD, or --mean, --scale, "
            "--channels, --resize and --crop"
        )
    ((name, type_),) = inputs.items()
    contract = for_input(preprocessing, type_.shape, layout)
    return Samples(
        tuple(str(path) for path in paths),
        lambda index: {name: apply(load_image(paths[index]), contract, layout)},
    )


def from_arrays(arrays: Mapping[str, Array], inputs: Mapping[str, TensorType], where: str) -> Samples:
    """Split arrays that hold one sample a row, after checking all of them against the inputs.

    Raises:
        UsageError: names, shapes or numbers of rows don't fit, or a value is not finite; all faults are listed.
    """
    faults = [f"it has no array for input {name!r}" for name in inputs if name not in arrays]
    faults += [f"it has an array {name!r}, which is no input" for name in arrays if name not in inputs]
    for name in inputs:
        if name in arrays:
            faults += _array_faults(name, arrays[name], inputs[name])
    if faults:
        raise UsageError(f"{where} doesn't fit the net:\n  " + "\n  ".join(faults))
    counts = {name: len(array) // inputs[name].shape[0] for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise UsageError(f"{where}: its arrays hold different numbers of samples: {counts}")

    def make(index: int) -> Sample:
        sample = {}
        for name, array in arrays.items():
            rows = inputs[name].shape[0]
            sample[name] = np.ascontiguousarray(array[index * rows : (index + 1) * rows], inputs[name].dtype.value)
        return sample

    return Samples(tuple(f"{where}[{index}]" for index in range(next(iter(counts.values())))), make)


def _array_faults(name: str, array: Array, type_: TensorType) -> Iterator[str]:
    rows = type_.shape[0] if type_.shape else 1
    if array.shape[1:] != type_.shape[1:] or array.ndim != type_.rank or not len(array) or len(array) % rows:
        wanted = ", ".join(["N" if rows == 1 else f"a multiple of {rows}", *map(str, type_.shape[1:])])
        yield f"array {name!r} has shape {list(array.shape)}, the input takes [{wanted}]"
    elif array.dtype.kind not in "fiub":
        yield f"array {name!r} holds {array.dtype}, no numbers"
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"array {name!r} holds values that are not finite"


def _load_arrays(source: Path, inputs: Mapping[str, TensorType]) -> dict[str, Array]:
    try:
        loaded = np.load(source, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(inputs) != 1:
                raise UsageError(
                    f"{source}: the net has the inputs {', '.join(inputs)}; give an .npz with one array each"
                )
            return {next(iter(inputs)): loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise UsageError(f"{source}: there is no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{source}: can't be read as arrays: {error}") from error


def seeded(inputs: Mapping[str, TensorType], count: int, seed: int) -> Samples:
    """Make `count` samples of standard normal noise (integers: below 16), the same for the same seed."""

    def make(index: int) -> Sample:
        random = np.random.default_rng([seed, index])
        return {
            name: (
                random.standard_normal(type_.shape).astype(np.float32)
                if type_.dtype.is_float
                else random.integers(0, 16, type_.shape).astype(type_.dtype.value)
            )
            for name, type_ in inputs.items()
        }

    return Samples(tuple(f"seed {seed}, sample {index}" for index in range(count)), make)
