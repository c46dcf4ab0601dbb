"""Corpora of architectures: random networks as plain data, as graphs, and as modules."""

from ghn.lazy import exports

# name -> module that defines it. Loaded on first use: drawing networks and their graphs needs no torch.
_EXPORTS = {
    "SPLITS": "deepnets_gen.splits",
    "Split": "deepnets_gen.splits",
    "Genotype": "deepnets_gen.genotype",
    "GenotypeError": "deepnets_gen.genotype",
    "build": "deepnets_gen.families",
    "graph": "deepnets_gen.families",
    "sketch": "deepnets_gen.families",
    "from_record": "deepnets_gen.families",
    "to_record": "deepnets_gen.families",
    "generate": "deepnets_gen.stream",
    "Corpus": "deepnets_gen.corpus",
    "write_corpus": "deepnets_gen.write",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = exports(globals(), _EXPORTS)
