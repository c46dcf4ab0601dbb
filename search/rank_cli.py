"""The command `ghn rank`: how well evaluators rank. Heavy imports wait inside the handler."""

import argparse
from typing import Any

from ghn.cli import positive
from ghn.files import in_sole_folder
from search.options import EVALUATORS, LOWER, add_common, drawn, resources_of, scored, traits_of, write_json


def register(commands: Any) -> None:
    p = commands.add_parser(
        "rank",
        help="how well evaluators rank architectures, certified against truth",
        description=f"Certify evaluators: score N random architectures and compare with the truth.\n\n{EVALUATORS}",
        epilog="example:\n  ghn rank --space nasbench201 --evaluators params naswot predicted --n 200 "
        "--truth cifar10_test_200 \\\n      --tables ~/nas --data ~/cifar10 --out runs/rank",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--evaluators", nargs="+", required=True, metavar="E", help="see above; each with all its metrics")
    p.add_argument(
        "--truth", required=True, metavar="METRIC", help="the column of the space's tables that is the truth"
    )
    p.add_argument("--n", type=positive, default=200, metavar="N", help="random architectures (default 200)")
    p.add_argument(
        "--seeds", type=positive, default=1, metavar="K", help="times each is scored, with other seeds (default 1)"
    )
    add_common(p)
    p.set_defaults(handler=in_sole_folder(run_rank))


def run_rank(args: argparse.Namespace) -> int:
    """Handler of `ghn rank`."""
    from eval.certify import LEAST, certify
    from eval.report import certificates_page
    from eval.tabular import Tabular
    from ghn.files import write
    from search.errors import SearchError

    if args.n < LEAST:
        raise SearchError(f"a certificate needs {LEAST} architectures or more, not {args.n}; give --n")
    resources = resources_of(args)
    space, truth = resources.space, Tabular(resources.space.tables, args.truth, args.tables)
    evaluators = {spec: resources.make(spec) for spec in args.evaluators}
    told = frozenset[str]().union(*(e.told for e in evaluators.values()))  # all rank the same others
    archs = drawn(space, truth.values, args.n, args.seed, told)
    traits = traits_of(space, archs)
    certificates = {}
    for spec, evaluator in evaluators.items():
        runs = [scored(evaluator, archs, args.seed + k, f"{spec}, seed {args.seed + k}") for k in range(args.seeds)]
        for metric in evaluator.metrics:
            name = spec if len(evaluator.metrics) == 1 else f"{spec} {metric}"
            variants = {f"seed {args.seed + k}": run for k, run in enumerate(runs) if k}
            certificates[name] = certify(
                runs[0],
                [truth.values[a.genes] for a in archs],
                metric,
                args.truth,
                lower_is_better=metric in LOWER,
                traits=traits,
                variants=variants,
                made=resources.options(spec),
                origin="measured by ghn rank",
                seed=args.seed,
            )
            print(f"{name}: {certificates[name]}", flush=True)
    write_json(args.out / "certificates.json", {name: c.to_dict() for name, c in certificates.items()})
    page = certificates_page(f"{args.space}: evaluators against {args.truth}", certificates)
    write(args.out / "certificates.html", page.encode())
    print(f"{args.out / 'certificates.html'} shows them side by side; `ghn search --certificate {args.out}` takes them")
    return 0
