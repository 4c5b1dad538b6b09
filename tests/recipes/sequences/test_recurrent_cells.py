"""The cells against Keras's own and against NumPy, the cell that is all of them against
each, tasks by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import recurrent_cells as recipe

TIME, BATCH, INPUTS, UNITS = 7, 4, 3, 5


def some_x():
    return np.random.default_rng(0).normal(size=(BATCH, TIME, INPUTS)).astype("float32")


def our_layer(kind):
    """With weights that are all other than 0."""
    layer = keras.layers.RNN(recipe.RecurrentCell(kind, UNITS), return_sequences=True)
    layer.build((None, TIME, INPUTS))
    random = np.random.default_rng(1)
    layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize(
    ("kind", "layer"),
    [("LSTM", keras.layers.LSTM), ("Elman", keras.layers.SimpleRNN)],
    ids=["LSTM", "Elman"],
)
def test_lstm_and_elman_are_those_of_keras(kind, layer):
    ours = our_layer(kind)
    theirs = layer(UNITS, return_sequences=True)
    theirs.build((None, TIME, INPUTS))
    kernel, recurrent, bias = ours.get_weights()
    theirs.set_weights([kernel, recurrent, bias[0]])
    np.testing.assert_allclose(ours(some_x()), theirs(some_x()), atol=2e-6)


@pytest.mark.parametrize("kind", ["GRU", "GRU, reset after"])
def test_gru_is_that_of_keras(kind):
    ours = our_layer(kind)
    reset_after = kind != "GRU"
    theirs = keras.layers.GRU(UNITS, return_sequences=True, reset_after=reset_after)
    theirs.build((None, TIME, INPUTS))
    kernel, recurrent, *biases = ours.get_weights()
    bias = np.concatenate(biases) if reset_after else biases[0][0]
    theirs.set_weights([kernel, recurrent, bias])
    np.testing.assert_allclose(ours(some_x()), theirs(some_x()), atol=2e-6)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_numpy(kind, kernel, recurrent, bias, peepholes, x):
    """Units one by one, from the papers' equations."""
    h = np.zeros(UNITS)
    c = np.zeros(UNITS)
    outputs = []
    for x_t in x:
        total = (x_t @ kernel + h @ recurrent + bias[0]).reshape(-1, UNITS)
        if kind == "peephole LSTM":
            p_i, p_f, p_o = peepholes.reshape(3, UNITS)
            i = sigmoid(total[0] + p_i * c)
            f = sigmoid(total[1] + p_f * c)
            c = f * c + i * np.tanh(total[2])
            h = sigmoid(total[3] + p_o * c) * np.tanh(c)
        elif kind == "coupled LSTM":
            f = sigmoid(total[0])
            c = f * c + (1 - f) * np.tanh(total[1])
            h = sigmoid(total[2]) * np.tanh(c)
        else:
            f = sigmoid(total[0])
            h = f * h + (1 - f) * np.tanh(total[1])
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize("kind", ["peephole LSTM", "coupled LSTM", "forget gate only"])
def test_the_others_follow_their_equations(kind):
    layer = our_layer(kind)
    kernel, recurrent, bias, *peepholes = layer.get_weights()
    found = layer(some_x())
    for row, x in enumerate(some_x()):
        expected = by_numpy(kind, kernel, recurrent, bias, *(peepholes or [None]), x)
        np.testing.assert_allclose(found[row], expected, atol=2e-6)


@pytest.mark.parametrize("kind", recipe.CELLS)
def test_parameters_are_counted_by_formula(kind):
    layer = our_layer(kind)
    count = recipe.parameter_count(recipe.CELLS[kind], INPUTS, UNITS)
    assert layer.count_params() == count


@pytest.mark.parametrize("kind", recipe.WIRINGS)
def test_the_cell_that_is_all_of_them_is_each_of_them(kind):
    random = np.random.default_rng(2)
    task = recipe.Counting()
    networks = [
        recipe.draw_network(random, recipe.Kind(kind, task), UNITS) for _ in range(2)
    ]
    network = tf.nest.map_structure(
        lambda part: tf.constant(
            part + random.normal(size=part.shape).astype("float32")
        ),
        recipe.stacked(networks),
    )
    wiring = recipe.Wiring(
        *[recipe.column([part] * 2) for part in recipe.WIRINGS[kind]]
    )
    ids = random.integers(recipe.INPUTS, size=(BATCH, TIME))
    x = np.eye(recipe.INPUTS, dtype="float32")[ids.T]
    x = np.repeat(x[:, np.newaxis], 2, axis=1)
    scores = recipe.scores_of(network, wiring, x)[-1]
    for number in range(2):
        model = recipe.as_model(network, kind, number)
        expected = tf.nn.softmax(scores[number])
        np.testing.assert_allclose(model(ids)["probabilities"], expected, atol=1e-5)


