"""Networks by name: built without memory, for the size asked for; what cannot be found is answered with a way on."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from ghn._compat import import_torchvision
from ghn.adapters import MissingExtraError, zoo
from ghn.adapters.zoo import example_input
from ghn.errors import ModelError

try:
    torchvision = import_torchvision()
except ImportError:
    pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')", allow_module_level=True)

needs_timm = pytest.mark.skipif(not zoo.installed("timm"), reason="timm is not installed")
needs_transformers = pytest.mark.skipif(not zoo.installed("transformers"), reason="transformers is not installed")

NETS = """
    import torch
    from torch import nn

    calls = []

    def plain(num_classes):
        calls.append(num_classes)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

    def both(image_size, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))

    def anything(**options):
        return nn.Linear(options["image_size"], options["num_classes"])

    def neither():
        print("building")
        return nn.Linear(4, 2)

    def knows_its_size():
        net = nn.Conv2d(1, 2, 3)
        net.expected_input_sz = (1, 28, 28)
        return net

    def computes():
        return nn.Linear(int(torch.linspace(1, 8, 8).tolist()[-1]), 2)

    def late():
        import torchvision
        return torchvision.models.resnet18()

    ready = nn.Linear(3, 2)
    number = 3
    def returns_a_number(): return 3
    def fails(): raise KeyError("width")
    def quits(): raise SystemExit("bye")
