"""Builds the ResNets as Keras models that take a weight map, can be trained further, and give a weight map back.

The layers have the names of the authors' Caffe release, and compute what Caffe computes: padding is symmetric, and the
first pooling rounds its size up. Inputs are NHWC; what the weights expect of them (Caffe's: BGR, 0 to 255, less a mean)
stays as it was. Keras is imported when a model is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from demitasse.errors import MissingDependency, UsageError
from demitasse.ir.weights import WeightMap
from demitasse_models.loading import Head, arrange, export
from demitasse_models.naming import CAFFE
from demitasse_models.residual import BLOCKS, STEM, Block, Unit, blocks

if TYPE_CHECKING:
    import keras

__all__ = ["freeze", "replace_head", "resnet", "weights_of"]

EPSILON = CAFFE.epsilon
"""What every normalization adds to its variance."""

POOL = "pool5"


def resnet(
    depth: int,
    weights: WeightMap | None = None,
    *,
    classes: int = 1000,
    stride_in: Literal["1x1", "3x3"] = "1x1",
    pool_padding: Literal["end", "both"] | None = None,
    include_top: bool = True,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    rename: Mapping[str, str] | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a ResNet as a functional Keras model, with the Caffe release's layer names.

    Args:
        depth: 18, 34, 50, 101 or 152.
        weights: what a Caffe net holds (`demitasse.read(...).weights`, or such a map that was saved), or a map with the
            names of keras.applications; see `demitasse_models.naming`. Without it, the model is initialized at random.
        classes: how many the last layer tells apart. That layer is `fc1000` for 1000, `fc20` for 20.
        stride_in: the convolution of a bottleneck that halves the image: the first (1x1) in the original and its Caffe
            release, the second (3x3) in what is known as v1.5. ResNet-18 and -34 have no bottlenecks.
        pool_padding: where the first pooling pads: at the end, as Caffe's rounding up amounts to, or on both sides, as
            keras.applications and others have it. By default as the weights were trained: Caffe's for Caffe's names and
            without weights, both sides for Keras' names.
        include_top: whether the model ends in pooling, `fc1000` and `prob`; otherwise it gives the last block's images,
            and weights for the last layer are left aside.
        input_shape: height, width and 3; None for a side of any length.
        rename: layers of the map that have names of their own, and what the model calls them: `{"fc_flowers": "fc5"}`.
        name: the model's; by default `resnet50`.

    Raises:
        UsageError: no such depth, or the weights don't fit; every weight that is missing, left over or of another shape
            is listed.
        MissingDependency: Keras or TensorFlow isn't installed.
    """
    _check(depth, classes, stride_in, pool_padding, input_shape)
    # Nobody trains ResNet-18 with a projection that the map doesn't hold.
    projects_first = weights is not None and "res2a_branch1/kernel" in weights
    net = tuple(blocks(depth, strided=int(stride_in[0]), projects_first=projects_first))
    head = Head(f"fc{classes}", (classes, net[-1].channels)) if include_top else None
    loaded = None
    if weights is not None:
        units = (STEM, *(unit for block in net for unit in block.units))
        loaded = arrange(weights, depth, units, head=head, epsilon=EPSILON, rename=rename or {})
    pads_both = pool_padding == "both" if pool_padding else loaded is not None and loaded.naming.pads_both
    keras = _import_keras()
    image = keras.Input(input_shape, name="data")
    x = _stem(keras, image, pads_both=pads_both)
    for block in net:
        x = _block(keras, x, block)
    if head is not None:
        x = keras.layers.GlobalAveragePooling2D(name=POOL)(x)
        x = _classify(keras, x, head.name, classes)
    model = keras.Model(image, x, name=name or f"resnet{depth}")
    if loaded is not None:
        for layer, arrays in loaded.layers.items():
            model.get_layer(layer).set_weights(arrays)
    return model


def replace_head(model: keras.Model, classes: int, *, name: str | None = None) -> keras.Model:
    """Return a model that shares all layers of a ResNet but the last, which is new and tells `classes` apart.

    The new layer is called `fc20` for 20 classes unless `name` says otherwise, and starts at random.

    Raises:
        UsageError: the model has no `pool5`, or a layer of the new one's name before it.
    """
    keras = _import_keras()
    pooled = _layer(model, POOL).output
    name = name or f"fc{classes}"
    if name in {layer.name for layer in keras.Model(model.input, pooled).layers}:
        raise UsageError(f"the model has a layer {name!r} already, before its last; give the new one another name")
    return keras.Model(model.input, _classify(keras, pooled, name, classes), name=model.name)


