"""The peers' files: each container opens as it is, nothing in it is ever run, and what is wrong with it is said."""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import REFERENCE, graph, needs_reference, stats
from torch import Tensor
from torch.serialization import get_safe_globals

import ghn
from ghn.errors import CheckpointError
from ghn.model import GHN, GHNConfig
from ghn.published import _config, filled, renamed, told

GHN2 = GHNConfig(num_classes=5, hid=8, max_shape=(16, 16, 11, 11))
GHN1 = GHNConfig(num_classes=3, hid=8, max_shape=(8, 8, 5, 5), cutoff=1, weight_norm=False, layernorm=False)
MLP = GHNConfig(num_classes=5, hid=8, max_shape=(8, 8, 3, 3), propagation="mlp", decoder="mlp")
GHN3 = GHNConfig(
    num_classes=1000, hid=8, max_shape=(8, 8, 16, 16), propagation="graphormer", decoder="centred", layers=2, heads=4
)
NAMES = (  # ours -> theirs, of GHN-3
    (r"^gnn\.edge_embed", "gnn.0.attn.edge_embed.embed"),
    (r"^gnn\.proj_e", "gnn.0.attn.proj_e"),
    (r"^gnn\.layers\.(\d+)\.to_qkv", r"gnn.\1.attn.to_qkv"),
    (r"^gnn\.layers\.(\d+)\.to_out", r"gnn.\1.attn.to_out.0"),
    (r"^gnn\.layers\.(\d+)\.ff\.0", r"gnn.\1.ff.net.0"),
    (r"^gnn\.layers\.(\d+)\.ff\.2", r"gnn.\1.ff.net.3"),
    (r"^gnn\.layers\.", "gnn."),
)


def make(config: GHNConfig) -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GHN(config)


def theirs(model: GHN, shared: str = "") -> dict[str, Tensor]:
    """GHN-3's state_dict under the peer's names and shapes. shared: the prefix of what all its layers use."""
    state = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"^gnn\.(centrality|input_dist)", rf"{shared}\1", name)
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = value.flatten(1) if name.startswith("decoder.") and value.dim() == 4 else value
    return state


def ppuda(config: GHNConfig) -> dict[str, Any]:
    state = make(config).state_dict()
    if config.decoder == "mlp":
        state = {re.sub(r"^decoder\.fc", "decoder.mlp.fc", name): value for name, value in state.items()}
    kinds = {"gated": "gatedgnn", "mlp": "mlp", "graphormer": "gatedgnn"}
    return {
        "state_dict": state,
        "optimzer": {},
        "epoch": 3,
        "config": {
            "hypernet": kinds[config.propagation],
            "decoder": "mlp" if config.decoder == "mlp" else "conv",
            "num_classes": config.num_classes,
            "hid": config.hid,
            "max_shape": config.max_shape,
            "ve": config.cutoff > 1,
            "weight_norm": config.weight_norm,
            "layernorm": config.layernorm,
        },
    }


def ghn3_training(config: GHNConfig) -> dict[str, Any]:
    more = {"layers": config.layers, "heads": config.heads, "is_ghn2": False}
    return ppuda(config) | {
        "state_dict": theirs(make(config), "gnn.0."),
        "args": argparse.Namespace(lr=4e-4, opt="adamw", device="cuda"),
        "config": ppuda(config)["config"] | more,
    }


@needs_reference
def test_names_and_shapes_are_those_of_the_peers() -> None:
    """Every format that the peers' code was seen to write is filled without a tensor missing or too many."""
    formats = json.loads((REFERENCE / "state_dicts.json").read_text())
    for name, form in formats.items():
        state = {key: torch.empty(shape, device="meta") for key, (shape, _) in form["state_dict"].items()}
        config = _config(form["config"])
        model = filled(config, renamed(state), name)
        assert sum(p.numel() for p in model.parameters()) == form["n_params"]
        if "ghn3" in name:
            assert told(renamed(state)) == config


def assert_same(hyper: ghn.Hypernet, config: GHNConfig) -> None:
    assert hyper.model.config == config
    expected, found = make(config).state_dict(), hyper.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not hyper.model.training
    assert len(hyper.classes) == config.num_classes


