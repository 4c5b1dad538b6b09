"""The file of shared weights: round trips by a coder of 2 bytes a symbol, and what it
refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes.deep_compression import (
    read_file,
    relative_indices,
    stage_bytes,
    write_file,
)


def encode(symbols, alphabet):
    assert symbols.size == 0 or 0 <= symbols.min() <= symbols.max() < alphabet
    return symbols.astype("<u2").tobytes()


def decode(coded, alphabet, count):
    symbols = np.frombuffer(coded, "<u2").astype(int)
    assert len(symbols) == count
    return symbols


def example(shapes=((7, 30), (30,)), bits=3, kept=0.1, seed=0):
    random = np.random.default_rng(seed)
    labels = [
        random.integers(1, 2**bits, s) * (random.random(s) < kept) for s in shapes
    ]
    return labels, [random.normal(size=2**bits - 1).astype("float32") for _ in shapes]


def restored(labels, codebooks):
    return [
        np.append(np.float32(0), c)[each]
        for each, c in zip(labels, codebooks, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 60)), min_size=1, max_size=4
    ),
    bits=st.integers(1, 8),
    gap_bits=st.integers(1, 8),
    kept=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_what_is_read_is_what_was_written(shapes, bits, gap_bits, kept, seed):
    labels, codebooks = example(shapes, bits, kept, seed)
    file = write_file("a name", labels, codebooks, gap_bits, encode)
    name, arrays = read_file(file, decode)
    assert name == "a name"
    for found, expected in zip(arrays, restored(labels, codebooks), strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


def test_the_papers_example_of_relative_indices():
    """Figure 2: 3 bits; values at places 1, 4 and 15 take a filler between the last
    two."""
    labels = np.zeros(16, int)
    labels[[1, 4, 15]] = 3, 1, 2
    entries, gaps = relative_indices(labels, 3)
    assert entries.tolist() == [3, 1, 0, 2]
    assert gaps.tolist() == [1, 2, 7, 2]


@pytest.mark.parametrize(
    ("zeros", "fillers"), [(6, 0), (7, 0), (8, 1), (15, 1), (16, 2), (800, 100)]
)
def test_gaps_at_and_beyond_the_limit(zeros, fillers):
    entries, gaps = relative_indices(np.array([0] * zeros + [5]), 3)
    assert entries.tolist() == [0] * fillers + [5]
    assert gaps.max() <= 7
    assert np.sum(gaps + 1) == zeros + 1


def test_bytes_of_the_stages_by_hand():
    labels, codebooks = (
        [np.array([[0, 1], [2, 3]]), np.array([0, 0, 1])],
        [np.ones(3)] * 2,
    )
    file = write_file("n", labels, codebooks, 2, encode)
    stages = stage_bytes(file)
    # Entries: 1, 2, 3 and, after 2 zeros, 1. Two codebooks of 3 float32.
    assert stages == {
        "float32": 28,
        "pruned": 4 * 34 / 8,
        "shared": 4 * 4 / 8 + 24,
        "file": len(file),
    }


def test_every_altered_bit_and_every_cut_is_refused():
    file = write_file("name", *example(), 4, encode)
    never = pytest.fail
    for place in range(len(file)):
        for bit in (1, 128):
            altered = bytearray(file)
            altered[place] ^= bit
            with pytest.raises(ValueError, match="compressed weights"):
                read_file(bytes(altered), never)
        with pytest.raises(ValueError, match="compressed weights"):
            read_file(file[:place], never)
    with pytest.raises(ValueError, match="altered"):
        read_file(file + b"\0", never)


@pytest.mark.parametrize(
    ("labels", "codebooks", "gap_bits", "message"),
    [
        ([np.array([1])], [], 4, "each array needs one"),
        ([np.array([1])], [np.ones(4)], 4, "each array needs one"),
        ([np.array([1])] * 2, [np.ones(3), np.ones(7)], 4, "each array needs one"),
        ([np.array([1])], [np.ones(3)], 9, "gap_bits=9"),
        ([np.array([4])], [np.ones(3)], 4, "labels from 4 to 4"),
        ([np.array([-1])], [np.ones(3)], 4, "labels from -1"),
    ],
)
def test_input_that_does_not_fit_is_explained(labels, codebooks, gap_bits, message):
    with pytest.raises(ValueError, match=message):
        write_file("n", labels, codebooks, gap_bits, encode)
