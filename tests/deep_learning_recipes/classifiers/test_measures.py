import keras
import numpy as np
import pytest
from keras import layers
from scipy.stats import spearmanr

from deep_learning_recipes import classifiers, figures
from deep_learning_recipes.classifiers import Classifier

MASK = np.array([[[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], bool)


def maps(*values):
    return np.array(values, "float64").reshape(1, 3, 4)


def test_share_on_object_by_hand():
    found = classifiers.share_on_object(maps(0, 3, 1, 0, 4, 0, 0, 0, 0, 0, 0, -9), MASK)
    assert found == pytest.approx([0.5])
    assert classifiers.share_on_object(np.ones((1, 3, 4)), MASK) == pytest.approx(
        [2 / 12]
    )
    assert classifiers.share_on_object(np.zeros((1, 3, 4)), MASK) == [0]


@pytest.mark.parametrize(
    ("at", "tolerance", "hit"),
    [(1, 0, True), (5, 0, False), (4, 1, True), (8, 1, False)],
)
def test_pointing_game_by_hand(at, tolerance, hit):
    values = np.zeros(12)
    values[at] = 1
    assert classifiers.pointing_game(maps(*values), MASK, tolerance) == [hit]


def test_overlap_by_hand():
    assert classifiers.overlap(maps(0, 5, 4, 0, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [1]
    assert classifiers.overlap(maps(6, 5, 4, 0, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [
        1 / 3
    ]
    assert classifiers.overlap(maps(6, 0, 0, 5, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [0]


def test_each_picture_is_measured_with_its_own_mask():
    rng = np.random.default_rng(0)
    many, masks = rng.random((5, 6, 7)), rng.random((5, 6, 7)) < 0.3
    for measure in (
        classifiers.share_on_object,
        classifiers.pointing_game,
        classifiers.overlap,
    ):
        alone = [measure(many[i : i + 1], masks[i : i + 1])[0] for i in range(5)]
        np.testing.assert_allclose(
            measure(many, masks).astype(float), np.array(alone, float)
        )


class Notes:
    """A run that only remembers."""

    def __init__(self):
        self.metrics, self.figures = {}, {}

    def print(self, text):
        assert "2 picture" in text

    def metric(self, name, value):
        self.metrics[name] = float(value)

    def figure(self, name, figure):
        self.figures[name] = figure


def test_explain_own_asks_for_the_predicted_class_and_writes_it_down():
    import keras

    images = keras.Input((2, 2, 1))
    model = keras.Model(
        images, keras.layers.Flatten()(images)
    )  # its logits are the four pixels
    own = Classifier(model, ["upper left", "upper right", "lower left", "lower right"])
    pictures = np.array([[0, 1, 0, 0], [0.5, 0.25, 0, 0]], "float32").reshape(
        2, 2, 2, 1
    )
    asked = []

    def method(images, classes):
        asked.append(classes.tolist())
        return images[..., 0]

    notes = Notes()
    classifiers.explain_own(notes, own, pictures, {"pixels": method})
    assert asked == [[1, 0]]
    assert notes.metrics == {
        "picture_0_class": 1,
        "picture_0_probability": pytest.approx(np.e / (np.e + 3)),
        "picture_1_class": 0,
        "picture_1_probability": pytest.approx(
            np.exp(0.5) / (np.exp(0.5) + np.exp(0.25) + 2)
        ),
    }
    written = [text.get_text() for text in notes.figures["own"].axes[0].texts]
    assert {"upper right 0.48", "upper left 0.33", "pixels"} <= set(written)


def test_rank_correlation_is_scipys():
    a, b = np.random.default_rng(0).integers(0, 5, (2, 3, 6, 7))
    found = classifiers.rank_correlation(a, b)
    for i in range(3):
        assert found[i] == pytest.approx(
            spearmanr(a[i].ravel(), b[i].ravel()).statistic
        )
    assert classifiers.rank_correlation(a, np.ones_like(a)).tolist() == [0, 0, 0]
    np.testing.assert_allclose(classifiers.rank_correlation(a, a**3), 1)


def test_a_score_table_shades_each_column_by_what_is_better():
    scores = {"first": {"wins": 3, "errors": 9}, "second": {"wins": 1, "errors": 0}}
    figure = figures.score_table(scores, {"wins": 1, "errors": -1}, title="Scores")
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1, 0], [0, 1]])
    assert [text.get_text() for text in axes.texts] == ["3.00", "9.00", "1.00", "0.00"]


def test_own_over_others_by_hand():
    left, right = np.zeros((1, 2), bool), np.zeros((1, 2), bool)
    left[0, 0] = right[0, 1] = True
    asked = np.array([[[3.0, 1.0]], [[1.0, 1.0]]])
    found = classifiers.own_over_others(asked, np.stack([left, right]))
    # 3/4 of the first map is on the left and half of the second; on the right the
    # second has half and the first a quarter.
    np.testing.assert_allclose(found, [0.75 / 0.5, 0.5 / 0.25])
    alike = np.repeat(asked[:1], 2, axis=0)
    found = classifiers.own_over_others(alike, np.stack([left, right]))
    np.testing.assert_allclose(found, 1)


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
    model = keras.Model(images, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    before = model.get_weights()
    classifiers.shuffle_weights(model, seed=1)
    after = model.get_weights()
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.sort(old.ravel()), np.sort(new.ravel()))
        assert np.array_equal(old, new) == (old.ndim == 1)
    model.set_weights(before)
    classifiers.shuffle_weights(model, seed=1)
    np.testing.assert_array_equal(model.get_weights()[0], after[0])
