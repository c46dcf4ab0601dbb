"""The commands `ghn search` and `ghn rank`. Heavy imports wait inside the handlers."""

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.cli import above_zero, positive
from ghn.files import in_sole_folder
from search import rank_cli
from search.options import EVALUATORS, LOWER, add_common, resources_of, whole, write_json

if TYPE_CHECKING:
    from eval.certify import Certificate
    from eval.evaluator import Cost, Evaluator, Result
    from search.driver import Outcome
    from search.evaluators import Resources
    from search.finish import Finalist
    from search.objective import Objective
    from search.space import SearchSpace

STRATEGIES = ("random", "evolution", "local", "nsga2", "optuna")
WARMED = "evolution"  # the strategy that takes a first population
SEARCH_EPILOG = """\
examples:
  ghn search --space nasbench201 --strategy evolution --evaluator tabular:cifar10_valid_12 --budget 300 \\
      --truth cifar10_test_200 --tables ~/nas --out runs/evolution
  ghn search --space deepnets --strategy evolution --evaluator predicted --budget 30m --data ~/cifar10 --out runs/deep
  ghn search --space deepnets --strategy random --evaluator predicted --budget 200 --finish 5 ...
  ghn search --space macro --strategy nsga2 --evaluator predicted+flops --maximise accuracy --minimise flops ...
The same command goes on where a killed run stopped. --neighbors makes random search NA-RS; random search with
--evaluator naswot is NASWOT's, evolution with --warm naswot:500 is AREA."""


def register(commands: Any) -> None:
    """Adds the commands to the subparsers of `ghn`."""
    _register_search(commands)
    rank_cli.register(commands)


def _register_search(commands: Any) -> None:
    p = commands.add_parser(
        "search",
        help="search a space of architectures, resumable, with a report",
        description=f"Search a space of architectures for the best by an evaluator's score.\n\n{EVALUATORS}",
        epilog=SEARCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--strategy", choices=STRATEGIES, required=True, help="how to search")
    p.add_argument("--evaluator", required=True, metavar="E", help="what to score with; see above")
    p.add_argument("--budget", required=True, metavar="B", help="such as 300 (evaluations), 10m or 50000images")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=N", help="of the strategy: population=20, sample=5"
    )
    p.add_argument("--maximise", action="append", default=[], metavar="METRIC", help="default: the first metric")
    p.add_argument("--minimise", action="append", default=[], metavar="METRIC", help="several: a Pareto front (nsga2)")
    p.add_argument("--reward", metavar="FORM", help="MnasNet's, as soft:accuracy:latency_ms:20 or hard:...")
    p.add_argument("--limit", action="append", default=[], metavar="METRIC=MOST", help="such as flops=6e7")
    p.add_argument("--neighbors", type=int, metavar="N", help="score the mean over N neighbours too")
    p.add_argument("--warm", metavar="E:N", help="begin with the best of N random architectures by this evaluator")
    p.add_argument(
        "--batch", type=positive, default=1, metavar="N", help="architectures asked for at a time (default 1)"
    )
    p.add_argument(
        "--workers", type=whole, default=0, metavar="N", help="processes that evaluate (default: this one alone)"
    )
    p.add_argument("--cluster", metavar="WHERE", help="a Dask cluster that evaluates: tcp://HOST:PORT or local:N")
    p.add_argument("--finish", type=positive, metavar="K", help="train the best K, and choose by validation images")
    p.add_argument("--finish-steps", type=positive, default=500, metavar="N", help="of 96 images each (default 500)")
    p.add_argument("--finish-rate", type=above_zero, default=0.03, metavar="LR", help="learning rate (default 0.03)")
    p.add_argument("--truth", metavar="METRIC", help="a column to report and certify with after the search")
    p.add_argument(
        "--certify", type=positive, default=200, metavar="N", help="architectures to certify on (default 200)"
    )
    p.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="of these scores, as `ghn rank` wrote it, in place of a new one",
    )
    p.add_argument("--repeat", action="store_true", help="evaluate, and charge, a network again when it comes up again")
    p.add_argument("--oracle", action="store_true", help="let scores see test data, to study strategies; marks the run")
    add_common(p)
    p.set_defaults(handler=in_sole_folder(run_search))


