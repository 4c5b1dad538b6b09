"""A user's own network and picture, for the recipes that look into networks: load them,
open the network up, measure and report the maps that explain it."""

from deep_learning_recipes.classifiers.controls import shuffle_weights
from deep_learning_recipes.classifiers.measures import (
    overlap,
    own_over_others,
    pointing_game,
    rank_correlation,
    share_on_object,
)
from deep_learning_recipes.classifiers.network import Classifier, read_image
from deep_learning_recipes.classifiers.opening import from_flags, load
from deep_learning_recipes.classifiers.report import explain_own, predict, record

__all__ = [
    "Classifier",
    "explain_own",
    "from_flags",
    "load",
    "overlap",
    "own_over_others",
    "pointing_game",
    "predict",
    "rank_correlation",
    "read_image",
    "record",
    "share_on_object",
    "shuffle_weights",
]
