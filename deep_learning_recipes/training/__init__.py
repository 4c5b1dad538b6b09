"""`fit`: `keras.Model.fit` for arrays that fit in memory, each epoch as one compiled
call.

`keras.Model.fit` goes back to Python for every batch. For the small models of a lecture
that costs more than their arithmetic. Here the arrays are put on the device once, and
an epoch is a single `tf.function` that walks over a fresh permutation of the examples.
Weights, History and progress bar are those of `keras.Model.fit`.
"""

from __future__ import annotations

import functools
import math
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.parameter_server import (
    ParameterServers,
    counting_apart,
)
from deep_learning_recipes.distribute.replicas import (
    Replicas,
    Workers,
    counting,
    is_wrapper,
    optimizers_of,
)
from deep_learning_recipes.distribute.strategies import replicas_of
from deep_learning_recipes.training.state import state_variables

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
STEPS_PER_EXECUTION = 16
BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


def fit(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    batch_size: int = 32,
    epochs: int = 1,
    validation_data: Any = None,
    callbacks: Any = None,
    shuffle: bool = True,
    seed: int | None = None,
    initial_epoch: int = 0,
    verbose: int | str = "auto",
    jit_compile: bool | None = None,
) -> keras.callbacks.History:
    """Train a compiled model, custom `train_step` included, as `keras.Model.fit` does,
    but faster.

    Several replicas (a `MirroredStrategy`, or the workers of `--strategy multi_worker`)
    divide each batch among them and end with the weights of a single device, whatever
    the size of the last batch and whatever `train_step` does, as long as its losses are
    means over the examples. What a replica works out from its slice alone differs:
    random numbers, and the statistics of BatchNormalization (not with
    `synchronized=True` under a MirroredStrategy).

    With parameter servers the workers train asynchronously, so the weights are not
    those of a single device nor the same twice: `distribute.parameter_server` says
    more.

    On a TPU, with `run_eagerly=True`, or given a `tf.data.Dataset` this hands over to
    `model.fit` and sets `model.steps_per_execution` to 16, or less so that it divides
    an epoch's steps. Several replicas then leave out an epoch's last, smaller batch.

    Args:
        model: A compiled `keras.Model`.
        x, y, sample_weight: Arrays, or nested dicts, tuples and lists of arrays, whose
            first axis counts the examples. Or `x` alone: a batched `tf.data.Dataset`.
        batch_size: Examples per step. The last, smaller batch of an epoch is trained as
            well.
        epochs: The epoch to stop before, counted from 0 whatever `initial_epoch` is.
        validation_data: `(x, y)`, `(x, y, sample_weight)` or a batched
            `tf.data.Dataset`.
        callbacks: Keras callbacks. All that act once an epoch work: EarlyStopping,
            TensorBoard, ReduceLROnPlateau, LearningRateScheduler, ModelCheckpoint,
            BackupAndRestore. The `on_train_batch_*` hooks are called once an epoch,
            with the index of its last batch: TerminateOnNaN acts at the end of the
            epoch, and a callback that needs every batch draws a warning: use
            `model.fit` for it. A callback may have a method `restore(model) -> int`:
            called once all variables exist, before `on_train_begin`, it may load them
            and fill `model.history.history`, and returns how many epochs are done;
            training goes on there.
        shuffle: Draw a new order each epoch. It depends on `seed` and the epoch's
            number alone, so a resumed run sees the same batches.
        seed: None draws one from Python's `random`, which `keras.utils.set_random_seed`
            seeds: the same program started again draws the same.
        initial_epoch: The epoch to start from, unless a callback restored a later one.
        verbose: 0 silent, 1 progress bar, 2 a line per epoch; "auto" means 1, or 0
            where a callback says by `shows_progress = True` that it shows it.
        jit_compile: Compile with XLA. None: yes if the model was compiled with
            `jit_compile=True`, or on a CPU for long training without convolutions and
            loops, which XLA makes slower.

    Returns:
        The History that `keras.Model.fit` returns.

    Raises:
        ValueError: The model is not compiled, or the arrays or numbers make no sense.
    """
    if not model.compiled:
        raise ValueError(
            "the model is not compiled: call model.compile(...) before fit"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if epochs < 0 or initial_epoch < 0:
        raise ValueError(
            f"epochs={epochs}, initial_epoch={initial_epoch}: must be at least 0"
        )
    if seed is None:
        seed = random.randrange(2**31)

    given_dataset = isinstance(x, tf.data.Dataset)
    if given_dataset and (y is not None or sample_weight is not None):
        raise ValueError(
            "x is a tf.data.Dataset: let it yield y and sample_weight as well"
        )

    strategy = model.distribute_strategy
    replicas = replicas_of(model)
    handed_over = given_dataset or replicas is None or model.run_eagerly
    is_cluster = isinstance(replicas, (Workers, ParameterServers))
    if handed_over and is_cluster:
        raise ValueError(
            "several workers train on arrays, compiled: not on a tf.data.Dataset, and not with "
            "run_eagerly=True"
        )
    inputs = getattr(model, "inputs", None) or ()
    if (is_cluster or strategy.num_replicas_in_sync > 1) and any(
        each.shape[0] for each in inputs
    ):
        raise UsageError(
            f"--strategy: {model.name!r} takes batches of one size only, to carry a state from one "
            "to the next; train it on a single device, with --strategy cpu or gpu"
        )
    # Keras shares a batch out; of a smaller last one some replicas might get nothing.
    drop_remainder = handed_over and strategy.num_replicas_in_sync > 1

    data, steps = x, None
    if not given_dataset:
        data = _on_device(x, y, sample_weight)
        examples = _count(data)
        steps = (
            examples // batch_size
            if drop_remainder
            else math.ceil(examples / batch_size)
        )
        if steps == 0:
            raise ValueError(
                f"batch_size={batch_size} is more than the {examples} examples"
            )
    if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
        validation_data = _on_device(
            *keras.utils.unpack_x_y_sample_weight(validation_data)
        )

    def order_of(epoch: Any) -> tf.Tensor:
        order = tf.range(examples)
        return (
            tf.random.experimental.stateless_shuffle(order, (seed, epoch))
            if shuffle
            else order
        )

    own_progress = any(
        getattr(each, "shows_progress", False) for each in callbacks or ()
    )
    if replicas is not None and not replicas.is_chief:
        verbose = 0
    callbacks = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0 and not (verbose == "auto" and own_progress),
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )

    def restore() -> int:
        able = [
            callback for callback in callbacks.callbacks if hasattr(callback, "restore")
        ]
        return max([initial_epoch, *(callback.restore(model) for callback in able)])

    if replicas is None or handed_over:
        if not given_dataset:
            data = functools.partial(
                _batches,
                data,
                order_of,
                batch_size=batch_size,
                drop_remainder=drop_remainder,
            )
        return _hand_over(
            model, data, validation_data, batch_size, steps, epochs, callbacks, restore
        )

    for callback in callbacks.callbacks:
        if any(
            not getattr(callback, hook).__module__.startswith("keras.")
            for hook in BATCH_HOOKS
        ):
            warnings.warn(
                f"{type(callback).__name__} has a hook for batches, which is called once an epoch "
                "here: if it needs every batch, use model.fit",
                stacklevel=2,
            )
    compile_epoch = functools.partial(
        _compile_epoch,
        model,
        replicas,
        batch_size=batch_size,
        epochs=epochs,
        jit_compile=jit_compile,
    )
    train = compile_epoch("train_step", data)
    if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
        test = compile_epoch("test_step", validation_data)

    def evaluate() -> dict[str, Any]:
        if isinstance(validation_data, tf.data.Dataset):
            return model.evaluate(
                validation_data, callbacks=callbacks, return_dict=True
            )
        callbacks.on_test_begin()
        logs = test(validation_data, tf.range(_count(validation_data)))
        callbacks.on_test_end(logs)
        return logs

    start = replicas.agree(model, state_variables(model), restore())
    model.stop_training = False
    callbacks.on_train_begin()
    # BackupAndRestore says here, and nowhere public, where to go on.
    start = getattr(model, "_initial_epoch", None) or start
    logs: dict[str, Any] = {}
    for epoch in range(start, epochs):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_train_batch_begin(0)
        logs = dict(train(data, order_of(epoch)))
        callbacks.on_train_batch_end(callbacks.params["steps"] - 1, logs)
        if validation_data is not None:
            logs.update({f"val_{name}": value for name, value in evaluate().items()})
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if isinstance(model.optimizer, keras.optimizers.Optimizer) and epochs > 0:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    callbacks.on_train_end(logs)
    return model.history