@pytest.mark.parametrize("config", [GHN1, GHN2, MLP], ids=["ghn1", "ghn2", "mlp"])
def test_ppuda(tmp_path: Path, config: GHNConfig) -> None:
    torch.save(ppuda(config), tmp_path / "theirs.pt")
    assert_same(ghn.load(tmp_path / "theirs.pt"), config)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_training_files_of_ghn3(tmp_path: Path, old: bool) -> None:
    torch.save(ghn3_training(GHN3), tmp_path / "checkpoint.pt", _use_new_zipfile_serialization=not old)
    assert_same(ghn.load(tmp_path / "checkpoint.pt"), GHN3)
    assert argparse.Namespace not in get_safe_globals()  # the caller's own loading is as strict as it was


def test_published_files_of_ghn3(tmp_path: Path) -> None:
    """A pickle of the bare state_dict. The number of heads is told from a shape, not from the width."""
    (tmp_path / "ghn3tm8.pt").write_bytes(pickle.dumps(theirs(make(GHN3)), 4))
    assert_same(ghn.load(tmp_path / "ghn3tm8.pt"), GHN3)


def test_ghn2_in_the_container_of_ghn3(tmp_path: Path) -> None:
    """Its kernels are cut from the corner all the same; decoder weights may have four dimensions or two."""
    for state in (make(GHN2).state_dict(), theirs(make(GHN2))):
        (tmp_path / "ghn2.pt").write_bytes(pickle.dumps(state, 4))
        assert_same(ghn.load(tmp_path / "ghn2.pt"), GHN2)


@needs_reference
@pytest.mark.parametrize(
    ("file", "net"), [("ghn2_cifar10.pt", "d1"), ("mlp_cifar10.pt", "d1"), ("ghn3tm8_cifar10.hf.pt", "d2")]
)
def test_a_real_file_predicts_its_own_numbers(tmp_path: Path, file: str, net: str) -> None:
    """As it is, and converted to ours."""
    golden = stats(file.split(".")[0], net)["total_norm"]
    ghn.convert(REFERENCE / file, tmp_path / "ours.safetensors")
    for path in (REFERENCE / file, tmp_path / "ours.safetensors"):
        weights, _ = ghn.load(path).predict(graph=graph(file.split(".")[0], net))
        total = torch.stack([w.double().norm() for w in weights.values()]).norm().item()
        assert total == pytest.approx(golden, rel=1e-5)


class Malicious:
    """Pickled as a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("container", ["torch.save", "old torch.save", "pickle", "pickle in a tensor's numbers"])
def test_code_does_not_run(tmp_path: Path, container: str) -> None:
    proof, file = tmp_path / "executed", tmp_path / "bad.pt"
    content = {"config": {}, "state_dict": Malicious(proof)}
    if "torch.save" in container:
        torch.save(content, file, _use_new_zipfile_serialization="old" not in container)
    elif container == "pickle":
        file.write_bytes(pickle.dumps(content, 4))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=False)
        file.write_bytes(pickle.dumps({"a": Loads(file.read_bytes())}, 4))
    with pytest.raises(CheckpointError, match=r"(posix\.mkdir|posix)") as caught:
        ghn.load(file)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


class Loads:
    """Pickled as a tensor's numbers are, of any bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.content,)


