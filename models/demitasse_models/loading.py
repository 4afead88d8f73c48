"""Arranges a weight map for the Keras layers of a ResNet, and takes one from them again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from demitasse.errors import UsageError
from demitasse.ir.ops import Shape
from demitasse.ir.weights import Array, WeightMap
from demitasse_models.naming import NAMINGS, Naming
from demitasse_models.residual import BLOCKS, HEAD, Unit, blocks

if TYPE_CHECKING:
    import keras

__all__ = ["Arranged", "Head", "arrange", "export"]

Numbers: TypeAlias = npt.NDArray[np.float64]

HWIO, OIHW = (2, 3, 1, 0), (3, 2, 0, 1)

STATISTICS = {"mean", "variance"}
NORMALIZED = {"scale", "shift"}
AFFINE = {"gamma", "beta"}


class Head(NamedTuple):
    """The last layer: its name, and its kernel's shape, [out, in]."""

    name: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Arranged:
    """The arrays of each Keras layer, in Keras' order and layout, and how the map called them."""

    naming: Naming
    layers: Mapping[str, Sequence[Array]]


@dataclass(slots=True)
class _Given:
    """A weight map, sorted by the model's layers.

    Attributes:
        weights: the map.
        entries: for each layer and role, the map's name of the weight.
        faults: what doesn't fit, one line each.
    """

    weights: WeightMap
    entries: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def roles(self, layer: str) -> set[str]:
        return set(self.entries.get(layer, ()))

    def array(self, layer: str, role: str) -> Array:
        return self.weights[self.entries[layer][role]]

    def numbers(self, layer: str, role: str) -> Numbers:
        """Return one number a channel, in double precision."""
        return self.array(layer, role).ravel().astype(np.float64)

    def check(self, layer: str, shapes: Mapping[str, Shape], optional: Iterable[str] = ()) -> None:
        """Record what a layer lacks, has besides, or has in another shape; a vector may stand along any axis."""
        entries = self.entries.get(layer, {})
        self.faults += [f"missing: {layer}/{role}" for role in shapes if role not in {*entries, *optional}]
        for role, name in entries.items():
            if role not in shapes:
                self.faults.append(f"left over: {name}")
                continue
            shape, wanted = self.weights.type(name).shape, shapes[role]
            found = tuple(dim for dim in shape if dim != 1) if len(wanted) == 1 else shape
            if found != (wanted if wanted != (1,) else ()) and shape != wanted:
                self.faults.append(f"shape: {name} is {_spelled(shape)}, the model's is {_spelled(wanted)}")


def arrange(
    weights: WeightMap,
    depth: int,
    units: Sequence[Unit],
    *,
    head: Head | None,
    epsilon: float,
    rename: Mapping[str, str],
) -> Arranged:
    """Find a ResNet's weights in a map, and bring them into the form that Keras' layers hold.

    Normalization is exact in whichever form the map has it. Caffe's reader gives `scale` and `shift` of BatchNorm, from
    which its mean and variance follow; a bias of a convolution goes into the mean that is subtracted from it.

    Args:
        weights: the map.
        depth: of the ResNet.
        units: its convolutions and normalizations.
        head: its last layer, if it has one.
        epsilon: what the model's normalizations add to a variance.
        rename: layers of the map, and what the model calls them.

    Raises:
        UsageError: the map doesn't fit; every weight that is missing, left over or of another shape is listed.
    """
    naming = _naming_of(weights, depth)
    given = _sorted(weights, {**naming.layers[depth], **rename}, head)
    for unit in units:
        given.check(unit.conv, {"kernel": unit.shape, "bias": (unit.channels,)}, optional=["bias"])
        given.check(unit.norm, dict.fromkeys(_roles(given.roles(unit.norm), naming), (unit.channels,)))
    if head is not None:
        given.check(head.name, {"kernel": head.shape, "bias": head.shape[:1]}, optional=["bias"])
    known = {name for unit in units for name in (unit.conv, unit.norm)} | {head.name if head else ""}
    given.faults += [
        f"left over: {name}"
        for layer, entries in given.entries.items()
        if layer not in known
        for name in entries.values()
    ]
    if given.faults:
        raise UsageError(
            "\n  ".join([f"the weights don't fit this ResNet-{depth}{_hint(weights, depth)}:", *given.faults])
        )
    layers: dict[str, Sequence[Array]] = {}
    for unit in units:
        layers[unit.conv] = [np.ascontiguousarray(given.array(unit.conv, "kernel").transpose(HWIO))]
        layers[unit.norm] = _normalization(given, unit, naming.epsilon, epsilon)
    if head is not None:
        kernel = given.array(head.name, "kernel").T
        bias = given.array(head.name, "bias").ravel() if "bias" in given.roles(head.name) else np.zeros(head.shape[0])
        layers[head.name] = [kernel, bias]
    return Arranged(naming, layers)