def _hand_over(
    model: keras.Model,
    data: tf.data.Dataset | Callable[[range], tf.data.Dataset],
    validation_data: Any,
    batch_size: int,
    steps: int | None,
    epochs: int,
    callbacks: keras.callbacks.CallbackList,
    restore: Callable[[], int],
) -> keras.callbacks.History:
    """Let `model.fit` train: on a dataset, or on what `data` makes of the epochs'
    numbers."""
    if model.built and model.optimizer is not None:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
    start = restore()
    if callable(data):
        # Keras looks at a batch even where all epochs are done.
        data = data(range(start, max(epochs, start + 1)))
    if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
        validation_data = tf.data.Dataset.from_tensor_slices(validation_data).batch(
            batch_size
        )
    if not model.run_eagerly:
        # An execution that went past its epoch would eat the next one's batches.
        divides = [
            n for n in range(1, STEPS_PER_EXECUTION + 1) if (steps or n) % n == 0
        ]
        if model.steps_per_execution != divides[-1]:
            model.steps_per_execution = divides[-1]
            model.train_function = model.test_function = (
                None  # of another number of steps
            )
    return model.fit(
        data,
        steps_per_epoch=steps,
        epochs=epochs,
        initial_epoch=start,
        shuffle=False,  # a dataset brings its own order
        validation_data=validation_data,
        callbacks=callbacks,
    )


