"""The restricted unpickler: what plain data needs is read, any other name is refused before it is called."""

import builtins
import collections
import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pickles import number, python2_string

from ghn.errors import DataError
from ghn.unpickle import ARRAYS, read_plain_pickle

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@settings(max_examples=100)
@given(value=plain, protocol=st.integers(3, 5))
def test_plain_data_reads_as_by_pickle_itself(value: object, protocol: int) -> None:
    assert read_plain_pickle(pickle.dumps(value, protocol), "x") == value


@settings(max_examples=50)
@given(hnp.arrays(st.sampled_from([np.uint8, np.int64, ">f4"]), hnp.array_shapes(min_dims=0)), st.sampled_from([3, 4]))
def test_arrays_read_as_by_pickle_itself(array: np.ndarray, protocol: int) -> None:
    found = read_plain_pickle(pickle.dumps({"data": array}, protocol), "x")["data"]
    expected = pickle.loads(pickle.dumps({"data": array}, protocol))["data"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch ran",), "posix.system"),
        (builtins.eval, ("open('ran', 'w')",), "builtins.eval"),
        (builtins.getattr, ("x", "join"), "builtins.getattr"),
        (np.load, ("x",), "numpy.load"),
        (collections.OrderedDict, (), "collections.OrderedDict"),
    ],
)
@pytest.mark.parametrize("protocol", range(6))
def test_every_other_name_is_refused(
    function: object, arguments: tuple, name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": [Calls(function, *arguments)]}, protocol)
    with pytest.raises(DataError, match=f"batch is refused: it names .*{name.split('.')[1]}"):
        read_plain_pickle(content, "batch")
    assert not list(tmp_path.iterdir())


@settings(max_examples=200)
@given(module=st.sampled_from([m for m, _ in ARRAYS] + ["numpy.ma", "os"]), name=st.text(min_size=1, max_size=8))
@example("numpy", "ndarray.__class__")
@example("numpy.core.multiarray", "scalar")
def test_only_the_known_pairs_pass(module: str, name: str) -> None:
    content = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    text = name.encode("utf-8", "ignore")
    content += b"\x8c" + bytes([len(text)]) + text + b"\x93."
    with pytest.raises(DataError, match="is refused"):
        read_plain_pickle(content, "x")


def test_an_array_that_claims_a_huge_shape_is_refused() -> None:
    """Neither the call that makes the array nor its state may take memory that the file does not back."""
    huge = b"(" + number(2**31 - 1) * 4 + b"t"
    make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + huge + python2_string(b"b") + b"\x87R"
    assert read_plain_pickle(b"\x80\x02" + make + b".", "x").size == 0
    kind = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R"
    state = b"(K\x01" + huge + kind + b"\x89" + python2_string(b"few bytes") + b"tb"
    with pytest.raises(DataError, match="no readable pickle"):
        read_plain_pickle(b"\x80\x02" + make + state + b".", "x")


def test_references_outside_are_refused() -> None:
    with pytest.raises(DataError, match="outside itself"):
        read_plain_pickle(b"\x80\x02K\x01Q.", "x")


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_a_data_error_or_other_plain_data(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3]}, 2))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        read_plain_pickle(bytes(content), "x")
