"""Networks from genotypes: parameter counts and names of the peers, shapes, gradients, literal definitions."""

from dataclasses import replace
from functools import cache

import deepnets_reference as reference
import pytest
import torch
from torch import nn

from deepnets_gen import Genotype, GenotypeError, build, generate
from deepnets_gen.genotype import OPS
from deepnets_gen.layout import is_valid, num_params, op_params
from deepnets_gen.ops import FactorizedReduce, SqueezeExcite, Transformer, make_op

DEEPNETS = ("train", "val", "test", "wide", "deep", "dense", "bnfree", "search")
CONV = Genotype((("conv_3x3", 0), ("conv_1x1", 1)), (("max_pool_3x3", 0), ("skip_connect", 1)), (2,), (2,), 4)


pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(split: str, index: int) -> Genotype:
    """A network of this split, thin enough to run in milliseconds."""
    return replace(first(split)[index], channels=8)


@cache
def first(split: str) -> list[Genotype]:
    return list(generate(split, 30))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
@pytest.mark.parametrize(("key", "side"), [("cifar10", 32), ("imagenet", 224)])
def test_counts_equal_the_recorded_ones(split, key, side):
    for record in reference.records(split):
        genotype = Genotype.from_dict(record)
        assert num_params(genotype, 10, side, everything=True) == record["num_params"][key]


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
def test_modules_have_the_recorded_counts(split):
    """Where nothing is dead, the module's count is the recorded one; elsewhere it lacks just the dead parts."""
    whole = 0
    for record in reference.records(split)[:40]:
        genotype = Genotype.from_dict(record)
        built = count(build(genotype, device="meta"))
        assert built == num_params(genotype)
        if built == num_params(genotype, everything=True):
            assert built == record["num_params"]["cifar10"]
            whole += 1
    assert whole > 20


@pytest.mark.parametrize("net", ["d0", "d1", "d2", "d3"])
def test_names_and_shapes_are_those_of_the_reference(net):
    model = build(Genotype.from_dict(reference.nets()[net]), device="meta")
    norm_biases = {f"{name}.bias" for name, m in model.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))}
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert norm_biases <= shapes.keys()
    assert {name: shape for name, shape in shapes.items() if name not in norm_biases} == reference.traced_shapes(net)


@pytest.mark.parametrize("split", DEEPNETS)
def test_networks_of_every_split_run_at_three_sizes(split):
    torch.manual_seed(0)
    for i in range(30):
        side = (16, 24, 32)[i % 3]
        genotype = narrow(split, i)
        model = build(genotype, 10, side)
        assert model.expected_input_sz == side
        logits = model(torch.randn(2, 3, side, side))
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()
        assert count(model) == num_params(genotype, 10, side)


@pytest.mark.parametrize("side", [5, 17, 28, 33, 64, 96, 128, 224])
def test_layout_agrees_with_the_module_at_unusual_sizes(side):
    for i in range(6):
        genotype = replace(narrow("train", i), glob_avg=False)
        model = build(genotype, 7, side)
        assert model(torch.randn(2, 3, side, side)).shape == (2, 7)
        assert count(model) == num_params(genotype, 7, side)


@pytest.mark.parametrize("split", ["train", "bnfree", "dense"])
def test_every_parameter_reaches_the_output(split):
    for i in range(10):
        model = build(narrow(split, i), image_size=16)
        model(torch.randn(2, 3, 16, 16)).sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_batch_statistics_do_not_depend_on_the_mode_and_leave_no_buffers():
    torch.manual_seed(0)
    model, x = build(replace(CONV, channels=8)), torch.randn(4, 3, 32, 32)
    assert torch.equal(model.train()(x), model.eval()(x))
    assert list(model.buffers()) == []
    tracked = build(replace(CONV, channels=8, norm="bnorm-track"))
    assert "stem.1.running_mean" in dict(tracked.named_buffers())