def _compile_epoch(
    model: keras.Model,
    replicas: Replicas,
    step_name: str,
    data: Any,
    batch_size: int,
    epochs: int,
    jit_compile: bool | None,
) -> Callable[[Any, tf.Tensor], dict[str, tf.Tensor]]:
    """Trace the model's step and put it into a loop: a function of (data, order) that
    returns logs.

    Tracing is most of what a small run costs, so the step is traced once, for batches
    of any size, and the result stays with the model until it is compiled again or other
    weights get trainable.
    """
    batch_spec = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), data
    )
    steps = math.ceil(_count(data) / batch_size) * epochs
    key = repr(
        (step_name, batch_spec, batch_size, jit_compile, steps >= STEPS_THAT_REPAY_XLA)
    )
    model.make_train_function()  # makes a new object after each model.compile

    def state() -> tuple[Any, ...]:
        return model.train_function, *map(id, model.trainable_variables)

    cache = getattr(model, "_compiled_epochs", None)
    if cache is None or cache.state != state():
        cache = model._compiled_epochs = SimpleNamespace(functions={})
    if key in cache.functions:
        return cache.functions[key]

    # A batch with fewer examples than replicas counts once.
    few = 0 < _count(data) % batch_size < replicas.count or batch_size < replicas.count
    # Until it is built, a LossScaleOptimizer scales by a constant.
    unbuilt = [
        each for each in optimizers_of(model) if is_wrapper(each) and not each.built
    ]
    trace = functools.partial(_trace_step, model, replicas, step_name, batch_spec)
    step = trace()
    apart = isinstance(replicas, ParameterServers)
    if few or unbuilt or apart:
        # Now that all metrics and optimizers have variables.
        step = trace(may_not_count=few, counts_apart=apart)

    def step_on(data: Any, indices: tf.Tensor) -> dict[str, tf.Tensor]:
        slices, shares, counts = replicas.divide(indices)
        batches = [
            keras.tree.map_structure(lambda array: tf.gather(array, each), data)  # noqa: B023
            for each in slices
        ]
        return step(batches, shares, counts)

    def steps_on(data: Any, order: tf.Tensor, use_xla: bool) -> dict[str, tf.Tensor]:
        # XLA wants batches of one size; elsewhere a slice simply ends where the order
        # does.
        examples = order.shape[0] if use_xla else tf.size(order)
        looped = examples - examples % batch_size if use_xla else examples

        def body(start: tf.Tensor, _: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            if use_xla:
                return start + batch_size, step_on(
                    data, tf.slice(order, [start], [batch_size])
                )
            return start + batch_size, step_on(data, order[start : start + batch_size])

        logs = keras.tree.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), step.structured_outputs
        )
        _, logs = tf.while_loop(
            lambda start, _: start < looped, body, (0, logs), parallel_iterations=1
        )
        if use_xla and looped < examples:
            logs = step_on(data, order[looped:])
        return logs

    if isinstance(replicas, ParameterServers):
        outputs = step.structured_outputs
        cache.functions[key] = _scheduled(
            model, replicas, steps_on, batch_spec, outputs, batch_size
        )
        cache.state = state()
        return cache.functions[key]

    def whole_epoch(data: Any, order: tf.Tensor, use_xla: bool) -> dict[str, tf.Tensor]:
        model.reset_metrics()
        logs = steps_on(data, order, use_xla)
        return _logs_of_epoch(model, replicas, logs)

    if jit_compile is None:
        use_xla = model.jit_compile or (
            steps >= STEPS_THAT_REPAY_XLA
            and replicas.count == 1
            and not tf.config.list_physical_devices("GPU")
            and _fit_for_xla(step)
        )
    else:
        use_xla = jit_compile
    compiled = tf.function(
        functools.partial(whole_epoch, use_xla=use_xla),
        autograph=False,
        jit_compile=use_xla,
    )

    def run(data: Any, order: tf.Tensor) -> dict[str, tf.Tensor]:
        nonlocal compiled
        try:
            with replicas.context():
                return compiled(data, order)
        except tf.errors.InvalidArgumentError as error:
            # XLA says so before any step has run.
            if jit_compile or "tf2xla" not in str(error):
                raise
            warnings.warn(
                "XLA cannot compile this model: going on without", stacklevel=4
            )
            compiled = tf.function(
                functools.partial(whole_epoch, use_xla=False), autograph=False
            )
            return compiled(data, order)

    cache.functions[key] = run
    cache.state = state()
    return run


