"""Over every split, the graph that a genotype states is the one that tracing its module finds."""

import numpy as np
import pytest
from spaces import assert_stated_as_traced, layer_outputs, multiply_adds

import ghn
from deepnets_gen import SPLITS, GenotypeError, build, from_record, generate, graph, sketch, to_record
from deepnets_gen.genotype import Genotype
from deepnets_gen.layout import num_params

DEEPNETS = ("train", "val", "test", "wide", "deep", "dense", "bnfree", "search")


@pytest.mark.parametrize("split", list(SPLITS))
def test_stated_graphs_are_the_traced_ones(split: str) -> None:
    for genotype in generate(split, 8):
        assert_stated_as_traced(sketch(genotype), build(genotype, device="meta"))


@pytest.mark.parametrize("split", list(SPLITS))
def test_arrays_are_those_of_the_graph(split: str) -> None:
    for genotype in generate(split, 5):
        arrays, made = sketch(genotype).arrays(), graph(genotype)
        for name in ("ops", "edges", "shapes", "distances"):
            ours, theirs = getattr(arrays, name), getattr(made, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("split", DEEPNETS)
def test_for_other_images_and_classes_too(split: str) -> None:
    for genotype, side in zip(generate(split, 5), (13, 16, 40, 128, 224), strict=True):
        stated, module = sketch(genotype, 7, side), build(genotype, 7, side, device="meta")
        assert stated.graph() == ghn.trace(module, image_size=side)
        assert stated.num_params == num_params(genotype, 7, side)


@pytest.mark.parametrize("split", DEEPNETS)
def test_multiply_adds_and_outputs_are_those_of_the_module(split: str) -> None:
    import torch

    for genotype, side in zip(generate(split, 6), (16, 17, 30, 32, 33, 224), strict=True):
        image, stated = torch.empty(1, 3, side, side, device="meta"), sketch(genotype, 10, side)
        assert stated.macs == multiply_adds(build(genotype, 10, side, device="meta"), image)
        assert stated.outputs == layer_outputs(build(genotype, 10, side, device="meta"), image)


@pytest.mark.parametrize("split", list(SPLITS))
def test_records_give_genotypes_back(split: str) -> None:
    import json

    for genotype in generate(split, 10):
        assert from_record(json.loads(json.dumps(to_record(genotype)))) == genotype


def test_images_that_vanish_and_things_that_are_no_genotypes_are_named() -> None:
    genotype: Genotype = next(generate("deep", 1))
    with pytest.raises(GenotypeError, match="images of side 1 vanish"):
        sketch(genotype, image_size=1)
    with pytest.raises(GenotypeError, match="a str is no genotype"):
        graph("resnet50")
    with pytest.raises(GenotypeError, match="no family 'cnn'; there are deepnets"):
        from_record({"family": "cnn"})
    with pytest.raises(GenotypeError, match="a list in place of a record"):
        from_record([])  # ty: ignore[invalid-argument-type]
