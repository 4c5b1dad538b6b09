"""Statistics and layers against NumPy, scikit-learn and Keras."""

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA

from recipes import preprocessing as recipe


def correlated(examples=300, features=5):
    random = np.random.default_rng(0)
    mixing = random.normal(size=(features, features)) * [1, 2, 5, 10, 30][:features]
    return random.normal(size=(examples, features)) @ mixing + 7


@pytest.mark.parametrize("method", ["PCA-whitened", "ZCA-whitened"])
def test_the_covariance_of_whitened_data_is_the_identity(method):
    x = correlated()
    found = recipe.apply(method, x, x)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(5), atol=1e-8)


def test_pca_whitening_is_that_of_scikit_learn():
    x = correlated()
    expected = PCA(whiten=True).fit_transform(x)
    # Its variances are by n − 1, and the sign of an axis is anyone's.
    expected = expected * np.sqrt(len(x) / (len(x) - 1))
    found = recipe.apply("PCA-whitened", x, x)
    found = found * np.sign(np.sum(found * expected, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zca_stays_nearer_to_the_data_than_pca():
    """Of all whitenings it is the nearest to what is centered."""
    x = correlated()
    x = x - x.mean(axis=0)
    away = {
        method: np.sum((recipe.apply(method, x, x) - x) ** 2)
        for method in ("PCA-whitened", "ZCA-whitened")
    }
    assert away["ZCA-whitened"] < away["PCA-whitened"]
    _, matrix = recipe.whiten_by_zca(x)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(inverse @ inverse, np.cov(x.T, bias=True), rtol=1e-6)


@pytest.mark.parametrize("method", recipe.METHODS)
def test_features_that_never_change_give_zeros_or_what_they_are(method):
    x = correlated(features=3)
    x = np.column_stack([x, np.full(len(x), 4.0)])
    found = recipe.apply(method, x, x)
    assert np.isfinite(found).all()
    if method != "raw":
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-8)


def test_smoothed_whitening_shrinks_what_is_hardly_there():
    x = correlated()
    eigenvalues, _ = recipe.principal_axes(x)
    found = recipe.apply("ZCA, smoothed", x, x)
    variances = np.linalg.eigvalsh(np.cov(found.T, bias=True))[::-1]
    epsilon = 0.01 * eigenvalues[0]
    np.testing.assert_allclose(variances, eigenvalues / (eigenvalues + epsilon))


def test_standardized_is_keras_normalization():
    x = correlated().astype("float32")
    ours = recipe.Preprocessing("standardized")
    ours.build(x.shape)
    ours.adapt(x)
    theirs = keras.layers.Normalization()
    theirs.adapt(x)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-4)


def test_images_keep_their_shape_and_their_own_mean():
    x = np.random.default_rng(0).uniform(size=(20, 4, 4, 3)).astype("float32")
    layer = recipe.Preprocessing("centered")
    layer.build(x.shape)
    layer.adapt(x)
    np.testing.assert_allclose(layer(x), x - x.mean(axis=0), atol=1e-6)


def test_condition_number_by_hand():
    # Columns ±1 and ±10 and the bias are orthogonal: (1/n) Σ is diag(1, 100, 1).
    x = np.array([[1, 10], [1, -10], [-1, 10], [-1, -10]])
    assert recipe.condition_number(x) == pytest.approx(100)
    assert recipe.condition_number(np.column_stack([x, x])) == pytest.approx(200)


def test_a_saved_model_brings_its_statistics_and_takes_raw_features(tmp_path):
    x = correlated().astype("float32")
    model = recipe.build_dense("ZCA-whitened", features=5)
    model.get_layer("preprocessing").adapt(x)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-5)
    rest = keras.Model(model.layers[2].input, model.output)
    whitened = recipe.apply("ZCA-whitened", x, x).astype("float32")
    np.testing.assert_allclose(rest(whitened), again(x), atol=1e-3)


def test_statistics_are_not_trained():
    model = recipe.build_dense("standardized", features=5)
    trained = {each.path for each in model.trainable_variables}
    assert not any("preprocessing" in path for path in trained)
    assert len(model.non_trainable_variables) == 2


def test_a_leak_makes_unseen_data_look_whitened():
    x = np.random.default_rng(0).normal(size=(400, 13))
    y = np.arange(400) % 3
    found = recipe.leak("PCA-whitened", x, y, seed=0)
    honest, leaky = found.variances.mean(axis=0)
    # Of n examples the inverse covariance is n / (n − features − 1) times too large.
    assert honest == pytest.approx(30 / (30 - 13 - 1), rel=0.25)
    assert leaky == pytest.approx(1, abs=0.05)
