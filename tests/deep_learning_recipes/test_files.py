"""Folders to write in, beside what they replace: swept when their process is dead, and
only then; the modes of files by the umask."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deep_learning_recipes import files
from deep_learning_recipes.serving import layout

WRITER = """
import sys, time
from pathlib import Path
from deep_learning_recipes import files
with files.folder_beside(Path("models")) as folder:
    (folder / "half").write_text("of it")
    print(folder, flush=True)
    time.sleep(60)
"""


def start_writing():
    """A process that stops in the middle of its writing, and the folder it writes in."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return process, Path(process.stdout.readline().strip())


def test_what_killed_writers_left_is_swept_and_what_others_write_stays():
    Path("models").mkdir()
    killed = [start_writing() for _ in range(2)]
    living, theirs = start_writing()
    try:
        for process, folder in killed:
            process.kill()
            process.wait()
            assert (folder / "half").exists()
        with files.folder_beside(Path("models")) as mine:
            found = set(Path("models").iterdir())
            assert found == {theirs, mine}
            files.sweep(Path("models"))
            assert set(Path("models").iterdir()) == found
        assert set(Path("models").iterdir()) == {theirs}
        assert (theirs / "half").read_text() == "of it"
    finally:
        living.kill()
        living.wait()
    layout.replace(Path("models/models.config"), "text")
    assert [path.name for path in Path("models").iterdir()] == ["models.config"]


def test_folders_of_many_at_once_are_never_swept():
    def write(number):
        with files.folder_beside(Path()) as folder:
            (folder / "a").write_text(str(number))
            files.sweep(Path())
            assert (folder / "a").read_text() == str(number)
            (folder / "a").replace(f"{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert {path.name for path in Path().iterdir()} == {str(i) for i in range(200)}


def test_links_and_files_of_such_names_are_let_alone():
    Path("other").mkdir()
    Path(".writing-link").symlink_to("other")
    Path(".writing-file").touch()
    files.sweep(Path())
    assert {path.name for path in Path().iterdir()} == {
        "other",
        ".writing-link",
        ".writing-file",
    }


def test_an_error_leaves_the_old_file():
    layout.replace(Path("file"), "old")
    with pytest.raises(UnicodeEncodeError):
        layout.replace(Path("file"), "\ud800")
    assert Path("file").read_text() == "old"
    assert list(Path().iterdir()) == [Path("file")]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
def test_the_umask_is_respected(mask):
    before = os.umask(mask)
    try:
        layout.replace(Path("file"), "text")
    finally:
        os.umask(before)
    assert Path("file").stat().st_mode & 0o777 == 0o666 & ~mask
