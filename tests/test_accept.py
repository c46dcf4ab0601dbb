"""The acceptance of published checkpoints: its table is the published one, and it tells right weights from wrong."""

import json
from pathlib import Path

import pytest
import torch
from reference import REFERENCE, SHARED, needs_reference, stats

import ghn
from eval.accept import DATA, accept, published_norms, total_norm
from ghn.cli import main
from ghn.errors import GHNError
from ghn.family import member
from ghn.primitives import Primitive

RESULTS = SHARED / "data" / "peer_results" / "ghn3_torchvision_results.parquet"


@pytest.mark.skipif(not RESULTS.exists(), reason="../shared/data is not at hand")
def test_the_table_is_the_published_one() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(RESULTS).to_pylist()
    norms = json.loads(DATA.read_text())["norms"]
    for name, column in (("ghn2", "ghn2-paramnorm"), ("ghn3-t", "ghn3-t-paramnorm"), ("ghn3-xl", "ghn3-paramnorm")):
        assert norms[name] == {row["model"]: row[column] for row in rows}
        assert len(norms[name]) == 74


@needs_reference
def test_right_weights_are_told_from_wrong(tmp_path: Path) -> None:
    """The checkpoint at hand is not a published one; the peer's own norm for it is in its record."""
    hyper = ghn.load(REFERENCE / "ghn3tm8_cifar10.hf.pt")
    norms = {"resnet50": stats("ghn3tm8_cifar10", "resnet50_32")["total_norm"], "no_such_net": 1.0}
    right, missing = accept(hyper, norms, image_size=32)
    assert right.within(0.01)
    assert missing.error
    assert not missing.within(0.01)
    with torch.no_grad():
        hyper.model.decoder.conv[2].weight.mul_(1.1)
    wrong, _ = accept(hyper, norms, image_size=32)
    assert not wrong.within(0.01)


@needs_reference
def test_a_wrong_type_is_told_where_the_norm_is_sharp() -> None:
    """Right weights are within 0.0002 of the peer's norm; a wrong embedding of additions is not."""
    hyper = ghn.load(REFERENCE / "ghn3tm8_cifar10.hf.pt")
    norms = {"resnet50": stats("ghn3tm8_cifar10", "resnet50_32")["total_norm"]}
    (right,) = accept(hyper, norms, image_size=32)
    rows = hyper.model.embed.weight
    with torch.no_grad():
        rows[Primitive.SUM] = rows[Primitive.CONCAT]
    (wrong,) = accept(hyper, norms, image_size=32)
    assert right.within(0.0002)
    assert not wrong.within(0.0002)


def imagenet(name: str) -> ghn.Hypernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ghn.GHN(member(name, 1000, 224))
    return ghn.Hypernet(model, {"name": name}, 224, tuple(map(str, range(1000))))


def test_what_the_peers_do_not_predict_counts_as_initialised() -> None:
    """ConvNeXt's layer scales are 1e-6 and not, as ours, near one."""
    hyper = imagenet("ghn2")
    model = ghn.import_torchvision().models.convnext_tiny()
    weights, _ = hyper.predict(model)
    weights = {k: p.detach() if "layer_scale" in k else weights[k] for k, p in model.named_parameters()}
    expected = torch.stack([w.double().norm() for w in weights.values()]).norm().item()
    assert total_norm(hyper, "convnext_tiny", 224) == pytest.approx(expected, rel=1e-6)


def test_only_published_ghns_have_norms(tmp_path: Path) -> None:
    assert published_norms(imagenet("ghn3-t"))[1]["resnet50"] == 78.6197
    with pytest.raises(GHNError, match="no norms are published for a GHN of width 32 and 10 classes"):
        published_norms(ghn.load("ghn2-cifar10"))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hyper, folder = imagenet("ghn2"), tmp_path / "random"
    ghn.save(folder, hyper.model, image_size=224, classes=hyper.classes, card={})
    assert main(["accept", str(folder), "--models", "squeezenet1_1", "resnet18"]) == 1
    text = capsys.readouterr().out
    assert "squeezenet1_1" in text
    assert "0 of 2 networks have the published norm of ghn2, to 0.01; the largest difference is " in text
    assert main(["accept", str(folder), "--models", "squeezenet1_1", "--tolerance", "1000"]) == 0
    capsys.readouterr()
    assert main(["accept", str(folder), "--tolerance", "0"]) == 2
    assert "'0' is not a number above 0" in capsys.readouterr().err
    assert main(["accept", str(folder), "--models", "nonet"]) == 2
    assert "no norm is published for 'nonet'" in capsys.readouterr().err
