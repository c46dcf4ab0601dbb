"""Scores of networks after a short training by SGD, which survives a kill and goes on to the same result."""

from dataclasses import asdict
from pathlib import Path

from eval.benchmark import seeded
from eval.evaluator import Arch, Evaluator, Networks, digest, fingerprint
from eval.images import SearchImages
from eval.predicted import weights_of
from eval.score import score
from ghn.errors import DataError
from ghn.hyper import Hypernet
from train.seeds import INITIAL, mixed
from train.sgd import Schedule, descend


class Trained(Evaluator):
    """accuracy and loss on `val` after training on `train`.

    start: a GHN whose predictions are the initial weights; None: PyTorch's own. folder: where a network under training
    is kept while it trains; what is there is gone on with.
    """

    metrics = ("accuracy", "loss")

    def __init__(
        self,
        space: Networks,
        train: SearchImages,
        val: SearchImages,
        schedule: Schedule = Schedule(),  # noqa: B008, it is frozen
        start: Hypernet | None = None,
        folder: Path | None = None,
    ) -> None:
        if train.images.classes != val.images.classes:
            raise DataError("training and validation images are of different classes; take both from one set")
        self.space, self.schedule, self.start, self.folder = space, schedule, start, folder
        self.train, self.val = train.images, val.images
        self.sees = frozenset({train.part, val.part})
        begins = weights_of(start) if start else "default"
        content = [train.content, val.content]
        self.fingerprint = fingerprint(
            "trained", space=space.networks, images=content, start=begins, **asdict(schedule)
        )

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        own = int(digest([f"{seed} {arch.genes}"]), 16)
        classes, side = len(self.train.classes), self.train.side
        model = seeded(lambda: self.space.build(arch, classes, side), mixed(own, 0, INITIAL))
        if self.start is not None:
            self.start.init(model, graph=self.space.graph(arch, classes, side))
        name = f"{self.fingerprint}-{digest([arch.key, str(own)])}.safetensors"
        descend(model, self.train, self.schedule, own, file=self.folder / name if self.folder else None)
        found = score(model, self.val)
        images = self.schedule.seen(len(self.train)) + len(self.val)
        return {"accuracy": found.accuracy, "loss": found.loss}, images
