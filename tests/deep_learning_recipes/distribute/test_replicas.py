"""Replicas against one device: the same weights and metrics, whatever the model and the
batch.

Devices are laid out once a process, so each strategy trains in a process of its own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import train_small_models
from conftest import command

ONE = "fewer examples than replicas"
EXAMPLES = {"even": 64, "odd": 69, ONE: 65}
"""with batches of 16, by the size of the last batch: 16, 5, 1"""

# Both divide batches by the same code; workers start and compile twice as much.
STRATEGIES = ["mirrored:2", pytest.param("multi_worker", marks=pytest.mark.long)]
PROGRAM = Path(__file__).with_name("train_small_models.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The weights and Histories of all small models, trained under a strategy."""
    finished = {}

    def train(strategy):
        if strategy not in finished:
            folder = tmp_path_factory.mktemp("trained")
            arguments = [str(PROGRAM), strategy, str(folder)]
            if strategy == "multi_worker":
                launch = [
                    "-m",
                    "deep_learning_recipes.distribute",
                    "launch",
                    "--workers",
                    "2",
                ]
                arguments = [*launch, *arguments]
            finished[strategy] = folder, command(*arguments)
        folder, process = finished[strategy]
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        return folder

    return train


def results(folder, worker, model, examples):
    name = f"{worker}-{model}-{examples}"
    weights = np.load(folder / f"{name}.npz")
    history = json.loads((folder / f"{name}.json").read_text())
    return [weights[key] for key in weights.files], history


def assert_same_as_one_device(trained, strategy, last_batch, model):
    expected, expected_history = results(trained("cpu"), 0, model, EXAMPLES[last_batch])
    for worker in range(2 if strategy == "multi_worker" else 1):
        weights, history = results(
            trained(strategy), worker, model, EXAMPLES[last_batch]
        )
        assert len(weights) == len(expected) > 0
        for found, wanted in zip(weights, expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0)
        assert list(history) == list(expected_history)
        for name, values in expected_history.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", train_small_models.OF_ALL_SIZES)
@pytest.mark.parametrize("last_batch", EXAMPLES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_replicas_end_with_the_weights_and_metrics_of_one_device(
    trained, strategy, last_batch, model
):
    assert_same_as_one_device(trained, strategy, last_batch, model)


@pytest.mark.parametrize(
    ("model", "last_batch"),
    [
        *((each, ONE) for each in train_small_models.OF_THE_HARDEST),
        *((each, ONE) for each in train_small_models.MEANS_OVER_OTHER_THINGS),
        ("heads", "odd"),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_so_do_they_where_gradients_are_clipped_or_a_loss_is_no_mean(
    trained, strategy, last_batch, model
):
    assert_same_as_one_device(trained, strategy, last_batch, model)


@pytest.mark.parametrize(
    ("model", "last_batch"), [("dataset", "odd"), ("masked dataset", ONE)]
)
def test_so_do_mirrored_ones_on_a_dataset(trained, last_batch, model):
    assert_same_as_one_device(trained, "mirrored:2", last_batch, model)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ordinary_batch_normalization_differs(trained, strategy):
    expected, _ = results(trained("cpu"), 0, "normalized", 64)
    weights, _ = results(trained(strategy), 0, "normalized", 64)
    assert (
        max(np.abs(a - b).max() for a, b in zip(weights, expected, strict=True)) > 1e-4
    )


def test_synchronized_batch_normalization_does_not(trained):
    expected, _ = results(trained("cpu"), 0, "synchronized", 64)
    weights, _ = results(trained("mirrored:2"), 0, "synchronized", 64)
    for found, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.long
def test_workers_agree_on_batch_normalization(trained):
    first, second = (
        results(trained("multi_worker"), w, "normalized", 64)[0] for w in (0, 1)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_replicas_draw_different_random_numbers(trained, strategy):
    """Each adds what it draws to a sum of its own."""
    ((first, second),), _ = results(trained(strategy), 0, "noisy", 64)
    assert abs(first - second) > 0.01
