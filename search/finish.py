"""The best few of a search, trained: those that one-shot scores cannot tell apart, told apart by validation images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepnets_gen.genotype import GenotypeError
from eval.evaluator import Arch, Result, digest
from eval.finetune import Curve, Parts, Start, Subject, tune
from ghn.errors import TrainingError
from search.objective import Objective
from search.space import SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from train.sgd import Schedule


@dataclass(frozen=True)
class Finalist:
    """One that was trained, for these classes, and how."""

    result: Result
    curve: Curve
    classes: tuple[str, ...]


def finalists(results: Sequence[Result], objective: Objective, count: int) -> list[Result]:
    """The best of different architectures by the objective's first term, best first; of equals the first found."""
    scored: dict[str, tuple[float, Result]] = {}
    for result in results:
        if (values := objective.values(result)) is not None:
            scored.setdefault(result.arch.key, (values[0], result))
    return [result for _, result in sorted(scored.values(), key=lambda pair: -pair[0])[:count]]


def finish(
    space: SearchSpace,
    chosen: Sequence[Result],
    start: Start,
    parts: Parts,
    schedule: "Schedule",
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Callable[[Curve, int], object] = lambda curve, step: None,
) -> list[Finalist]:
    """Every one of these trained from this start, best on `parts.val` first; last those that diverge or are none.

    parts: `shown` is what curves are drawn with; in a search it is `val` again. folder: what is trained is kept there
    and not done again, final weights among it.
    """
    found = []
    for result in chosen:
        place = folder / digest([result.arch.key]) if folder else None
        try:
            subject = subject_of(space, result.arch, len(parts.train.classes), parts.train.side)
            curve = tune(subject, start, parts, schedule, seed, folder=place, progress=progress)
        except GenotypeError as error:  # scored by a table, and no network
            curve = Curve(start.name, schedule.lr, seed, error=str(error))
        found.append(Finalist(result, curve, parts.train.classes))
    return sorted(found, key=lambda f: -f.curve.val)


def subject_of(space: SearchSpace, arch: Arch, classes: int, side: int) -> Subject:
    """The architecture as something to be trained."""
    return Subject(arch.key, lambda: space.build(arch, classes, side), space.graph(arch, classes, side))


def trained(space: SearchSpace, finalist: Finalist, side: int, folder: Path) -> "nn.Module":
    """The network with the weights that `finish` left in this folder. Raises TrainingError where it diverged."""
    from safetensors.torch import load_file

    arch = finalist.result.arch
    if finalist.curve.error is not None:
        raise TrainingError(f"{space.describe(arch)}: {finalist.curve.error}")
    model = space.build(arch, len(finalist.classes), side)
    model.load_state_dict(load_file(folder / digest([arch.key]) / f"{finalist.curve.name}.safetensors"))
    return model
