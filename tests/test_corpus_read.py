"""Reading a corpus, and what `verify` finds: every kind of damage, each with its place."""

import json
import pickle
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import COUNT, SHARD, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from deepnets_gen import families, stream
from deepnets_gen.corpus import Corpus
from deepnets_gen.manifest import CorpusError, Manifest
from deepnets_gen.shards import Encoder, Row, Shard, decode, make_dictionary, to_bytes
from deepnets_gen.verify import verify
from deepnets_gen.write import write_corpus
from ghn.errors import GHNError

BYTES_PER_GRAPH = 150


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpora") / "read"
    write_corpus("train", COUNT, folder, workers=1, shard_size=SHARD)
    return Corpus(folder)


@pytest.fixture
def copy(corpus: Corpus, tmp_path: Path) -> Path:
    """A folder of the same files, to damage."""
    for name, content in contents(corpus.path).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_place_gives_the_graph_it_was_stored_with(corpus: Corpus) -> None:
    assert len(corpus) == COUNT == len(list(corpus.keys()))
    for i in (0, 39, 40, 80, 149):
        graph = corpus[i]
        assert graph == corpus.graph(i) == families.graph(corpus.genotype(i))
        assert (graph.key, len(graph), graph.num_params) == (corpus.key(i), corpus.nodes[i], corpus.params[i])
        assert corpus.record(i) == families.to_record(corpus.genotype(i))
    assert corpus.nodes.dtype == corpus.params.dtype == np.int64


def test_places_count_from_either_end(corpus: Corpus) -> None:
    assert corpus.key(-1) == corpus.key(COUNT - 1)
    assert corpus.key(np.int64(-COUNT)) == corpus.key(0)
    for place in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"graph {place} of a corpus of {COUNT}"):
            corpus[place]
    with pytest.raises(TypeError):
        corpus["3"]
    assert sum(1 for _ in corpus) == COUNT


def test_classes_and_image_size_are_the_readers_choice(corpus: Corpus) -> None:
    large = Corpus(corpus.path, num_classes=1000, image_size=224)
    assert large.genotype(3) == corpus.genotype(3)
    assert large[3] == families.graph(corpus.genotype(3), 1000, 224) != corpus[3]


def test_it_is_pickled_as_its_path(corpus: Corpus) -> None:
    assert corpus.nodes.sum() > 0  # with shards open and columns read
    data = pickle.dumps(corpus)
    assert len(data) < 3000
    again = pickle.loads(data)
    assert again[7] == corpus[7]
    assert (again.nodes == corpus.nodes).all()


def test_more_shards_than_are_kept_open(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepnets_gen.corpus._OPEN", 2)
    assert list(Corpus(corpus.path).keys()) == list(corpus.keys())
    assert [Corpus(corpus.path).key(i) for i in (149, 0, 75, 149)] == [corpus.key(i) for i in (149, 0, 75, 149)]


def test_an_unfinished_corpus_is_read_as_far_as_it_goes(corpus: Corpus, copy: Path) -> None:
    manifest = replace(corpus.manifest, shards=corpus.manifest.shards[:2])
    manifest.write(copy)
    assert len(Corpus(copy)) == 80
    assert not Corpus(copy).manifest.complete
    assert "unfinished, 150 asked for" in str(verify(copy))
    replace(corpus.manifest, shards=()).write(copy)
    assert len(Corpus(copy).nodes) == len(list(Corpus(copy).keys())) == 0


def test_it_is_small(corpus: Corpus) -> None:
    dictionaries = sum(len(shard.dictionary) for shard in corpus.shards())
    assert (corpus.manifest.bytes - dictionaries) / COUNT < BYTES_PER_GRAPH


def test_safetensors_reads_a_shard(corpus: Corpus) -> None:
    """With the library alone, by what the file says."""
    entry = corpus.manifest.shards[1]
    with safe_open(corpus.path / entry.file, framework="np") as file:
        about = json.loads(file.metadata()["corpus"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (about["format"], about["split"], about["start"], about["count"]) == (1, "train", 40, 40)
    start, stop = tensors["offsets"][3:5]
    record = decode(tensors["records"][start:stop].tobytes(), tensors["dictionary"].tobytes())
    assert record == corpus.record(43)
    assert (tensors["nodes"] == corpus.nodes[40:80]).all()
    assert tensors["nodes"].dtype == np.uint16
    assert tensors["params"].dtype == tensors["index"].dtype == tensors["offsets"].dtype == np.uint32


def test_large_numbers_take_wider_columns(tmp_path: Path) -> None:
    rows = [Row(b"x", bytes(16), 70_000, 1 << 33, 1 << 40), Row(b"", bytes(16), 3, 4, 5)]
    (tmp_path / "shard").write_bytes(to_bytes(rows, b"", {}))
    assert Shard.open(tmp_path / "shard").rows() == rows


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)), min_size=1, max_size=4))
def test_records_come_back(records: list[dict[str, Any]]) -> None:
    dictionary = make_dictionary(records[:2])
    encode = Encoder(dictionary)
    for record in records:
        data = encode(record)
        assert decode(data, dictionary) == record
        with pytest.raises(ValueError, match="does not end"):
            decode(data + b"more", dictionary)


