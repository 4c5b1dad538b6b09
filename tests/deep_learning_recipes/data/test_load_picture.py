import numpy as np
import pytest
from PIL import Image

from deep_learning_recipes import UsageError, data


@pytest.mark.parametrize("name", ["flower", "brick", "painting"])
def test_a_picture_by_name(name):
    picture = data.load_picture(name, 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.float32
    assert 0 <= picture.min() < picture.max() <= 1
    assert picture.std() > 0.05


def test_photographs_are_those_of_load_photos():
    photos = data.load_photos(32)
    for name, photo in zip(data.class_names("photos"), photos, strict=True):
        np.testing.assert_array_equal(data.load_picture(name, 32), photo)


def test_the_painting_is_the_same_each_time_and_goes_on_at_the_opposite_edge():
    picture = data.load_picture("painting", 256)
    np.testing.assert_array_equal(picture, data.load_picture("painting", 256))
    across = np.abs(picture[:, 0] - picture[:, -1]).mean()
    assert across < 1.5 * np.abs(np.diff(picture, axis=1)).mean()


def test_strokes_run_along_the_field():
    """Smeared along lines, a picture changes little in one direction and much across
    it."""
    gray = data.load_picture("painting", 256).mean(axis=-1)
    down, right = np.gradient(gray)
    slopes = np.stack(np.gradient(gray)).reshape(2, 16, 16, 16, 16)
    blocks = slopes.transpose(1, 3, 0, 2, 4).reshape(256, 2, 256)
    small, large = np.array([np.linalg.eigvalsh(np.cov(block)) for block in blocks]).T
    assert np.median(small / large) < 0.25


def test_a_file_of_ones_own(tmp_path):
    red = np.zeros((40, 60, 3), "uint8")
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    picture = data.load_picture(str(tmp_path / "red.png"), 20)
    np.testing.assert_array_equal(picture, np.broadcast_to([1.0, 0, 0], (20, 20, 3)))


def test_bad_input_gets_one_clear_line(tmp_path):
    with pytest.raises(
        UsageError, match="floower: neither a picture file .* did you mean flower"
    ):
        data.load_picture("floower")
    with pytest.raises(UsageError, match="16 to 1024"):
        data.load_picture("flower", 8)
    (tmp_path / "text.png").write_text("none")
    with pytest.raises(UsageError, match="Pillow cannot read it"):
        data.load_picture(str(tmp_path / "text.png"))
