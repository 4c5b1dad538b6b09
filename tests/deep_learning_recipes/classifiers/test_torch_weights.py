"""PyTorch's files are read as PyTorch reads them; hostile ones get one line, take no
memory to speak of, and run nothing."""

import pickle
import tracemalloc
from pathlib import Path

import hostile_torch
import numpy as np
import pytest
from hostile_torch import archive, dictionary, program, stream, tensor

from deep_learning_recipes import UsageError
from deep_learning_recipes.classifiers.torch_weights import load_state_dict

TWO_BY_THREE = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.mark.parametrize("file", ["strided.pt", "strided_legacy.pt"])
def test_both_formats_and_all_kinds_of_views_are_read(file):
    found = load_state_dict(hostile_torch.GENUINE / file)
    expected = {
        "a": TWO_BY_THREE.T,
        "b": TWO_BY_THREE[:, 1],
        "c": TWO_BY_THREE,
        "s": np.float32(15),
        "z": np.zeros((0, 4), "float32"),
        "h": TWO_BY_THREE.astype("float16"),
        "bf": TWO_BY_THREE[1:],
        "i": np.arange(3),
        "bo": TWO_BY_THREE > 2,
        "p": TWO_BY_THREE,
    }
    assert list(found) == list(expected)
    assert found["bf"].dtype == "bfloat16"
    for name, array in expected.items():
        assert found[name].shape == np.shape(array)
        if name != "bf":
            assert found[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found[name].astype("float64"), array)
    assert np.shares_memory(found["a"], found["c"])
    assert not found["c"].flags.writeable


def test_a_checkpoint_is_read_with_its_optimizer():
    found = load_state_dict(hostile_torch.GENUINE / "checkpoint.pt")
    assert len(found) == 7 + 4 * 3
    assert found["state_dict.conv.weight"].shape == (2, 1, 3, 3)
    assert found["state_dict.bn.num_batches_tracked"] == 1
    assert found["optimizer.state.0.exp_avg_sq"].shape == (2, 1, 3, 3)


@pytest.mark.parametrize("write", [archive, stream])
def test_what_is_assembled_here_is_a_good_file(write):
    """So the hostile ones are refused for what is hostile in them."""
    body = program(dictionary(weight=tensor()))
    Path("good.pt").write_bytes(write(body))
    found = load_state_dict("good.pt")
    np.testing.assert_array_equal(found["weight"], TWO_BY_THREE)


def refused(raw):
    """What is said of a file."""
    Path("bad.pt").write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as found:
            load_state_dict("bad.pt")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(found.value)
    assert message.startswith("bad.pt: ")
    assert "\n" not in message
    assert len(message) < 400
    assert most < 2**27
    assert not Path("it_ran").exists()
    return message


@pytest.mark.parametrize("write", [archive, stream])
@pytest.mark.parametrize("case", hostile_torch.NAMING)
def test_what_names_other_things_runs_nothing(case, write):
    said = refused(write(program(hostile_torch.NAMING[case], protocol=4)))
    if "." in case:
        assert f"it names {case}, and nothing of it is run" in said


def test_python_would_have_run_it():
    pickle.loads(program(hostile_torch.SYSTEM))
    assert Path("it_ran").exists()


@pytest.mark.parametrize("write", [archive, stream])
@pytest.mark.parametrize("case", hostile_torch.DAMAGED)
def test_what_is_damaged_gets_one_line(case, write):
    refused(write(program(hostile_torch.DAMAGED[case])))


@pytest.mark.parametrize("case", hostile_torch.files())
def test_what_is_no_state_dict_gets_one_line(case):
    refused(hostile_torch.files()[case])


def test_what_is_wrong_is_said():
    files = hostile_torch.files()
    assert "it is a safetensors file" in refused(files["safetensors"])
    assert "it holds a whole module" in refused(hostile_torch.whole_module())
    assert "would be larger than the file" in refused(files["a zip bomb"])
    outside = program(hostile_torch.DAMAGED["outside"])
    assert "reaches outside its storage" in refused(archive(outside))
    with pytest.raises(UsageError, match=r"none\.pt: there is no such file"):
        load_state_dict("none.pt")
    with pytest.raises(UsageError, match="directory"):
        load_state_dict(".")
