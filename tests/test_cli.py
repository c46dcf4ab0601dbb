"""The command line: what it prints, what it writes, and one sentence with exit code 2 for whatever is wrong."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import ghn
from ghn import GHN, GHNConfig, cli
from ghn._compat import import_torchvision
from ghn.adapters.zoo import resolve
from ghn.graph import ArchGraph

try:
    import_torchvision()
except ImportError:
    pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')", allow_module_level=True)

COMMAND = [sys.executable, "-c", "import sys; from ghn.cli import main; sys.exit(main())"]
NETS = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, num_classes)
            self.spare = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(self.bn(self.conv(x)).mean((2, 3)))

    class Untraceable(Net):
        def forward(self, x):
            raise RuntimeError("this network is never run")

    class Powered(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.power = nn.Linear(3, 10), nn.Parameter(torch.ones(10))
            self.steps = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)

        def forward(self, x):
            return self.fc(x.mean((2, 3))).abs() ** self.power

    class Logged(Net):
        def __init__(self):
            super().__init__()
            print("made")

    def fails(): raise KeyError("width")
    def number(): return 3
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small untrained checkpoint, 'tiny'."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GHN(GHNConfig(hid=8, max_shape=(16, 16, 3, 3)))
    card = {"steps": 1234, "metrics": {"ResNet-50 top-1": 0.31}}
    ghn.save(folder / "tiny", model, image_size=32, classes=[f"c{i}" for i in range(10)], card=card)
    return folder


@pytest.fixture
def work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty current directory with a module of networks, whose name it gives; 'tiny' is found by name."""
    name = f"cli_nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(NETS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GHN_CHECKPOINTS", str(tiny))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return name


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr with which these arguments are refused, exit code 2 and nothing on stdout."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"ghn( \w+)?: error: [^\n]+\n", err), err
    assert "Traceback" not in err
    return err


def leftovers() -> set[str]:
    return {p.name for p in Path().iterdir() if not p.name.startswith(("cli_nets_", "__pycache__"))}


