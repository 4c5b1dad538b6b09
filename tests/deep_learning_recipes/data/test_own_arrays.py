"""Arrays in .npz files: shapes, scales and labels of every kind, and what gets one
line."""

import numpy as np
import pytest

from deep_learning_recipes import UsageError, data

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (20, 6, 8), "uint8")
BYTES[0, 0, :2] = 0, 255
Y = np.arange(20) % 2


def load(x=BYTES, y=Y, **options):
    np.savez("own.npz", x=x, y=y)
    return data.load("own.npz", **options)


def test_one_part_is_split_and_bytes_are_scaled(capsys):
    (x, y), (x_test, y_test) = load(size=6)
    assert (x.shape, x_test.shape) == ((16, 6, 6, 1), (4, 6, 6, 1))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert np.bincount(y_test).tolist() == [2, 2]
    assert data.class_names("own.npz") == ["0", "1"]
    text = capsys.readouterr().out
    assert "pixels from 0 to 255: 0 is black, 255 white" in text
    assert "images of 6 × 8 pixels become 6 × 6" in text


def test_both_parts_stay_as_they_are():
    square = BYTES[:, :, :6]
    np.savez("own.npz", x_train=square, y_train=Y, x_test=square[:4], y_test=Y[:4])
    (x, y), (x_test, y_test) = data.load("own.npz")
    np.testing.assert_allclose(x[..., 0], square / 255, atol=1e-6)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(x_test, x[:4])
    np.testing.assert_array_equal(y_test, y[:4])


@pytest.mark.parametrize(
    ("pixels", "scaled"),
    [
        (BYTES / 255, BYTES / 255),
        (BYTES / 127.5 - 1, BYTES / 255),
        (BYTES.astype("float64"), BYTES / 255),
        (BYTES.astype("uint16") * 257, BYTES / 255),
        (BYTES // 16, BYTES // 16 / 15),
        (BYTES > 99, BYTES > 99),
        ((BYTES - 100.0) / 30, BYTES / 255),
    ],
    ids=["0-1", "-1-1", "0-255", "16 bits", "0-15", "truth values", "standardized"],
)
def test_the_scale_is_found(pixels, scaled):
    (x, _), (x_test, _) = load(pixels[:, :, :6])
    found = np.sort(np.concatenate([x, x_test]), axis=None)
    np.testing.assert_allclose(found, np.sort(scaled[:, :, :6], axis=None), atol=1e-5)


@pytest.mark.parametrize(
    "y",
    [
        Y,
        Y[:, np.newaxis],
        Y.astype("float32"),
        Y.astype(bool),
        np.eye(2)[Y],
        np.array(["ant", "bee"])[Y],
        np.array([b"ant", b"bee"])[Y],
        np.array([3, 7])[Y],
    ],
    ids=["ints", "column", "floats", "bools", "one-hot", "strings", "bytes", "gaps"],
)
def test_labels_of_any_kind(y):
    np.savez("own.npz", x_train=BYTES, y_train=y, x_test=BYTES, y_test=y)
    (_, found), _ = data.load("own.npz")
    np.testing.assert_array_equal(found, Y)
    assert len(data.class_names("own.npz")) == 2


def test_names_of_string_labels():
    np.savez("own.npz", x=BYTES, y=np.array(["öl", "bee"])[Y])
    assert data.class_names("own.npz") == ["bee", "öl"]


def test_channels_first_are_moved_and_transparency_is_on_white():
    color = RANDOM.random((20, 3, 8, 8)).astype("float32")
    (x, _), _ = load(color)
    assert x.shape == (16, 8, 8, 3)
    clear = np.zeros((20, 5, 5, 4))
    clear[0, 0, 0] = 0, 0, 0, 1
    (x, _), (x_test, _) = load(clear)
    both = np.concatenate([x, x_test])
    assert both.shape == (20, 5, 5, 3)
    assert np.count_nonzero(both == 0) == 3


def test_rows_of_numbers_are_vectors():
    rows = RANDOM.normal(size=(20, 7))
    np.savez("own.npz", x=rows, y=Y)
    (x, _), (x_test, _) = data.load_vectors("own.npz")
    assert (x.shape, x_test.shape) == ((16, 7), (4, 7))
    assert set(x.ravel()) < set(rows.astype("float32").ravel())
    with pytest.raises(UsageError, match=r"x has the shape \(16, 7\), a table"):
        data.load("own.npz")


def test_at_most_so_many():
    (x, _), (x_test, _) = load(max_examples=10)
    assert len(x) + len(x_test) == 10


def with_nan(x):
    x = x.astype("float32")
    x[3, 0, 0] = np.nan
    x[4, 0, 0] = np.inf
    return x


LINES = {
    "NaN": (with_nan(BYTES), Y, "x has 2 values that are NaN or infinite"),
    "objects": (np.array([1, None] * 10), Y, "x holds Python objects.* not opened"),
    "text": (np.full((20, 2), "a"), Y, "x holds .*, not numbers"),
    "lengths": (BYTES, Y[:10], "x has 20 examples, its y 10"),
    "one axis": (Y, Y, r"x has the shape \(20,\); examples have axes"),
    "five axes": (np.zeros((20, 2, 2, 2, 3)), Y, r"images are \(n, height, width\)"),
    "five channels": (np.zeros((20, 6, 6, 5)), Y, "1, 3 or 4 channels"),
    "all alike": (np.zeros((20, 6, 6)) + 5, Y, "all pixels are 5"),
    "one class": (BYTES, np.zeros(20, int), r"y has one class only \(0\)"),
    "fractions": (BYTES, Y + 0.5, "y holds fractions, such as 0.5"),
    "NaN labels": (BYTES, np.full(20, np.nan), "y has 20 values that are no numbers"),
    "two axes": (BYTES, np.ones((20, 3)), r"y has the shape \(20, 3\)"),
    "many": (BYTES, np.arange(20), "y has 20 different values in 20 examples"),
    "one of a class": (BYTES, np.eye(20, dtype=int)[0], r"fewer than two .* 1 \(1\)"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_wrong_gets_one_line(name):
    x, y, line = LINES[name]
    with pytest.raises(UsageError, match=f"^own.npz: .*{line}") as error:
        load(x, y)
    assert "\n" not in str(error.value)


def test_parts_of_different_shapes_and_labels():
    np.savez("own.npz", x_train=BYTES, y_train=Y, x_test=BYTES[:, :3], y_test=Y)
    with pytest.raises(UsageError, match=r"of shape \(6, 8\), x_test of \(3, 8\)"):
        data.load("own.npz")
    np.savez("own.npz", x_train=BYTES, y_train=Y, x_test=BYTES, y_test=Y + 1)
    with pytest.raises(UsageError, match="y_test has the class 2, which y_train lacks"):
        data.load("own.npz")


def test_files_that_are_none(tmp_path):
    np.savez("names.npz", images=BYTES, labels=Y)
    with pytest.raises(UsageError, match="it has images, labels; needed are x and y"):
        data.load("names.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(UsageError, match="^text.npz: no .npz file, or a damaged one"):
        data.load("text.npz")
    np.savez("whole.npz", x=BYTES, y=Y)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="^cut.npz: "):
        data.load("cut.npz")
