"""Reading in steps against one long pass, the sampler against the softmax, n-grams by
hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from recipes import char_rnn

VOCABULARY = 7
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def models():
    """A function of the number of streams; all its models have the same weights."""
    keras.utils.set_random_seed(0)
    size = VOCABULARY, 8, 2, 0.3
    weights = char_rnn.build_model(*size).get_weights()
    # Ten times larger than at the start, so that no two characters are about as likely.
    weights[-2] *= 10

    def build(streams=None):
        model = char_rnn.build_model(*size, streams=streams)
        model.set_weights(weights)
        return model

    return build


def some_ids(*shape):
    return RANDOM.integers(VOCABULARY, size=shape).astype("int32")


def test_reading_one_character_at_a_time_equals_one_long_pass(models):
    ids = some_ids(3, 16)
    long_pass = models()(ids)
    stateful = models(streams=3)
    steps = [stateful(ids[:, place : place + 1]) for place in range(16)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), long_pass, atol=1e-5)

    char_rnn.forget(stateful)
    chunks = [stateful(ids[:, start : start + 8]) for start in (0, 8)]
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), long_pass, atol=1e-5)


def test_argmax_generation_equals_reading_all_of_it_again_for_each_character(models):
    prompts = some_ids(3, 5)
    text = prompts
    reader = models()
    for _ in range(10):
        likeliest = np.argmax(reader(text)[:, -1], axis=-1)
        text = np.concatenate([text, likeliest[:, None]], axis=1)
    stateful = models(streams=3)
    for _ in range(2):  # the second time, nothing of the first may be left
        written = char_rnn.generate(stateful, tf.constant(prompts), 10, 0.0)
        np.testing.assert_array_equal(written, text[:, 5:])


def test_bits_per_character_are_minus_log2_of_the_softmax():
    logits = RANDOM.normal(size=(2, 5, VOCABULARY)).astype("float32")
    ids = some_ids(2, 5)
    came = np.take_along_axis(log_softmax(logits, axis=-1), ids[..., None], axis=-1)
    expected = -came[..., 0] / np.log(2)
    found = char_rnn.bits_per_character(ids, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    nothing_known = char_rnn.bits_per_character(ids, np.zeros((2, 5, 8), "float32"))
    np.testing.assert_allclose(nothing_known, 3, rtol=1e-6)  # one in eight


def test_no_gradient_leaves_its_chunk(models):
    """The second chunk's logits depend on the first chunk's state, but not its
    gradient."""
    model = models(streams=1)
    embeddings = model.trainable_variables[0].value
    first, second = some_ids(1, 4), some_ids(1, 4)
    with tf.GradientTape() as tape:
        model(first)
        carried = model(second)
        loss = tf.reduce_sum(carried**2)
    gradient = tf.convert_to_tensor(tape.gradient(loss, embeddings))
    touched = np.flatnonzero(np.abs(gradient).sum(axis=1))
    assert set(touched) == set(second.ravel())
    char_rnn.forget(model)
    assert np.abs(model(second) - carried).max() > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_characters_are_drawn_from_the_softmax_of_logits_over_temperature(
    models, temperature
):
    keras.utils.set_random_seed(1)
    prompt = np.repeat(some_ids(1, 5), 20_000, axis=0)
    drawn = char_rnn.generate(
        models(streams=20_000), tf.constant(prompt), 1, temperature
    )
    frequencies = np.bincount(np.ravel(drawn), minlength=VOCABULARY) / 20_000
    expected = tf.nn.softmax(models()(prompt[:1])[0, -1] / temperature)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(frequencies, expected, atol=0.015)


def test_each_chunk_goes_on_where_its_stream_was_left():
    inputs, targets = char_rnn.in_chunks(np.arange(100), streams=3, chunk=5)
    assert inputs.shape == targets.shape == (18, 5)
    np.testing.assert_array_equal(targets, inputs + 1)
    for stream, start in enumerate((0, 30, 60)):
        np.testing.assert_array_equal(
            np.ravel(inputs[stream::3]), np.arange(start, start + 30)
        )


def test_a_text_that_just_fits_is_used_to_its_last_character():
    _, targets = char_rnn.in_chunks(np.arange(31), streams=3, chunk=5)
    assert targets[-1, -1] == 30
    assert len(char_rnn.in_chunks(np.arange(30), streams=3, chunk=5)[0]) == 3


def test_cells_stand_in_the_order_of_the_text(models):
    ids = np.tile(some_ids(10), 16)
    cells = char_rnn.read_cells(models(), np.append(ids, 0))
    assert cells.shape == (160, 16)
    # The 16 streams read the same ten characters.
    np.testing.assert_allclose(cells, np.tile(cells[:10], (16, 1)), atol=1e-6)
    model = models()
    first_lstm = keras.Model(model.input, model.layers[2].output)
    np.testing.assert_allclose(cells[:10, :8], first_lstm(ids[None, :10])[0], atol=1e-6)


def test_cells_of_a_single_layer_stand_in_order_too():
    model = char_rnn.build_model(VOCABULARY, units=8, depth=1, dropout=0.0)
    ids = np.tile(some_ids(10), 16)
    cells = char_rnn.read_cells(model, np.append(ids, 0))
    lstm = keras.Model(model.input, model.layers[2].output)
    np.testing.assert_allclose(cells[:10], lstm(ids[None, :10])[0], atol=1e-6)


def test_memory_is_measured_with_and_without_the_carried_state(models):
    text = SimpleNamespace(test_ids=some_ids(62))
    config = char_rnn.Config(streams=3, chunk=5)
    memory = char_rnn.read_with_and_without_carrying(config, text, models())

    inputs, targets = char_rnn.in_chunks(text.test_ids, streams=3, chunk=5)
    stateful = models(streams=3)
    carried = []
    for start in range(0, len(inputs), 3):
        logits = stateful(inputs[start : start + 3])
        bits = char_rnn.bits_per_character(targets[start : start + 3], logits)
        carried.append(bits)
    emptied = char_rnn.bits_per_character(targets, models()(inputs))
    np.testing.assert_allclose(memory.carried, np.mean(carried, axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(memory.emptied, np.mean(emptied, axis=0), rtol=1e-4)
    assert np.abs(memory.carried - memory.emptied)[0] > 1e-3


def test_guesses_are_the_likeliest_next_characters(models):
    alphabet = "abcdefg"
    ids = some_ids(char_rnn.EXCERPT.stop + 9)

    def decode(numbers):
        return "".join(alphabet[number] for number in numbers)

    text = SimpleNamespace(test_ids=ids, test=decode(ids), decode=decode)
    reader = models()
    guesses = char_rnn.guess(text, reader)
    assert guesses.read == text.test[char_rnn.EXCERPT]
    place = 7
    read = ids[: char_rnn.EXCERPT.start + place + 1]
    expected = tf.nn.softmax(reader(read[None])[0, -1]).numpy()
    order = np.argsort(-expected)[: char_rnn.GUESSES]
    assert guesses.likeliest[place] == decode(order)
    np.testing.assert_allclose(guesses.probabilities[place], expected[order], rtol=1e-3)


def test_places_in_lines_and_correlations_with_them():
    places = char_rnn.place_in_line("ab\n\ncde")
    np.testing.assert_array_equal(places, [1, 2, 0, 0, 1, 2, 3])
    cells = RANDOM.normal(size=(7, 3))
    cells[:, 2] = 0.5  # a cell that never moves follows nothing
    found = char_rnn.correlations(cells, places)
    expected = [np.corrcoef(cells[:, cell], places)[0, 1] for cell in range(2)]
    np.testing.assert_allclose(found, [*expected, 0], atol=1e-9)


def test_the_line_cell_is_chosen_on_the_first_half_and_judged_on_the_second(
    monkeypatch,
):
    line = "abcdefgh\n"
    text = SimpleNamespace(test=line * 20, test_ids=None)
    places = char_rnn.place_in_line(text.test).astype("float64")
    # One cell falls as the line goes on; another follows it in the second half only.
    late = np.where(np.arange(180) < 90, RANDOM.normal(size=180), 10 * places)
    cells = np.stack([late, -places + RANDOM.normal(size=180)], axis=1)
    monkeypatch.setattr(char_rnn, "read_cells", lambda model, ids: cells)
    expected = np.corrcoef(-cells[90:, 1], places[90:])[0, 1]
    assert char_rnn.find_line_cell(None, text) == pytest.approx(expected)


def test_witten_bell_by_hand():
    # a 5, b 2, r 2, c 1, d 1: 11 characters of 5 kinds, in an alphabet of 8.
    model = char_rnn.WittenBell("abracadabra", order=2, vocabulary_size=8)
    counts = {"a": 5, "b": 2, "r": 2, "x": 0}
    order_0 = {character: (count + 5 / 8) / 16 for character, count in counts.items()}
    for character, expected in order_0.items():
        assert model.probability(character, "") == pytest.approx(expected)
    # After a: b twice, c, d; after ra: c; after xa: never seen, so as after a.
    after_a = (2 + 3 * order_0["b"]) / 7
    assert (
        model.probability("b", "a")
        == model.probability("b", "xa")
        == pytest.approx(after_a)
    )
    assert model.probability("b", "ra") == pytest.approx((0 + after_a) / 2)
    bits = -np.log2([order_0["b"], order_0["r"]]).mean()
    assert model.bits_per_character("abr", order=0) == pytest.approx(bits)
    bits = -np.log2([after_a, model.probability("r", "ab")]).mean()
    assert model.bits_per_character("abr", order=2) == pytest.approx(bits)


def test_witten_bell_probabilities_sum_to_one():
    model = char_rnn.WittenBell("she sells sea shells", order=4, vocabulary_size=9)
    alphabet = sorted(set("she sells sea shells")) + ["?", "!", "x"]
    assert len(alphabet) == 9
    for context in ("", "s", "se", "sell", " she", "zzzz", "zs"):
        total = sum(model.probability(character, context) for character in alphabet)
        assert total == pytest.approx(1), context


def test_quotes_are_followed_within_a_paragraph():
    text = 'a "b\nc" d "e\n\nf "g"'
    inside = "".join(np.where(char_rnn.inside_quotes(text), "#", "."))
    assert inside == "..####....##....##."