def _scheduled(
    model: keras.Model,
    replicas: ParameterServers,
    steps_on: Callable[..., dict[str, tf.Tensor]],
    batch_spec: Any,
    logs_spec: dict[str, tf.TensorSpec],
    batch_size: int,
) -> Callable[[Any, tf.Tensor], dict[str, tf.Tensor]]:
    """An epoch that workers compute in parts: a function of (data, order) that returns
    logs."""
    with replicas.context():
        last_logs = {
            name: tf.Variable(tf.zeros(spec.shape, spec.dtype), trainable=False)
            for name, spec in logs_spec.items()
        }

    @functools.partial(tf.function, input_signature=[batch_spec], autograph=False)
    def part_of_epoch(data: Any) -> None:
        examples = tf.shape(keras.tree.flatten(data)[0])[0]
        for name, value in steps_on(data, tf.range(examples), use_xla=False).items():
            last_logs[name].assign(value)

    def run(data: Any, order: tf.Tensor) -> dict[str, tf.Tensor]:
        model.reset_metrics()
        replicas.schedule(part_of_epoch, data, order, batch_size)
        logs = {name: tf.convert_to_tensor(value) for name, value in last_logs.items()}
        return _logs_of_epoch(model, replicas, logs)

    return run


def _trace_step(
    model: keras.Model,
    replicas: Replicas,
    step_name: str,
    batch_spec: Any,
    may_not_count: bool = False,
    counts_apart: bool = False,
) -> Any:
    """The step as a concrete function of what `replicas.divide` makes of a batch."""
    slices = len(replicas.local)
    signature = [
        [batch_spec] * slices,
        [tf.TensorSpec((), tf.float32)] * slices,
        [tf.TensorSpec((), tf.bool)] * slices,
    ]
    with ThreadPoolExecutor(1) as outside:

        def create_outside(**arguments: Any) -> tf.Variable:
            with replicas.context():
                return tf.Variable(**arguments)

        def create(
            next_creator: Callable[..., tf.Variable], **arguments: Any
        ) -> tf.Variable:
            # Optimizers and metrics create their variables in the first step.
            # TensorFlow traces a function twice that creates variables; created outside
            # of it, once is enough.
            if callable(arguments["initial_value"]):
                return outside.submit(create_outside, **arguments).result()
            return next_creator(**arguments)

        def one_step(batches: Any, shares: Any, counts: Any) -> dict[str, tf.Tensor]:
            step = getattr(model, step_name)
            if counts_apart:
                step = counting_apart(step, model)
            if may_not_count:
                step, batches = (
                    counting(step, model),
                    list(zip(batches, counts, strict=True)),
                )
            with tf.variable_creator_scope(create):
                return replicas.run(step, model, batches, shares)

        with replicas.context():
            step = tf.function(one_step, input_signature=signature, autograph=False)
            return step.get_concrete_function()


