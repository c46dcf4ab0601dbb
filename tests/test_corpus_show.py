"""The page of a corpus: self-contained, the same bytes each time, well-formed, with what it is for."""

import argparse
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from deepnets_gen import plots
from deepnets_gen.corpus import Corpus
from deepnets_gen.show import gallery, page
from deepnets_gen.stats_cli import add_show, corpus_table
from deepnets_gen.write import write_corpus
from ghn.adapters import MissingExtraError
from ghn.errors import GHNError
from ghn.primitives import Primitive

COUNT = 24
VOID = {"meta", "br", "img", "link"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpora") / "train"
    write_corpus("train", COUNT, folder, workers=1)
    return Corpus(folder)


@pytest.fixture(scope="module")
def html(corpus: Corpus) -> str:
    ours = corpus_table(corpus, 12)
    return page(corpus, ours, ours)


class Outline(HTMLParser):
    """Collects tags, and complains where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    outline = Outline()
    outline.feed(html)
    assert not outline.open
    tags = [tag for tag, _ in outline.seen]
    assert "script" not in tags
    assert "link" not in tags
    for _, attributes in outline.seen:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in html
    assert re.findall(r"url\((?!#|&quot;#)", html) == []


def test_references_within_the_charts_do_not_clash(html: str) -> None:
    """Charts share one page: what an id names must be one thing."""
    definitions: dict[str, str] = {}
    for identity, body in re.findall(r'<clipPath id="([^"]+)">(.*?)</clipPath>', html, flags=re.DOTALL):
        assert definitions.setdefault(identity, body) == body
    used = set(re.findall(r'clip-path="url\(#([^)]+)\)"', html))
    assert used <= definitions.keys()


def test_the_same_corpus_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert run(corpus.path, "--out", file) == 0
    command = [
        sys.executable,
        "-c",
        f"import test_corpus_show as t; t.run({str(corpus.path)!r}, '--out', {str(file) + '2'!r})",
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, capture_output=True)
    assert file.read_bytes() == (tmp_path / "page.html2").read_bytes()


def run(*arguments: Any) -> int:
    parser = argparse.ArgumentParser()
    add_show(parser.add_subparsers())
    args = parser.parse_args(["show", *map(str, arguments)])
    return args.handler(args)


def test_the_page_says_what_it_shows(html: str, corpus: Corpus) -> None:
    for words in (
        f"{COUNT} graphs",
        "candidates drawn",
        "The paper reports 192.3 ± 94.9 nodes",
        "Against the other draw",
        "A small graph",
        "The largest graph",
        "conv_7x1_1x7",
    ):
        assert words in html
    assert html.count("<figcaption>") == html.count("<figure>") == 4 + 3 + len(list(gallery(corpus)))
    funnel = corpus.manifest.funnel
    assert f"{funnel.sampled:,}" in html
    assert f"{funnel.unique:,}" in html


def test_the_gallery_shows_different_graphs_with_what_they_are_for(corpus: Corpus) -> None:
    shown = list(gallery(corpus))
    numbers = [i for i, _ in shown]
    assert len(set(numbers)) == len(numbers)
    for i, why in shown:
        ops = corpus.graph(i).ops
        assert "msa" not in why or Primitive.MSA in ops
        assert "cse" not in why or Primitive.CSE in ops
        assert "largest" not in why or len(ops) == corpus.nodes.max()


@pytest.mark.parametrize("values", [np.array([5, 5, 5]), np.array([1.0, 10, 1000])])
@pytest.mark.parametrize("log", [False, True])
def test_a_chart_is_svg_of_the_same_bytes(values: np.ndarray, log: bool) -> None:
    chart = plots.histogram(values, "x", log=log, theirs=values[:2], published=(7.0, 2.0))
    assert chart == plots.histogram(values, "x", log=log, theirs=values[:2], published=(7.0, 2.0))
    root = ElementTree.fromstring(chart)
    assert root.tag.endswith("svg")
    assert "published mean ± sd" in chart
    ElementTree.fromstring(plots.bars({"a": 0.5, "b": 0.5}, "y", {"a": 1.0}))


def test_charts_leave_the_users_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.bars({"a": 1.0}, "y")
    assert dict(matplotlib.rcParams) == before


def test_the_users_settings_leave_charts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    before = plots.bars({"a": 1.0}, "y")
    monkeypatch.setitem(matplotlib.rcParams, "axes.grid", True)
    assert plots.bars({"a": 1.0}, "y") == before


def test_without_matplotlib_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="pip install matplotlib"):
        plots.bars({"a": 1.0}, "y")


def test_a_page_in_no_folder_is_refused_before_work(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(GHNError, match="there is no folder"):
        run(corpus.path, "--out", tmp_path / "absent" / "page.html")


def test_a_split_without_cells_or_published_figures_has_a_page(tmp_path: Path) -> None:
    write_corpus("predefined", 2, tmp_path / "c", workers=1)
    assert run(tmp_path / "c", "--out", tmp_path / "page.html") == 0
    assert "The paper reports" not in (tmp_path / "page.html").read_text()
