"""The bridge: what tf_keras computes is what Keras 3 computes, to the last bit; where
the processor's matrix products round by their shapes (attention), to the rounding."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from deep_learning_recipes.compression import to_keras, to_tf_keras
from deep_learning_recipes.compression.bridge import bridge, copy_of

random = np.random.default_rng(0)


def example(tensor):
    shape = (3, *tensor.shape[1:])
    if tensor.dtype.startswith("int"):
        return random.integers(0, 4, size=shape).astype(tensor.dtype)
    return random.normal(size=shape).astype(tensor.dtype)


def check(model, x=None, rounding=0.0):
    """tf_keras's outputs equal Keras 3's but for `rounding`, a share of the largest,
    the weights come back, the source is as it was."""
    for variable in model.weights:
        if "float" in str(variable.dtype):
            variable.assign(random.uniform(0.3, 1.5, size=variable.shape))
    if x is None:
        x = keras.tree.map_structure(example, model.inputs)
        x = x[0] if len(x) == 1 else x
    config, before = model.get_config(), model.get_weights()

    twin = to_tf_keras(model)
    expected = model(x, training=False)
    found = twin(x, training=False)
    pairs = zip(keras.tree.flatten(expected), tf.nest.flatten(found), strict=True)
    for one, other in pairs:
        allowed = rounding * np.abs(one).max()
        np.testing.assert_allclose(np.asarray(other), one, rtol=0, atol=allowed)

    back = to_keras(twin, model)
    for one, other in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(other, one)
    for one, other in zip(
        keras.tree.flatten(expected),
        keras.tree.flatten(back(x, training=False)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(other), np.asarray(one))
    assert model.get_config() == config
    assert all(
        np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)
    )
    return twin


SHAPES = {1: (9, 4), 2: (9, 8, 4), 3: (6, 5, 7, 4)}


def by_dimension():
    for dimension, shape in SHAPES.items():
        named = {
            "Conv": (4, 3, 2, "same"),
            "AveragePooling": (2,),
            "MaxPooling": (2,),
            "GlobalAveragePooling": (),
            "GlobalMaxPooling": (),
            "Cropping": (),
            "ZeroPadding": (),
            "UpSampling": (),
            "SpatialDropout": (0.3,),
        }
        for name, arguments in named.items():
            yield getattr(layers, f"{name}{dimension}D")(*arguments), shape
        yield getattr(layers, f"Conv{dimension}DTranspose")(5, 3, 2), shape
    for dimension in (1, 2):
        for name, arguments in {"DepthwiseConv": (3,), "SeparableConv": (6, 3)}.items():
            layer = getattr(layers, f"{name}{dimension}D")
            yield layer(*arguments, depth_multiplier=2), SHAPES[dimension]


def others():
    image, sequence, vector = (9, 8, 4), (7, 3), (6,)
    yield layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)
    yield (
        layers.Conv2D(
            4, 3, groups=2, kernel_regularizer="l2", kernel_constraint="non_neg"
        ),
        image,
    )
    yield layers.Conv2D(4, 3, activation="hard_silu"), image
    yield layers.Dense(5, activation="hard_sigmoid"), vector
    yield layers.Dense(5, use_bias=False), sequence
    yield (
        layers.EinsumDense(
            "abcd,de->abce", output_shape=(None, None, 5), bias_axes="e"
        ),
        image,
    )
    for name in [
        *(
            "elu",
            "exponential",
            "gelu",
            "hard_sigmoid",
            "hard_silu",
            "leaky_relu",
            "linear",
        ),
        *("log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax"),
        *("softplus", "softsign", "tanh"),
    ]:
        yield layers.Activation(name), vector
    yield layers.BatchNormalization(), image
    yield layers.BatchNormalization(scale=False, axis=1), image
    yield layers.BatchNormalization(), vector
    yield layers.LayerNormalization(), image
    yield layers.LayerNormalization(axis=(1, 2)), image
    yield layers.LayerNormalization(epsilon=1e-6, center=False), vector
    yield layers.GroupNormalization(2), image
    yield layers.UnitNormalization(), vector
    yield layers.SpectralNormalization(layers.Conv2D(3, 3)), image
    yield layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]), sequence
    yield layers.Rescaling(1 / 3, 0.2), image
    yield layers.Resizing(5, 11), image
    yield layers.Resizing(20, 17, interpolation="nearest"), image
    yield layers.CenterCrop(4, 4), image
    for name in ("Brightness", "Contrast", "Rotation", "Zoom"):
        yield getattr(layers, f"Random{name}")(0.1), image
    yield layers.RandomFlip(), image
    yield layers.RandomTranslation(0.1, 0.1), image
    yield layers.PReLU(shared_axes=(1, 2)), image
    yield layers.LeakyReLU(0.1), vector
    yield layers.ReLU(6.0, 0.1, 0.2), vector
    yield layers.ELU(0.3), vector
    yield layers.Softmax(axis=1), sequence
    yield layers.UpSampling2D(2, interpolation="bilinear"), image
    yield layers.Flatten(), image
    yield layers.Permute((2, 1, 3)), image
    yield layers.Reshape((-1, 4)), image
    yield layers.RepeatVector(3), vector
    yield layers.Masking(), sequence
    for name in ("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout"):
        yield getattr(layers, name)(0.3), vector
    yield layers.Identity(), vector
    yield layers.ActivityRegularization(0.1), vector
    yield layers.Discretization([-1.0, 0.0, 1.0]), vector
    yield layers.TimeDistributed(layers.Conv1D(4, 2)), image
    yield (
        layers.TimeDistributed(
            keras.Sequential([keras.Input((8, 4)), layers.Flatten()])
        ),
        image,
    )
    for kind in (layers.LSTM, layers.GRU, layers.SimpleRNN):
        yield kind(5), sequence
        yield kind(5, return_sequences=True, go_backwards=True), sequence
        yield kind(5, return_state=True, unroll=True), sequence
        yield layers.Bidirectional(kind(5, return_sequences=True)), sequence
    yield layers.GRU(5, reset_after=False), sequence
    yield (
        layers.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid"),
        sequence,
    )
    yield layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)]), sequence
    yield layers.RNN(layers.SimpleRNNCell(4)), sequence
    backward = layers.GRU(3, go_backwards=True)
    yield layers.Bidirectional(layers.LSTM(3), "sum", backward_layer=backward), sequence
    yield layers.ConvLSTM1D(3, 2, return_sequences=True), image
    yield layers.ConvLSTM2D(3, 2), (3, 6, 6, 2)
    yield layers.ConvLSTM3D(2, 2), (2, 3, 3, 3, 2)


INTEGERS = [
    lambda: layers.Embedding(6, 4),
    lambda: layers.CategoryEncoding(6, output_mode="multi_hot"),
    lambda: layers.IntegerLookup(vocabulary=[1, 3, 4]),
    lambda: layers.Hashing(4),
]


def identify(value):
    return type(value).__name__ if isinstance(value, layers.Layer) else ""


@pytest.mark.parametrize(("layer", "shape"), [*by_dimension(), *others()], ids=identify)
def test_layers_of_one_input(layer, shape):
    inputs = keras.Input(shape)
    check(keras.Model(inputs, layer(inputs)))


@pytest.mark.parametrize("make", INTEGERS)
def test_layers_of_integers(make):
    inputs = keras.Input((5,), dtype="int32")
    check(keras.Model(inputs, make()(inputs)))


def test_lookups_and_normalization_take_what_they_adapted_to():
    normalization = layers.Normalization()
    normalization.adapt(random.normal(2, 3, size=(50, 5)))
    inputs = keras.Input((5,))
    model = keras.Model(inputs, normalization(inputs))
    x = random.normal(size=(4, 5)).astype("float32")
    np.testing.assert_array_equal(to_tf_keras(model)(x), model(x))
    np.testing.assert_array_equal(copy_of(model)(x), model(x))

    lookup = layers.StringLookup()
    lookup.adapt(["a", "b", "b", "c"])
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, lookup(inputs))
    x = tf.constant([["c"], ["b"], ["z"]])
    np.testing.assert_array_equal(to_tf_keras(model)(x), model(x))


MERGES = (
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Attention", "AdditiveAttention"),
)


@pytest.mark.parametrize("name", MERGES)
def test_layers_of_two_inputs(name):
    inputs = [keras.Input((4, 3)), keras.Input((4, 3))]
    check(keras.Model(inputs, getattr(layers, name)()(inputs)))


@pytest.mark.parametrize("options", [{"axes": 2}, {"axes": (1, 1), "normalize": True}])
def test_dot(options):
    inputs = [keras.Input((4, 3)), keras.Input((4, 3))]
    check(keras.Model(inputs, layers.Dot(**options)(inputs)))


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"value_dim": 4}, {"use_causal_mask": True}),
        ({"dropout": 0.2, "use_bias": False}, {}),
        ({}, {"return_attention_scores": True}),
    ],
)
def test_multi_head_attention(options, call):
    query, value = keras.Input((4, 6)), keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3, **options)
    model = keras.Model([query, value], attention(query, value, **call))
    # Keras 3 multiplies flattened matrices, tf_keras batches of them.
    check(model, rounding=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(5),
        lambda: layers.Bidirectional(layers.GRU(5, return_sequences=True)),
        lambda: layers.GlobalAveragePooling1D(),
    ],
)
def test_masks(make):
    inputs = keras.Input((7,), dtype="int32")
    check(keras.Model(inputs, make()(layers.Embedding(6, 4, mask_zero=True)(inputs))))


def test_sequential_models_given_an_input_or_built_by_a_call():
    check(
        keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(2)])
    )
    model = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(2)])
    model(np.zeros((1, 6)))
    check(model)


def test_nested_shared_multiple_and_bare_operations():
    image = keras.Input((8, 8, 3), name="image")
    block = keras.Sequential(
        [layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()]
    )
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(shared(block(image)))
    x = 1.0 - x[:, 1:, ...]
    x = ops.concatenate([x, ops.relu(x)], axis=-1)
    y = ops.mean(x, axis=(1, 2))
    z = y * np.arange(8, dtype="float32")
    left, right = keras.Input((8,)), keras.Input((8,))
    inner = keras.Model([left, right], {"sum": left + right, "product": left * right})
    first, again = inner([y, z]), inner([z, y])
    outputs = {
        "softmax": ops.softmax(first["sum"]),
        "parts": ops.split(first["product"], 2, axis=-1),
        "pair": (y, again["sum"]),
        "transposed": ops.transpose(ops.reshape(z, (-1, 2, 4)), (0, 2, 1)),
        "nested": inner([y, y]),
        "where": ops.where(y > 0, z, -1.0),
    }
    model = keras.Model(image, outputs)
    twin = check(model)
    assert set(twin.output) == set(outputs)
    convolutions = [each for each in twin.layers if each.name == "shared"]
    assert len(convolutions) == 1 and len(convolutions[0].inbound_nodes) == 2

    x = example(image)
    inlined = bridge(model, inline=True).model
    assert not any(isinstance(each, tf_keras.Model) for each in inlined.layers)
    for name, value in model(x).items():
        for one, other in zip(
            keras.tree.flatten(value), tf.nest.flatten(inlined(x)[name]), strict=True
        ):
            np.testing.assert_array_equal(other, one)


def test_inputs_by_name_and_outputs_in_a_tuple():
    inputs = {"u": keras.Input((4,), name="u"), "v": keras.Input((4,), name="v")}
    model = keras.Model(
        inputs, (inputs["u"] @ ops.transpose(inputs["v"]), ops.exp(inputs["u"]))
    )
    check(model, {name: example(each) for name, each in inputs.items()})


def test_mixed_precision_and_frozen_layers():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        stack = [
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
        ]
        stack[0].trainable = False
        model = keras.Sequential(
            [keras.Input((6, 6, 3)), *stack, layers.Dense(3, dtype="float32")]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    twin = check(model)
    assert [each.trainable for each in twin.layers[1:]] == [
        each.trainable for each in model.layers
    ]
    assert twin.layers[1].compute_dtype == "float16"


def test_to_keras_brings_trained_weights_home_and_compiles():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    twin = to_tf_keras(model)
    twin.compile("sgd", "mse")
    x = random.normal(size=(32, 4)).astype("float32")
    twin.fit(x, x[:, :1], epochs=2, verbose=0)
    back = to_keras(twin, like=model)
    np.testing.assert_array_equal(back(x), twin(x))
    assert np.abs(np.asarray(back(x)) - np.asarray(model(x))).max() > 0
    back.fit(x, x[:, :1], verbose=0)
    with pytest.raises(ValueError, match="no layer 'other'"):
        like = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="other")])
        to_keras(twin, like=like)
    with pytest.raises(ValueError, match=r"'a' .*\(4, 5\).*\(4, 3\)"):
        to_keras(
            twin, like=keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a")])
        )
    with pytest.raises(ValueError, match="tf_keras.Model is needed"):
        to_keras(model, like=model)


class Own(layers.Dense):
    pass


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Own(3, name="mine"), ["'mine'", "Own", "class of its own", "keras.ops"]),
        (
            layers.RMSNormalization(name="rms"),
            ["'rms'", "RMSNormalization", "LayerNormalization"],
        ),
        (layers.Lambda(lambda x: x, name="l"), ["'l'", "Lambda", "keras.ops"]),
        (layers.RandomErasing(name="e"), ["'e'", "RandomErasing", "data pipeline"]),
        (layers.RandomCrop(4, 4, name="c"), ["'c'", "RandomCrop", "CenterCrop"]),
        (
            layers.Resizing(4, 4, antialias=True, name="r"),
            ["'r'", "antialias=True", "False"],
        ),
        (layers.TimeDistributed(Own(3, name="inner")), ["'inner'", "Own"]),
    ],
)
def test_what_tf_keras_lacks_is_named_with_a_way_out(layer, words):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError) as error:
        to_tf_keras(keras.Model(inputs, layer(inputs)))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_models_without_a_graph_are_refused():
    with pytest.raises(ValueError, match="not built"):
        to_tf_keras(keras.Sequential([layers.Dense(2)]))

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="graph cannot be seen"):
        to_tf_keras(Subclassed())
    with pytest.raises(ValueError, match="Keras 3 model"):
        to_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))]))
    quantized = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="already quantized"):
        to_tf_keras(quantized)


APPLICATIONS = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}
if os.environ.get("ALL_APPLICATIONS"):
    others_of_family = (
        *(
            "ConvNeXtSmall",
            "ConvNeXtBase",
            "DenseNet169",
            "DenseNet201",
            "InceptionResNetV2",
        ),
        *(f"EfficientNetB{n}" for n in range(1, 8)),
        *(
            "EfficientNetV2B1",
            "EfficientNetV2B2",
            "EfficientNetV2B3",
            "EfficientNetV2S",
        ),
        *(
            "EfficientNetV2M",
            "EfficientNetV2L",
            "MobileNetV3Large",
            "NASNetLarge",
            "ResNet101",
        ),
        *("ResNet101V2", "ResNet152", "ResNet152V2", "VGG19"),
    )
    APPLICATIONS |= {
        n: 75 if n.startswith("Inception") else 32 for n in others_of_family
    }


def check_application(model):
    x = random.uniform(0, 255, size=(2, *model.input_shape[1:])).astype("float32")
    np.testing.assert_array_equal(to_tf_keras(model)(x), model(x))


@pytest.mark.long
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name):
    """One architecture of each family; all that both know with ALL_APPLICATIONS=1
    (minutes)."""
    keras.utils.clear_session(free_memory=False)
    size = APPLICATIONS[name]
    build = getattr(keras.applications, name)
    check_application(
        build(
            weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
        )
    )


def residual(version):
    stack = getattr(family("ResNet50"), f"stack_residual_blocks_v{version}")
    blocks = lambda x: stack(stack(x, 4, 2, 1, name="conv2"), 8, 2, name="conv3")  # noqa: E731
    return {"stack_fn": blocks, "preact": version == 2, "use_bias": True}


def family(name):
    """The module that an application and the builder of its family stand in."""
    return sys.modules[getattr(keras.applications, name).__module__]


SCALES = {"width_coefficient": 0.25, "depth_coefficient": 0.25, "default_size": 32}
FAMILIES = {
    "ConvNeXtTiny": ("ConvNeXt", {"depths": [1] * 4, "projection_dims": [4, 8, 8, 8]}),
    "DenseNet121": ("DenseNet", {"blocks": [2, 1, 1, 1]}),
    "EfficientNetB0": ("EfficientNet", SCALES),
    "EfficientNetV2B0": (
        "EfficientNetV2",
        {**SCALES, "name": "efficientnetv2-b0"},
    ),
    "MobileNet": ("MobileNet", {"alpha": 0.25}),
    "MobileNetV2": ("MobileNetV2", {"alpha": 0.35}),
    "MobileNetV3Small": ("MobileNetV3Small", {"minimalistic": False}),
    "ResNet50": ("ResNet", residual(1)),
    "ResNet101": ("ResNet", residual(2)),
}
"""The builder of each family, and how it makes a small network of all its parts; those
that have no small one (Inception, NASNet, VGG, Xception) bring no layers of their own."""


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_applications(name):
    keras.utils.clear_session(free_memory=False)
    builder, options = FAMILIES[name]
    build = getattr(family(name), builder)
    check_application(
        build(
            weights=None,
            include_top=False,
            input_shape=(32, 32, 3),
            pooling="avg",
            **options,
        )
    )


@st.composite
def graphs(draw):
    """The inputs and outputs of a random functional graph of layers and operations on
    vectors."""
    width = draw(st.integers(2, 6))
    inputs = [keras.Input((width,)) for _ in range(draw(st.integers(1, 3)))]
    tensors = list(inputs)
    shared = layers.Dense(width, activation="tanh")
    nested = keras.Sequential(
        [keras.Input((width,)), layers.Dense(width), layers.ReLU()]
    )
    one = [
        shared,
        nested,
        ops.relu,
        ops.softmax,
        lambda x: 2.0 - x / 3.0,
        lambda x: ops.reshape(
            ops.transpose(ops.expand_dims(x, 1), (0, 2, 1)), (-1, width)
        ),
        lambda x: x[:, ::-1],
        lambda x: x - ops.mean(x, axis=-1, keepdims=True),
        lambda x: layers.BatchNormalization()(x),
        lambda x: layers.LayerNormalization()(x),
        lambda x: layers.Dense(width, activation="gelu")(x),
        lambda x: layers.Dropout(0.5)(x),
    ]
    two = [
        lambda a, b: a + b,
        lambda a, b: ops.maximum(a, b) * 0.5,
        lambda a, b: layers.Multiply()([a, b]),
        lambda a, b: layers.Dense(width)(ops.concatenate([a, b], axis=-1)),
        lambda a, b: ops.where(a > b, a, b),
    ]
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            tensors.append(draw(st.sampled_from(one))(draw(st.sampled_from(tensors))))
        else:
            pair = [draw(st.sampled_from(tensors)) for _ in range(2)]
            tensors.append(draw(st.sampled_from(two))(*pair))
    made = tensors[len(inputs) :]
    outputs = draw(
        st.lists(st.sampled_from(made), min_size=1, max_size=3, unique_by=id)
    )
    structure = draw(st.sampled_from(["list", "dict", "single"]))
    if structure == "dict":
        outputs = {f"output-{index}": each for index, each in enumerate(outputs)}
    elif structure == "single":
        outputs = outputs[-1]
    return inputs, outputs


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(graphs())
def test_random_graphs(graph):
    inputs, outputs = graph
    check(keras.Model(inputs, outputs), [example(each) for each in inputs])
