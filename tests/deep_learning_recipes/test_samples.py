import matplotlib
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA
from test_architectures import Notes

from deep_learning_recipes import data, samples


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_frechet_distance_of_gaussians_on_lines(random):
    one = random.normal(2.0, 1.0, size=(200_000, 1))
    other = random.normal(-1.0, 3.0, size=(200_000, 1))
    found = samples.frechet_distance(one, other)
    # In one dimension (μ₁ − μ₂)² + (σ₁ − σ₂)², and at least the squared W₁.
    assert found == pytest.approx(3**2 + 2**2, rel=0.02)
    assert found >= wasserstein_distance(one[:, 0], other[:, 0]) ** 2


def test_frechet_distance_does_not_mind_axes(random):
    one = random.normal(size=(5000, 4)) * [1, 2, 3, 0.1]
    other = random.normal(size=(5000, 4)) + [0, 1, 0, 0]
    axes, _ = np.linalg.qr(random.normal(size=(4, 4)))
    turned = samples.frechet_distance(one @ axes, other @ axes)
    assert turned == pytest.approx(samples.frechet_distance(one, other), rel=1e-6)
    assert samples.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_features_that_never_vary_leave_a_number(random):
    one = random.normal(size=(50, 6))
    one[:, 2:] = 0
    assert 0 <= samples.frechet_distance(one, one + 1e-3) < 1e-3


def test_precision_and_coverage_are_those_of_brute_force(random):
    found = random.normal(size=(80, 3))
    real = random.normal(size=(60, 3)) + 0.7
    between = np.sort(cdist(real, real), axis=1)  # at 0 stands the point itself
    distances = cdist(found, real)
    inside = (distances <= between[:, 3]).any(axis=1)
    assert samples.precision(found, real) == inside.mean()
    assert 0 < inside.mean() < 1
    covered = (distances <= between[:, 5]).any(axis=0)
    assert samples.coverage(found, real) == covered.mean()
    assert 0 < covered.mean() < 1


def test_one_point_has_precision_and_no_coverage(random):
    real = random.normal(size=(300, 2))
    one_point = 1e-3 * random.normal(size=(300, 2))
    assert samples.precision(one_point, real) == 1
    assert samples.coverage(one_point, real) < 0.05


def test_coverage_of_the_same_law_is_nearly_one(random):
    one, other = random.normal(size=(2, 1000, 2))
    # 1 − 2^−5 in expectation: Naeem et al., section 3.3.
    assert samples.coverage(one, other) == pytest.approx(1 - 2**-5, abs=0.02)


def test_two_sample_accuracy_is_a_half_for_the_same_law_and_one_apart(random):
    one, other = random.normal(size=(2, 1000, 2))
    assert samples.two_sample_accuracy(one, other) == pytest.approx(0.5, abs=0.05)
    assert samples.two_sample_accuracy(one, other + 100) == 1
    # Copies are nearest to what they are copies of.
    assert samples.two_sample_accuracy(one, one + 1e-6) < 0.01


def test_class_distance_by_hand():
    one = np.array([0, 0, 1, 1])
    other = np.array([1, 1, 1, 2])
    assert samples.class_distance(one, other, 4) == pytest.approx(0.5)
    assert samples.class_distance(one, np.array([3]), 4) == 1


def test_gaussian_rival_has_the_images_means_and_variances(random):
    train = np.clip(0.5 + 0.1 * random.normal(size=(4000, 3, 3, 1)), 0, 1)
    train[:, 0, 0] = train[:, 2, 2]
    drawn = samples.draw_gaussian(train, 4000, seed=0)
    assert drawn.shape == train.shape
    np.testing.assert_allclose(drawn.mean(axis=0), train.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), train.std(axis=0), atol=0.01)
    np.testing.assert_allclose(drawn[:, 0, 0], drawn[:, 2, 2], atol=1e-4)