def _naming_of(weights: WeightMap, depth: int) -> Naming:
    """Return the naming that most of a map's layers follow."""
    layers = {name.rpartition("/")[0] for name in weights}
    found = {naming.title: len(layers & set(naming.layers.get(depth, ()))) for naming in NAMINGS}
    best = max(NAMINGS, key=lambda naming: found[naming.title])
    if not found[best.title]:
        titles = " nor ".join(naming.title for naming in NAMINGS)
        example = next(iter(weights), "")
        raise UsageError(
            f"the weights are named as neither {titles} names a ResNet-{depth}'s: the first is {example!r}"
        )
    return best


def _hint(weights: WeightMap, depth: int) -> str:
    """Return what else a map may be of, told by how many convolutions it holds."""
    count = sum(weights.type(name).rank == 4 for name in weights if name.endswith("/kernel"))
    fitting = [other for other in BLOCKS if count in {_convolutions(other, first) for first in (False, True)}]
    return f"; it holds as many convolutions as a ResNet-{fitting[0]} has" if fitting and depth not in fitting else ""


def _convolutions(depth: int, projects_first: bool) -> int:
    return 1 + sum(len(block.units) for block in blocks(depth, projects_first=projects_first))


def _sorted(weights: WeightMap, layers: Mapping[str, str], head: Head | None) -> _Given:
    given = _Given(weights)
    for name in weights:
        source, _, role = name.rpartition("/")
        layer = layers.get(source, source)
        if layer == HEAD and head is not None:
            layer = head.name
        if head is None and re.fullmatch(r"fc\d+", layer):
            continue
        entries = given.entries.setdefault(layer, {})
        if role in entries:
            given.faults.append(f"left over: {name}, as {entries[role]} is the same weight")
        else:
            entries[role] = name
    return given


def _roles(found: set[str], naming: Naming) -> set[str]:
    """Return what a normalization needs, given what a map has of it."""
    if NORMALIZED & found and not STATISTICS & found:
        # The reader of Keras files puts all four numbers of a channel into these two.
        return NORMALIZED | AFFINE if naming.scales_apart else NORMALIZED
    return STATISTICS | AFFINE


def _normalization(given: _Given, unit: Unit, source_epsilon: float, epsilon: float) -> list[Array]:
    """Return gamma, beta, mean and variance such that the model computes what the source did.

    Both compute gamma (x - mean) / sqrt(variance + epsilon) + beta, or scale x + shift in place of the fraction.
    """
    roles = given.roles(unit.norm)
    one = np.ones(unit.channels)
    gamma = given.numbers(unit.norm, "gamma") if "gamma" in roles else one
    beta = given.numbers(unit.norm, "beta") if "beta" in roles else 0 * one
    if STATISTICS.issubset(roles):
        mean = given.numbers(unit.norm, "mean")
        spread = given.numbers(unit.norm, "variance") + source_epsilon
    else:
        scale, shift = given.numbers(unit.norm, "scale"), given.numbers(unit.norm, "shift")
        recovers = (scale > 0) & bool(AFFINE & roles)
        divisor = np.where(recovers, scale, 1)
        mean, spread = np.where(recovers, -shift / divisor, 0), divisor**-2.0
        gamma, beta = np.where(recovers, gamma, gamma * scale), np.where(recovers, beta, gamma * shift + beta)
    variance = np.maximum(spread - epsilon, 0)
    # Where the source's epsilon was smaller, a variance below the model's can't be had: gamma makes up for it.
    gamma = gamma * np.sqrt((variance + epsilon) / spread)
    if "bias" in given.roles(unit.conv):
        mean = mean - given.numbers(unit.conv, "bias")
    return [each.astype(np.float32) for each in (gamma, beta, mean, variance)]


def _spelled(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def export(model: keras.Model) -> WeightMap:
    """Take the weights of a Keras model: `layer/role`, convolution kernels OIHW, Dense kernels [out, in].

    Raises:
        UsageError: layers of other types than a ResNet's have weights; all are listed.
    """
    from keras import layers

    result = WeightMap()
    others = []
    for layer in model.layers:
        arrays = {weight.name: np.asarray(weight) for weight in layer.weights}
        if isinstance(layer, layers.BatchNormalization):
            scale = _scale_of(layer.name)
            for theirs, name in (
                ("moving_mean", f"{layer.name}/mean"),
                ("moving_variance", f"{layer.name}/variance"),
                ("gamma", f"{scale}/gamma"),
                ("beta", f"{scale}/beta"),
            ):
                if theirs in arrays:
                    result.put(name, arrays[theirs])
        elif type(layer) in {layers.Conv2D, layers.Dense}:
            axes = OIHW if arrays["kernel"].ndim == 4 else (1, 0)
            for role, array in arrays.items():
                result.put(f"{layer.name}/{role}", array.transpose(axes) if role == "kernel" else array)
        elif arrays:
            others.append(f"{layer.name} ({type(layer).__name__})")
    if others:
        raise UsageError(f"can't take the weights of layers that no ResNet has: {', '.join(others)}")
    return result


def _scale_of(norm: str) -> str:
    """Return the layer that holds gamma and beta in Caffe: Scale, which is called like BatchNorm beside it."""
    return norm.replace("bn", "scale", 1) if re.match(r"bn(_conv1|\d)", norm) else norm
