"""The commands `ghn generate` and `ghn corpus verify|sample`, as the `ghn` command calls them."""

import argparse
import json
from pathlib import Path

import pytest

from deepnets_gen.cli import NAMES, register
from deepnets_gen.corpus import Corpus
from deepnets_gen.splits import SPLITS
from ghn.errors import GHNError


def call(*words: object) -> int:
    parser = argparse.ArgumentParser("ghn")
    register(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    return args.handler(args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpora") / "cli"
    assert call("generate", "--split", "gpt", "--count", 12, "--out", path, "--workers", 1) == 0
    return path


def test_generate_tells_the_funnel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", "--split", "predefined", "--count", 3, "--workers", 1, "--out", tmp_path)
    for _ in range(2):  # the second time finds all done
        assert call(*words) == 0
        told, noise = capsys.readouterr()
        first, second = told.splitlines()
        assert first.startswith(f"{tmp_path}: 2 graphs of split 'predefined'")
        assert first.endswith("(the split has no more; 3 asked for)")
        assert second.endswith("2 under the size limit -> 2 in the split's part -> 2 unique")
        assert not noise
    with pytest.raises(GHNError, match="seed_offset 0, not 1"):
        call(*words, "--seed-offset", 1)
    with pytest.raises(GHNError, match="shard_size 10000, not 9"):
        call(*words, "--shard-size", 9)


def test_verify_says_sound_or_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("generate", "--split", "gpt", "--count", 12, "--out", tmp_path, "--workers", 1)
    capsys.readouterr()
    assert call("corpus", "verify", tmp_path) == 0
    assert "sound: 12 graphs of split 'gpt' in 1 shards (complete); 12 rebuilt" in capsys.readouterr().out
    assert call("corpus", "verify", tmp_path, "--graphs", 5) == 0
    assert "5 rebuilt" in capsys.readouterr().out
    shard = next(tmp_path.glob("graphs-*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    assert call("corpus", "verify", tmp_path) == 1
    assert "damaged: " in capsys.readouterr().out
    with pytest.raises(GHNError, match="is no corpus"):
        call("corpus", "verify", tmp_path / "nowhere")


def test_sample_prints_json_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(*words: object) -> list[dict]:
        assert call("corpus", "sample", folder, *words) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    capsys.readouterr()
    corpus = Corpus(folder)
    chosen = lines()
    assert len({line["index"] for line in chosen}) == 5
    assert chosen == lines("--seed", 0) != lines("--seed", 1)
    for line in chosen:
        i = line["index"]
        assert line["genotype"] == corpus.record(i)
        assert (line["key"], line["nodes"], line["params"]) == (corpus.key(i), corpus.nodes[i], corpus.params[i])
    everything = lines("--count", 99, "--graph")
    assert [line["index"] for line in everything] == list(range(12))
    assert everything[3]["graph"] == corpus[3].to_dict()


@pytest.mark.parametrize("words", [("generate",), ("corpus",), ("corpus", "verify"), ("corpus", "sample")])
def test_help_gives_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(*words, "--help")
    assert "example: ghn " in capsys.readouterr().out


def test_a_split_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(GHNError, match="no split 'tran'; there are train, val, test"):
        call("generate", "--split", "tran", "--count", 3, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_split() -> None:
    assert tuple(SPLITS) == NAMES
