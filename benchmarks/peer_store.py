"""An HDF5 file of graphs as DeepNets-1M's generator writes it, to compare sizes and random reads with."""

from pathlib import Path
from typing import Any

import h5py
import literal_generator as literally
import numpy as np
import torch

from deepnets_gen import families
from ghn.graph import encoder_shape
from ghn.primitives import Primitive

VIRTUAL = 50  # the GHN's limit of virtual edges


class PeerStore:
    """A group per graph with its matrix of distances and its rows of nodes, as DeepNets-1M's generator writes them.

    Rows name a node's type, cell and parameter; shapes are not stored: the network has to be built to know them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables = literally.Tables()
        self.genotypes: list[Any] = []
        h5py.File(path, "w").close()

    def __len__(self) -> int:
        return len(self.genotypes)

    def add(self, genotype: Any, paths: np.ndarray, rows: np.ndarray) -> None:
        with h5py.File(self.path, "a") as file:
            group = file.create_group(str(len(self)))
            group.create_dataset("adj", data=paths)
            group.create_dataset("nodes", data=rows)
        self.genotypes.append(genotype)

    @property
    def bytes_per_graph(self) -> float:
        return self.path.stat().st_size / len(self)

    def arrays(self, file: h5py.File, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances as they are stored, the latter cut at the GHN's limit of virtual edges."""
        group = file[str(place)]
        paths = group["adj"][()]
        paths[paths > VIRTUAL] = 0
        return group["nodes"][()], paths

    def tensors(self, file: h5py.File, place: int) -> tuple[torch.Tensor, ...]:
        """What the GHN reads of a graph: types, shapes, distances."""
        rows, paths = self.arrays(file, place)
        labels, names = list(self.tables.primitives), list(self.tables.names)
        network = families.build(self.genotypes[place], device="meta")
        known = {name: encoder_shape(parameter.shape) for name, parameter in network.named_parameters()}
        ops, shapes = [], []
        for primitive, cell, name in rows.tolist():
            label = labels[primitive]
            ops.append(Primitive["CONV" if label == "conv_1x1" else label.upper()])
            blank = (1, 1, 3, 3) if label.endswith("pool") else literally.NO_SHAPE
            shapes.append(known.get(f"cells.{cell}.{names[name]}") or known.get(names[name]) or blank)
        return torch.tensor(ops, dtype=torch.uint8), torch.tensor(shapes), torch.from_numpy(paths)
