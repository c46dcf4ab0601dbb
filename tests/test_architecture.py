"""The import order, and the one place of each optional library, read off the source."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("ghn", "deepnets_gen", "train", "eval", "search")
ALONE = {
    "dgl": {"ghn/adapters/dgl.py"},
    "networkx": {"ghn/adapters/networkx.py"},
    "torchvision": {"ghn/_compat.py"},
    "timm": {"ghn/adapters/zoo.py"},
    "transformers": {"ghn/adapters/zoo.py"},
    "huggingface_hub": {"ghn/adapters/hub.py"},
    "wandb": {"train/log.py"},
    "pyarrow": {"train/cifar.py", "deepnets_gen/export.py", "eval/tables.py"},
    "optuna": {"search/strategies/optuna.py"},
    "distributed": {"search/cluster.py"},
    "h5py": {"deepnets_gen/official.py"},
    "torch_geometric": {"ghn/adapters/pyg.py"},
    "matplotlib": {"train/log.py", "deepnets_gen/plots.py"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ORDER)
def test_nothing_imports_to_its_right(package: str) -> None:
    right = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path) & right, path


def test_discrete_strategies_import_neither_torch_nor_ghn() -> None:
    files = list((ROOT / "search" / "strategies").glob("*.py"))
    assert len(files) > 4
    for path in files:
        assert not imports(path) & {"torch", "ghn", "numpy"}, path


def test_optional_libraries_have_one_place_each() -> None:
    places = defaultdict(set)
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            for name in imports(path) & ALONE.keys():
                places[name].add(path.relative_to(ROOT).as_posix())
    for name, found in places.items():
        assert found <= ALONE[name], name


def test_packages_come_from_this_checkout() -> None:
    """`train` and `eval` are names that another distribution could bring."""
    import deepnets_gen
    import eval as ours
    import ghn
    import train

    for module in (ghn, deepnets_gen, train, ours):
        assert Path(module.__file__ or "").resolve().is_relative_to(ROOT)


def test_no_function_grows_out_of_sight() -> None:
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.lineno} {node.name}"
