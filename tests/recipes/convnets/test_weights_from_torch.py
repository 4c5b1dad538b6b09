"""Layouts against einsum and PyTorch's rules by hand, the check against planted traps,
and the reader against hostile files."""

import tracemalloc
from pathlib import Path

import hostile_torch
import keras
import numpy as np
import pytest
from conftest import run_in_process
from hostile_torch import archive, program, stream
from keras import layers

from recipes import weights_from_torch as recipe


@pytest.fixture(scope="module")
def arrays():
    return recipe.load_state_dict(recipe.weights_file())


def torch_convolution(images, kernel, stride, padding, groups=1):
    """torch.nn.functional.conv2d by its definition, (n, channels, height, width)."""
    sides = (padding, padding)
    padded = np.pad(images, ((0, 0), (0, 0), sides, sides))
    height, width = kernel.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (height, width), axis=(2, 3)
    )[:, :, ::stride, ::stride]
    if groups == 1:
        return np.einsum("nchwij,ocij->nohw", windows, kernel)
    return np.einsum("nchwij,cij->nchw", windows, kernel[:, 0])


@pytest.mark.parametrize("kind", ["ordinary", "depthwise"])
def test_a_convolution_in_keras_is_that_of_pytorch(kind):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 4, 9, 9)).astype("float32")
    shape = (5, 4, 3, 3) if kind == "ordinary" else (4, 1, 3, 3)
    kernel = random.normal(size=shape).astype("float32")
    options = {"strides": 2, "padding": "same", "use_bias": False, "name": "conv"}
    if kind == "ordinary":
        layer = layers.Conv2D(5, 3, **options)
    else:
        layer = layers.DepthwiseConv2D(3, **options)
    layer.build((None, 9, 9, 4))
    layer.set_weights(recipe.to_keras(layer, {"conv.weight": kernel}))
    found = np.asarray(layer(images.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    # At an odd size TensorFlow's padding is even, as PyTorch's.
    groups = 1 if kind == "ordinary" else 4
    expected = torch_convolution(images, kernel, 2, 1, groups)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_normalization_and_dense_are_those_of_pytorch():
    random = np.random.default_rng(1)
    x = random.normal(size=(3, 4)).astype("float32")
    parts = "weight", "bias", "running_mean", "running_var"
    stored = {f"bn.{part}": random.uniform(1, 2, 4) for part in parts}
    layer = layers.BatchNormalization(epsilon=1e-3, name="bn")
    layer.build((None, 4))
    layer.set_weights(recipe.to_keras(layer, stored))
    weight, bias, mean, variance = stored.values()
    expected = (x - mean) / np.sqrt(variance + 1e-3) * weight + bias
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)

    stored = {"fc.weight": random.normal(size=(2, 4)), "fc.bias": np.array([1.0, -1])}
    dense = layers.Dense(2, name="fc")
    dense.build((None, 4))
    dense.set_weights(recipe.to_keras(dense, stored))
    expected = x @ stored["fc.weight"].T + stored["fc.bias"]
    np.testing.assert_allclose(dense(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [8, 9, 112, 224])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_written_out_is_that_of_tensorflow(size, kernel_size):
    x = np.random.default_rng(2).normal(size=(1, size, size, 1)).astype("float32")
    options = {"strides": 2, "use_bias": False, "kernel_initializer": "ones"}
    same = layers.Conv2D(1, kernel_size, padding="same", **options)(x)
    valid = layers.Conv2D(1, kernel_size, padding="valid", **options)
    found = valid(recipe.pad(keras.ops.convert_to_tensor(x), kernel_size, 2))
    np.testing.assert_allclose(found, same, atol=1e-5)


@pytest.fixture(scope="module")
def small():
    """A network with a layer of every kind, its picture, and what its parts say."""
    random = np.random.default_rng(3)
    images = keras.Input((8, 8, 3))
    scale, offset = recipe.PREPROCESSING
    x = layers.Rescaling(scale, offset)(images)
    x = recipe.convolution(x, 4, 3, "first", strides=2)
    outputs = {"first": recipe.normalization(x, "bn")}
    x = layers.DepthwiseConv2D(3, padding="same", name="each")(outputs["first"])
    outputs["second"] = recipe.normalization(x, "bn2")
    x = layers.GlobalAveragePooling2D()(outputs["second"])
    outputs["logits"] = layers.Dense(6, name="fc")(x)
    model = keras.Model(images, outputs)
    model.set_weights([random.uniform(0.5, 1, w.shape) for w in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Little variance, where an epsilon counts.
            layer.moving_variance.assign([0.01, 0.02, 0.03, 0.04])
    image = random.random((1, 8, 8, 3), "float32")
    reference = {}
    for name, values in model(image, training=False).items():
        values = np.asarray(values, "float64")
        reference[name] = values.mean(), np.sqrt(np.mean(values**2))
    return model, image, {name: reference[name] for name in outputs}


FIRST = {"depthwise reshaped": "second", "dense reshaped": "logits"}


@pytest.mark.parametrize("trap", recipe.TRAPS)
def test_each_trap_is_named_where_it_shows(trap, small):
    model, image, reference = small
    before = model(image, training=False)["logits"]
    recipe.change(model, recipe.TRAPS[trap].plant)
    said = recipe.name_mistake(model, image, reference)
    recipe.change(model, recipe.TRAPS[trap].repair)
    assert said == (FIRST.get(trap, "first"), trap)
    np.testing.assert_array_equal(model(image, training=False)["logits"], before)


def test_what_is_right_or_unknown_is_not_named(small):
    model, image, reference = small
    assert recipe.name_mistake(model, image, reference) is None
    layer = model.get_layer("bn2")
    layer.beta.assign(layer.beta + 0.01)
    said = recipe.name_mistake(model, image, reference)
    layer.beta.assign(layer.beta - 0.01)
    assert said == ("second", recipe.UNKNOWN)


def test_the_network_is_that_of_the_file(arrays):
    model = recipe.build_model()
    assert recipe.convert(model, arrays) == set()
    assert model.count_params() == 4_694_024
    assert list(recipe.PYTORCH) == [*model.output]
    assert recipe.convert(model, {**arrays, "other.weight": arrays["_fc.bias"]}) == {
        "other.weight"
    }


@pytest.mark.parametrize("file", ["strided.pt", "strided_legacy.pt"])
def test_both_formats_and_all_kinds_of_views_are_read(file):
    found = recipe.load_state_dict(hostile_torch.GENUINE / file)
    expected = np.arange(6, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(found["a"], expected.T)
    np.testing.assert_array_equal(found["b"], expected[:, 1])
    np.testing.assert_array_equal(found["p"], expected)
    np.testing.assert_array_equal(found["bf"].astype("float32"), expected[1:])
    assert found["s"].shape == ()
    assert found["z"].shape == (0, 4)


def hostile_files():
    for case, body in (hostile_torch.NAMING | hostile_torch.DAMAGED).items():
        yield case, archive(program(body, protocol=4))
    for case, body in hostile_torch.NAMING.items():
        yield f"{case}, in a stream", stream(program(body))
    yield from hostile_torch.files().items()
    yield "a whole module", hostile_torch.whole_module()


HOSTILE = dict(hostile_files())


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_get_half_a_sentence_and_run_nothing(case):
    Path("bad.pt").write_bytes(HOSTILE[case])
    tracemalloc.start()
    try:
        with pytest.raises(recipe.BadFile) as found:
            recipe.load_state_dict("bad.pt")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(found.value)
    assert most < 2**27
    assert not Path("it_ran").exists()


def test_ones_own_file_is_listed(tmp_path, capsys):
    file = hostile_torch.GENUINE / "checkpoint.pt"
    finished = run_in_process(
        "weights_from_torch", tmp_path / "run", "--weights", str(file)
    )
    assert finished.code == 0
    shown = capsys.readouterr().out
    assert "state_dict.conv.weight" in shown
    assert "float32   2 × 1 × 3 × 3" in shown
    found = finished.metrics["metrics"]
    assert found["arrays"]["value"] == 19
    assert found["numbers"]["value"] == 3 * (18 + 2 + 2 + 2) + 4 + 4 + 1


def test_a_hostile_file_ends_the_run_with_one_line(tmp_path, capsys):
    Path("bad.pt").write_bytes(archive(program(hostile_torch.SYSTEM)))
    for file, said in {
        "bad.pt": "it names os.system, and nothing of it is run",
        "none.pt": "No such file or directory",
    }.items():
        flags = "--weights", file
        code = run_in_process("weights_from_torch", tmp_path / "run", *flags).code
        assert code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: --weights {file}: {said}")
    assert not Path("it_ran").exists()


def test_the_stored_numbers_are_pytorchs(arrays):
    """Computed anew where PyTorch is installed, from its own reading of the file."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    stored = torch.load(recipe.weights_file(), weights_only=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, stored[name].numpy())

    def convolve(x, name, stride=1, groups=1):
        kernel = stored[f"{name}.weight"]
        size = x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel.shape[-1] - size, 0)
        sides = total // 2, total - total // 2
        padded = functional.pad(x, (*sides, *sides))
        return functional.conv2d(padded, kernel, stride=stride, groups=groups)

    def normalize(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        values = [stored[f"{name}.{part}"] for part in parts]
        return functional.batch_norm(x, *values, False, 0.0, 1e-3)

    images = torch.from_numpy(recipe.load_photographs()).permute(0, 3, 1, 2)
    with torch.no_grad():
        x = (images * 255 - 127) / 128
        x = functional.relu6(normalize(convolve(x, "_conv_stem", 2), "_bn0"))
        parts = [x]
        for stage in recipe.STAGES:
            for position in range(stage.blocks):
                name = f"_blocks.{len(parts) - 1}"
                y = x
                if stage.expansion > 1:
                    y = normalize(convolve(y, f"{name}._expand_conv"), f"{name}._bn0")
                    y = functional.relu6(y)
                stride = stage.strides if position == 0 else 1
                y = convolve(y, f"{name}._depthwise_conv", stride, y.shape[1])
                y = functional.relu6(normalize(y, f"{name}._bn1"))
                y = normalize(convolve(y, f"{name}._project_conv"), f"{name}._bn2")
                x = y if position == 0 else x + y
                parts.append(x)
        x = functional.relu6(normalize(convolve(x, "_conv_head"), "_bn1"))
        parts.append(x)
        logits = functional.linear(
            x.mean((2, 3)), stored["_fc.weight"], stored["_fc.bias"]
        )
        parts.append(logits)
    expected = np.array(list(recipe.PYTORCH_LOGITS.values()))
    np.testing.assert_allclose(logits[:, ::100], expected, atol=2e-5)
    for (mean, size), part in zip(recipe.PYTORCH.values(), parts, strict=True):
        values = part[0].numpy().astype("float64")
        found = values.mean(), np.sqrt(np.mean(values**2))
        np.testing.assert_allclose(found, (mean, size), atol=2e-5 * size)