def run_search(args: argparse.Namespace) -> int:
    """Handler of `ghn search`."""
    from eval.tabular import Tabular
    from ghn.files import write
    from search import verdict
    from search.budget import Budget
    from search.driver import require_blind, search
    from search.history import History
    from search.report import search_page
    from search.strategies import make_strategy
    from search.workers import workers

    resources, budget = resources_of(args), Budget.parse(args.budget)
    space, evaluator = resources.space, _evaluator(args, resources)
    require_blind(evaluator, args.oracle)
    objective = _objective(args, evaluator)
    known = verdict.known(args, resources, evaluator, objective)
    truth = Tabular(space.tables, args.truth, args.tables) if args.truth else None  # read after the search alone
    initial = _warm(args, resources) if args.warm else {}
    strategy = make_strategy(args.strategy, space, objective, args.seed, **_settings(args.set), **initial)
    header, path = _header(args, evaluator, objective), args.out / "history.jsonl"
    with (
        History.open(path, header, space) as history,
        workers(args.workers, args.cluster, evaluator) as (executor, working),
        closing(_Bar(budget.evaluations, objective, len(history))) as bar,
    ):
        outcome = search(
            strategy,
            working,
            budget,
            history=history,
            batch=args.batch,
            seed=args.seed,
            executor=executor,
            reuse=not args.repeat,
            progress=bar,
            oracle=args.oracle,
        )
    last = _finished(args, resources, objective, outcome) if args.finish else []
    certificate = known or verdict.certified(args, space, evaluator, objective, truth, last)
    worth = certificate or verdict.uncertified(args, resources, objective)
    truths = {r.arch.genes: truth.values[r.arch.genes] for r in outcome.best if truth and r.arch.genes in truth.values}
    title = f"{args.space}: {args.strategy} by {args.evaluator}"
    write(args.out / "report.html", search_page(title, space, objective, outcome, worth, truths, last).encode())
    write_json(args.out / "result.json", _summary(outcome, worth, truths, last))
    _export(args, resources, outcome, last)
    _tell(args, space, outcome, truths, last)
    verdict.tell(worth)
    return 0


def _evaluator(args: argparse.Namespace, resources: "Resources") -> "Evaluator":
    evaluator = resources.make(args.evaluator)
    if args.neighbors is None:
        return evaluator
    from eval.wrap import Neighborhood

    return Neighborhood(evaluator, resources.space, args.neighbors)


def _objective(args: argparse.Namespace, evaluator: "Evaluator") -> "Objective":
    from search.errors import SearchError
    from search.objective import Limit, Maximise, Minimise, Objective, Reward

    terms: list[Any] = [Maximise(m) for m in args.maximise] + [Minimise(m) for m in args.minimise]
    if args.reward:
        kind, _, rest = args.reward.partition(":")
        fields = rest.split(":")
        if kind not in ("soft", "hard") or len(fields) != 3:
            raise SearchError(f"--reward {args.reward}: give soft:METRIC:LATENCY:TARGET or hard:...")
        terms.append(getattr(Reward, kind)(fields[0], fields[1], _number(fields[2], "--reward")))
    limits = [text.rpartition("=") for text in args.limit]
    first = evaluator.metrics[0]
    objective = Objective(
        tuple(terms) or ((Minimise(first) if first in LOWER else Maximise(first)),),
        tuple(Limit(name, _number(most, "--limit")) for name, _, most in limits),
    )
    objective.check(evaluator.metrics)
    return objective


def _number(text: str, where: str) -> float:
    from search.errors import SearchError

    try:
        return float(text)
    except ValueError:
        raise SearchError(f"{where}: {text!r} is not a number") from None


