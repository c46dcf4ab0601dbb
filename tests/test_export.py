"""Corpora in other people's formats: every graph comes back whole, by our readers and by those of the tools."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import annotated_graphs

from deepnets_gen import families
from deepnets_gen.export import read_parquet, write_dgl, write_graphml, write_networkx, write_parquet, write_pyg
from deepnets_gen.official import read_official
from deepnets_gen.stream import generate
from deepnets_gen.write import write_corpus
from ghn.adapters import MissingExtraError
from ghn.adapters.networkx import from_networkx, read_graphml, to_graphml
from ghn.cli import main
from ghn.errors import DataError, GHNError
from ghn.graph import ArchGraph

nx = pytest.importorskip("networkx", reason="networkx is not installed (extra: dev)")
SPLITS = {"train": 5, "val": 3, "gpt": 2}


@pytest.fixture(scope="module")
def entries() -> list[tuple[str, Any]]:
    """Networks of several splits and families."""
    return [(split, genotype) for split, count in SPLITS.items() for genotype in generate(split, count)]


@pytest.fixture(scope="module")
def graphs(entries: list[tuple[str, Any]]) -> list[ArchGraph]:
    return [families.graph(genotype) for _, genotype in entries]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four networks of `val`, as generated."""
    folder = tmp_path_factory.mktemp("corpora") / "val"
    write_corpus("val", 4, folder, workers=1)
    return folder


def failing(entries: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    yield entries[0]
    raise GHNError("the source ends here")


def test_parquet_gives_every_graph_back(tmp_path: Path, entries: Any, graphs: Any) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: corpus)")
    file = tmp_path / "graphs.parquet"
    assert write_parquet(iter(entries), file) == len(entries)
    back = list(read_parquet(file))
    assert [(split, genotype) for split, genotype, _ in back] == entries
    assert [graph for _, _, graph in back] == graphs


def test_parquet_keeps_the_axes_of_weights(tmp_path: Path, entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: corpus)")
    sketch = families.sketch

    class Turned:
        """A sketch whose graph keeps its matrices as (in, out)."""

        def __init__(self, *args: Any) -> None:
            self._sketch = sketch(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sketch, name)

        def graph(self) -> ArchGraph:
            data = self._sketch.graph().to_dict()
            data["slots"] = [s | {"axes": "io"} if len(s["shape"]) == 2 else s for s in data["slots"]]
            return ArchGraph.from_dict(data)

    monkeypatch.setattr(families, "sketch", Turned)
    write_parquet(entries, tmp_path / "graphs.parquet")
    for (_, genotype), (_, _, graph) in zip(entries, read_parquet(tmp_path / "graphs.parquet"), strict=True):
        assert graph == Turned(genotype, 10, 32).graph()
        assert {slot.axes for slot in graph.slots} == {"", "io"}


def test_parquet_is_read_without_us(tmp_path: Path, entries: Any, graphs: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra: corpus)")
    write_parquet(entries, tmp_path / "graphs.parquet", num_classes=100, image_size=64)
    columns = parquet.read_table(tmp_path / "graphs.parquet").to_pydict()
    assert columns["split"] == [split for split, _ in entries]
    assert columns["family"] == [families.family_of(genotype).name for _, genotype in entries]
    for row, (_, genotype) in enumerate(entries):
        graph = families.graph(genotype, 100, 64)
        assert columns["key"][row] == graph.key
        assert (columns["nodes"][row], columns["params"][row]) == (len(graph), graph.num_params)
        assert columns["ops"][row] == graph.ops.tolist()
        assert np.array_equal(np.reshape(columns["edges"][row], (-1, 2)), graph.edges)
        assert np.array_equal(np.reshape(columns["shapes"][row], (-1, 4)), graph.shapes)


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: corpus)")
    from pyarrow import parquet

    file = tmp_path / "graphs.parquet"
    with pytest.raises(DataError, match=r"cannot read .*graphs\.parquet"):
        list(read_parquet(file))
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cannot read .*graphs\.parquet"):
        list(read_parquet(file))
    parquet.write_table(arrow.table({"x": [1, 2]}), file)
    with pytest.raises(DataError, match="KeyError 'split'"):
        list(read_parquet(file))


@settings(max_examples=40)
@given(item=annotated_graphs())
def test_graphml_gives_every_graph_back(tmp_path_factory: pytest.TempPathFactory, item: ArchGraph) -> None:
    file = tmp_path_factory.mktemp("graphml") / "graph.graphml"
    file.write_text(to_graphml(item), encoding="utf-8")
    assert read_graphml(file) == item


def test_graphml_says_what_other_programs_need(tmp_path: Path, graphs: list[ArchGraph]) -> None:
    file = tmp_path / "graph.graphml"
    file.write_text(to_graphml(graphs[0]), encoding="utf-8")
    there = nx.read_graphml(file)
    nodes = dict(there.nodes(data=True))
    for i, shape in enumerate(graphs[0].shapes.tolist()):
        assert [nodes[str(i)][key] for key in ("out", "in", "height", "width")] == shape
        assert nodes[str(i)]["name"] == graphs[0].names[i]
    assert sum(node["params"] for node in nodes.values()) == graphs[0].num_params
    assert sorted((int(u), int(v)) for u, v in there.edges()) == list(map(tuple, graphs[0].edges.tolist()))


def test_graphml_by_hand_needs_only_ops(tmp_path: Path) -> None:
    hand = nx.DiGraph([("image", "layer")])
    nx.set_node_attributes(hand, {"image": "input", "layer": "conv"}, "op")
    nx.write_graphml(hand, tmp_path / "hand.graphml")
    assert read_graphml(tmp_path / "hand.graphml").ops.tolist() == [9, 4]


