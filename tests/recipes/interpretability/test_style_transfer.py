import keras
import numpy as np
import pytest
import small
from conftest import run_in_process
from PIL import Image

from deep_learning_recipes import data
from recipes import style_transfer as st


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return st.build_network(8)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_energies_are_the_papers_by_numpy(network, random):
    contents = random.uniform(size=(2, 64, 64, 3)).astype("float32")
    painted = random.uniform(size=(2, 64, 64, 3)).astype("float32")
    styles = random.uniform(size=(2, 48, 56, 3)).astype("float32")
    content, style = st.energies_by(network, contents, styles)(painted)
    for n in range(2):
        own, goal, example = (
            [np.asarray(maps)[n].reshape(-1, 8) for maps in network(each)]
            for each in (painted, contents, styles)
        )
        expected = ((own[2] - goal[2]) ** 2).sum() / (
            (goal[2] - goal[2].mean(axis=0)) ** 2
        ).sum()
        assert float(content[n]) == pytest.approx(expected, rel=1e-3)
        grams = [
            (f.T @ f / len(f), g.T @ g / len(g))
            for f, g in zip(own, example, strict=True)
        ]
        expected = np.mean([((f - g) ** 2).sum() / (g**2).sum() for f, g in grams])
        assert float(style[n]) == pytest.approx(expected, rel=1e-3)


def test_a_network_of_two_layers_has_its_content_in_the_second(network, random):
    small = keras.Model(network.input, network.outputs[:2])
    contents, painted = random.uniform(size=(2, 1, 48, 48, 3)).astype("float32")
    content, _ = st.energies_by(small, contents, contents)(painted)
    own, goal = (np.asarray(network(each)[1]) for each in (painted, contents))
    expected = ((own - goal) ** 2).sum() / ((goal - goal.mean(axis=(1, 2))) ** 2).sum()
    assert float(content[0]) == pytest.approx(expected, rel=1e-3)


def test_no_energy_is_left_of_the_content_itself_nor_of_the_style_itself(
    network, random
):
    pictures = random.uniform(size=(1, 48, 48, 3)).astype("float32")
    content, style = st.energies_by(network, pictures, pictures)(pictures)
    np.testing.assert_allclose([content, style], 0, atol=1e-9)


def test_content_has_places_and_style_has_none(network, random):
    """A picture moved by a whole step of all pools, on an endless ground of the same
    kind."""
    ground = np.tile(random.uniform(size=(1, 16, 16, 3)), (1, 5, 5, 1)).astype(
        "float32"
    )
    here, moved = ground[:, :64, :64], ground[:, 8:72, :64]
    same_content, same_style = st.energies_by(network, here, here)(ground[:, 16:, 16:])
    content, style = st.energies_by(network, here, here)(moved)
    np.testing.assert_allclose([same_content, same_style], 0, atol=1e-6)
    assert float(content[0]) > 0.5
    assert float(style[0]) < 0.2


def test_edges_correlate_with_themselves_not_with_others(random):
    square, other = np.zeros((2, 64, 64, 3))
    square[20:40, 20:40] = other[5:15, 45:60] = 1
    assert st.edge_correlation(square, square) == pytest.approx(1)
    assert st.edge_correlation(square, 1 - 0.3 * square) == pytest.approx(1)
    assert st.edge_correlation(square, other) < 0.1


def test_a_network_and_pictures_of_ones_own(tmp_path, random):
    model = small.save_two_convolutions(tmp_path / "own.keras", 40)
    Image.fromarray(random.integers(256, size=(50, 60, 3)).astype("uint8")).save(
        tmp_path / "a.png"
    )
    own = ["--model", model, "--content", str(tmp_path / "a.png")]
    own += ["--styles", "brick, flower", "--steps", "20"]
    finished = run_in_process("style_transfer", tmp_path / "run", *own)
    assert finished.code == 0
    assert set(finished.metrics["metrics"]) == {"content_energy", "style_energy"}
    assert finished.metrics["claims"] == []
    assert finished.metrics["figures"] == ["pictures.png"]
    assert finished.metrics["trainings"] == {"planned": 1, "begun": 1}


def test_a_bad_picture_gets_one_clear_line(tmp_path, capsys):
    finished = run_in_process(
        "style_transfer", tmp_path / "run", "--content", "none.png"
    )
    assert finished.code == 2
    assert "none.png: neither a picture file nor one of" in capsys.readouterr().err
    assert (
        run_in_process("style_transfer", tmp_path / "size", "--size", "128").code == 2
    )
    assert "--size 128: at least 160" in capsys.readouterr().err


def test_maps_of_layers_of_pictures_of_any_size(random):
    picture = keras.Input((24, 24, 3))
    first = keras.layers.Conv2D(4, 3, activation="relu", name="first")(2 * picture - 1)
    second = keras.layers.Conv2D(5, 3, strides=2, name="second")(first)
    top = keras.layers.GlobalAveragePooling2D()(second)
    model = keras.Model(picture, keras.layers.Dense(2)(top))
    maps = st.maps_of(model, ("first", "second"))
    pictures = random.uniform(size=(2, 24, 24, 3)).astype("float32")
    expected = keras.Model(picture, [first, second])(pictures)
    for found, wanted in zip(maps(pictures), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    shapes = [each.shape for each in maps(pictures[:1, :20, :16])]
    assert shapes == [(1, 18, 14, 4), (1, 8, 6, 5)]


def test_the_energy_is_the_sum_of_its_parts_by_numpy(network, random):
    pictures = random.uniform(-0.2, 1.2, size=(2, 48, 48, 3)).astype("float32")
    contents = random.uniform(size=(2, 48, 48, 3)).astype("float32")
    energies = st.energies_by(network, contents, contents)
    weights = np.array([2.0, 5.0], "float32")
    smoothness = np.array([3.0, 0.0], "float32")
    energy = st.build_energy(energies, weights, smoothness)
    found = np.asarray(energy(keras.ops.convert_to_tensor(pictures)))
    content, style = (np.asarray(each) for each in energies(pictures))
    beyond = ((pictures - pictures.clip(0, 1)) ** 2).mean(axis=(1, 2, 3))
    steps = np.abs(np.diff(pictures, axis=1)).sum(axis=(1, 2, 3))
    steps += np.abs(np.diff(pictures, axis=2)).sum(axis=(1, 2, 3))
    variation = steps / pictures[0].size
    expected = content + weights * (style + 10 * beyond) + smoothness * variation
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_shapes_are_which_way_edges_run_however_strong():
    picture = data.load_picture("cat", 64)
    faint = 0.5 + 0.2 * (picture - 0.5)
    assert st.shape_correlation(picture, faint) > 0.95
    assert st.shape_correlation(picture, picture[:, ::-1]) < 0.5