"""


def resolve(name: str, num_classes: int, image_size: int, device: str = "meta") -> Any:
    """As the function under test, but of any type, since these tests look inside."""
    return zoo.resolve(name, num_classes, image_size, device)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current directory that is not on the path."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(NETS))
    monkeypatch.chdir(tmp_path)
    return name


def devices(model: torch.nn.Module) -> set[str]:
    return {p.device.type for p in model.parameters()}


SAMPLE = ("alexnet", "densenet121", "googlenet", "inception_v3", "mobilenet_v3_small", "regnet_y_400mf", "resnet18")


@pytest.mark.parametrize("name", SAMPLE)
def test_torchvision_on_meta_is_what_torchvision_builds(name: str) -> None:
    model = resolve(name, 7, 224)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        reference = torchvision.models.get_model(name, num_classes=7, **options)
    assert devices(model) == {"meta"}
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in reference.named_parameters()}
    assert model.expected_input_sz == 224


@pytest.mark.slow
def test_every_torchvision_classifier_is_built_without_memory() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        assert devices(resolve(name, 10, 224)) == {"meta"}


def test_prefix_and_bare_name_are_the_same_network() -> None:
    a, b = resolve("resnet18", 10, 32), resolve("torchvision/resnet18", 10, 32)
    assert str(a) == str(b)


def test_small_images_adjust_the_stem_and_large_ones_do_not() -> None:
    assert resolve("resnet18", 10, 64).conv1.stride == (1, 1)
    assert resolve("resnet18", 10, 65).conv1.stride == (2, 2)


def test_transformers_are_built_for_the_image_size() -> None:
    assert resolve("vit_b_16", 10, 48).encoder.pos_embedding.shape == (1, 10, 768)
    with pytest.raises(ModelError, match=r"vit_b_16 .*30 pixels: .*patch"):
        resolve("vit_b_16", 10, 30)
    assert devices(resolve("maxvit_t", 10, 448)) == {"meta"}


def test_on_cpu_the_network_has_numbers_and_follows_the_seed() -> None:
    torch.manual_seed(0)
    a = resolve("squeezenet1_1", 10, 32, device="cpu")
    torch.manual_seed(0)
    b = resolve("squeezenet1_1", 10, 32, device="cpu")
    assert devices(a) == {"cpu"}
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_generated_networks_are_reached_through_the_entry_point() -> None:
    from deepnets_gen import build, generate

    model = resolve("deepnets/test/2", 10, 32)
    *_, genotype = generate("test", 3)
    assert devices(model) == {"meta"}
    assert model.state_dict().keys() == build(genotype, device="meta").state_dict().keys()
    for wrong in ("deepnets/test/x", "deepnets/tost/1", "deepnets/test/-1", "deepnets/test"):
        with pytest.raises(ModelError, match="give deepnets/SPLIT/INDEX"):
            resolve(wrong, 10, 32)
    with pytest.raises(ModelError, match=r"deepnets/test/2 cannot be built for 10 classes and 1 pixels: .*vanish"):
        resolve("deepnets/test/2", 10, 1)


def test_a_factory_gets_what_it_accepts(nets: str) -> None:
    assert resolve(f"{nets}:both", 7, 16)[1].weight.shape == (7, 768)
    assert resolve(f"{nets}:anything", 7, 16).weight.shape == (7, 16)
    assert resolve(f"{nets}:ready", 7, 16).weight.shape == (2, 3)
    assert resolve(f"{nets}:plain", 7, 16) is not None
    assert sys.modules[nets].calls == [7]


def test_a_factory_is_taken_from_the_current_directory_which_leaves_the_path_again(nets: str) -> None:
    before = list(sys.path)
    resolve(f"{nets}:neither", 7, 16)
    assert sys.path == before


def test_what_a_factory_prints_stays_off_stdout(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    resolve(f"{nets}:neither", 7, 16)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "building\n")


def test_a_factory_that_cannot_run_on_meta_gets_numbers_where_it_needs_them(nets: str) -> None:
    assert resolve(f"{nets}:computes", 7, 16).weight.shape == (2, 8)


def test_a_factory_may_import_torchvision_itself(nets: str) -> None:
    model = resolve(f"{nets}:late", 7, 16)
    assert model.conv1.stride == (2, 2)  # taken as it comes


def test_a_factory_may_know_its_input(nets: str) -> None:
    assert resolve(f"{nets}:knows_its_size", 7, 16).expected_input_sz == (1, 28, 28)
    assert resolve(f"{nets}:neither", 7, 16).expected_input_sz == 16


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("returns_a_number", "returned an int; it must return a torch.nn.Module"),
        ("number", "is an int; give a function"),
        ("fails", "cannot be built for 7 classes and 16 pixels: KeyError: 'width'"),
        ("quits", "SystemExit: bye"),
        ("nether", "has no 'nether'; similar: neither"),
        ("", "give 'package.module:factory'"),
    ],
)
def test_a_factory_that_gives_no_network_is_named_with_the_reason(nets: str, factory: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        resolve(f"{nets}:{factory}", 7, 16)
    assert f"{nets}:{factory}" in str(caught.value)


@pytest.mark.parametrize("source", ["raise OSError('no file')", "def broken(:", "import not_there_at_all", "exit(3)"])
def test_a_module_that_does_not_import_is_named_with_the_reason(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_nets.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"importing 'broken_nets' failed: (OSError|SyntaxError|ModuleNot|SystemExit)"):
        resolve("broken_nets:make", 7, 16)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5O", "similar: resnet50"),
        ("torchvision/ResNet-50", "no model 'ResNet-50' in torchvision; similar: resnet50"),
        ("nobody/net", "'nobody' is none of torchvision, timm, transformers, deepnets"),
        ("zzz", "package.module:factory"),
        ("raft_large", "no model 'raft_large'"),
    ],
)
def test_an_unknown_name_is_answered_with_a_way_on(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        resolve(name, 10, 32)


def test_a_library_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "installed", lambda _: False)
    for name, says in {
        "torchvision/resnet50": r"pip install 'ghn-predict\[models\]'",
        "timm/resnet50": r"pip install 'ghn-predict\[zoo\]'",
        "transformers/bert": r"pip install 'ghn-predict\[zoo\]'",
    }.items():
        with pytest.raises(MissingExtraError, match=says):
            resolve(name, 10, 32)
    with pytest.raises(ModelError, match=r"torchvision is not installed .*timm is not installed"):
        resolve("resnet50", 10, 32)


@needs_timm
def test_timm_is_built_for_the_size_where_it_can_be_and_keeps_its_stem() -> None:
    assert resolve("timm/vit_tiny_patch16_224", 10, 32).pos_embed.shape[1] == 5
    assert resolve("timm/resnet18", 10, 32).conv1.stride == (2, 2)
    with pytest.raises(ModelError, match="similar: resnet50"):
        resolve("timm/resnet5O", 10, 32)


@needs_transformers
def test_transformers_come_from_their_config_and_text_networks_with_token_ids() -> None:
    vision, text = resolve("transformers/vit", 10, 32), resolve("transformers/bert", 10, 32)
    assert devices(vision) == devices(text) == {"meta"}
    assert vision.config.image_size == 32
    assert example_input(vision) is None
    assert set(example_input(text)) == {"input_ids"}


@needs_transformers
def test_a_config_of_transformers_gives_its_own_network(tmp_path: Path) -> None:
    sizes = {"n_layer": 2, "n_embd": 48, "n_head": 2, "n_positions": 16, "vocab_size": 60000}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes}))
    model = resolve(f"transformers/{file}", 10, 32)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert devices(model) == {"meta"}
    assert model.transformer.wte.weight.shape == (60000, 48)
    assert set(example_input(model)) == {"input_ids"}
    file.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    assert type(resolve(f"transformers/{file}", 10, 32)).__name__ == "GPT2Model"
    file.write_text(json.dumps({"model_type": "gpt2", "architectures": ["NoSuch"], **sizes}))
    with pytest.raises(ModelError, match="names the architecture 'NoSuch'"):
        resolve(f"transformers/{file}", 10, 32)
    for content in ("{", "[]", "{}"):
        file.write_text(content)
        with pytest.raises(ModelError, match=r"config.json is no config.json of transformers"):
            resolve(f"transformers/{file}", 10, 32)


@needs_transformers
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("clip/AutoModel", {"input_ids": (1, 8), "pixel_values": (1, 3, 224, 224)}),
        ("t5/AutoModelForSeq2SeqLM", {"input_ids": (1, 8), "decoder_input_ids": (1, 8)}),
        ("whisper/AutoModel", {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 8)}),
        ("wav2vec2/AutoModel", {"input_values": (1, 16000)}),
    ],
)
def test_networks_of_several_inputs_say_what_they_read(name: str, inputs: dict[str, tuple[int, ...]]) -> None:
    found = example_input(resolve(f"transformers/{name}", 10, None))
    assert {k: tuple(v.shape) for k, v in found.items()} == inputs


@needs_transformers
def test_transformers_by_task_and_by_config() -> None:
    assert type(resolve("transformers/bert/AutoModelForMaskedLM", 10, None)).__name__ == "BertForMaskedLM"
    with pytest.raises(ModelError, match="transformers has no 'AutoModelForNothing'"):
        resolve("transformers/bert/AutoModelForNothing", 10, None)
    small: Any = zoo.transformer("llama/AutoModelForCausalLM", num_hidden_layers=3)
    assert len(small.model.layers) == 3
    assert devices(small) == {"meta"}


def test_networks_at_the_size_they_are_made_for() -> None:
    assert resolve("inception_v3", 10, None).expected_input_sz == 299
    assert resolve("resnet18", 10, None).expected_input_sz == 224
    assert resolve("torchvision/r3d_18", 10, None).expected_input_sz == (3, 16, 224, 224)
    assert type(resolve("torchvision/retinanet_resnet50_fpn", 10, None)).__name__ == "BackboneWithFPN"


@needs_timm
def test_catalogues() -> None:
    names = zoo.catalogue("torchvision")
    assert {"torchvision/resnet50", "torchvision/fcn_resnet50", "torchvision/s3d"} <= set(names)
    families = zoo.catalogue("timm")
    assert len(families) >= 90
    assert set(families) < set(zoo.catalogue("timm", every=True))
    assert resolve("timm/test_vit", 10, None).expected_input_sz == (3, 160, 160)
    with pytest.raises(ModelError, match="no library 'keras'"):
        zoo.catalogue("keras")
