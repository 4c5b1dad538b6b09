import numpy as np
import pytest

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data.crops import photos
from deep_learning_recipes.data.pixels import LUMINANCE


@pytest.fixture(scope="module")
def scenes():
    return data.load_scenes(60, 40, size=48)


def test_shapes_and_ranges(scenes):
    for part, count in zip(scenes, (60, 40), strict=True):
        assert part.images.shape == (count, 48, 48, 3)
        assert part.images.dtype == np.float32
        assert 0 <= part.images.min() < part.images.max() <= 1
        assert part.masks.shape == (count, 48, 48)
        assert set(part.labels) <= set(range(10))


def test_box_is_that_of_the_mask_and_the_digit_is_lighter_than_the_photograph(scenes):
    for part in scenes:
        for image, mask, (top, left, bottom, right) in zip(
            part.images, part.masks, part.boxes, strict=True
        ):
            assert mask[top:bottom, left:right].sum() == mask.sum() > 20
            for edge in (
                mask[top],
                mask[bottom - 1],
                mask[:, left],
                mask[:, right - 1],
            ):
                assert edge.any()
            # One color, and at least as light as the lightest that a photograph may
            # be.
            strokes = image[mask] @ LUMINANCE
            assert strokes.mean() > 0.5
            assert (image[~mask] @ LUMINANCE).mean() < strokes.mean()


def test_what_is_outside_a_digit_is_a_photograph(scenes):
    (_, _), (ground, _) = photos(48, 0)
    part = scenes[1]
    image, box = part.images[0], part.boxes[0]
    outside = np.ones((48, 48), bool)
    outside[max(box[0] - 6, 0) : box[2] + 6, max(box[1] - 6, 0) : box[3] + 6] = False
    difference = np.abs(ground[:, outside] / 2 - image[outside]).max((1, 2))
    assert difference.min() < 1e-6


def test_seed_and_bad_numbers(scenes):
    again, _ = data.load_scenes(60, 40, size=48)
    np.testing.assert_array_equal(again.images, scenes[0].images)
    other, _ = data.load_scenes(60, 40, size=48, seed=1)
    assert (other.images != scenes[0].images).any()
    with pytest.raises(UsageError, match="not 0, 500, 48"):
        data.load_scenes(0)
    with pytest.raises(UsageError, match="size 24 to 256"):
        data.load_scenes(size=8)


def test_the_photographs_themselves():
    squares = data.load_photos(64)
    assert squares.shape == (9, 64, 64, 3)
    assert 0 <= squares.min() < squares.max() <= 1
    assert len(data.class_names("photos")) == 9
    from skimage.data import astronaut  # 512 x 512: nothing is cut off

    coarse = astronaut().reshape(64, 8, 64, 8, 3).mean((1, 3)) / 255
    assert np.abs(coarse - squares[0]).mean() < 0.02
    with pytest.raises(UsageError, match="not 8"):
        data.load_photos(8)