def test_verify_finds_nothing_in_a_sound_corpus(corpus: Corpus) -> None:
    seen: list[int] = []
    verdict = verify(corpus.path, progress=seen.append)
    assert verdict.ok
    assert verdict.graphs == seen[-1] == COUNT
    assert str(verdict) == "sound: 150 graphs of split 'train' in 4 shards (complete); 150 rebuilt from their records"
    assert verify(corpus.path, graphs=7).graphs == 7


def test_a_corpus_without_its_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    for read in (Corpus, verify):
        with pytest.raises(CorpusError, match=r"is no corpus: there is no manifest\.json"):
            read(copy)
    with pytest.raises(CorpusError, match="is no corpus"):
        Corpus(copy / "nowhere")


def edit(text: str, **changes: object) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "cannot read"),
        (lambda text: "[]", "has format None; this version reads 1"),
        (lambda text: edit(text, format=2), "has format 2; this version reads 1: use the one that wrote it"),
        (lambda text: edit(text, shards=[{}]), "is damaged .KeyError 'funnel'"),
        (lambda text: edit(text, shards=3), "is damaged"),
        (lambda text: edit(text, shard_size=39), "is damaged"),
        (lambda text: edit(text, count=149), "is damaged .ValueError 150 graphs in shards of 40, 149 asked for"),
        (lambda text: edit(text, count="150"), "is damaged .TypeError"),
        (
            lambda text: text.replace("graphs-00000040", "../graphs-00000040"),
            "is not the one that begins with graph 40",
        ),
        (lambda text: text.replace('"split"', '"divide"'), "is damaged .KeyError 'split'"),
    ],
)
def test_a_bad_manifest(copy: Path, change: Callable[[str], str], message: str) -> None:
    path = copy / "manifest.json"
    path.write_text(change(path.read_text()))
    for read in (Corpus, verify):
        with pytest.raises(CorpusError, match=message):
            read(copy)


def shard_path(folder: Path, k: int) -> Path:
    return folder / Manifest.read(folder).shards[k].file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"is truncated: (\d+) of (\d+) bytes; restore it"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), "is too long"),
    ],
)
def test_a_missing_or_cut_shard_is_found_on_opening(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(shard_path(copy, 2))
    with pytest.raises(CorpusError, match=rf"graphs-00000080-00000120\.safetensors {message}"):
        Corpus(copy)
    assert "graphs-00000080" in str(verify(copy).problem)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(copy: Path, corpus: Corpus, place: float, bit: int) -> None:
    """`verify` finds it; reading gives a GHNError, or something."""
    path = shard_path(copy, 1)
    content = bytearray((corpus.path / path.name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert "graphs-00000040-00000080" in str(verify(copy, graphs=1).problem)
    for i in range(40, 80, 5):
        with suppress(GHNError):
            Corpus(copy).graph(i)


def test_a_flipped_byte_is_placed_in_its_record(corpus: Corpus, copy: Path) -> None:
    path = shard_path(copy, 1)
    content = path.read_bytes()
    data = Shard.open(path).data(17)
    at = content.index(data) + 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    verdict = verify(copy)
    assert "graphs-00000040-00000080.safetensors, record 17 " in str(verdict.problem)
    assert str(verdict).startswith("damaged: ")
    assert verify(copy, graphs=1) == replace(verdict, graphs=verify(copy, graphs=1).graphs)


def rewrite(folder: Path, k: int, change: Callable[[list[Row]], Sequence[Row]]) -> None:
    """Changes the rows of a shard as its author could: with all checksums right."""
    manifest = Manifest.read(folder)
    entry = manifest.shards[k]
    shard = Shard.open(folder / entry.file)
    about = {"split": manifest.split}
    content = to_bytes(change(shard.rows()), shard.dictionary, about)
    (folder / entry.file).write_bytes(content)
    changed = replace(entry, bytes=len(content), blake2b=blake2b(content, digest_size=16).hexdigest())
    shards = (*manifest.shards[:k], changed, *manifest.shards[k + 1 :])
    replace(manifest, shards=shards).write(folder)


def swapped(rows: list[Row], i: int, **change: Any) -> list[Row]:
    return [*rows[:i], rows[i]._replace(**change), *rows[i + 1 :]]


def encoded(copy: Path, record: dict[str, Any]) -> bytes:
    return Encoder(Shard.open(shard_path(copy, 1)).dictionary)(record)


def test_a_disconnected_genotype_inside_a_shard(corpus: Corpus, copy: Path) -> None:
    record = corpus.record(45)
    for cell in ("normal", "reduce"):
        record["genotype"][cell] = [["none", source] for _, source in record["genotype"][cell]]
    data = encoded(copy, record)
    rewrite(copy, 1, lambda rows: swapped(rows, 5, data=data))
    with pytest.raises(GHNError, match="outputs zeros only"):
        Corpus(copy)[45]
    assert Corpus(copy)[46] == corpus[46]
    problem = verify(copy).problem
    assert problem is not None
    assert "00000080.safetensors, record 5 is no network: the last cell outputs zeros only" in problem


def test_records_that_are_none(copy: Path) -> None:
    rewrite(copy, 1, lambda rows: swapped(rows, 3, data=encoded(copy, {"family": "rnn"})))
    assert "record 3 is no network: no family 'rnn'" in str(verify(copy).problem)
    rewrite(copy, 1, lambda rows: swapped(rows, 2, data=encoded(copy, [1])))  # ty: ignore[invalid-argument-type]
    assert "record 2 is no network" in str(verify(copy).problem)
    rewrite(copy, 1, lambda rows: swapped(rows, 1, data=b"\xff" * 30))
    assert "record 1 is damaged" in str(verify(copy).problem)
    with pytest.raises(CorpusError, match="record 1 is damaged"):
        Corpus(copy)[41]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: swapped(rows, 9, key=bytes(16)), f"record 9 is stored with identity {32 * '0'}, its genotype"),
        (lambda rows: swapped(rows, 9, nodes=5), "record 9 is stored with nodes 5, its genotype gives"),
        (lambda rows: swapped(rows, 9, params=5), "record 9 is stored with parameters 5, its genotype gives"),
        (lambda rows: swapped(rows, 9, key=rows[3].key), "record 9 is the same architecture as one in graphs-00000040"),
        (lambda rows: swapped(rows, 9, index=rows[8].index), "its candidates are out of order"),
        (lambda rows: swapped(rows, 0, index=0), "its candidates overlap with another shard's"),
        (lambda rows: swapped(rows, 9, data=b""), "its offsets do not rise"),
        (lambda rows: rows[:-1], "holds 39 graphs; the manifest says 40"),
    ],
)
def test_wrong_columns(copy: Path, change: Callable[[list[Row]], list[Row]], message: str) -> None:
    rewrite(copy, 1, change)
    assert message in str(verify(copy).problem)


