"""What a run reports of a user's own pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import figures
from deep_learning_recipes.classifiers.network import Classifier

if TYPE_CHECKING:
    from deep_learning_recipes.run import Run


def record(run: Run, probabilities: np.ndarray, names: Sequence[str]) -> list[str]:
    """Records the most probable class of each picture, as a number, and its
    probability.

    probabilities: (pictures, classes). names: of the classes. Returns captions: "cat
        0.93", ...
    """
    captions = []
    for i, each in enumerate(np.asarray(probabilities)):
        number = int(each.argmax())
        run.metric(f"picture_{i}_class", number)
        run.metric(f"picture_{i}_probability", each[number])
        captions.append(f"{names[number]} {each[number]:.2f}")
    return captions


def predict(
    run: Run, own: Classifier, images: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The class (n,) that the network sees in each picture, recorded with its
    probability, and captions as of `record`. Prints where the opened network, which is
    what is explained, says something else."""
    said, opened = own.probabilities(images), own.opened_probabilities(images)
    captions = record(run, said, own.class_names)
    classes = said.argmax(axis=1)
    for i, number in enumerate(classes):
        # What float16 rounds is not worth a word.
        if abs(said[i, number] - opened[i, number]) > 0.02:
            other = int(opened[i].argmax())
            run.print(
                f"picture {i}: {own.model.name} says {captions[i]}, opened up for the "
                f"maps {own.class_names[other]} {opened[i, other]:.2f}"
            )
    return classes, captions


def explain_own(
    run: Run,
    own: Classifier,
    images: np.ndarray,
    methods: Mapping[str, Callable[[np.ndarray, np.ndarray], Any]],
    *,
    overlay: bool = True,
) -> None:
    """Explains a user's pictures (n, height, width, 1 or 3): records the class that the
    network sees in each and its probability, and draws the figure `own` with every
    method's maps.

    methods: by name a function of the images and the predicted classes (n,) int64 that
        returns maps (n, height, width). overlay: whether the maps lie over the pictures.
    """
    run.print(f"explaining {len(images)} picture(s) by {own.model.name} ...")
    classes, captions = predict(run, own, images)
    maps = {
        name: np.asarray(method(images, classes)) for name, method in methods.items()
    }
    title = f"What {own.model.name} sees of its class"
    run.figure(
        "own",
        figures.heat_maps(
            images, maps, title=title, captions=captions, overlay=overlay
        ),
    )