def test_report_tells_copies_noise_and_one_image_apart(random):
    (x, y), (x_test, y_test) = data.load("digits", size=16)
    notes = Notes()
    judge = samples.train_judge(
        (x, y), (x_test, y_test), classes=10, run=notes, epochs=10
    )
    assert judge.accuracy > 0.9
    notes.seed = 0
    noise = random.random((360, 16, 16, 1)).astype("float32")
    shown = {
        "copies": x[:360],
        "noise": noise,
        "one image": np.clip(x[:1] + 0.01 * noise, 0, 1),
    }
    found = samples.report(notes, shown, judge)

    assert list(found) == ["copies", "noise", "one image", "Gaussian", "real"]
    assert found["copies"].nearest == pytest.approx(0, abs=1e-3)
    assert found["real"].nearest == 1
    assert found["noise"].precision < 0.3
    assert found["one image"].coverage < 0.1
    assert found["one image"].class_distance > 0.8
    assert found["real"].frechet < 0.5 * found["Gaussian"].frechet
    assert found["real"].precision > found["Gaussian"].precision
    assert found["Gaussian"].frechet < found["noise"].frechet
    assert notes.numbers["frechet real"] == found["real"].frechet
    assert isinstance(notes.figures["scores"], matplotlib.figure.Figure)


def test_samples_out_of_range_are_refused(random):
    real = random.random((9, 2, 2, 1))
    judge = samples.Judge(lambda x: x, lambda x: x, 10, real, real, accuracy=1.0)
    for bad in (1.5, -0.1, np.nan):
        x = np.full((4, 2, 2, 1), bad)
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            samples.measure(x, judge)


def test_color_is_seen_by_what_knows_imagenet(random):
    (x, y), (x_test, y_test) = data.load("photos", size=24)
    train, test = (x[:600], y[:600]), (x_test[:200], y_test[:200])
    notes = Notes()
    notes.seed = 0
    judge = samples.train_judge(train, test, classes=9, run=notes)
    assert judge.accuracy > 0.8
    assert judge.features(test[0]).shape == (200, 64)
    found = samples.report(notes, {"noise": random.random(test[0].shape)}, judge)
    assert found["real"].frechet < 0.6 * found["Gaussian"].frechet
    assert found["real"].precision > found["Gaussian"].precision + 0.1
    assert found["Gaussian"].frechet < found["noise"].frechet


def test_grayness_is_one_of_half_gray_and_zero_of_black_and_white():
    assert samples.grayness(np.full((2, 3, 3, 1), 0.5)) == 1
    assert samples.grayness(np.array([[0.0, 1.0]])) == 0


def test_codes_are_principal_components(random):
    x = random.random((40, 3, 4, 1)).astype("float32")
    codes = samples.Codes(x, 5)
    encoded = codes.encode(x)
    assert np.mean(encoded) == pytest.approx(0, abs=1e-5)
    assert np.mean(encoded**2) == pytest.approx(1, rel=0.05)
    pca = PCA(5).fit(x.reshape(40, -1))
    expected = pca.inverse_transform(pca.transform(x.reshape(40, -1)))
    expected = np.clip(expected, 0, 1).reshape(x.shape)
    np.testing.assert_allclose(codes.decode(encoded), expected, atol=1e-5)
    assert samples.Codes(x, 500).encode(x).shape == (40, 12)


def test_codes_are_kept_by_their_images(random):
    x = random.random((40, 3, 4, 1)).astype("float32")
    codes = samples.Codes(x, 12)
    np.testing.assert_allclose(codes.decode(codes.encode(x)), x, atol=1e-4)


def test_images_stand_in_the_row_of_their_class(random):
    images = random.random((30, 4, 4, 1))
    labels = np.repeat([0, 2], 15)
    figure = samples.draw_by_class(images, labels, ["a", "b", "c"], "Some")
    assert [axes.get_ylabel() for axes in figure.axes] == ["a", "c"]
