"""Whether XLA makes a training shorter."""

import warnings
from typing import Any

import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.replicas import Replicas
from deep_learning_recipes.training.prepare import Training
from deep_learning_recipes.training.xla_operations import (
    are_numbers,
    keeps_its_checks,
    nodes_of,
)

GOING_ON = "XLA cannot compile this model: going on without"
STEPS_THAT_REPAY_XLA = 2_000
"""Training steps from which on XLA's compile time is repaid. Measured on 2 CPU cores:

                                    ms a step: plain    XLA    compile time    repaid after
    dense 64-128-10, batch 32                  0.085  0.028           0.7 s    12,000 steps
    dense 784-512-512-10, batch 128              3.7    2.6           0.8 s       700 steps
    2 attention blocks of width 64                13    7.6           3.9 s       700 steps
    2 attention blocks of width 128               84    109           4.2 s           never

A short run that compiles in vain loses a second or so, a long run that does not loses
minutes.
"""
UNFIT_FOR_XLA = {
    "While",
    "StatelessWhile",
    "PyFunc",
    "EagerPyFunc",
    "Assert",
    "CheckNumerics",
    "MatrixInverse",
    "MatrixSolve",
}
"""Operations that keep a step from XLA, beside convolutions: loops get slower, Python
functions fail, assertions and the checks for singular matrices are left out."""


def choose(training: Training, replicas: Replicas, step: Any, steps: int) -> bool:
    """Whether to compile so many calls of a traced step with XLA.

    Raises UsageError for `jit_compile=True` where XLA would end Python.
    """
    is_wanted = training.jit_compile
    if is_wanted is None and training.model.jit_compile:
        is_wanted = True
    if is_wanted and not are_numbers(step):
        if training.jit_compile:
            raise UsageError(
                f"jit_compile=True: XLA has no strings and no tables, which "
                f"{training.model.name!r} uses; leave it out"
            )
        warnings.warn(GOING_ON, stacklevel=6)
        return False
    if is_wanted is not None:
        return is_wanted
    return (
        is_repaid(steps)
        and replicas.count == 1
        and not tf.config.list_physical_devices("GPU")
        and are_numbers(step)
        and _suits(step)
    )


def is_repaid(steps: int) -> bool:
    return steps >= STEPS_THAT_REPAY_XLA


def _suits(step: Any) -> bool:
    """Whether a traced step holds nothing that XLA on a CPU makes slower or wrong."""
    return keeps_its_checks(step) and not any(
        "Conv" in node.op or node.op in UNFIT_FOR_XLA for node in nodes_of(step)
    )
