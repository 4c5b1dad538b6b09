import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.image_captioning import (
    END_ID,
    GRID,
    NEW_PAIRS,
    ORDERS,
    PADDING_ID,
    PAIRS,
    SEEN_PAIRS,
    SHAPES,
    SIZE,
    START_ID,
    Attention,
    Captioner,
    Thing,
    Words,
    before_each,
    bleu,
    build_decoder,
    build_encoder,
    describe,
    draw_scenes,
    gradient_moments,
    greedy,
    judge_captions,
    mask_of,
    places_of,
    reinforce_loss,
    rewards_of_places,
)

KINDS = ["first state", "every step", "soft attention", "hard attention"]
WORDS = 9
STEPS = 4
UNITS = 6


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(40, SEEN_PAIRS, np.random.default_rng(1))


def inputs_of(random, count=3):
    return {
        "places": random.normal(size=(count, GRID * GRID, UNITS)).astype("float32"),
        "before": random.integers(1, WORDS, (count, STEPS)).astype("int32"),
    }


def decoder_of(kind):
    keras.utils.set_random_seed(0)
    return build_decoder(kind, WORDS, UNITS, STEPS)


def test_soft_context_is_the_weighted_sum(random):
    """The equations of Xu et al. 2015, section 4.2, in NumPy."""
    attention = Attention(5, hard=False)
    queries = random.normal(size=(2, 3, 4)).astype("float32")
    places = random.normal(size=(2, 7, 6)).astype("float32")
    context, weights, looked_at = attention(queries, places)
    query, (key, bias) = attention.query.kernel, attention.key.get_weights()
    sums = (queries @ query.numpy())[:, :, None] + (places @ key + bias)[:, None]
    scores = (np.tanh(sums) @ attention.score.kernel.numpy())[..., 0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    np.testing.assert_array_equal(weights, looked_at)
    for i in range(2):
        for step in range(3):
            by_hand = sum(expected[i, step, j] * places[i, j] for j in range(7))
            np.testing.assert_allclose(context[i, step], by_hand, rtol=1e-3, atol=1e-5)


def test_hard_attention_draws_by_its_weights():
    keras.utils.set_random_seed(0)
    attention = Attention(4, hard=True)
    queries = tf.repeat(tf.random.normal((1, 1, 4)), 4000, axis=1)
    places = 2 * tf.random.normal((1, 5, 3))
    context, weights, looked_at = attention(queries, places, training=True)
    assert set(np.unique(looked_at)) == {0, 1}
    np.testing.assert_array_equal(np.sum(looked_at, axis=-1), 1)
    np.testing.assert_allclose(np.mean(looked_at[0], axis=0), weights[0, 0], atol=0.04)
    np.testing.assert_allclose(context[0], looked_at[0] @ places[0], rtol=1e-5)
    _, weights, looked_at = attention(queries, places)
    np.testing.assert_array_equal(
        np.argmax(looked_at, axis=-1), np.argmax(weights, axis=-1)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_depends_on_those_to_come(kind, random):
    decoder = decoder_of(kind)
    inputs = inputs_of(random)
    one = decoder(inputs)["logits"]
    changed = inputs["before"].copy()
    changed[:, 2] = 1 + changed[:, 2] % (WORDS - 1)
    other = decoder({**inputs, "before": changed})["logits"]
    np.testing.assert_allclose(one[:, :2], other[:, :2], atol=1e-6)
    assert np.abs(one[:, 2:] - other[:, 2:]).max() > 1e-5
    assert np.abs(one - decoder(inputs_of(random))["logits"]).max() > 1e-4


def test_rewards_are_those_of_looking_there(random):
    """Where hard attention looks, it gets the reward of that place."""
    decoder = decoder_of("hard attention")
    inputs = inputs_of(random)
    ids = random.integers(1, WORDS, (3, STEPS))
    outputs = decoder(inputs)
    rewards = rewards_of_places(decoder, inputs, ids)
    assert rewards.shape == (3, STEPS, GRID * GRID)
    found = np.sum(rewards * outputs["looked_at"], axis=-1)
    log_p = keras.ops.log_softmax(outputs["logits"])
    expected = np.take_along_axis(np.asarray(log_p), ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_reinforce_is_right_on_average(random):
    """Its mean over all places is the gradient of the expected reward, by TensorFlow,
    for any baseline; and the variance is that of many draws."""
    scores = tf.Variable(random.normal(size=6))
    rewards = random.normal(size=6) - 3
    with tf.GradientTape() as tape:
        expected_reward = tf.reduce_sum(tf.nn.softmax(scores) * rewards)
    exact = tape.gradient(expected_reward, scores)
    weights = tf.nn.softmax(scores).numpy()
    variances = []
    for baseline in (0.0, -3.0, 5.0):
        mean, variance = gradient_moments(weights, rewards, baseline)
        np.testing.assert_allclose(mean, exact, rtol=1e-9)
        drawn = random.choice(6, 20_000, p=weights)
        each = (rewards[drawn] - baseline)[:, None] * (np.eye(6)[drawn] - weights)
        assert variance == pytest.approx(each.var(axis=0).sum(), rel=0.05)
        variances.append(variance)
    assert variances[1] < variances[0] < variances[2]


def test_the_loss_has_reinforces_gradient(random):
    """Weighted by how likely a draw is, the gradients of `reinforce_loss` add up to that
    of the expected reward, and of the entropy."""
    scores = tf.Variable(random.normal(size=5))
    rewards = random.normal(size=5)
    with tf.GradientTape() as tape:
        weights = tf.nn.softmax(scores)
        entropy = -tf.reduce_sum(weights * tf.math.log(weights))
        objective = tf.reduce_sum(weights * rewards) + 0.1 * entropy
    exact = tape.gradient(objective, scores)
    total = 0
    for place, share in enumerate(tf.nn.softmax(scores).numpy()):
        with tf.GradientTape() as tape:
            weights = tf.nn.softmax(scores)
            one = tf.one_hot(place, 5, dtype=weights.dtype)
            loss = reinforce_loss(rewards[place], 0.7, weights, one, entropy=0.1)
        total = total - share * tape.gradient(loss, scores)
    np.testing.assert_allclose(total, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["soft attention", "hard attention"])
def test_a_step_learns(kind, random):
    captioner = Captioner(decoder_of(kind), entropy=0.01)
    captioner.compile(keras.optimizers.Adam(0.02))
    inputs = inputs_of(random)
    ids = random.integers(3, WORDS, (3, STEPS)).astype("int32")
    history = captioner.fit(inputs, ids, epochs=25, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.3
    assert captioner.baseline.numpy() < 0


def test_bleu_by_hand():
    """Papineni et al. 2002, section 2.1: the clipped 2 / 7 and the brevity penalty."""
    references = [["the cat is on the mat", "there is a cat on the mat"]]
    assert bleu(["the the the the the the the"], references, 1) == pytest.approx(2 / 7)
    assert bleu(["the cat"], references, 1) == pytest.approx(np.exp(1 - 6 / 2))
    assert bleu(["the cat is on the mat"], references) == 1
    assert bleu(["a b c d e"], references) == 0
    # 6 words, one wrong: n-grams 5/6, 3/5, 2/4, 1/3
    found = bleu(["the cat is on a mat"], [["the cat is on the mat"]])
    assert found == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_bleu_is_of_the_corpus():
    references = [["a b c d e"], ["f g h i j k"]]
    found = bleu(["a b c d e", "f g x i j k"], references, 2)
    assert found == pytest.approx(np.sqrt(10 / 11 * 7 / 9))


def test_captions_are_true(scenes):
    first = Thing(5, "red", "circle", 10, 8)
    second = Thing(5, "blue", "square", 10, 24)
    texts = describe(first, "left of", second)
    assert texts[1] == "a blue square right of a red circle"
    assert texts[3] == "right of a red circle is a blue square"
    for references in scenes.references:
        for text, order in zip(references, ORDERS, strict=True):
            nouns = [word for word in text.split() if word in SHAPES]
            in_first = [w for w in references[0].split() if w in SHAPES]
            assert nouns == [in_first[i] for i in order]


def test_objects_are_where_the_caption_says(scenes):
    for masks, references in zip(scenes.masks, scenes.references, strict=True):
        rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
        axis = columns if " left of " in references[0] else rows
        assert axis[masks[0]].mean() < axis[masks[1]].mean() - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_lie_in_the_picture(shape):
    thing = Thing(7, "red", shape, 16, 16)
    pixels = mask_of(thing)
    assert 40 < pixels.sum() < 170
    assert not pixels[[0, -1]].any()
    rows, columns = np.nonzero(pixels)
    step = SIZE // GRID
    touched = np.unique(rows // step * GRID + columns // step)
    assert np.flatnonzero(places_of(thing)).tolist() == touched.tolist()


def test_new_pairs_hold_every_color_and_shape():
    assert set(SEEN_PAIRS) | set(NEW_PAIRS) == set(PAIRS)
    assert not set(SEEN_PAIRS) & set(NEW_PAIRS)
    for part in (0, 1):
        assert {p[part] for p in SEEN_PAIRS} == {p[part] for p in NEW_PAIRS}


def test_words_as_numbers(scenes):
    words = Words(scenes)
    ids = words.ids(scenes.captions)
    assert words.texts(ids) == scenes.captions
    assert ids.shape == (40, words.steps)
    before = before_each(ids)
    assert (before[:, 0] == START_ID).all()
    np.testing.assert_array_equal(before[:, 1:], ids[:, :-1])


def test_greedy_writes_what_is_likeliest_each_time(random):
    encoder = build_encoder(UNITS)
    decoder = decoder_of("soft attention")
    images = random.random((2, SIZE, SIZE, 3), "float32")
    found = tf.function(greedy)(encoder, decoder, images, STEPS).numpy()
    places = encoder(images).numpy()
    before = np.full((2, STEPS), PADDING_ID, "int32")
    before[:, 0] = START_ID
    for step in range(STEPS):
        logits = decoder({"places": places, "before": before})["logits"]
        words = np.argmax(logits[:, step], axis=-1)
        for row in range(2):
            if END_ID not in found[row, :step]:
                assert found[row, step] == words[row]
            else:
                assert found[row, step] == PADDING_ID
        if step + 1 < STEPS:
            before[:, step + 1] = found[:, step]


def test_what_is_a_true_caption():
    references = [["a red circle left of a blue square", "..."]]
    right = judge_captions([references[0][0]], references)
    assert (right.true, right.described) == (1, 1)
    half = judge_captions(["a red circle left of a red square"], references)
    assert (half.true, half.described) == (0, 0.5)
