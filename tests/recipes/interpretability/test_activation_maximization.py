"""The ascent against a closed form, its regularizers against NumPy, SciPy and
tf-keras-vis."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from scipy import ndimage, stats
from tf_keras_vis.activation_maximization import ActivationMaximization
from tf_keras_vis.utils.scores import CategoricalScore

from recipes import activation_maximization as am

RANDOM = np.random.default_rng(0)
OFF = dict.fromkeys(am.REGULARIZERS, 0.0)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def linear_model(size=5, classes=3):
    x = keras.Input((size, size, 1))
    return keras.Model(x, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def ascend(model, images, classes, strengths, unit=1.0, seed=0, **settings):
    config = dataclasses.replace(am.Config(), **settings)
    strengths = {
        name: np.full(len(images), each) for name, each in (OFF | strengths).items()
    }
    climb = am.build_ascent(model, classes, strengths, config, unit=unit, seed=seed)
    return climb(tf.constant(images), tf.constant(0), tf.constant(config.steps)).numpy()


def normal(*shape):
    return RANDOM.normal(0.5, 0.5, shape).astype("float32")


def test_a_linear_score_under_l2_has_its_maximum_where_the_formula_says():
    """w·x/u − λ·mean(x²) is largest at w·N/(2λu)."""
    model = linear_model()
    weights = model.layers[-1].kernel.numpy().T.reshape(3, 5, 5, 1)
    made = ascend(
        model, normal(3, 5, 5, 1), [0, 1, 2], {"l2": 7.0}, unit=2.0, steps=500
    )
    np.testing.assert_allclose(made, weights * 25 / (2 * 7.0 * 2.0), atol=2e-3)


def test_a_step_goes_the_way_that_tf_keras_vis_goes():
    model, start = am.build_model(16, 0.0), normal(10, 16, 16, 1)
    own = ascend(model, start, list(range(10)), {}, steps=1, step_size=0.1) - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's, about a list of one input
        package = ActivationMaximization(model)(
            CategoricalScore(list(range(10))),
            seed_input=start,
            input_range=(None, None),
            input_modifiers=[],
            regularizers=[],
            steps=1,
            optimizer=keras.optimizers.SGD(1.0),
        )
    package = (np.asarray(package) - start).reshape(10, -1)
    own = own.reshape(10, -1)
    cosines = np.sum(own * package, axis=1) / np.linalg.norm(own, axis=1)
    np.testing.assert_allclose(cosines / np.linalg.norm(package, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.mean(own**2, axis=1)), 0.1, rtol=1e-3)


def test_the_steps_fall_along_a_line():
    """With a constant gradient the whole way is step_size · Σ (1 − i/n)."""
    start = normal(1, 5, 5, 1)
    made = ascend(linear_model(), start, [1], {}, steps=4, step_size=0.1)
    assert np.sqrt(np.mean((made - start) ** 2)) == pytest.approx(
        0.1 * (1 + 0.75 + 0.5 + 0.25)
    )


def test_total_variation_equals_numpy():
    images = normal(2, 6, 5, 3)
    expected = np.zeros((2, 5, 4, 3))
    for row, column in np.ndindex(5, 4):
        here = images[:, row, column]
        down, right = images[:, row + 1, column], images[:, row, column + 1]
        expected[:, row, column] = np.hypot(down - here, right - here)
    found = am.total_variation(tf.constant(images))
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_blur_equals_scipy(deviation):
    images = normal(2, 9, 8, 3)
    expected = ndimage.gaussian_filter(
        images,
        deviation,
        axes=(1, 2),
        mode="reflect",
        radius=int(np.ceil(3 * deviation)),
    )
    np.testing.assert_allclose(
        am.gaussian_blur(tf.constant(images), deviation), expected, atol=1e-5
    )


def test_the_gradient_of_the_penalty_equals_finite_differences():
    images = RANDOM.uniform(size=(2, 4, 4, 1))
    strengths = {
        "l2": [1.0, 0.0],
        "alpha_norm": [0.5, 2.0],
        "total_variation": [0.0, 3.0],
    }
    strengths = {name: tf.constant(each, "float64") for name, each in strengths.items()}
    x = tf.Variable(images)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(am.penalty(x, strengths))
    gradient = tape.gradient(value, x).numpy()
    for index in np.ndindex(images.shape):
        step = np.zeros_like(images)
        step[index] = 1e-6
        up, down = (
            np.sum(am.penalty(images + sign * step, strengths)) for sign in (1, -1)
        )
        assert gradient[index] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)


def test_the_norms_of_known_pictures():
    images = np.stack([np.full((4, 4, 1), 0.5), np.full((4, 4, 1), 2.0)]).astype(
        "float32"
    )
    one = np.ones(2, "float32")
    l2 = am.penalty(images, OFF | {"l2": 3 * one})
    alpha = am.penalty(images, OFF | {"alpha_norm": one})
    np.testing.assert_allclose(l2, [0.75, 12.0], rtol=1e-5)
    np.testing.assert_allclose(alpha, [0.0, 729.0], atol=1e-6)


def test_jitter_shows_the_network_moved_pictures_and_blur_smooths():
    """A network that sees one pixel alone: jitter spreads what it wants over its
    neighbors."""
    x = keras.Input((9, 9, 1))
    model = keras.Model(x, keras.layers.Flatten()(keras.layers.Cropping2D(4)(x)))
    start = np.zeros((1, 9, 9, 1), "float32")
    still = ascend(model, start, [0], {}, steps=40)
    moved = ascend(model, start, [0], {"jitter": 1.0}, steps=400)
    again = ascend(model, start, [0], {"jitter": 1.0}, steps=400)
    blurred = ascend(model, start, [0], {"blur": 1.0}, steps=40, blur=0.6)
    assert [np.count_nonzero(each) for each in (still, moved)] == [1, 25]
    np.testing.assert_array_equal(moved, again)
    assert moved[0, 2:7, 2:7].min() > 0  # at most two pixels away, to all sides
    assert np.ptp(blurred) < 0.7 * np.ptp(still)
    assert blurred[0, 4, 3] == pytest.approx(blurred[0, 4, 5]) != 0


def test_pictures_climb_on_their_own():
    """One batch gives what each picture gives alone, under its own strengths."""
    model, start = linear_model(), normal(2, 5, 5, 1)
    config = dataclasses.replace(am.Config(), steps=20)
    strengths = {name: np.array([0.0, 1.0]) for name in am.REGULARIZERS}
    both = am.build_ascent(model, [0, 2], strengths, config, unit=1.0, seed=3)
    made = both(tf.constant(start), tf.constant(0), tf.constant(20)).numpy()
    for i, label in enumerate([0, 2]):
        on = dict.fromkeys(am.REGULARIZERS, float(i))
        alone = ascend(model, start[i : i + 1], [label], on, seed=3, steps=20)
        np.testing.assert_allclose(made[i : i + 1], alone, atol=1e-5)


def test_likeness_is_the_highest_correlation_within_the_class():
    images, real = normal(2, 4, 4, 1), normal(6, 4, 4, 1)
    y = np.array([0, 0, 0, 1, 1, 1])
    found = am.likeness(images, np.array([1, 0]), real, y)
    for i, members in enumerate([(3, 4, 5), (0, 1, 2)]):
        best = max(
            stats.pearsonr(images[i].ravel(), real[m].ravel())[0] for m in members
        )
        assert found[i] == pytest.approx(best, rel=1e-4)
    assert am.likeness(real[:1], np.array([0]), real, y) == pytest.approx([1.0])


def test_a_network_of_ones_own(tmp_path):
    x = keras.Input((12, 10, 3))
    colors = keras.layers.GlobalAveragePooling2D()(
        x
    )  # the classes are red, green and blue
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(colors))
    model.layers[-1].kernel.assign(50 * np.eye(3))
    model.save("own.keras")
    finished = run_in_process(
        "activation_maximization",
        tmp_path / "run",
        "--preset",
        "quick",
        "--model",
        "own.keras",
    )
    record = finished.metrics
    assert finished.code == 0
    assert record["claims"] == []
    assert set(record["metrics"]) == {
        f"confidence_class {number}" for number in range(3)
    }
    assert all(each["value"] > 0.5 for each in record["metrics"].values())
    assert record["figures"] == ["class_images.png"]
    assert record["trainings"] == {"planned": 1, "begun": 1}
    missing = run_in_process(
        "activation_maximization", tmp_path / "no", "--model", "no.keras"
    )
    assert missing.code == 2


def test_pictures_seen_coarsely_lose_their_grain_alone():
    rows, columns = np.indices((32, 32))
    grain = np.where((rows + columns) % 2, 1.0, 0.0)
    slope = rows / 32.0
    pictures = np.stack([grain, slope])[..., None].astype("float32")
    of_grain, of_slope = am.seen_coarsely(pictures)[..., 0]
    np.testing.assert_allclose(of_grain[4:-4, 4:-4], 0.5, atol=0.02)
    np.testing.assert_allclose(of_slope[4:-4], slope[4:-4], atol=0.02)


def test_classes_by_name(tmp_path, capsys):
    known = ["king penguin", "daisy", "zebra"]
    np.testing.assert_array_equal(am.numbers_of("zebra, king penguin", known), [2, 0])
    flags = "--preset", "quick", "--classes", "daisy, flamigo"
    assert run_in_process("activation_maximization", tmp_path / "no", *flags).code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--classes flamigo: no class of ImageNet; did you mean flamingo" in line