class Reaching:
    """Pickled as a tensor that is larger than its numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (torch.zeros(3).storage(), 0, (self.size,), (1,), False, {})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_reaches_no_further_than_its_numbers(tmp_path: Path) -> None:
    for size, message in ((3, "embed.weight"), (4, "no readable pickle"), (2**60, "no readable pickle")):
        (tmp_path / "bad.pt").write_bytes(pickle.dumps({"a": Reaching(size)}, 4))
        with pytest.raises(CheckpointError, match=message):
            ghn.load(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(config=3), "holds no GHN"),
        (lambda d: d["config"].update(hypernet="other"), "hypernet 'other' is none of gatedgnn, mlp"),
        (lambda d: d["config"].update(decoder="other"), "decoder 'other' is none of conv"),
        (lambda d: d["config"].pop("hid"), "no 'hid'"),
        (lambda d: d["config"].update(hid="8"), "hid is '8', where no tensor is larger than"),
        (lambda d: d["config"].update(num_classes=10**12), "num_classes is 1000000000000, where no tensor"),
        (lambda d: d["config"].update(num_classes=0), "num_classes is 0, where"),
        (lambda d: d["config"].update(hid=16), r"embed.weight has shape \[15, 8\], not \[15, 16\]"),
        (lambda d: d["config"].update(max_shape=8), "holds no GHN"),
        (lambda d: d["config"].update(max_shape=(8, 8)), "does not hold the GHN"),
        (lambda d: d["state_dict"].pop("embed.weight"), "embed.weight is missing"),
        (lambda d: d["state_dict"].update(more=torch.zeros(1)), "more is one too many"),
        (lambda d: d["state_dict"]["embed.weight"].fill_(float("nan")), "embed.weight has numbers that are not finite"),
        (
            lambda d: d["state_dict"].update({"embed.weight": torch.ones(15, 8).int()}),
            "embed.weight has numbers of int32",
        ),
        (lambda d: d["state_dict"].update(ln=3), "not a dict of tensors alone"),
        (lambda d: d.update(state_dict=[1]), "not a dict of tensors alone"),
        (lambda d: (d.clear(), d.update(weights=torch.zeros(2))), "embed.weight"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: Callable[[dict], Any], message: str) -> None:
    data = ppuda(GHN2)
    change(data)
    torch.save(data, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        ghn.load(tmp_path / "theirs.pt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("config", [{"layers": 10**9}, {"heads": 3}, {"layers": 5}], ids=str)
def test_what_contradicts_a_graphormer_is_said(tmp_path: Path, config: dict[str, int]) -> None:
    data = ghn3_training(GHN3)
    data["config"].update(config)
    torch.save(data, tmp_path / "theirs.pt")
    with pytest.raises(
        CheckpointError, match=r"does not hold the GHN that its config describes: (layers is|.* heads|gnn)"
    ):
        ghn.load(tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embed.weight", (15,), r"embed.weight has shape \[15\]"),
        ("decoder.fc.0.weight", (3, 3), "max_shape is 0, where"),
        ("gnn.1.ln1.weight", (3,), r"gnn.layers.1.ln1.weight has shape \[3\], not \[8\]"),
        ("embed.weight", None, "no 'embed.weight'"),
        ("more", (3,), "more is one too many"),
    ],
)
def test_what_is_wrong_with_a_bare_state_is_said(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    state = theirs(make(GHN3)) | {name: torch.zeros(shape or 1)}
    if shape is None:
        del state[name]
    (tmp_path / "ghn3tm8.pt").write_bytes(pickle.dumps(state, 4))
    with pytest.raises(CheckpointError, match=message):
        ghn.load(tmp_path / "ghn3tm8.pt")


@pytest.mark.parametrize("compress", [0, *(("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3))], ids=str)
def test_files_of_joblib(tmp_path: Path, compress: Any) -> None:
    """Written by joblib itself, compressed or not; code in them is not run, and damage is said."""
    joblib = pytest.importorskip("joblib")
    joblib.dump(theirs(make(GHN3)), tmp_path / "ghn3tm8.pt", compress=compress)
    assert_same(ghn.load(tmp_path / "ghn3tm8.pt"), GHN3)
    content = (tmp_path / "ghn3tm8.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        ghn.load(tmp_path / "cut.pt")
    joblib.dump(Malicious(tmp_path / "executed"), tmp_path / "bad.pt", compress=compress)
    with pytest.raises(CheckpointError, match=r"posix\.mkdir"):
        ghn.load(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()


def test_arrays_in_place_of_tensors_are_refused_by_name(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump({name: value.numpy() for name, value in make(GHN3).state_dict().items()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="NumpyArrayWrapper"):
        ghn.load(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 cut", b"<!DOCTYPE html>", b"x\x9c cut", b"\x1f\x8b cut", b"\x80\x04 cut", pickle.dumps([1], 4)],
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"x\.pt (is|holds) no|x\.pt cannot be read: Not a gzipped|x\.pt is comp"
    ) as caught:
        ghn.load(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)  # torch's own words advise to run what is in the file
