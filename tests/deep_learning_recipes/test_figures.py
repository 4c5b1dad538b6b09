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
