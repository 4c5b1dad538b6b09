"""Folders of images by class: what is read, how it is split, and what gets one line."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data import own
from deep_learning_recipes.data.own import memory, said

COLORS = {"cats": (250, 10, 10), "dogs": (10, 250, 10), "owls": (10, 10, 250)}


def paint(path, color=(200, 100, 50), size=(56, 40), mode="RGB"):
    """A picture of one color, `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def fill(root, classes=("cats", "dogs", "owls"), count=5, suffix=".png"):
    for name in classes:
        for i in range(count):
            paint(Path(root, name, f"{i}{suffix}"), COLORS[name])


def test_a_folder_a_class_is_split_within_each_class(capsys):
    fill("pets", count=10)
    (x, y), (x_test, y_test) = data.load("pets")
    assert (x.shape, x_test.shape) == ((24, 32, 32, 3), (6, 32, 32, 3))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert np.bincount(y).tolist() == [8, 8, 8]
    assert np.bincount(y_test).tolist() == [2, 2, 2]
    assert data.class_names("pets") == ["cats", "dogs", "owls"]
    expected = np.array([COLORS[name] for name in data.class_names("pets")]) / 255
    np.testing.assert_allclose(x_test.mean(axis=(1, 2)), expected[y_test], atol=1e-5)
    said = capsys.readouterr().out
    assert "pets: images of 40 × 56 pixels become 32 × 32, in color" in said
    assert "pets: 24 examples to train on, 6 held out at random" in said


def test_the_split_is_always_the_same_and_parts_share_no_image():
    for name in ("a", "b"):
        for i in range(20):
            paint(Path("shades", name, f"{i}.png"), (10 * i, 0, 255))
    (x, _), (x_test, _) = data.load("shades", size=4, seed=1)
    (again, _), _ = data.load("shades/", size=4, seed=2)
    np.testing.assert_array_equal(x, again)
    of_train = {tuple(image[0, 0]) for image in x}
    assert len(x) + len(x_test) == 40
    assert len(of_train | {tuple(image[0, 0]) for image in x_test}) == 20


def test_size_and_channels_are_as_asked():
    fill("pets", ("cats", "dogs"))
    (x, _), _ = data.load("pets", size=10, channels=1)
    assert x.shape == (8, 10, 10, 1)
    (x, _), (_, _) = data.load_vectors("pets")
    assert x.shape == (8, 32 * 32 * 3)


def test_gray_and_small_pictures_stay_so(capsys):
    for name in ("a", "b"):
        for i in range(3):
            paint(Path("gray", name, f"{i}.png"), size=(12, 12), mode="L")
    (x, _), _ = data.load("gray")
    assert x.shape == (4, 12, 12, 1)
    assert "become" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".gif", ".webp"])
def test_formats(suffix):
    fill("pets", ("cats", "dogs"), suffix=suffix)
    (x, y), _ = data.load("pets")
    expected = np.array([COLORS["cats"], COLORS["dogs"]])[y] / 255
    np.testing.assert_allclose(x.mean(axis=(1, 2)), expected, atol=0.05)


def test_a_picture_is_not_cropped():
    """Its left third is red, and stays a third."""
    picture = Image.new("RGB", (90, 30), "blue")
    picture.paste("red", (0, 0, 30, 30))
    for name in ("a", "b"):
        Path("wide", name).mkdir(parents=True)
        for i in range(2):
            picture.save(Path("wide", name, f"{i}.png"))
    (x, _), _ = data.load("wide", size=30)
    assert x[0, :, :, 0].mean() == pytest.approx(1 / 3, abs=0.01)


def test_transparent_turned_deep_and_palette_pictures():
    Path("odd", "a").mkdir(parents=True)
    fill("odd", ("cats",), count=2)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save("odd/a/clear.png")
    Image.new("P", (8, 8), 0).save("odd/a/palette.gif")
    Image.fromarray(np.full((8, 8), 65535, "uint16")).save("odd/a/deep.png")
    turned = Image.new("L", (16, 8), 0)
    turned.paste(255, (0, 0, 8, 8))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right: the left half is the upper one
    turned.save("odd/a/turned.jpg", exif=exif)
    (x, y), (x_test, y_test) = data.load("odd", size=8, channels=1)
    images = np.concatenate([x[y == 0], x_test[y_test == 0]])[..., 0]
    assert sorted(np.round(images.mean(axis=(1, 2)), 1)) == [0.0, 0.5, 1.0, 1.0]
    (half,) = [image for image in images if 0.2 < image.mean() < 0.8]
    assert half[:4].mean() > 0.9


@pytest.mark.parametrize("part", ["test", "val", "Validation"])
def test_train_and_test_folders(part, capsys):
    fill("pets/train", ("cats", "dogs"), count=4)
    fill(f"pets/{part}", ("cats", "dogs"), count=3)
    (x, _), (x_test, y_test) = data.load("pets")
    assert (len(x), len(x_test)) == (8, 6)
    assert y_test.tolist() == [0, 0, 0, 1, 1, 1]
    assert f"8 images in train, 6 in {part}" in capsys.readouterr().out


def test_test_is_preferred_to_val(capsys):
    fill("pets/train", ("cats", "dogs"), count=4)
    fill("pets/val", ("cats", "dogs"), count=3)
    fill("pets/test", ("cats", "dogs"), count=2)
    assert len(data.load("pets")[1][0]) == 4
    assert "pets: beside train these are not used: val" in capsys.readouterr().out


def test_a_class_without_held_out_images_is_named(capsys):
    fill("pets/train")
    fill("pets/test", ("cats", "owls"))
    _, (_, y_test) = data.load("pets")
    assert set(y_test) == {0, 2}
    assert "no held-out example of dogs" in capsys.readouterr().out


def test_unreadable_files_are_named_and_the_rest_is_used(capsys):
    fill("pets", ("cats", "dogs"))
    Path("pets/cats/cut off.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    Path("pets/dogs/page.png").write_text("<html>404</html>")
    Path("pets/dogs/gone.png").symlink_to("nowhere")
    (x, _), (x_test, _) = data.load("pets")
    assert len(x) + len(x_test) == 10
    text = capsys.readouterr().out
    assert (
        "3 of 13 files cannot be read and are left out: cut off.jpg, gone.png" in text
    )


def test_what_systems_leave_is_passed_over_and_other_files_are_named(capsys):
    fill("pets", ("cats", "dogs"))
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/x.png", "cats/.hidden.png"):
        path = Path("pets", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    Path("pets/read me.txt").write_text("about")
    Path("pets/dogs/labels.csv").write_text("a,b")
    (x, _), (x_test, _) = data.load("pets")
    assert len(x) + len(x_test) == 10
    text = capsys.readouterr().out
    assert "2 files are no pictures of a class: labels.csv, read me.txt" in text
    assert "Thumbs" not in text


def test_deeper_folders_links_spaces_and_accents():
    fill("ställe", ("cats",), count=2)
    for i in range(2):
        paint(Path("ställe/eine Eule/2024/mai", f"{i}.png"))
    fill("elsewhere", ("dogs",), count=2)
    Path("ställe/dogs").symlink_to(Path("elsewhere/dogs").resolve())
    Path("ställe/eine Eule/circle").symlink_to(Path("ställe").resolve())
    assert data.class_names("ställe") == ["cats", "dogs", "eine Eule"]
    (x, _), (x_test, _) = data.load("./ställe")
    assert len(x) + len(x_test) == 6 + 4  # the circle is gone round once


def test_the_home_folder(monkeypatch):
    fill("home/pets", ("cats", "dogs"))
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    assert data.class_names("~/pets") == ["cats", "dogs"]


def test_at_most_so_many():
    fill("pets", count=10)
    (x, y), (x_test, y_test) = data.load("pets", max_examples=12)
    assert len(x) + len(x_test) == 12
    assert np.bincount(np.concatenate([y, y_test])).tolist() == [4, 4, 4]
    with own.asking(max_examples=9):
        (x, _), (x_test, _) = data.load("pets")
    assert len(x) + len(x_test) == 9
    with pytest.raises(UsageError, match="--max-examples 5: .* 3 classes.* at least 6"):
        data.load("pets", max_examples=5)


def test_at_most_so_many_of_a_named_set():
    (x, y), (x_test, _) = data.load("digits", max_examples=50)
    assert (len(x), len(x_test)) == (50, 50)
    assert np.bincount(y).tolist() == [5] * 10


def make(setting):
    """A folder `data` that is wrong in one way."""
    Path("data").mkdir()
    if setting == "no subfolders":
        paint(Path("data/a.png"))
    elif setting == "one class":
        fill("data", ("cats",))
    elif setting == "one folder deeper":
        fill("data/pets", ("cats", "dogs"))
    elif setting == "one image":
        fill("data", ("cats", "dogs"))
        paint(Path("data/owls/only.png"))
    elif setting == "unknown test class":
        fill("data/train", ("cats", "dogs"))
        fill("data/test", ("cats", "owls"))
    elif setting == "no picture readable":
        for name in ("cats", "dogs"):
            Path("data", name).mkdir()
            Path("data", name, "x.png").write_text("no picture")
    elif setting == "other files":
        Path("data/model.bin").write_bytes(b"\0")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("empty", r"^data: the folder is empty$"),
        ("other files", r"^data: the folder holds no pictures and no text$"),
        (
            "no subfolders",
            r"^data: no subfolders with pictures; .* data/cats and data/d",
        ),
        ("one class", r"^data: one class only \(cats\); two are needed$"),
        (
            "one folder deeper",
            r"one class only \(pets\).* look like classes: data/pets$",
        ),
        ("one image", r"^data: fewer than two examples in a class: owls \(1\);"),
        (
            "unknown test class",
            r"^data/test: owls is no class to train on; .* cats, dogs",
        ),
        ("no picture readable", r"^data: fewer than two examples .* cats \(0\), dogs"),
    ],
)
def test_what_is_wrong_gets_one_line(setting, line):
    make(setting)
    with pytest.raises(UsageError, match=line) as error:
        data.load("data")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("./pet", r"^./pet: there is no such file or folder; did you mean pets\?$"),
        ("pets/cats/9.png", "9.png: there is no such file .*did you mean"),
        ("digts", r"^unknown data set 'digts'; did you mean digits.*no such path$"),
        ("pets/cats/0.png", "^pets/cats/0.png: a single picture; name a folder with"),
        ("a.txt", "^a.txt: text, and this takes images: a folder with one subfolder"),
        ("a.bin", r"^a.bin: no file of a kind that is read: .npz, .csv"),
        ("~nobody/pets", "^~nobody/pets: there is no such file"),
        (5000 * "x", "^unknown data set"),
        ("", "^unknown data set ''"),
    ],
    ids=lambda value: value[:20],
)
def test_paths_that_are_none(path, line):
    fill("pets", ("cats", "dogs"))
    Path("a.txt").write_text("words")
    Path("a.bin").write_bytes(b"\0")
    with pytest.raises(UsageError, match=line):
        data.load(path)


def test_a_data_sets_name_comes_before_a_folders(capsys):
    fill("digits", ("cats", "dogs"))
    assert len(data.load("digits")[0][0]) == 1437
    assert "./digits is what lies here" in capsys.readouterr().out
    assert len(data.load("./digits")[0][0]) == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_what_may_not_be_read_gets_one_line():
    fill("pets", ("cats", "dogs"))
    Path("pets/cats").chmod(0)
    with pytest.raises(UsageError, match="pets/cats: cannot be read"):
        data.load("pets")


def test_more_than_the_memory_is_said_before_anything_is_read(monkeypatch):
    fill("pets")
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    monkeypatch.setattr(
        "deep_learning_recipes.data.own.folder.read_picture",
        lambda *_, **__: pytest.fail("it was read"),
    )
    line = r"15 images of 32 × 32 × 3 take .* GB .* --max-examples 3 takes that many"
    with pytest.raises(UsageError, match=line):
        data.load("pets")


def test_the_free_memory_is_known_here():
    assert 1e7 < memory.free_bytes() < 1e14


def test_progress_after_two_seconds(monkeypatch, capsys):
    monkeypatch.setattr(said, "SECONDS_OF_SILENCE", -1.0)
    monkeypatch.setattr(said, "SECONDS_BETWEEN_LINES", -1.0)
    assert list(said.counted("abc", Path("p"), "read")) == list("abc")
    assert capsys.readouterr().out.splitlines()[1] == "p: read 1 of 3 ..."


def test_a_fingerprint_changes_with_the_files():
    fill("pets", ("cats", "dogs"))
    before = own.fingerprint("pets")
    assert before == own.fingerprint("pets/")
    assert before["files"] == 10
    paint(Path("pets/cats/new.png"))
    assert own.fingerprint("pets") != before


class FakeDataset(list):
    """As much of Hugging Face's `Dataset` as is used."""

    def __init__(self, rows, features):
        super().__init__(rows)
        self.features = features

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


def saved_dataset(monkeypatch, rows, features):
    Path("saved").mkdir()
    for name in ("dataset_info.json", "state.json"):
        Path("saved", name).write_text("{}")
    found = FakeDataset(rows, features)
    module = SimpleNamespace(load_from_disk=lambda path: found)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_dataset_of_hugging_face(monkeypatch):
    image = type("Image", (), {})()
    label = type("ClassLabel", (), {"names": ["ant", "bee"]})()
    shades = (0, 255)
    rows = [
        {"picture": Image.new("L", (9, 6), shades[i % 2]), "kind": i % 2}
        for i in range(10)
    ]
    saved_dataset(monkeypatch, rows, {"picture": image, "kind": label})
    (x, y), (x_test, _) = data.load("saved")
    assert (x.shape, x_test.shape) == ((8, 6, 6, 1), (2, 6, 6, 1))
    np.testing.assert_array_equal(x[:, 0, 0, 0], y)
    assert data.class_names("saved") == ["ant", "bee"]


def test_a_dataset_without_images_or_package(monkeypatch):
    saved_dataset(monkeypatch, [], {"text": SimpleNamespace(dtype="string")})
    with pytest.raises(UsageError, match="^saved: it takes a column of images"):
        data.load("saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="^saved: .* pip install datasets$"):
        data.load("saved")