def freeze(model: keras.Model, through: str) -> tuple[str, ...]:
    """Keep a layer, and all that it is computed from, as they are in further training.

    A frozen normalization goes on using its recorded statistics. Compile the model after this, not before.

    Args:
        model: a ResNet.
        through: the last layer to freeze: `res4f_relu` leaves stage 5 and the head of ResNet-50 to be trained.

    Returns:
        The names of the frozen layers.

    Raises:
        UsageError: the model has no such layer.
    """
    keras = _import_keras()
    frozen = keras.Model(model.input, _layer(model, through).output).layers
    for layer in frozen:
        layer.trainable = False
    return tuple(layer.name for layer in frozen)


def weights_of(model: keras.Model) -> WeightMap:
    """Take the weights of a ResNet, trained further or not, as `resnet` takes them.

    Gamma and beta of a normalization are under Caffe's Scale: `bn2a_branch1/mean`, `scale2a_branch1/gamma`.

    Raises:
        UsageError: layers of other types than a ResNet's have weights; all are listed.
    """
    _import_keras()
    return export(model)


def _import_keras() -> Any:
    # TensorFlow reads this once, when it is loaded; otherwise it tells every process of the processor's abilities.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name not in {"keras", "tensorflow"}:
            raise
        raise MissingDependency("a ResNet as a Keras model", error.name, "tensorflow") from error
    return keras


def _check(
    depth: int, classes: int, stride_in: str, pool_padding: str | None, input_shape: Sequence[int | None]
) -> None:
    faults = []
    if depth not in BLOCKS:
        faults.append(f"there is no ResNet-{depth}; there are {', '.join(map(str, BLOCKS))}")
    if classes < 1:
        faults.append(f"it can't tell {classes} classes apart")
    if stride_in not in {"1x1", "3x3"}:
        faults.append(f"stride_in is '1x1' or '3x3', not {stride_in!r}")
    if pool_padding not in {"end", "both", None}:
        faults.append(f"pool_padding is 'end' or 'both', not {pool_padding!r}")
    if len(input_shape) != 3 or input_shape[2] != STEM.given:
        faults.append(f"input_shape is height, width and {STEM.given}, not {tuple(input_shape)}")
    if faults:
        raise UsageError("; ".join(faults))


def _layer(model: keras.Model, name: str) -> Any:
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise UsageError(f"model {model.name!r} has no layer {name!r}; it has {', '.join(names)}")
    return model.get_layer(name)


def _stem(keras: Any, x: Any, *, pads_both: bool) -> Any:
    x = _activate(keras, _unit(keras, x, STEM), STEM.conv)
    # Zeros can't win against what a ReLU gives, so they stand for the nothing that Caffe pools beyond the border.
    x = keras.layers.ZeroPadding2D(1 if pads_both else ((0, 1), (0, 1)), name="pool1_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name="pool1")(x)


def _block(keras: Any, x: Any, block: Block) -> Any:
    name = f"res{block.label}"
    shortcut = x if block.projection is None else _unit(keras, x, block.projection)
    for unit in block.branch[:-1]:
        x = _activate(keras, _unit(keras, x, unit), unit.conv)
    x = _unit(keras, x, block.branch[-1])
    return _activate(keras, keras.layers.Add(name=name)([shortcut, x]), name)


def _unit(keras: Any, x: Any, unit: Unit) -> Any:
    # "same" would pad the end alone where the stride is 2.
    if unit.kernel > 1:
        x = keras.layers.ZeroPadding2D(unit.kernel // 2, name=f"{unit.conv}_pad")(x)
    x = keras.layers.Conv2D(
        unit.channels,
        unit.kernel,
        unit.stride,
        use_bias=False,
        kernel_initializer="he_normal",
        name=unit.conv,
    )(x)
    return keras.layers.BatchNormalization(epsilon=EPSILON, name=unit.norm)(x)


def _activate(keras: Any, x: Any, name: str) -> Any:
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _classify(keras: Any, x: Any, name: str, classes: int) -> Any:
    return keras.layers.Softmax(name="prob")(keras.layers.Dense(classes, name=name)(x))
