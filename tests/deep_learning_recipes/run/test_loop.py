"""Loops: a resumed one ends where an uninterrupted one does."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from deep_learning_recipes import UsageError
from deep_learning_recipes.run import display
from deep_learning_recipes.run import loop as loops
from deep_learning_recipes.run.display import Display
from deep_learning_recipes.run.loop import Loop


def make_state():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    return {
        "model": model,
        "optimizer": optimizer,
        "arrays": {"seen": np.zeros(6), "many": [np.zeros((2, 3), "int32")]},
        "epsilon": tf.Variable(1.0),
        "random": np.random.default_rng(7),
    }


def train(state, steps, fail_at=None):
    model, random = state["model"], state["random"]
    for step in steps:
        if step == fail_at:
            raise KeyboardInterrupt
        x = random.normal(size=(4, 2)).astype("float32")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - x[:, :1]))
        gradients = tape.gradient(loss, model.trainable_variables)
        state["optimizer"].apply(gradients, model.trainable_variables)
        state["arrays"]["seen"][step] = float(loss)
        state["arrays"]["many"][0][0, 0] += 1
        state["epsilon"].assign(state["epsilon"] * 0.9)


def values(state):
    return {name: loops.as_array(part) for name, part in loops.flatten("state", state)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture(autouse=True)
def save_each_step(monkeypatch):
    monkeypatch.setattr(loops, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(loops, "SHARE_OF_TIME_FOR_SAVES", np.inf)


def test_a_resumed_loop_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = make_state()
    train(whole, range(6))

    path = tmp_path / "checkpoints" / "a.npz"
    with pytest.raises(KeyboardInterrupt):
        state = make_state()
        train(state, Loop(path, 6, state, name="a"), fail_at=4)
    resumed = make_state()
    loop = Loop(path, 6, resumed, name="a", resume=True)
    assert loop.done == 4
    assert len(loop) == 2
    train(resumed, loop)
    assert_equal(values(resumed), values(whole))
    assert {file.name for file in path.parent.iterdir()} == {
        "a.npz",
        "a.npz.previous",
    }


def test_a_loop_that_had_ended_is_not_repeated(tmp_path):
    first = make_state()
    train(first, Loop(tmp_path / "a.npz", 3, first, name="a"))
    again = make_state()
    loop = Loop(tmp_path / "a.npz", 3, again, name="a", resume=True)
    assert list(loop) == []
    assert_equal(values(again), values(first))


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "SFC64", "MT19937", "Philox"])
def test_every_generator_of_numpy_goes_on_where_it_was(kind, tmp_path):
    def make():
        return np.random.Generator(getattr(np.random, kind)(3))

    expected = make().random((6, 3))[4:]
    path = tmp_path / "a.npz"
    first = make()
    for _ in Loop(path, 4, {"random": first}, name="a"):
        first.random(3)
    resumed = make()
    list(Loop(path, 4, {"random": resumed}, name="a", resume=True))
    np.testing.assert_array_equal(resumed.random((2, 3)), expected)


def test_without_resume_it_starts_anew(tmp_path):
    list(Loop(tmp_path / "a.npz", 3, {"x": np.ones(2)}, name="a"))
    assert list(Loop(tmp_path / "a.npz", 3, {"x": np.ones(2)}, name="a")) == [0, 1, 2]


def test_another_state_is_refused(tmp_path):
    list(Loop(tmp_path / "a.npz", 3, {"x": np.ones(2)}, name="a"))
    for state in ({"x": np.ones(3)}, {"y": np.ones(2)}):
        with pytest.raises(UsageError, match="--resume"):
            Loop(tmp_path / "a.npz", 3, state, name="a", resume=True)


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"state\.optimizer: .* build it first"):
        Loop(tmp_path / "a.npz", 3, {"optimizer": keras.optimizers.Adam()}, name="a")
    with pytest.raises(TypeError, match=r"state\.x\.0: a int"):
        Loop(tmp_path / "a.npz", 3, {"x": [1]}, name="a")


def test_progress_says_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", float("inf"))
    text = io.StringIO()
    array = np.zeros(1)
    loop = Loop(
        tmp_path / "a.npz",
        1200,
        {"x": array},
        name="walk",
        show=lambda: {"return": 21.5},
        display=Display(Console(file=text)),
    )
    for _ in loop:
        pass
    (line,) = text.getvalue().splitlines()
    assert line.startswith("walk ")
    assert "1,200/1,200 steps" in line
    assert line.endswith("return 21.5")