def test_the_same_architecture_in_two_shards(corpus: Corpus, copy: Path) -> None:
    key = bytes.fromhex(corpus.key(3))
    rewrite(copy, 1, lambda rows: swapped(rows, 9, key=key))
    assert "record 9 is the same architecture as one in graphs-00000000-00000040" in str(verify(copy).problem)


def test_a_graph_of_another_part(copy: Path) -> None:
    drawn = stream.block("test", 0, 32).drawn[0]
    row = {"data": encoded(copy, families.to_record(drawn.genotype)), "key": bytes.fromhex(drawn.key)}
    rewrite(copy, 1, lambda rows: swapped(rows, 9, **row, nodes=drawn.nodes, params=drawn.num_params))
    assert "record 9 is of part TEST; train holds others" in str(verify(copy).problem)


def test_a_funnel_that_does_not_add_up(copy: Path) -> None:
    manifest = Manifest.read(copy)
    last = manifest.shards[-1]
    for change in ({"valid": 10**6}, {"sampled": last.next + 1}, {"unique": 149}):
        broken = replace(last, funnel=replace(last.funnel, **change))
        replace(manifest, shards=(*manifest.shards[:-1], broken)).write(copy)
        assert "its funnel" in str(verify(copy).problem)


def header(content: bytes) -> dict[str, Any]:
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("nodes", {"data_offsets": [0, 10**9]}),
        ("nodes", {"data_offsets": [80, 0]}),
        ("nodes", {"shape": [41]}),
        ("nodes", {"dtype": "F32"}),
        ("keys", {"shape": [80, 8]}),
        ("offsets", {"shape": [-41]}),
        ("records", {"dtype": None}),
    ],
)
def test_a_header_that_lies(corpus: Corpus, tmp_path: Path, tensor: str, change: dict[str, Any]) -> None:
    content = (corpus.path / corpus.manifest.shards[0].file).read_bytes()
    lies = header(content)
    lies[tensor] |= change
    text = json.dumps(lies).encode()
    body = content[8 + struct.unpack("<Q", content[:8])[0] :]
    (tmp_path / "shard").write_bytes(struct.pack("<Q", len(text)) + text + body)
    with pytest.raises(CorpusError, match="is not a shard of a corpus"):
        Shard.open(tmp_path / "shard")


NOTHING = b"\x02" + bytes(7)  # says that a header of two bytes follows


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, NOTHING + b"{}", NOTHING + b"[]"])
def test_files_that_are_no_shards(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shard").write_bytes(content)
    with pytest.raises(CorpusError, match="is not a shard of a corpus"):
        Shard.open(tmp_path / "shard")


def test_a_shard_of_another_version(tmp_path: Path) -> None:
    content = to_bytes([Row(b"x", bytes(16), 1, 1, 1)], b"", {})
    (tmp_path / "shard").write_bytes(content.replace(b'format\\": 1', b'format\\": 2'))
    with pytest.raises(CorpusError, match="it has format 2, not 1"):
        Shard.open(tmp_path / "shard")
