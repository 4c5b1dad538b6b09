"""Whether XLA makes a training shorter."""

from typing import Any

import tensorflow as tf

from deep_learning_recipes.distribute.replicas import Replicas
from deep_learning_recipes.training.prepare import Training

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
}
"""Operations that keep a step from XLA, beside convolutions: loops get slower, Python
functions fail, assertions are silently left out."""


def choose(training: Training, replicas: Replicas, step: Any, steps: int) -> bool:
    """Whether to compile so many calls of a traced step with XLA."""
    if training.jit_compile is not None:
        return training.jit_compile
    return training.model.jit_compile or (
        is_repaid(steps)
        and replicas.count == 1
        and not tf.config.list_physical_devices("GPU")
        and _suits(step)
    )


def is_repaid(steps: int) -> bool:
    return steps >= STEPS_THAT_REPAY_XLA


def _suits(step: Any) -> bool:
    """Whether a traced step holds nothing that XLA on a CPU makes slower or wrong."""
    graph = step.graph.as_graph_def()
    nodes = [
        *graph.node,
        *(node for body in graph.library.function for node in body.node_def),
    ]
    return not any("Conv" in node.op or node.op in UNFIT_FOR_XLA for node in nodes)
