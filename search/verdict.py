"""What a search says of its scores: their certificate, or why there is none and how to come by one."""

import argparse
import sys
from typing import Any

from eval.certify import Certificate, certify
from eval.evaluator import Evaluator
from eval.tabular import Tabular
from search import certificates
from search.evaluators import Resources
from search.finish import Finalist
from search.objective import Minimise, Objective
from search.options import LOWER, drawn, scored, traits_of
from search.space import SearchSpace


def known(
    args: argparse.Namespace, resources: Resources, evaluator: Evaluator, objective: Objective
) -> Certificate | None:
    """The certificate that is given; else, where no truth is, the one that the package ships for these scores."""
    term = objective.terms[0]
    metric = term.needs[0]
    if args.certificate:
        return certificates.given(args.certificate, evaluator, metric, _made(args, resources))
    if args.truth or isinstance(term, Minimise) != (metric in LOWER):
        return None
    return certificates.known(certificates.shipped(), evaluator, metric)


def _made(args: argparse.Namespace, resources: Resources) -> dict[str, Any]:
    options = resources.options(args.evaluator)
    return options if args.neighbors is None else {**options, "neighbors": args.neighbors}


def certified(
    args: argparse.Namespace,
    space: SearchSpace,
    evaluator: Evaluator,
    objective: Objective,
    truth: Tabular | None,
    last: list[Finalist],
) -> Certificate | None:
    """The certificate of the evaluator by the objective's first metric: on random architectures, after the search; or
    without truth on the finalists."""
    if truth is None:
        return certificates.of_finalists(last, objective, args.finish_steps)
    archs = drawn(space, truth.values, args.certify, args.seed, evaluator.told)
    return certify(
        scored(evaluator, archs, args.seed, "certifying"),
        [truth.values[a.genes] for a in archs],
        objective.terms[0].needs[0],
        args.truth,
        lower_is_better=isinstance(objective.terms[0], Minimise),
        traits=traits_of(space, archs),
        origin="measured after this search",
        seed=args.seed,
    )


def uncertified(args: argparse.Namespace, resources: Resources, objective: Objective) -> str:
    """Why there is none, with the command that makes one with these options."""
    options = {"space": args.space, "tables": args.tables, "data": args.data, "image-size": args.image_size}
    options |= {"checkpoint": args.checkpoint, "images": args.images, "seed": args.seed}
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    words += ["--proxy", *args.proxy] if args.proxy else []
    return certificates.uncertified(resources.space, objective.terms[0].needs[0], _made(args, resources), words)


def tell(worth: Certificate | str) -> None:
    """Prints it, and a warning where the order among the best may be chance."""
    if not isinstance(worth, Certificate):
        print(worth, file=sys.stderr)
        return
    print(f"{worth}\n  {worth.origin}")
    if worth.doubtful:
        print(
            "warning: within the truly best tenth these scores may rank no better than chance; train the best ten "
            "and choose among them",
            file=sys.stderr,
        )