def test_the_first_bias_keeps_the_memory():
    layer = keras.layers.RNN(recipe.RecurrentCell("LSTM", UNITS))
    layer.build((None, TIME, INPUTS))
    bias = layer.get_weights()[2].reshape(4, UNITS)
    np.testing.assert_array_equal(bias, np.repeat([[0], [1], [0], [0]], UNITS, axis=1))


def test_a_saved_cell_is_the_same(tmp_path):
    model = recipe.build_model("peephole LSTM", 6, UNITS, 2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    ids = np.array([[0, 4, 2, 5]])
    np.testing.assert_allclose(
        again(ids)["probabilities"], model(ids)["probabilities"], rtol=1e-6
    )


def test_the_marked_numbers_are_added():
    batch = recipe.Adding(6).draw(np.random.default_rng(0), 12, 30)
    assert np.all(batch.x[:5] == 0)
    marked = batch.x[..., 1]
    assert np.all(marked.sum(axis=0) == 2)
    assert np.all(marked[5] == 1)
    sums = np.sum(batch.x[..., 0] * marked, axis=0)
    np.testing.assert_allclose(batch.values[-1], sums, rtol=1e-6)
    assert batch.asked.sum() == 30


def test_both_symbols_are_asked_for_after_the_lag():
    batch = recipe.Copying(8).draw(np.random.default_rng(0), 12, 30)
    np.testing.assert_array_equal(batch.x[2:4, :, :4].argmax(-1), batch.labels[-2:])
    assert np.all(batch.x[4:10] == 0)
    assert np.all(batch.x[-2:, :, 4] == 1)


def test_the_verb_agrees_with_the_first_word():
    batch = recipe.Agreement(3).draw(np.random.default_rng(0), 12, 30)
    assert batch.x.sum() == 30 * 8
    np.testing.assert_array_equal(batch.x[4].argmax(-1), batch.labels[-1])
    assert np.all(batch.x[-1].argmax(-1) == recipe.WORDS.index("verb"))
    assert set(batch.x[6].argmax(-1)) == {2, 3}


def test_the_end_comes_after_as_many():
    batch = recipe.Counting(4).draw(np.random.default_rng(0), 12, 3)
    np.testing.assert_array_equal(batch.x[:9, 0, 0], [1] * 4 + [0] * 5)
    np.testing.assert_array_equal(batch.x[:9, 0, 1], [0] * 4 + [1] * 4 + [0])
    np.testing.assert_array_equal(batch.labels[4:8, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(batch.asked[:, 0], [0] * 4 + [1] * 4 + [0] * 4)


def test_clipping_is_that_of_keras():
    random = np.random.default_rng(0)
    parts = [random.normal(size=(2, *s)).astype("float32") for s in [(2, 3), (1, 3)]]
    found = recipe.clip_by_norm([tf.constant(part) for part in parts])
    for number in range(2):
        own = [part[number] for part in parts]
        expected, _ = tf.clip_by_global_norm(own, 1.0)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[number], other, rtol=1e-4)


def test_an_n_gram_sees_its_last_words_and_no_more():
    batch = recipe.Agreement(2).draw(np.random.default_rng(0), 12, 100)
    subject = batch.labels[-1]
    for order, is_seen in ((4, False), (5, True)):
        of_cat = {
            context
            for context, label in zip(
                recipe.contexts(batch, order), subject, strict=True
            )
            if label == 0
        }
        of_cats = set(recipe.contexts(batch, order)) - of_cat
        assert (len(of_cats) > 0) is is_seen


def test_counts_reach_to_the_first_miss():
    assert recipe.longest_count({1: 1.0, 2: 1.0, 3: 0.5, 4: 1.0}) == 2
    assert recipe.longest_count({1: 0.5, 2: 1.0}) == 0


def test_the_unit_that_counts_is_found():
    count = np.array([1, 2, 3, 2, 1, 0])
    still = np.zeros(6)
    up = np.arange(6)
    memory = np.stack([still, up, -2.0 * count + 5], axis=1)
    assert recipe.counters(memory)[0] == 2