def _logs_of_epoch(
    model: keras.Model, replicas: Replicas, logs: dict[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """The last step's logs, or in their place, as in model.fit, metrics of the whole
    epoch."""
    replicas.settle(model)
    metrics = model.get_metrics_result()
    if set(metrics) == set(logs):
        return metrics
    if replicas.sees_all:
        return logs
    logs = dict(zip(logs, replicas.add_up(list(logs.values())), strict=True))
    # Results of the last step's metrics hold one replica's examples, or one batch's. A
    # step that leaves out some of the metrics has a loss of its own, and Keras's
    # tracker of the loss stays 0.
    return {
        name: logs[name] if name == "loss" else metrics.get(name, logs[name])
        for name in logs
    }


def _fit_for_xla(step: Any) -> bool:
    """Whether a traced step holds nothing that XLA on a CPU makes slower or wrong."""
    graph = step.graph.as_graph_def()
    nodes = [
        *graph.node,
        *(node for body in graph.library.function for node in body.node_def),
    ]
    return not any("Conv" in node.op or node.op in UNFIT_FOR_XLA for node in nodes)


def _batches(
    data: Any,
    order_of: Callable[[Any], tf.Tensor],
    epochs: range,
    batch_size: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """The same batches in the same order for `model.fit`: one epoch after the other."""

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.data.Dataset.from_tensor_slices(order_of(epoch))
        return order.batch(batch_size, drop_remainder=drop_remainder)

    def gather(indices: tf.Tensor) -> Any:
        return keras.tree.map_structure(lambda array: tf.gather(array, indices), data)

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(indices_of)
    return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )


def _on_device(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Tensors for `train_step`, of floatx where they are floating, as `keras.Model.fit`
    makes."""
    if sample_weight is not None and y is None:
        raise ValueError("sample_weight is given without y")

    def to_tensor(array: Any) -> tf.Tensor:
        tensor = (
            array if tf.is_tensor(array) else tf.convert_to_tensor(np.asarray(array))
        )
        return (
            tf.cast(tensor, keras.config.floatx())
            if tensor.dtype.is_floating
            else tensor
        )

    data = keras.tree.map_structure(
        to_tensor, keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
    )
    shapes = [tensor.shape for tensor in keras.tree.flatten(data)]
    if len({tuple(shape[:1]) for shape in shapes}) != 1 or shapes[0].rank == 0:
        raise ValueError(
            "x, y and sample_weight need the same number of examples on their first axis; "
            f"their shapes are {', '.join(str(tuple(shape)) for shape in shapes)}"
        )
    if shapes[0][0] == 0:
        raise ValueError("there is nothing to train on: the arrays hold no examples")
    return data


def _count(data: Any) -> int:
    return len(keras.tree.flatten(data)[0])
