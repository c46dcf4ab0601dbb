"""NAS-Bench-Macro: the operation of each of eight layers. Source: Su et al., ICCV 2021, appendix (NAS-Bench-Macro)."""

from typing import TYPE_CHECKING

from eval.evaluator import Arch
from eval.tables import NOTHING, Row, Table
from search.space import SearchSpace, Variable

if TYPE_CHECKING:
    from torch import nn

    from ghn.graph import ArchGraph

LAYERS, STAGES = 8, (2, 3, 3)
BLOCKS = ("identity", "mb3_k3", "mb6_k5")
TABLE = Table(
    "nasbench_macro_cifar10.parquet",
    "NAS-Bench-Macro: test accuracies on CIFAR-10 over three seeds",
    ("arch",),
    lambda row: _digits(row),
    {
        **dict.fromkeys(("test_acc_mean", "test_acc_0", "test_acc_1", "test_acc_2"), "test"),
        "params": NOTHING,
        "flops": NOTHING,
    },
)


def _digits(row: Row) -> tuple[int, ...]:
    return tuple(map(int, row["arch"]))


class Macro(SearchSpace):
    """One of three blocks for each layer: 6,561 networks."""

    name = "macro"
    variables = tuple(Variable(f"layer_{i}", BLOCKS) for i in range(LAYERS))
    tables = (TABLE,)
    truth = "test_acc_mean"

    def build(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "nn.Module":
        from search.spaces.macro_net import MacroNet

        return MacroNet([BLOCKS[gene] for gene in arch.genes], num_classes, image_size)

    def graph(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "ArchGraph":
        import torch

        from ghn.tracing import trace

        with torch.device("meta"):
            return trace(self.build(arch, num_classes, image_size))