def test_memory_format_and_functional_call_do_not_change_the_output():
    torch.manual_seed(0)
    for i in range(6):
        genotype = narrow("train", i)
        model, x = build(genotype, image_size=16).eval(), torch.randn(4, 3, 16, 16)
        expected = model(x)
        weights = dict(model.named_parameters())
        called = torch.func.functional_call(build(genotype, image_size=16, device="meta").eval(), weights, (x,))
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(called, expected)
        torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4)


def test_zeros_stand_for_states_that_nothing_reaches():
    """A concatenation keeps the place of a dead state, so that the next cell has the published number of inputs."""
    edges = (("none", 0), ("none", 1), ("conv_1x1", 0), ("skip_connect", 1))
    model = build(replace(CONV, normal=edges, normal_concat=(2, 3), channels=8))
    seen = {}
    model.cells["0"].register_forward_hook(lambda _m, _i, out: seen.update(out=out))
    model(torch.randn(2, 3, 32, 32))
    assert seen["out"].shape[1] == 16
    assert seen["out"][:, :8].abs().max() == 0
    assert seen["out"][:, 8:].abs().max() > 0


def test_cells_that_nothing_reads_are_left_out():
    one_sided = (("conv_3x3", 0), ("conv_1x1", 0))
    model = build(replace(CONV, normal=one_sided, reduce=one_sided, n_cells=5, stem_type=1, channels=8))
    assert list(model.cells) == ["0", "2", "4"]
    assert not hasattr(model, "stem1")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    block, x = Transformer(16), torch.randn(2, 16, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = block.to_qkv(block.ln1(tokens)).chunk(3, dim=-1)
    heads = []
    for h in range(8):
        part = slice(2 * h, 2 * h + 2)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2**0.5
        heads.append(torch.softmax(scores, dim=-1) @ v[..., part])
    tokens = tokens + block.to_out(torch.cat(heads, dim=-1))
    tokens = tokens + block.ff(block.ln2(tokens))
    torch.testing.assert_close(block(x), tokens.transpose(1, 2).reshape(2, 16, 3, 5))


def test_squeeze_excite_scales_channels():
    torch.manual_seed(0)
    block, x = SqueezeExcite(8, 2), torch.randn(2, 8, 6, 6)
    picked = x[:, :, ::2, ::2]
    gate = nn.functional.hardswish(block.fc2(torch.relu(block.fc1(picked.mean((2, 3))))))
    torch.testing.assert_close(block(x), torch.einsum("bchw,bc->bchw", picked, gate))


@pytest.mark.parametrize("side", [2, 5, 8])
def test_factorized_reduction_looks_at_odd_and_even_pixels(side):
    torch.manual_seed(0)
    block, x = FactorizedReduce(4, 6, None), torch.randn(2, 4, side, side)
    padded = nn.functional.pad(torch.relu(x), (0, side % 2, 0, side % 2))
    even, odd = padded[:, :, ::2, ::2], padded[:, :, 1::2, 1::2]
    expected = torch.cat(
        [
            torch.einsum("oi,bihw->bohw", block.conv_1.weight[:, :, 0, 0], even),
            torch.einsum("oi,bihw->bohw", block.conv_2.weight[:, :, 0, 0], odd),
        ],
        dim=1,
    )
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", [None, "bnorm"])
def test_operations_keep_channels_and_have_the_formula_s_parameters(stride, norm):
    for name in OPS[1:]:
        if name == "msa" and stride == 2:
            continue  # networks with attention do not stride
        op = make_op(name, 16, stride, norm)
        assert count(op) == op_params(name, 16, stride, norm is not None), name
        assert op(torch.randn(2, 16, 8, 8)).shape == (2, 16, 8 // stride, 8 // stride), name


def test_images_too_small_for_the_strides_are_named():
    strided = replace(CONV, stem_type=1)
    assert is_valid(strided, 8)
    assert not is_valid(strided, 4)
    with pytest.raises(GenotypeError, match="images of side 4 vanish"):
        build(strided, image_size=4)
    for side in (0, -3):
        with pytest.raises(GenotypeError, match="give larger ones"):
            build(CONV, image_size=side)
