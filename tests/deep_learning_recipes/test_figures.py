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
