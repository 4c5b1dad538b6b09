import numpy as np

from deep_learning_recipes import data
from deep_learning_recipes.classifiers import efficientnet_lite


def test_a_cat_a_cup_and_a_rocket_stand_side_by_side():
    objects = data.load_objects(64)
    assert objects.images.shape == (3, 64, 192, 3)
    assert objects.masks.shape == (3, 64, 192)
    np.testing.assert_array_equal(objects.images[0], objects.images[2])
    order = data.class_names("photos")
    photos = data.load_photos(64)
    for place, name in enumerate(("cat", "coffee", "rocket")):
        third = slice(64 * place, 64 * (place + 1))
        found = objects.images[0, :, third]
        np.testing.assert_array_equal(found, photos[order.index(name)])
        mask = objects.masks[place]
        assert 0.05 < mask.mean() < 1 / 3
        assert mask[:, third].sum() == mask.sum()
    # The rocket is the light in its box, before a dark sky.
    light = objects.images[2].mean(axis=-1)
    assert light[objects.masks[2]].mean() > 1.3 * light[:40, 128:].mean()


def test_the_classes_have_the_numbers_of_imagenet():
    objects = data.load_objects(64)
    names = efficientnet_lite.class_names()
    assert tuple(names[number] for number in objects.labels) == objects.names
