"""A corpus as one HTML page that needs nothing else: what it is, its distributions, some of its graphs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from deepnets_gen.compare import Comparison, against, compare
from deepnets_gen.plots import bars, histogram
from deepnets_gen.published import PUBLISHED, Published
from deepnets_gen.stats import NODES, NORMAL, REDUCTION, Table, readable
from ghn.page import document, figure, picture, table
from ghn.primitives import Primitive

if TYPE_CHECKING:
    from deepnets_gen.corpus import Corpus

SEED = 0  # of the permutation tests
LOOKED_AT = 500  # graphs decoded in search of one with a certain node
SMALL, MIDDLE = 0.05, 0.5  # quantiles of the sizes shown
STYLE = """
.funnel{display:grid;grid-template-columns:max-content 1fr max-content;gap:4px 12px;align-items:center;max-width:60em}
.funnel i{display:block;height:14px;background:#7da7d9;border-radius:3px;min-width:2px}
"""
STAGES = {
    "sampled": "candidates drawn",
    "valid": "make a network",
    "under_limit": "under the size limit",
    "in_part": "in the split's part",
    "unique": "unique",
}


def page(corpus: "Corpus", ours: Table, theirs: Table | None = None) -> str:
    """The page. ours: the corpus in columns. theirs: another draw to hold it against.

    The same corpus gives the same text. Raises MissingExtraError where matplotlib is not installed.
    """
    split = corpus.manifest.split
    parts = [
        f"<h1>Corpus of architectures: {escape(split)}</h1>",
        *_header(corpus),
        "<h2>Distributions</h2>",
        *_distributions(ours, theirs, PUBLISHED.get(split)),
        *_operations(ours, theirs),
        "<h2>Figures</h2>",
        _numbers(ours),
        *([] if theirs is None else _comparison(compare(ours, theirs, np.random.default_rng(SEED)))),
        "<h2>Some of the graphs</h2>",
        "<p>Read down each column, then on at the top of the next; a box is a node, coloured by its primitive, with "
        "the name and the shape of its parameter. Rest the pointer on a box for all of it; boxes scroll.</p>",
        *(_picture(corpus, i, why) for i, why in gallery(corpus)),
    ]
    return document(f"{split}: {len(corpus):,} architectures", parts, STYLE)


def gallery(corpus: "Corpus") -> Iterator[tuple[int, str]]:
    """Different graphs worth a look, with the reason: small, median, with attention, with squeeze-excite, largest."""
    by_size = np.argsort(corpus.nodes, kind="stable")
    small, middle = (int(q * (len(corpus) - 1)) for q in (SMALL, MIDDLE))
    wanted = [
        (by_size[small:], None, "A small graph"),
        (by_size[middle:], None, "A graph of median size"),
        (by_size[small:], Primitive.MSA, "A small graph with attention (msa)"),
        (by_size[small:], Primitive.CSE, "A small graph with squeeze-excite (cse)"),
        (by_size[::-1], None, "The largest graph"),
    ]
    shown: set[int] = set()
    for order, primitive, why in wanted:
        found = _first(corpus, [int(i) for i in order[:LOOKED_AT] if int(i) not in shown], primitive)
        if found is not None:
            shown.add(found)
            yield found, why


def _first(corpus: "Corpus", order: Sequence[int], primitive: Primitive | None) -> int | None:
    """The first of these graphs that has such a node."""
    return next((i for i in order if primitive is None or (corpus.graph(i).ops == primitive).any()), None)


def _header(corpus: "Corpus") -> list[str]:
    manifest = corpus.manifest
    size = manifest.bytes / max(len(corpus), 1)
    files = f"{len(manifest.shards):,} file{'s' if len(manifest.shards) > 1 else ''}"
    state = "" if manifest.complete else f", of {manifest.count:,} asked for"
    facts = (
        f"{len(corpus):,} graphs{state}, in {files}, {size:.0f} bytes a graph. "
        f"Split {manifest.split}, stream {manifest.seed_offset}, generator {manifest.generator}, "
        f"format {manifest.format}, written by version {manifest.version}."
    )
    stages = asdict(manifest.funnel)
    most, before, rows = max(1, *stages.values()), None, []
    for name, count in stages.items():
        kept = f" ({count / before:.1%} of those)" if before else ""
        rows.append(
            f"<span>{STAGES[name]}</span><i style='width:{100 * count / most:.1f}%'></i><span>{count:,}{kept}</span>"
        )
        before = count
    return [f"<p>{escape(facts)}</p>", f'<div class="funnel">{"".join(rows)}</div>']


def _distributions(ours: Table, theirs: Table | None, published: Published | None) -> list[str]:
    marks = {"nodes": (published.mean, published.sd), "path": (published.path, None)} if published else {}
    charts = (
        ("nodes", "nodes", False),
        ("parameters", "parameters", True),
        ("depth", "depth: edges of the longest path", False),
        ("path", "average shortest path between two nodes, directions ignored", False),
    )
    figures = []
    for name, label, log in charts:
        values, other = ours.numbers[name], theirs.numbers[name] if theirs else None
        chart = histogram(values, label, log=log, theirs=other, published=marks.get(name))
        figures.append(figure(chart, _says(name, values, other, marks.get(name))))
    lines = [f'<div class="charts">{"".join(figures)}</div>']
    said = [_sentence(ours, published)] if published else []
    if theirs:
        said.append(f"Outlines and points are the other draw that the page was given, of {theirs.size:,} networks.")
    return [f"<p>{escape(' '.join(said))}</p>", *lines] if said else lines


def _says(name: str, values: np.ndarray, other: np.ndarray | None, mark: tuple[float, float | None] | None) -> str:
    """A caption: the middle and the bulk of a distribution, beside the others that are drawn."""
    low, middle, high = (readable(float(f"{q:.3g}")) for q in np.quantile(values, (0.05, 0.5, 0.95)))
    unit = name if name in ("nodes", "parameters") else "edges"
    out = f"The median of {len(values):,} networks is {middle} {unit}; nine of ten have between {low} and {high}."
    if mark:
        spread = f" ± {mark[1]:g}" if mark[1] else ""
        out += f" The mean is {values.mean():.1f}, the published one {mark[0]:g}{spread} (green)."
    if other is not None:
        mean = "" if mark else f", here {readable(float(values.mean()))}"
        out += f" The other draw (outline) has mean {readable(float(other.mean()))}{mean}."
    return out


def _sentence(ours: Table, published: Published) -> str:
    found = against(ours, published)
    return (
        f"The paper reports {published.mean} ± {published.sd} nodes for {published.networks:,} networks of this split; "
        f"here they are {found.nodes[0]:.1f} ± {found.nodes_sd[0]:.1f}, the means {abs(found.z):.1f} standard errors "
        f"apart. The average path is {found.path[0]:.2f}, published {published.path}."
    )


def _operations(ours: Table, theirs: Table | None) -> list[str]:
    captions = {
        NORMAL: "Operations of the edges of normal cells, as drawn, edges that lead nowhere among them.",
        REDUCTION: "Operations of the edges of reduction cells: half of them may only pool, skip or be none.",
        NODES: "Nodes of the graphs by primitive; conv stands for convolutions and for linear layers.",
    }
    figures = []
    for name, caption in captions.items():
        if name not in ours.counts:
            continue
        shares = {k: v for k, v in ours.counts[name].share.items() if v}
        other = theirs.counts[name].share if theirs and name in theirs.counts else None
        what = "nodes" if name == NODES else f"edges of a {name}"
        figures.append(figure(bars(shares, f"% of {what}", other), caption))
    return [f'<div class="charts">{"".join(figures)}</div>']


def _numbers(ours: Table) -> str:
    summary = ours.summary()
    quantiles = next(iter(summary["numbers"].values()))["quantiles"]
    heads = ["", "networks", "min", *(f"{float(q):.0%}" for q in quantiles), "max", "mean", "sd"]
    rows = [
        [name, f"{s['networks']:,}", *map(readable, (s["min"], *s["quantiles"].values(), s["max"], s["mean"], s["sd"]))]
        for name, s in summary["numbers"].items()
    ]
    shares = [[f"{name}", f"{share:.1%}"] for name, share in summary["traits"].items()]
    return table(heads, rows) + "<p></p>" + table(["", "share of networks"], shares)


def _comparison(found: Comparison) -> list[str]:
    heads = ["", "mean here", "mean there", "effect (Cohen's d)", "KS distance", "p"]
    numbers = [
        [name, *(readable(m) for m in t.mean), f"{t.d:+.3f}", f"{t.ks:.3f}", f"{t.p:.3f}"]
        for name, t in found.numbers.items()
    ]
    kinds = [
        [name, c.most[0], f"{c.most[1]:.1%}", f"{c.most[2]:.1%}", f"{c.v:.3f}", f"{c.p:.3f}"]
        for name, c in found.counts.items()
    ]
    return [
        "<h2>Against the other draw</h2>",
        "<p>Small p means: unlikely from one distribution. Of twenty comparisons of the same distribution one falls "
        "below 0.05. Effects below 0.2 (d) or 0.1 (V) count as small.</p>",
        table(heads, numbers),
        "<p></p>",
        table(["", "differs most", "share here", "share there", "effect (Cramér's V)", "p"], kinds),
    ]


def _picture(corpus: "Corpus", i: int, why: str) -> str:
    graph = corpus.graph(i)
    caption = f"{why}: number {i:,} of the corpus, {len(graph)} nodes, {graph.num_params:,} parameters."
    return picture(graph, caption)
