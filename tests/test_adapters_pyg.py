"""Round trips through PyTorch Geometric."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import annotated_graphs

from ghn.adapters import MissingExtraError
from ghn.adapters.pyg import from_pyg, import_pyg, load_pyg, save_pyg, to_pyg
from ghn.errors import DataError, GHNError, GraphError
from ghn.graph import ArchGraph

SMALL = ArchGraph(np.array([9, 4, 10]), np.array([[0, 1], [1, 2]]), np.zeros((3, 4)), names=("größe", "b", ""))


@pytest.fixture(scope="module")
def pyg() -> Any:
    try:
        return import_pyg()
    except MissingExtraError as error:
        pytest.skip(str(error))


@settings(max_examples=30)
@given(item=annotated_graphs())
def test_round_trip(pyg: Any, item: ArchGraph) -> None:
    there = to_pyg(item)
    assert there.num_nodes == len(item)
    assert there.num_edges == len(item.edges)
    assert there.is_directed() or not len(item.edges)
    there.validate()
    assert from_pyg(there) == item
    assert from_pyg(there.clone()) == item


@settings(max_examples=10)
@given(item=annotated_graphs())
def test_batches_keep_everything(pyg: Any, item: ArchGraph) -> None:
    batch = pyg.data.Batch.from_data_list([to_pyg(item), to_pyg(SMALL)])
    assert [from_pyg(part) for part in batch.to_data_list()] == [item, SMALL]


def test_round_trip_through_a_file(pyg: Any, tmp_path: Path) -> None:
    file = tmp_path / "graphs.pt"
    assert save_pyg(iter([SMALL, SMALL]), file) == 2
    assert [from_pyg(data) for data in load_pyg(file)] == [SMALL, SMALL]
    assert list(tmp_path.iterdir()) == [file]


def test_only_data_is_unpickled(pyg: Any, tmp_path: Path) -> None:
    file = tmp_path / "graphs.pt"
    torch.save([print], file)
    with pytest.raises(DataError, match=r"cannot read .*graphs\.pt"):
        load_pyg(file)


def test_graph_by_hand_needs_only_types(pyg: Any) -> None:
    edges = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(GraphError, match=r"needs x \(N, 1\)"):
        from_pyg(pyg.data.Data(edge_index=edges))
    with pytest.raises(GraphError, match="holds 99"):
        from_pyg(pyg.data.Data(x=torch.tensor([[9], [4], [99]]), edge_index=edges))
    with pytest.raises(GraphError, match="2 shapes"):
        from_pyg(pyg.data.Data(x=torch.tensor([[9], [4], [10]]), edge_index=edges, shape=torch.zeros(2, 4)))
    hand = pyg.data.Data(x=torch.tensor([[9], [4], [10]]), edge_index=edges)
    assert from_pyg(hand) == ArchGraph(SMALL.ops, SMALL.edges, SMALL.shapes)


def test_a_missing_package_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torch_geometric"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GHNError, match=r"pip install 'ghn-predict\[pyg\]'"):
        to_pyg(SMALL)
