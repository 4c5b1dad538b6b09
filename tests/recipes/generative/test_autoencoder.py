import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA

from recipes.generative import autoencoder

SHAPE = (8, 12, 1)
BUILDERS = {
    "linear": autoencoder.build_linear,
    "deep": autoencoder.build_deep,
    "convolutional": autoencoder.build_convolutional,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", BUILDERS)
def test_pictures_go_through_a_code_and_have_their_shape_again(name, random):
    encoder, decoder = BUILDERS[name](SHAPE, 5)
    x = random.random((3, *SHAPE)).astype("float32")
    codes = encoder(x)
    assert codes.shape == (3, 5)
    model = autoencoder.join(encoder, decoder, "joined")
    np.testing.assert_allclose(model(x), decoder(codes), atol=1e-6)
    assert model(x).shape == x.shape


def test_parameters_by_hand():
    def count(parts):
        return sum(model.count_params() for model in parts)

    pixels = 8 * 12
    linear = autoencoder.build_linear(SHAPE, 5)
    assert count(linear) == (pixels * 5 + 5) + (5 * pixels + pixels)

    deep = autoencoder.build_deep(SHAPE, 5, units=7)
    encoder = (pixels * 7 + 7) + (7 * 7 + 7) + (7 * 5 + 5)
    decoder = (5 * 7 + 7) + (7 * 7 + 7) + (7 * pixels + pixels)
    assert count(deep) == encoder + decoder

    convolutional = autoencoder.build_convolutional(SHAPE, 5, filters=4)
    maps = 2 * 3 * 8
    encoder = (9 * 4 + 4) + (9 * 4 * 8 + 8) + (maps * 5 + 5)
    decoder = (5 * maps + maps) + (16 * 8 * 4 + 4) + (16 * 4 + 1)
    assert count(convolutional) == encoder + decoder


def test_a_linear_one_has_no_nonlinearity(random):
    encoder, decoder = autoencoder.build_linear(SHAPE, 5)
    model = autoencoder.join(encoder, decoder, "linear")
    one, other = random.normal(size=(2, 1, *SHAPE)).astype("float32")
    middle = np.asarray(model((one + other) / 2))
    expected = (np.asarray(model(one)) + np.asarray(model(other))) / 2
    np.testing.assert_allclose(middle, expected, atol=1e-5)


def test_principal_components_leave_no_angle_and_no_smaller_error(random):
    """PCA's weights in the linear autoencoder give PCA's own reconstruction."""
    x = random.normal(size=(200, *SHAPE)) * np.linspace(1, 3, 12)[:, np.newaxis]
    pca = PCA(5).fit(x.reshape(200, -1))
    encoder, decoder = autoencoder.build_linear(SHAPE, 5)
    axes = pca.components_
    encoder.get_layer("code").set_weights([axes.T, -pca.mean_ @ axes.T])
    decoder.get_layer("pixels").set_weights([axes, pca.mean_])
    assert autoencoder.subspace_angle(decoder, pca) == pytest.approx(0, abs=0.01)

    model = autoencoder.join(encoder, decoder, "linear")
    found = np.asarray(model(x.astype("float32")))
    np.testing.assert_allclose(found, autoencoder.through_pca(pca, x), atol=1e-4)
    # Any basis of the subspace is as good; another subspace is none.
    mixed = random.normal(size=(5, 5)) @ axes
    decoder.get_layer("pixels").set_weights([mixed, pca.mean_])
    assert autoencoder.subspace_angle(decoder, pca) == pytest.approx(0, abs=0.1)
    mixed[0] = random.normal(size=96)
    decoder.get_layer("pixels").set_weights([mixed, pca.mean_])
    assert autoencoder.subspace_angle(decoder, pca) > 45


def test_training_lowers_the_mean_squared_error(random):
    x = random.random((256, *SHAPE)).astype("float32")
    x[:, :4] = x[:, 4:]  # half of the pixels tell the other half
    parts = autoencoder.build_deep(SHAPE, 48, units=64)
    model = autoencoder.join(*parts, "deep")
    autoencoder.compile_autoencoder(model, 3e-3, steps=400)
    before = model.evaluate(x, x, verbose=0)
    assert before == pytest.approx(np.mean((np.asarray(model(x)) - x) ** 2), rel=1e-4)
    model.fit(x, x, epochs=50, batch_size=32, verbose=0)
    assert model.evaluate(x, x, verbose=0) < 0.75 * before
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert rate == pytest.approx(0, abs=1e-6)  # at the end of the cosine


def test_interpolation_begins_and_ends_at_its_ends(random):
    one, other = random.normal(size=(2, 4, 3))
    way = autoencoder.interpolate(one, other, 5)
    assert way.shape == (5, 4, 3)
    np.testing.assert_allclose(way[0], one)
    np.testing.assert_allclose(way[-1], other)
    np.testing.assert_allclose(way[2], (one + other) / 2)
    np.testing.assert_allclose(
        np.diff(way, axis=0), np.tile((other - one) / 4, (4, 1, 1))
    )