def _settings(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE as numbers where they are ones, else texts."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        found[key] = int(value) if value.isdecimal() else value if not _is_float(value) else float(value)
    return found


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _warm(args: argparse.Namespace, resources: "Resources") -> dict[str, Any]:
    """The best of many random architectures by a cheap score, as an argument of the strategy; resumable by itself."""
    from search.budget import Budget
    from search.driver import search
    from search.errors import SearchError
    from search.history import History
    from search.objective import maximise
    from search.strategies import make_strategy

    spec, _, count = args.warm.rpartition(":")
    if args.strategy != WARMED or not spec or not count.isdecimal():
        raise SearchError(f"--warm {args.warm}: give EVALUATOR:NUMBER, with --strategy {WARMED}")
    evaluator = resources.make(spec)
    objective = maximise(evaluator.metrics[0])
    header = {"warm": args.warm, "space": args.space, "evaluator": evaluator.fingerprint, "seed": args.seed}
    strategy = make_strategy("random", resources.space, objective, args.seed)
    with (
        History.open(args.out / "warm.jsonl", header, resources.space) as history,
        closing(_Bar(int(count), objective, len(history))) as bar,
    ):
        outcome = search(
            strategy,
            evaluator,
            Budget(int(count)),
            history=history,
            seed=args.seed,
            progress=bar,
            oracle=args.oracle,
        )
    found = [(v[0], r.arch) for r in outcome.results if (v := objective.values(r)) is not None]
    return {"initial": [arch for _, arch in sorted(found, key=lambda item: -item[0])]}


def _header(args: argparse.Namespace, evaluator: "Evaluator", objective: "Objective") -> dict[str, Any]:
    """What a run is: the same header, the same results."""
    names = ("space", "strategy", "set", "budget", "batch", "seed", "warm", "repeat", "oracle")
    settings = {name: getattr(args, name) for name in names}
    return {"format": 1, **settings, "evaluator": evaluator.fingerprint, "objective": objective.to_dict()}


class _Bar:
    """Progress on stderr, with the best so far."""

    def __init__(self, total: int | None, objective: "Objective", replayed: int) -> None:
        from tqdm import tqdm

        if replayed:
            print(f"going on after {replayed:,} results", file=sys.stderr)
        self._bar = tqdm(total=total, unit="evaluation", file=sys.stderr, disable=None)
        self._objective, self._best = objective, float("-inf")

    def __call__(self, result: "Result", spent: "Cost") -> None:
        values = self._objective.values(result)
        self._best = max(self._best, values[0] if values else self._best)
        self._bar.set_postfix_str(f"best {self._best:.6g}", refresh=False)
        self._bar.update(spent.evaluations - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _finished(
    args: argparse.Namespace, resources: "Resources", objective: "Objective", outcome: "Outcome"
) -> "list[Finalist]":
    """The best few trained from predicted weights, best by validation images first; resumable by itself."""
    from dataclasses import replace

    from eval.finetune import FEW_SHOT, Parts, Start
    from eval.finetune_cli import Steps
    from eval.images import SearchImages
    from search.finish import finalists, finish

    chosen = finalists(outcome.results, objective, args.finish)
    side = args.image_size or resources.hyper.image_size
    train, val = (SearchImages.load(args.data, part, side=side).images for part in ("train", "val"))
    schedule = replace(FEW_SHOT, steps=args.finish_steps, lr=args.finish_rate)
    with closing(Steps(len(chosen) * args.finish_steps)) as bar:
        return finish(
            resources.space,
            chosen,
            Start("predicted", resources.hyper),
            Parts(train, val, val),
            schedule,
            seed=args.seed,
            folder=args.out / "training",
            progress=bar,
        )


def _summary(
    outcome: "Outcome",
    worth: "Certificate | str",
    truths: Mapping[tuple[int, ...], float],
    last: "list[Finalist]",
) -> dict[str, Any]:
    spent = outcome.spent
    return {
        "oracle": outcome.oracle,
        "spent": {"evaluations": spent.evaluations, "images": spent.images, "seconds": spent.seconds},
        "best": [
            {**r.arch.to_dict(), "metrics": dict(r.metrics), "truth": truths.get(r.arch.genes)} for r in outcome.best
        ],
        "finalists": [
            {**f.result.arch.to_dict(), "metrics": dict(f.result.metrics), "curve": asdict(f.curve)} for f in last
        ],
        "certificate": None if isinstance(worth, str) else worth.to_dict(),
        "not_certified": worth if isinstance(worth, str) else None,
    }


def _export(args: argparse.Namespace, resources: "Resources", outcome: "Outcome", last: "list[Finalist]") -> None:
    """The winner with predicted weights, or the first of the finalists as trained, where it makes a module that the GHN
    can predict."""
    from ghn.errors import GHNError
    from search.export import export, predicted
    from search.finish import trained

    if not outcome.best:
        return
    try:
        space, hyper = resources.space, resources.hyper
        side, arch = args.image_size or hyper.image_size, last[0].result.arch if last else outcome.best[0].arch
        if last:
            model, classes = trained(space, last[0], side, args.out / "training"), last[0].classes
        else:
            model, classes = predicted(space, arch, hyper, side), hyper.classes
        export(space, arch, args.out / "winner", model, classes, side)
    except GHNError as error:
        print(f"the winner is not exported: {error}", file=sys.stderr)


def _tell(
    args: argparse.Namespace,
    space: "SearchSpace",
    outcome: "Outcome",
    truths: Mapping[tuple[int, ...], float],
    last: "list[Finalist]",
) -> None:
    for result in outcome.best[:5]:
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items())
        truth = truths.get(result.arch.genes)
        print(f"{space.describe(result.arch)}: {metrics}" + ("" if truth is None else f"; {args.truth} {truth:.6g}"))
    for finalist in last:
        said = finalist.curve.error or f"validation accuracy {finalist.curve.val:.2%}"
        print(f"trained for {args.finish_steps} steps: {space.describe(finalist.result.arch)}: {said}")
    if not outcome.best:
        print("nothing was found: every evaluation failed or was beyond a limit; see history.jsonl")
    print(f"{args.out / 'report.html'} shows the search, {args.out / 'history.jsonl'} holds it")
