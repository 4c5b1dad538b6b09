"""A trial on one batch refuses what replicas cannot train as one device does, and lets
pass what they can.

Two devices are laid out in a process of their own, which trains all models.
"""

import json
import re
from types import SimpleNamespace

import models_on_replicas
import pytest
import tensorflow as tf
from conftest import command

from deep_learning_recipes.training import trial
from deep_learning_recipes.training.step import spec_of_batches

LOSS = r"its loss {} is no mean over the examples; .* --strategy cpu or gpu$"
OWN_LOSS = "the loss of its train_step is no mean"
SAID = {
    "loss": LOSS.format(r"largest\w*"),
    "loss with dropout": LOSS.format(r"largest\w*"),
    "loss with batch normalization": LOSS.format(r"contrastive\w*"),
    "function": LOSS.format(r"largest\w*"),
    "no reduction": LOSS.format("ce"),
    "metric": "what it logs as 'maximum' is no mean",
    "function as metric": "what it logs as 'largest' is no mean",
    "own sum": OWN_LOSS,
    "own mask": OWN_LOSS,
    "own sum with dropout": OWN_LOSS,
    "own clipping": OWN_LOSS,
    "own log": "what it logs as 'own' is no mean",
    "eager": "several devices train compiled, not with run_eagerly=True; leave it out",
    "accumulation": r"Keras lacks SGD\(gradient_accumulation_steps=2\) for mirrored",
    "accumulation, own step": r"Keras lacks SGD\(gradient_accumulation_steps=3\) for mirrored",
    "overwriting": r"Keras lacks SGD\(ema_overwrite_frequency=5\) for mirrored",
}


def test_datasets_without_examples_or_batches():
    numbers = tf.data.Dataset.range(3)
    with pytest.raises(ValueError, match="nothing to train on"):
        trial.first_batch(SimpleNamespace(data=numbers.take(0)))
    with pytest.raises(ValueError, match="single examples: batch"):
        spec_of_batches(numbers)


@pytest.fixture(scope="module")
def answers():
    """What training said for each model: nothing, or one line."""
    finished = command(models_on_replicas.__file__)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", models_on_replicas.REFUSED)
def test_refused_before_training(answers, name):
    said, is_unchanged = answers["refused"][name]
    assert said.startswith("--strategy")
    assert "\n" not in said
    assert re.search(SAID[name], said), said
    assert is_unchanged


def test_refused_again(answers):
    said, is_unchanged = answers["refused again"]
    assert "is no mean over the examples" in said
    assert is_unchanged


@pytest.mark.parametrize("name", models_on_replicas.TRAINED)
def test_trained(answers, name):
    assert answers["trained"][name] == ["", False]
