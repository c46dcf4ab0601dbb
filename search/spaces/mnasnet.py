"""The MnasNet space of Accel-NASBench: seven stages of inverted residuals, each with a form of its own.

Source: Tan et al., CVPR 2019 (the factorised space); Ahmad et al., DATE 2024 (these choices, with ImageNet results).
"""

from deepnets_gen.spaces.mobile import MobileGenotype, Stage
from eval.evaluator import Arch
from eval.tables import NOTHING, Row, Table
from ghn.graph import ArchGraph
from search.space import SearchSpace, Variable

STRIDES = (1, 2, 2, 2, 1, 2, 1)
CHANNELS = (16, 24, 40, 80, 112, 192, 320)
EXPANSIONS, KERNELS, GATES = (1, 4, 6), (3, 5), (False, True)
LAYERS = ((1, 2, 3),) * 5 + ((1, 2, 3, 4), (1, 2, 3))
FIELDS = (("e", EXPANSIONS), ("k", KERNELS), ("l", None), ("se", GATES))  # l differs from stage to stage
SQUEEZE = 4  # channels of a block's input over those that its gates are made from


def _variables() -> tuple[Variable, ...]:
    return tuple(
        Variable(f"block{i}_{field}", choices or LAYERS[i]) for i in range(len(STRIDES)) for field, choices in FIELDS
    )


VARIABLES = _variables()


def _genes(row: Row) -> tuple[int, ...]:
    return tuple(v.choices.index(row[v.name]) for v in VARIABLES)


TABLE = Table(
    "accel_nasbench_imagenet.parquet",
    "Accel-NASBench: ImageNet top-1 and measured latencies",
    tuple(v.name for v in VARIABLES),
    _genes,
    {
        "val_top1": "val",
        "val_top5": "val",
        **dict.fromkeys(("train_time", "macs", "params", "latency_zcu102", "latency_vck190"), NOTHING),
        **dict.fromkeys(("throughput_a100", "throughput_3090", "throughput_tpuv2", "throughput_tpuv3"), NOTHING),
    },
)


class MnasNet(SearchSpace):
    """Expansion, kernel, repeats and squeeze-excite gates of each stage. Strides and channels are given.

    stem_stride: 2 as published, for ImageNet's sizes; 1 keeps small images from vanishing.
    """

    name = "mnasnet"
    variables = VARIABLES
    tables = (TABLE,)
    truth = "val_top1"

    def __init__(self, stem_stride: int = 2) -> None:
        self.stem_stride = stem_stride

    def genotype(self, genes: tuple[int, ...]) -> MobileGenotype:
        values = [v.choices[gene] for v, gene in zip(self.variables, genes, strict=True)]
        stages = []
        for i, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
            expansion, kernel, layers, gated = values[4 * i : 4 * i + 4]
            # `reduction` counts from the expanded channels, the published gates from the block's input
            reduction = SQUEEZE * expansion if gated else 0
            stages.append(Stage(channels, layers, stride, kernel, expansion, reduction, "relu"))
        return MobileGenotype(tuple(stages), stem_stride=self.stem_stride, activation="relu")

    def picture(self, arch: Arch) -> ArchGraph:
        return self.graph(arch, image_size=64)