@pytest.mark.parametrize("content", [None, "", "<graphml", "{}", "<a/>"])
def test_bad_graphml_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "bad.graphml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=r"cannot read .*bad\.graphml"):
        read_graphml(file)


def test_graphml_folder(tmp_path: Path, entries: Any, graphs: Any) -> None:
    folder = tmp_path / "out"
    assert write_graphml(entries, folder) == len(entries)
    files = sorted(folder.iterdir(), key=lambda file: file.stem[-7:])
    assert [file.name.partition("-")[0] for file in files] == [split for split, _ in entries]
    assert [read_graphml(file) for file in files] == graphs
    with pytest.raises(GHNError, match="give a new folder"):
        write_graphml(entries, folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_networkx_lines(tmp_path: Path, entries: Any, graphs: Any) -> None:
    assert write_networkx(entries, tmp_path / "graphs.jsonl") == len(entries)
    lines = (tmp_path / "graphs.jsonl").read_text().splitlines()
    loaded = [nx.node_link_graph(json.loads(line), edges="edges") for line in lines]
    assert [from_networkx(there) for there in loaded] == graphs
    assert [(there.graph["split"], families.from_record(there.graph["genotype"])) for there in loaded] == entries


def test_dgl_file(tmp_path: Path, entries: Any, graphs: Any) -> None:
    from ghn.adapters.dgl import from_dgl, import_dgl

    try:
        dgl = import_dgl()
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert write_dgl(entries, tmp_path / "graphs.bin") == len(entries)
    loaded, _ = dgl.load_graphs(str(tmp_path / "graphs.bin"))
    assert [from_dgl(there) for there in loaded] == graphs


def test_pyg_file(tmp_path: Path, entries: Any, graphs: Any) -> None:
    from ghn.adapters.pyg import from_pyg, import_pyg, load_pyg

    try:
        import_pyg()
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert write_pyg(entries, tmp_path / "graphs.pt") == len(entries)
    assert [from_pyg(there) for there in load_pyg(tmp_path / "graphs.pt")] == graphs


@pytest.mark.parametrize("write", [write_parquet, write_networkx, write_graphml, write_dgl, write_pyg])
def test_nothing_is_left_of_a_failed_export(tmp_path: Path, entries: Any, write: Any) -> None:
    out = tmp_path / "out"
    try:
        with pytest.raises(GHNError, match="the source ends here"):
            write(failing(entries), out)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_parquet, write_networkx])
def test_same_graphs_same_bytes(tmp_path: Path, entries: Any, write: Any) -> None:
    for name in ("a", "b"):
        write(entries, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("to", ["parquet", "networkx", "graphml"])
def test_command_converts_a_corpus(tmp_path: Path, corpus: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "convert", str(corpus), str(tmp_path / "out"), "--to", to, "--count", "3"]) == 0
    assert f"3 graphs as {to}" in capsys.readouterr().out
    assert (tmp_path / "out").exists()


def test_command_to_official_files_and_back(tmp_path: Path, corpus: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed (extra: corpus)")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: corpus)")
    assert main(["corpus", "convert", str(corpus), str(tmp_path), "--to", "official"]) == 0
    meta = tmp_path / "deepnets1m_eval_meta.json"
    there = read_official(tmp_path / "deepnets1m_eval.hdf5", meta, "val")
    assert main(["corpus", "convert", str(meta), str(tmp_path / "out.parquet"), "--to", "parquet"]) == 0
    back = list(read_parquet(tmp_path / "out.parquet"))
    expected = list(generate("val", 4))
    assert [genotype for _, genotype, _ in back] == [there.genotype(i) for i in range(4)] == expected


@pytest.mark.parametrize(
    ("source", "out", "to", "message"),
    [
        ("nowhere.txt", "out", "parquet", "neither a corpus"),
        ("nowhere_meta.json", "out", "parquet", "cannot read"),
        (None, "missing/out", "graphml", "create it first"),
        (None, "missing/out", "parquet", "create it first"),
        (None, "taken", "parquet", "it is a folder"),
        (None, "taken", "graphml", "not empty"),
        (None, "taken/file", "official", "is a file"),
    ],
)
def test_command_refuses_in_one_sentence(
    tmp_path: Path, corpus: Path, source: str | None, out: str, to: str, message: str, capsys: Any
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    place = corpus if source is None else tmp_path / source
    assert main(["corpus", "convert", str(place), str(tmp_path / out), "--to", to]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert os.listdir(tmp_path) == ["taken"]


FULL = """
import resource, signal, sys
from pathlib import Path
from deepnets_gen import export
from deepnets_gen.stream import generate
from ghn.adapters import MissingExtraError
from ghn.errors import GHNError

writers = [export.write_parquet, export.write_networkx, export.write_graphml, export.write_dgl, export.write_pyg]
entries = [("val", genotype) for genotype in generate("val", 20)]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for write in writers:
    try:
        write(entries[:1], Path(sys.argv[1]) / "whole")  # libraries may write files of their own when first used
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        write(entries, Path(sys.argv[1]) / "full")
        print(f"{write.__name__} wrote it")
    except MissingExtraError:
        continue
    except GHNError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    whole = Path(sys.argv[1]) / "whole"
    whole.rename(f"{whole}-{write.__name__}")
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), "15000"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert all(line.startswith(f"cannot write {tmp_path / 'full'}: ") for line in run.stdout.splitlines())
    assert len(run.stdout.splitlines()) >= 2
    assert all(path.name.startswith("whole-") for path in tmp_path.iterdir())
