"""DeepNets-1M's files against a literal reading of what the published loaders do with them."""

import builtins
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepnets_reference import records

from deepnets_gen import families
from deepnets_gen.genotype import Genotype
from deepnets_gen.official import adjacency, file_names, read_official, read_splits, write_official
from deepnets_gen.stream import generate
from ghn.errors import DataError, GHNError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive, Role

h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra: corpus)")
LABELS = [primitive.label for primitive in Primitive]
COUNTS = {"val": 12, "wide": 3, "deep": 3, "dense": 3, "bnfree": 6}


@pytest.fixture(scope="module")
def entries() -> list[tuple[str, Genotype]]:
    return [(split, genotype) for split, count in COUNTS.items() for genotype in generate(split, count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, entries: Any) -> tuple[Path, Path]:
    store, meta = (tmp_path_factory.mktemp("official") / name for name in file_names("val"))
    assert write_official(iter(entries), store, meta) == len(entries)
    return store, meta


def literal_rows(store: Any, part: Any, split: str, index: int, cutoff: int) -> tuple[list[str], Any, list[Any]]:
    """What the published loaders make of a network: types, distances, and (cell, name, type, shape) of nodes.

    A transcription of the rules in prose: no code is shared with ours.
    """
    distances = store[split][str(index)]["adj"][()].astype(int)
    distances[distances > cutoff] = 0
    assert not distances.diagonal().any()
    kinds, info = [], []
    for kind_id, cell, name_id in store[split][str(index)]["nodes"][()].tolist():
        kind, name = part["meta"]["primitives_ext"][str(kind_id)], part["meta"]["unique_op_names"][str(name_id)]
        shape = None
        if not name.startswith("classifier"):
            if name == "":
                name = "input"
            elif name.endswith("to_out.0."):
                name = name + "weight"
            else:
                parts = name.split(".")
                for i, piece in enumerate(parts):
                    if piece == "_ops" and parts[i + 2].isdecimal():
                        name = ".".join([*parts[: i + 2], "op", *parts[i + 2 :]])
                        break
            name = f"cells.{cell}.{name}"
            if "stem" in name:
                name = name[name.find("stem") :]
            elif "pos_enc" in name:
                name = name[name.find("pos_enc") :]
            elif "pool" in kind:
                shape = (1, 1, 3, 3)
        if kind.startswith("conv_"):
            kind = "conv"
        elif kind.find("conv_") > 0 or kind.find("pool_") > 0:
            kind = kind[: len(kind) - 4]
        elif kind == "fc-b":
            kind = "bias"
        kinds.append(kind)
        info.append((cell, name, kind, shape))
    return kinds, distances, info


def test_published_loaders_read_what_we_mean(files: tuple[Path, Path], entries: Any) -> None:
    store, meta = h5py.File(files[0]), json.loads(files[1].read_text())
    for split in COUNTS:
        genotypes = [genotype for name, genotype in entries if name == split]
        assert len(meta[split]["nets"]) == len(genotypes) == len(store[split])
        for i, (genotype, record) in enumerate(zip(genotypes, meta[split]["nets"], strict=True)):
            graph = families.graph(genotype)
            kinds, distances, info = literal_rows(store, meta[split], split, i, cutoff=50)
            assert [LABELS.index(kind) for kind in kinds] == graph.ops.tolist()
            assert np.array_equal(distances, np.where(graph.distances > 50, 0, graph.distances))
            assert record["num_nodes"] == len(graph)
            check_names(genotype, graph, info)
    store.close()


def check_names(genotype: Genotype, graph: ArchGraph, info: list[Any]) -> None:
    """Nodes with parameters are named as in the module, in the cell that they are in, the classifier's at the end."""
    owners = {slot.node: slot.fqn for slot in graph.slots if slot.role is not Role.NORM_BIAS}
    assert {v: name for v, (_, name, _, _) in enumerate(info) if v in owners} == owners
    module = families.build(genotype, device="meta")
    assert set(owners.values()) <= {name for name, _ in module.named_parameters()}
    for v, (cell, name, kind, shape) in enumerate(info):
        assert 0 <= cell < genotype.n_cells
        if name.startswith("classifier"):
            assert cell == genotype.n_cells - 1
        elif v in owners:
            assert cell == (int(name.split(".")[1]) if name.startswith("cells.") else 0)
        if kind in ("max_pool", "avg_pool"):
            assert shape == tuple(graph.shapes[v]) == (1, 1, 3, 3)
    assert [name.rpartition(".")[2] for _, name, _, _ in info[-2:]] == ["weight", "bias"]
    assert all(name.startswith("classifier") for _, name, _, _ in info[-2:])


def test_records_are_the_published_generators(tmp_path: Path) -> None:
    theirs = records("train")[:30]
    write_official([("train", Genotype.from_dict(r)) for r in theirs], *(tmp_path / n for n in file_names("train")))
    ours = json.loads((tmp_path / "deepnets1m_train_meta.json").read_text())["train"]["nets"]
    for our, their in zip(ours, theirs, strict=True):
        their = {**their, "C": 32, "num_nodes": our["num_nodes"]}  # their tracer loses nodes
        assert our == their


def test_everything_comes_back(files: tuple[Path, Path], entries: Any) -> None:
    for split, found in read_splits(files[1], files[0]).items():
        genotypes = [genotype for name, genotype in entries if name == split]
        assert [found.genotype(i) for i in range(len(found))] == genotypes
        assert list(found) == [families.graph(genotype) for genotype in genotypes]
        for i, graph in enumerate(found):
            stored = found.stored(i)
            assert np.array_equal(stored.ops, graph.ops)
            assert np.array_equal(stored.edges, graph.edges)
            assert np.array_equal(stored.distances, graph.distances)
            for slot in graph.slots:
                assert stored.names[slot.node] == graph.names[slot.node]


def test_wide_networks_are_stored_unwidened(files: tuple[Path, Path], entries: Any) -> None:
    wide = read_official(*files, "wide")
    for i, genotype in enumerate(genotype for name, genotype in entries if name == "wide"):
        assert wide.records[i]["C"] * 4 == genotype.channels
        assert wide.genotype(i) == genotype


def test_a_split_is_a_sequence(files: tuple[Path, Path]) -> None:
    val = read_official(*files, "val")
    assert len(val) == len(val.records) == COUNTS["val"]
    assert val[-1] == val[len(val) - 1] == list(val)[-1]
    assert val[2:4] == [val[2], val[3]]
    for index in (len(val), -len(val) - 1):
        with pytest.raises(IndexError):
            val.stored(index)
    val.stored(0)
    copy = pickle.loads(pickle.dumps(val))
    assert copy.stored(0) == val.stored(0)
    val.close()
    assert copy.stored(1) == val.stored(1)
    assert val.graph(0, num_classes=100, image_size=224).num_params > val.graph(0).num_params


def test_far_nodes_are_not_connected(entries: Any) -> None:
    n = 300
    chain = ArchGraph(
        np.array([9] + [4] * (n - 1)), np.stack([np.arange(n - 1), np.arange(1, n)], axis=1), np.zeros((n, 4))
    )
    far = np.arange(n)[None, :] - np.arange(n)[:, None]
    assert np.array_equal(adjacency(chain), np.where((far > 0) & (far <= 250), far, 0))


def test_same_networks_same_bytes(files: tuple[Path, Path], entries: Any, tmp_path: Path) -> None:
    write_official(entries, tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == files[0].read_bytes()
    assert (tmp_path / "b").read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_half_the_published_size(tmp_path: Path) -> None:
    """The published training file takes 10.3 kB a network."""
    entries = [("train", genotype) for genotype in generate("train", 100)]
    write_official(entries, tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_size / len(entries) < 5000


def published_by_hand(folder: Path) -> tuple[Path, Path]:
    """Files with the oddities of the published ones: suffixed types, old names, no compression, no C."""
    genotype = next(iter(generate("train", 1)))
    kinds = ["input", "conv_7x7", "sep_conv_3x3", "max_pool_3x3", "avg_pool", "dil_conv", "conv_1x1", "fc-b"]
    names = [
        *("", "stem.0.weight", "_ops.0.1.weight", "max_pool", "avg_pool", "_ops.3.op.1.weight"),
        *("_ops.2.to_out.0.", "classifier.0.bias"),
    ]
    record = {key: value for key, value in genotype.to_dict().items() if key != "C"}
    tables = {"primitives_ext": dict(enumerate(kinds)), "unique_op_names": dict(enumerate(names))}
    meta = {"train": {"nets": [record], "meta": tables}}
    (folder / "meta.json").write_text(json.dumps(meta))
    n = len(kinds)
    with h5py.File(folder / "nets.hdf5", "w") as store:
        store["train/0/adj"] = np.triu(np.arange(n)[None, :] - np.arange(n)[:, None], 1).astype(np.uint8)
        store["train/0/nodes"] = np.array([[i, i // 4, i] for i in range(n)], dtype=np.uint16)
    return folder / "nets.hdf5", folder / "meta.json"


def test_names_and_types_of_the_published_files(tmp_path: Path) -> None:
    found = read_official(*published_by_hand(tmp_path), "train")
    stored = found.stored(0)
    labels = [Primitive(op).label for op in stored.ops]
    assert labels == ["input", "conv", "sep_conv", "max_pool", "avg_pool", "dil_conv", "conv", "bias"]
    assert stored.names == (
        *("input", "stem.0.weight", "cells.0._ops.0.op.1.weight", "cells.0.max_pool", "cells.1.avg_pool"),
        *("cells.1._ops.3.op.1.weight", "cells.1._ops.2.to_out.0.weight", "classifier.0.bias"),
    )
    assert stored.shapes[3].tolist() == stored.shapes[4].tolist() == [1, 1, 3, 3]
    assert stored.edges.tolist() == [[i, i + 1] for i in range(7)]
    assert found.genotype(0).channels == 32


def test_without_the_graphs(files: tuple[Path, Path]) -> None:
    val = read_official(None, files[1], "val")
    assert val[0] == read_official(*files, "val")[0]
    with pytest.raises(DataError, match="without its HDF5 file"):
        val.stored(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "cannot read"),
        ("[]", "a list in place of splits"),
        ("{}", "no split 'train'; it has none"),
        ('{"val": {}, "test": {}}', "no split 'train'; it has val, test"),
        ('{"train": {"nets": []}}', "KeyError 'meta'"),
        ('{"train": {"nets": {}, "meta": {"primitives_ext": {}, "unique_op_names": {}}}}', "'nets' is no list"),
        ('{"train": {"nets": [], "meta": {"primitives_ext": {"x": 1}, "unique_op_names": {}}}}', "ValueError"),
    ],
)
def test_bad_meta_files(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_official(None, tmp_path / "meta.json", "train")


def damaged(change: Any) -> Any:
    """A change of the open HDF5 file of `published_by_hand`."""

    def apply(file: Path) -> None:
        with h5py.File(file, "r+") as store:
            change(store)

    return apply


def set_nodes(store: Any, column: int, value: int) -> None:
    nodes = store["train/0/nodes"][()]
    nodes[1, column] = value
    store["train/0/nodes"][...] = nodes


def set_adj(store: Any, u: int, v: int) -> None:
    store["train/0/adj"][u, v] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "the split of 'train': FileNotFoundError"),
        (lambda file: file.write_bytes(file.read_bytes()[:3000]), "the split of 'train': OSError .*truncated"),
        (lambda file: file.write_text("no hdf5"), "the split of 'train': OSError"),
        (damaged(lambda store: store.move("train", "val")), "the split of 'train': KeyError"),
        (damaged(lambda store: store.move("train/0", "train/1")), "network 0 of 'train': KeyError"),
        (damaged(lambda store: store.pop("train/0/adj")), "network 0 of 'train': KeyError"),
        (damaged(lambda store: set_nodes(store, 0, 99)), "network 0 of 'train': KeyError 99"),
        (damaged(lambda store: set_nodes(store, 2, 99)), "network 0 of 'train': KeyError 99"),
        (damaged(lambda store: set_nodes(store, 0, 0) or set_adj(store, 3, 1)), "does not point forward"),
    ],
)
def test_bad_graph_files(tmp_path: Path, change: Any, message: str) -> None:
    files = published_by_hand(tmp_path)
    change(files[0])
    with pytest.raises(DataError, match=message) as caught:
        read_official(*files, "train").stored(0)
    assert "nets.hdf5" in str(caught.value)


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    files = published_by_hand(tmp_path)
    with h5py.File(files[0], "r+") as store:
        nodes = store["train/0/nodes"][:-1]
        del store["train/0/nodes"]
        store["train/0/nodes"] = nodes
    with pytest.raises(DataError, match=r"adj is \(8, 8\) and nodes \(7, 3\)"):
        read_official(*files, "train").stored(0)


def test_bad_record(tmp_path: Path) -> None:
    store, meta = published_by_hand(tmp_path)
    content = json.loads(meta.read_text())
    content["train"]["nets"][0]["genotype"]["normal"][0][0] = "conv_9x9"
    meta.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"network 0 of 'train': .*conv_9x9"):
        read_official(store, meta, "train").genotype(0)


def refused() -> dict[str, tuple[list[tuple[str, Any]], str]]:
    genotype = next(iter(generate("val", 1)))
    gpt = next(iter(generate("gpt", 1)))
    return {
        "split": ([("gpt", genotype)], "know no split 'gpt'"),
        "family": ([("val", genotype), ("val", gpt)], "network 1 of 'val' is a TransformerGenotype"),
        "twice": ([("val", genotype), ("test", genotype), ("val", genotype)], "'val' comes twice"),
        "wide": ([("wide", replace(genotype, channels=48))], "'wide' has C = 48"),
    }


@pytest.mark.parametrize("case", ["split", "family", "twice", "wide"])
def test_what_the_format_cannot_hold(tmp_path: Path, case: str) -> None:
    entries, message = refused()[case]
    for name in ("a", "b"):
        (tmp_path / name).write_text("as before")
    with pytest.raises(DataError, match=message):
        write_official(entries, tmp_path / "a", tmp_path / "b")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("ab", "as before")


FULL = """
import resource, signal, sys
from pathlib import Path
from deepnets_gen.official import write_official
from deepnets_gen.stream import generate
from ghn.errors import GHNError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
entries = [("val", genotype) for genotype in generate("val", 40)]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    write_official(entries, Path(sys.argv[1]) / "a", Path(sys.argv[1]) / "b")
except GHNError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [3_000, 50_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"cannot write {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GHNError, match=r"pip install 'ghn-predict\[corpus\]'"):
        write_official(islice([], 0), tmp_path / "a", tmp_path / "b")
