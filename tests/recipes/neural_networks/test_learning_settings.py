"""Withheld labels leave no trace; Viterbi against enumeration; clusters against all
namings."""

import itertools

import keras
import numpy as np
import pytest

from recipes import learning_settings as ls


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    y = np.arange(80) % 10
    return random.uniform(size=(80, 16)).astype("float32"), y, np.arange(20)


def scrambled(y, kept):
    """Other digits everywhere but where they are kept."""
    other = (y + 1 + np.random.default_rng(1).integers(0, 9, len(y))) % 10
    other[kept] = y[kept]
    return other


def test_what_is_told_is_right_and_the_rest_is_withheld(images):
    x, y, _ = images
    told = ls.withhold(
        x, y, digit=np.array([3, 7]), high=np.array([4, 5]), pixels=np.array([0])
    )
    assert told["digit"][[3, 7]].tolist() == [3, 7]
    assert told["high"][[4, 5]].tolist() == [0, 1]
    assert np.sum(told["digit"] != -1) == np.sum(told["high"] != -1) == 2
    assert np.all(told["odd"] == -1)
    np.testing.assert_array_equal(told["pixels"][0], x[0])
    assert np.all(told["pixels"][1:] == -1)
    every = ls.withhold(x, y, odd=np.arange(80))
    np.testing.assert_array_equal(every["odd"], y % 2)


def test_withheld_labels_can_be_scrambled(images):
    """What each setting is told does not change with what it is not told."""
    x, y, few = images
    before, after = ls.sights(x, y, few), ls.sights(x, scrambled(y, few), few)
    for setting in (ls.FEW, ls.NONE, ls.SOME, ls.MULTI):
        for one, other in zip(before[setting], after[setting], strict=True):
            assert one.keys() == other.keys() == {*ls.LABELS, "pixels"}
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
    # Other digits with the same other labels: 1 and 3, 2 and 4, 5 and 7, 6 and 8 change
    # places.
    swapped = np.array([0, 3, 4, 1, 2, 7, 8, 5, 6, 9])[y]
    swapped[few] = y[few]
    for one, other in zip(
        before[ls.TRANSFER], ls.sights(x, swapped, few)[ls.TRANSFER], strict=True
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    (of_all,), (of_others,) = before[ls.ALL], after[ls.ALL]
    assert not np.array_equal(of_all["digit"], of_others["digit"])


def test_counts_of_what_is_told(images):
    told = {
        setting: [
            [int(np.sum(stage[name] != -1)) for name in ls.LABELS] for stage in stages
        ]
        for setting, stages in ls.sights(*images).items()
    }
    assert told[ls.FEW] == [[20, 0, 0]]
    assert told[ls.NONE] == [[0, 0, 0]]
    assert told[ls.SOME] == 3 * [[20, 0, 0]]
    assert told[ls.MULTI] == [[20, 20, 20]]
    assert told[ls.TRANSFER] == [[0, 80, 80], [20, 0, 0]]
    assert told[ls.ALL] == [[80, 0, 0]]


def test_what_is_seen_is_counted(images):
    stages = ls.sights(*images)
    seen = {name: ls.count_seen(name, each) for name, each in stages.items()}
    assert seen[ls.FEW] == ls.Seen(images=20, digits=20, other_labels=0)
    assert seen[ls.NONE] == ls.Seen(images=80, digits=0, other_labels=0)
    assert seen[ls.SOME] == ls.Seen(images=80, digits=20, other_labels=0)
    assert seen[ls.MULTI] == ls.Seen(images=20, digits=20, other_labels=40)
    assert seen[ls.TRANSFER] == ls.Seen(images=80, digits=20, other_labels=160)
    assert seen[ls.ALL] == ls.Seen(images=80, digits=80, other_labels=0)


def test_training_does_not_see_withheld_labels(images):
    """The same weights, whatever the withheld digits are; and heads without labels stay
    put."""
    x, y, few = images
    answers = []
    for labels in (y, scrambled(y, few)):
        keras.utils.set_random_seed(0)
        network = ls.build_network(16, 8, 1e-2)
        network.jit_compile = False
        before = [keras.ops.convert_to_numpy(w) for w in network.weights]
        (told,) = ls.sights(x, labels, few)[ls.FEW]
        network.fit(x, told, batch_size=16, epochs=2, shuffle=False, verbose=0)
        moved = {
            w.path: not np.allclose(w, b)
            for w, b in zip(network.weights, before, strict=True)
        }
        answers.append(np.array(network(x)["digit"]))
    np.testing.assert_array_equal(*answers)
    assert sum(moved.values()) == 6  # the body's two layers and the digits' head


def test_only_sure_answers_are_trusted_and_never_above_a_label():
    logits = np.log([[0.95, 0.05], [0.85, 0.15], [0.05, 0.95]])
    told = {"digit": np.array([-1, -1, 0]), "odd": np.array([-1, 1, -1])}
    found = ls.trust(told, logits)
    assert found["digit"].tolist() == [0, -1, 0]
    assert found["odd"].tolist() == [-1, 1, -1]
    assert ls.is_told(told["odd"]).tolist() == [False, True, False]


def test_losses_leave_out_what_is_withheld():
    pixels = np.array([[0.5, 1.0], [-1.0, -1.0]], "float32")
    decoded = np.array([[0.0, 0.5], [3.0, 4.0]], "float32")
    np.testing.assert_allclose(ls.squared_error(pixels, decoded), [0.5, 0.0])


@pytest.mark.parametrize("seed", range(10))
def test_viterbi_finds_the_best_of_all_rows(seed):
    random = np.random.default_rng(seed)
    log_p, transitions = (
        np.log(random.dirichlet(np.ones(4), 5)),
        random.normal(size=(4, 4)),
    )

    def score(row):
        return sum(log_p[range(5), row]) + sum(transitions[row[:-1], row[1:]])

    rows = [np.array(row) for row in itertools.product(range(4), repeat=5)]
    np.testing.assert_array_equal(ls.viterbi(log_p, transitions), max(rows, key=score))


def test_transitions_are_counted():
    found = np.exp(
        ls.learn_transitions(np.array([[8, 9, 1], [3, 4, 5]]))
    )  # steps 1, 2, 1, 1
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[2, 3] == found[9, 0] == pytest.approx(4 / 14)
    assert found[2, 4] == found[8, 0] == pytest.approx(2 / 14)
    assert found[3, 2] == pytest.approx(1 / 14)


def test_rows_obey_the_rule():
    y = np.random.default_rng(0).integers(0, 10, 200)
    rows = ls.draw_rows(y, 300, np.random.default_rng(1))
    assert rows.shape == (300, ls.LENGTH)
    assert set(np.unique(np.diff(y[rows], axis=1) % 10)) == set(ls.STEPS)
    assert set(y[rows][:, 0]) == set(range(10))


def test_clusters_are_named_as_well_as_can_be():
    random = np.random.default_rng(0)
    y = np.arange(100) % 10
    codes = np.eye(10)[(7 * y + 3) % 10] + random.normal(0, 0.01, (100, 10))
    np.testing.assert_array_equal(ls.clusters_named(codes, codes, y), y)
    named = ls.clusters_named(
        codes, codes, np.where(y == 3, 8, y)
    )  # 8 twice: one has to give way
    assert len(set(named)) == 10
