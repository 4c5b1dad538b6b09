import numpy as np
from matplotlib import pyplot as plt

from deep_learning_recipes import figures


def test_picture_table_takes_rows_of_different_lengths_and_sizes():
    small, large = np.zeros((8, 8, 3)), np.ones((20, 20, 3))
    figure = figures.picture_table(
        {"a": [small, large, small], "b": [large]}, title="Both", captions=["x", "y"]
    )
    shown = [
        [image.get_array().shape for image in axes.get_images()] for axes in figure.axes
    ]
    assert shown == [[(8, 8, 3)], [(20, 20, 3)], [(8, 8, 3)], [(20, 20, 3)], [], []]
    assert [axes.get_title() for axes in figure.axes] == ["x", "y", "", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["a", "b"]
    plt.close(figure)


def test_object_maps_has_a_row_for_each_object_and_a_column_for_each_method():
    images = np.full((2, 6, 18, 3), 0.5)
    masks = np.zeros((2, 6, 18), bool)
    masks[0, 1:4, 1:4] = masks[1, 1:4, 9:12] = True
    maps = {"one": 7.0 * masks, "other": np.zeros((2, 6, 18))}
    figure = figures.object_maps(
        images, masks, maps, names=["cat", "cup"], title="Where"
    )
    grid = figure.axes[:4]
    assert [axes.get_ylabel() for axes in grid] == ["cat", "", "cup", ""]
    assert [axes.get_title() for axes in grid] == ["one", "other", "", ""]
    heats = [axes.get_images()[1].get_array() for axes in grid]
    assert [float(heat.max()) for heat in heats] == [1, 0, 1, 0]
    plt.close(figure)


def test_image_rows_have_captions_above_the_middle_of_their_columns():
    rows = {"first": np.zeros((4, 6, 6)), "second\nof them": np.ones((3, 6, 6))}
    figure = figures.image_rows(rows, title="Both", columns=4, captions=range(4))
    first, second = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == list(rows)
    assert [text.get_text() for text in first.texts] == ["0", "1", "2", "3"]
    assert len(second.texts) == 0
    (picture,) = first.get_images()
    width = picture.get_array().shape[1]
    places = [text.xy[0] * width for text in first.texts]
    # Each image is 6 pixels wide, and one pixel lies between two.
    np.testing.assert_allclose(places, [3, 10, 17, 24], atol=1)
    plt.close(figure)


def test_heat_maps_lie_over_the_picture_where_asked_for_and_say_so():
    images = np.full((2, 6, 6, 3), 0.5)
    maps = {"one": np.ones((2, 6, 6)), "other": np.ones((2, 6, 6))}
    plain = figures.heat_maps(images, maps, title="Where")
    assert len(plain.axes[0].get_images()) == 2 * 3
    assert [text.get_text() for text in plain.axes[0].texts] == ["one", "other"]
    laid_over = figures.heat_maps(images, maps, title="Where", overlay=True)
    # A picture, and for each map itself, the picture again, and the map over it.
    assert len(laid_over.axes[0].get_images()) == 2 * (1 + 2 * 3)
    headings = [text.get_text() for text in laid_over.axes[0].texts]
    assert headings == ["one", "over the\npicture", "other", "over the\npicture"]
    plt.close(plain)
    plt.close(laid_over)
