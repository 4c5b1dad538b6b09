"""EfficientNet-Lite0 held to PyTorch's answers, and to what the photographs show."""

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data

from deep_learning_recipes import UsageError, classifiers
from deep_learning_recipes.classifiers import efficientnet_lite
from deep_learning_recipes.classifiers.torch_weights import load_state_dict

# Every 125th logit of `waves` that PyTorch 2.13 computed from the same file, by
# torch.nn.functional, with TensorFlow's padding written out.
TORCH_LOGITS = {
    (224, 224): [1.782, 0.5231, -0.7831, -2.0592, -1.0164, -0.8359, -0.2431, -1.917],
    (97, 130): [0.5173, 1.7933, -0.2178, -1.7232, -2.4488, -1.0899, -1.6172, -1.0705],
}


@pytest.fixture(scope="module")
def network():
    return classifiers.load("EfficientNetLite0")


def waves(height, width):
    rows, columns, colors = np.ogrid[:height, :width, 1:4]
    picture = 0.5 + 0.5 * np.sin(0.05 * rows * colors + 0.09 * columns)
    return picture[np.newaxis].astype("float32")


def middle(photo):
    """The middle square, seven eighths of the lower side, at 224 pixels."""
    side = 224 * min(photo.shape[:2]) // 256
    top = (photo.shape[0] - side + 1) // 2
    left = (photo.shape[1] - side + 1) // 2
    box = left, top, left + side, top + side
    resized = Image.fromarray(photo).resize((224, 224), Image.Resampling.BICUBIC, box)
    return np.asarray(resized, "float32")[np.newaxis] / 255


@pytest.mark.parametrize("size", TORCH_LOGITS, ids=str)
def test_logits_are_those_of_pytorch_at_any_size(size, network):
    if size != (224, 224):
        network = classifiers.load("EfficientNetLite0", size=size)
    logits = network.model(waves(*size), training=False)[0, ::125]
    np.testing.assert_allclose(logits, TORCH_LOGITS[size], atol=2e-4)


def test_it_knows_the_cat_and_the_coffee(network):
    expected = {
        "chelsea": {"tiger cat": 0.41, "Egyptian cat": 0.34, "tabby": 0.17},
        "coffee": {"espresso": 0.95},
    }
    for name, classes in expected.items():
        (probabilities,) = network.probabilities(middle(getattr(data, name)()))
        best = probabilities.argsort()[::-1][: len(classes)]
        found = {network.class_names[i]: probabilities[i] for i in best}
        assert list(found) == list(classes)
        assert found == pytest.approx(classes, abs=0.02)
    assert len(network.class_names) == 1000


def test_it_is_whole(network):
    """Parameters as in the paper's table of the Lite models, 4.7 million; each array of
    the file stands in the network once."""
    assert network.model.count_params() == 4_694_024
    arrays = load_state_dict(efficientnet_lite.weights_file())
    counts = [name for name in arrays if name.endswith("num_batches_tracked")]
    assert sum(array.size for array in arrays.values()) - len(counts) == 4_694_024
    names = {
        efficientnet_lite.torch_name(layer.name)
        for layer in network.model.layers
        if layer.weights
    }
    assert names == {name.rpartition(".")[0] for name in arrays}


def test_layers_have_the_names_of_keras_efficientnets(network):
    layers = {
        each.name for each in keras.applications.EfficientNetB0(weights=None).layers
    }
    mine = {each.name for each in network.model.layers}
    assert {"block3b_add", "block5c_add", "top_activation", "predictions"} <= mine
    renamed = {name for name in mine if name not in layers}
    assert renamed <= {"images", "pixels"}
    assert network.last_convolution == "top_activation"


def test_without_weights_it_is_random(network):
    own = classifiers.load("efficientnetlite0", weights=None, size=(32, 64))
    assert own.model.input.shape == (None, 32, 64, 3)
    kernels = [each.model.get_layer("stem_conv").kernel for each in (own, network)]
    assert np.abs(np.asarray(kernels[0]) - np.asarray(kernels[1])).max() > 0.01


def test_bad_names_ranges_and_sizes_get_one_line():
    with pytest.raises(UsageError, match="did you mean EfficientNetLite0"):
        classifiers.load("EfficientNetLite")
    with pytest.raises(UsageError, match="needs no download, nor a .keras file"):
        classifiers.load("resnet1000")
    with pytest.raises(UsageError, match="that of EfficientNetLite0 is known"):
        classifiers.load("EfficientNetLite0", pixel_range=(0, 1))
    with pytest.raises(UsageError, match="pictures of 224 by 224 pixels, not of 96"):
        classifiers.load("MobileNetV2", weights=None, size=(96, 96))