def test_predict_prints_what_it_did(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", f"{work}:Net", "--checkpoint", "tiny", "--num-classes", "7"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"{work}:Net: 7 classes, 32 x 32 pixels, by tiny" in out
    assert "303 numbers in 6 parameters predicted from 7 nodes" in out
    for stage in ("graph", "propagation", "decoding", "writing"):
        assert re.search(rf"{stage} \d+", out)
    assert "not predicted: spare.weight [2, 2]" in out
    assert "batch statistics" in out


def test_predicted_file_loads_as_the_help_says_and_holds_what_python_predicts(
    work: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "squeezenet1_1", "--checkpoint", "tiny", "--out", "weights.safetensors"]) == 0
    assert "weights.safetensors: 2.9 MB" in capsys.readouterr().out
    assert leftovers() == {"weights.safetensors"}
    weights = load_file("weights.safetensors")
    model = resolve("squeezenet1_1", 10, 32, device="cpu")
    result = model.load_state_dict(weights, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    expected, _ = ghn.load("tiny").predict(model)
    assert weights.keys() == expected.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_predicted_file_says_where_it_comes_from(work: str, tiny: Path) -> None:
    assert cli.main(["predict", f"{work}:Net", "--checkpoint", "tiny", "--out", "w.safetensors"]) == 0
    with safe_open("w.safetensors", "pt") as file:
        said = file.metadata()
    sha = json.loads((tiny / "tiny" / "config.json").read_text())["sha256"]
    assert said["checkpoint_sha256"] == sha
    assert (said["model"], said["checkpoint"]) == (f"{work}:Net", "tiny")
    assert (said["num_classes"], said["image_size"]) == ("10", "32")


def test_predict_json_is_all_there_is_on_stdout(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["predict", f"{work}:Logged", "--checkpoint", "tiny", "--json", "--out", "w.safetensors"]
    assert cli.main(argv) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["model"] == f"{work}:Logged"
    assert record["out"] == {"file": "w.safetensors", "bytes": Path("w.safetensors").stat().st_size}
    assert record["num_params"] == 330
    assert len(record["predicted"]) == 6
    assert set(record["seconds"]) == {"graph", "propagation", "decoding", "writing"}


def test_predict_partial_skips_what_no_rule_covers(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "predict", f"{work}:Powered", "--checkpoint", "tiny")
    assert "power [10]" in err
    assert "steps" not in err
    assert cli.main(["predict", f"{work}:Powered", "--checkpoint", "tiny", "--partial"]) == 0
    out = capsys.readouterr().out
    assert "40 numbers in 2 parameters" in out
    assert "not predicted: power [10]: it takes part through" in out
    assert "not predicted: steps [3]: left as it is: torch.int64" in out


def test_predict_streams_to_a_folder(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "squeezenet1_1", "--checkpoint", "tiny"]
    assert cli.main([*command, "--out", "streamed", "--stream"]) == 0
    assert "streamed: 2.9 MB" in capsys.readouterr().out
    assert leftovers() == {"streamed"}
    (shard,) = Path("streamed").glob("*.safetensors")
    assert cli.main([*command, "--out", "whole.safetensors"]) == 0
    whole, streamed = load_file("whole.safetensors"), load_file(shard)
    assert whole.keys() == streamed.keys()
    assert all(torch.allclose(whole[name], streamed[name], rtol=1e-5, atol=1e-7) for name in whole)
    capsys.readouterr()
    assert "--out DIR" in refused(capsys, *command, "--stream")
    assert "it is a file; give a folder" in refused(capsys, *command, "--stream", "--out", "whole.safetensors")
    assert "there is no folder no" in refused(capsys, *command, "--stream", "--out", "no/where")


def test_convert_makes_one_file_of_any_checkpoint(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(ghn.load("tiny").model.state_dict(), "theirs.pt")
    for old in ("tiny", "theirs.pt"):
        assert cli.main(["convert", old, "new.safetensors"]) == 0
        assert "new.safetensors: gated propagation, conv decoder, width 8" in capsys.readouterr().out
        assert cli.main(["predict", f"{work}:Net", "--checkpoint", "new.safetensors"]) == 0
        assert "330 numbers in 6 parameters" in capsys.readouterr().out
    assert "must end in .safetensors" in refused(capsys, "convert", "tiny", "new.pt")
    assert "no checkpoint 'none'" in refused(capsys, "convert", "none", "x.safetensors")
    assert "give 'hf:owner/name'" in refused(capsys, "predict", "resnet18", "--checkpoint", "hf:one")


def test_inspect_shows_numbers_and_table(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert "126 nodes, 141 edges" in out
    assert "average degree 2.24, average shortest path 11.19" in out  # Knyazev et al.'s notebook
    assert "54 conv" in out
    assert re.search(r"classifier_weight +1 with +20,480 numbers", out)
    assert "96 more; --table shows all" in out
    assert cli.main(["inspect", "resnet50", "--table"]) == 0
    assert re.search(r"\n +60 \S+ .*layer\d", capsys.readouterr().out)


def test_inspect_json_holds_the_graph_and_svg_the_picture(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "resnet18", "--json", "--svg", "net.svg"]) == 0
    record = json.loads(capsys.readouterr().out)
    graph = ArchGraph.from_dict(record["graph"])
    assert graph.key == ghn.trace(resolve("resnet18", 10, 32)).key
    assert record["nodes"] == len(graph)
    assert Path("net.svg").read_text().startswith("<svg")
    assert leftovers() == {"net.svg"}


def test_checkpoints_lists_what_each_is(work: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoints"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tiny: 10 classes, 32 pixels, \d+\.\d MB, 1,234 steps", out)
    assert "ResNet-50 top-1: 0.31" in out
    assert str(tiny / "tiny") in out


def test_checkpoints_says_when_there_are_none_and_which_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ghn.io.folders", lambda: [tmp_path])
    assert cli.main(["checkpoints"]) == 0
    assert "no checkpoints" in capsys.readouterr().out
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    assert cli.main(["checkpoints"]) == 0
    assert "bad: unusable: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("Untraceable", "RuntimeError: this network is never run"),
        ("fails", "KeyError: 'width'"),
        ("number", "returned an int"),
        ("nothing", "has no 'nothing'"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_a_bad_network_is_refused(
    work: str, factory: str, says: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--checkpoint", "tiny", "--out", "w.safetensors"] if command == "predict" else ["--svg", "w.svg"]
    err = refused(capsys, command, f"{work}:{factory}", *extra)
    assert says in err
    assert f"{work}:{factory}" in err
    assert leftovers() == set()


@pytest.mark.parametrize(
    ("model", "size", "says"),
    [
        ("inception_v3", "8", "maxpool1"),
        ("alexnet", "8", "Output size is too small"),
        ("googlenet", "2", "Output size is too small"),
        ("vit_b_16", "30", "patch"),
        ("deepnets/test/0", "1", "vanish"),
    ],
)
def test_an_image_size_that_breaks_the_network_is_named(
    work: str, model: str, size: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    err = refused(capfd, "predict", model, "--image-size", size, "--checkpoint", "tiny")
    assert says in err
    assert model in err
    assert re.search(rf"\b{size} (x {size} )?pixels", err)


def test_unknown_names_are_refused(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "similar: resnet50" in refused(capsys, "predict", "resnet5O", "--checkpoint", "tiny")
    assert "no checkpoint 'huge'" in refused(capsys, "predict", "resnet18", "--checkpoint", "huge")


def damage(folder: Path, how: str) -> None:
    tensors, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif how == "flipped":
        content = bytearray(tensors.read_bytes())
        content[len(content) // 2] ^= 1
        tensors.write_bytes(bytes(content))
    elif how == "no tensors":
        tensors.unlink()
    elif how == "no json":
        config.write_text("{'format'")
    elif how == "other version":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 99}))
    elif how == "lacks a field":
        config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "sha256"}))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "damaged or cut short"),
        ("flipped", "damaged or cut short"),
        ("no tensors", "cannot be read"),
        ("no json", "is not JSON"),
        ("other version", "has checkpoint format 99"),
        ("lacks a field", "lacks sha256"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    work: str, tiny: Path, how: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("copy")
    folder.mkdir()
    for file in (tiny / "tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder, how)
    argv = ["predict", f"{work}:Net", "--checkpoint", "copy", "--out", "w.safetensors"]
    assert says in refused(capsys, *argv)
    assert leftovers() == {"copy"}


def test_a_pt_file_that_is_none_is_refused(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.pt").write_bytes(b"\x80\x04no")
    err = refused(capsys, "predict", f"{work}:Net", "--checkpoint", "old.pt")
    assert "old.pt is no readable pickle" in err


@pytest.mark.parametrize(
    ("out", "says"),
    [("missing/w.safetensors", "there is no folder missing"), (".", "it is a folder"), ("file/w", "no folder file")],
)
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_an_unwritable_file_is_refused_before_work_is_done(
    work: str, command: str, out: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    option = "--out" if command == "predict" else "--svg"
    assert says in refused(capsys, command, "no_such_model", option, out)
    assert leftovers() == {"file"}


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(
    work: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("w.safetensors").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    argv = ["predict", f"{work}:Net", "--checkpoint", "tiny", "--out", "w.safetensors"]
    assert "No space left" in refused(capsys, *argv)
    assert leftovers() == {"w.safetensors"}
    assert Path("w.safetensors").read_text() == "old"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "COMMAND"),
        (["predict"], "ghn predict: error: the following arguments are required: MODEL"),
        (["predict", "x", "--num-classes", "0"], "'0' is not a whole number above 0"),
        (["inspect", "x", "--image-size", "many"], "ghn inspect: error: argument --image-size: 'many'"),
        (["predict", "x", "--nonsense"], "--nonsense"),
        (["foretell"], "invalid choice: 'foretell'"),
    ],
)
def test_usage_errors_name_the_command(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *argv)


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    commands = re.findall(r"^ {4}(\w+)\b", text.split("commands:")[1], re.M)
    assert {"checkpoints", "inspect", "predict", "score", "demo", "train", "data"} <= set(commands)
    for command in commands:
        assert cli.main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"ghn {command}" in text[text.rindex("example") :]


def test_help_comes_at_once_and_without_torch(work: str) -> None:
    code = (
        "import sys, time; start = time.process_time(); from ghn.cli import main; code = main(['--help']); "
        "print(time.process_time() - start, [m for m in ('torch', 'numpy', 'tqdm') if m in sys.modules]); "
        "sys.exit(code)"
    )
    best = min((_timed(code) for _ in range(3)), key=lambda x: x[0])
    assert best[1] == "[]"
    assert best[0] < 0.25


def _timed(code: str) -> tuple[float, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    seconds, modules = done.stdout.splitlines()[-1].split(" ", 1)
    return float(seconds), modules


def test_as_a_process_bad_input_exits_with_2_and_one_line(work: str) -> None:
    command = [*COMMAND, "predict", "resnet5O", "--checkpoint", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ghn: error: no model 'resnet5O'")


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_an_interrupt_exits_with_130(
    work: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: nn.Module) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghn.adapters.zoo.example_input", interrupted)
    assert cli.main(["predict", f"{work}:Net", "--checkpoint", "tiny", "--out", "w.safetensors"]) == 130
    assert capsys.readouterr().err == "ghn: interrupted\n"
    assert leftovers() == set()
