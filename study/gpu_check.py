"""Measure what a site does with a study's training step, and say what the study will cost there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from rich.console import Console  # noqa: E402

from cluster.exit_on_signals import exit_on_signals  # noqa: E402
from study.command_line import add_options_of_sites, exit_code_of, print_note, require_folder_for  # noqa: E402

if TYPE_CHECKING:
    from cluster.doctor.probe_job import Examination
    from cluster.profile import SiteProfile
    from study.gpu_findings import Check, Row

_EXIT_FAIL = 1
_STYLES = {"pass": "green", "warning": "yellow", "fail": "bold red", "skipped": "dim"}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    exit_on_signals()
    return exit_code_of(lambda: _check(arguments))


def _check(arguments: argparse.Namespace) -> int:
    # Imported here: --help or a bad option need nothing of it.
    from cluster.gpu_check.site_check import SiteCheck
    from cluster.profile import available_cores, check_complete, load_site
    from storage.protocol.files import write_atomically
    from study import preflight
    from study.driver import make_plan
    from study.forecast.measurements import Conditions
    from study.gpu_cost import cost_of
    from study.gpu_findings import Check, judge, reasons
    from study.gpu_plan import plan_check, read_config, trains_on_gpus

    console = Console()

    def say(text: str) -> None:
        print_note(console, text)

    require_folder_for("--json", arguments.json)
    site = load_site(arguments.site, arguments.site_set)
    check_complete(site)
    chosen = read_config(arguments.config, arguments.set, site)
    plan = make_plan(chosen.config, arguments.site, arguments.site_set)
    workloads = preflight.check(plan, say, build=False)
    measured = plan_check(plan, chosen.lacks_data, workloads, 60 * arguments.minutes, arguments.most_samples)
    if chosen.lacks_data:
        say(chosen.lacks_data)
    attempt = plan.request(0, 1, float("inf"))
    job, facts = SiteCheck(measured.request, measured.spec, attempt).run(
        plan.folder.parent, lambda folder: _batch_system(site, folder, arguments.minutes), arguments.wait, say
    )
    conditions = Conditions.of(plan, available_cores())
    check = Check(
        request=measured.request,
        placement=conditions.placement(plan.layout.world_size, plan.layout.nodes),
        has_gpus=trains_on_gpus(site),
        is_job=site.slurm is not None,
        link_gbit_per_s=site.link_gbit_per_s,
        has_node_cache=bool(chosen.config.dataset.options.get("node_cache")),
        skipped=measured.skipped,
        job=job,
        facts=facts,
        cost=cost_of(plan, conditions, workloads, measured.request, facts),
    )
    rows = judge(check)
    _print(site, rows, console)
    if arguments.json is not None:
        write_atomically(arguments.json, _as_json(site, rows, check))
    return _EXIT_FAIL if reasons(rows) else 0


def _batch_system(site: SiteProfile, folder: Path, minutes: float) -> Examination | None:
    if site.slurm is None:
        return None
    from cluster.gpu_check.site_check import MODULE, PURPOSE, STARTS_AND_ENDS_WITHIN_S
    from cluster.slurm.examination import Probe, SlurmExamination

    probe = Probe(PURPOSE, MODULE, int(60 * minutes + STARTS_AND_ENDS_WITHIN_S))
    return SlurmExamination(site, site.slurm, folder, probe=probe)


def _print(site: SiteProfile, rows: Sequence[Row], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from study.gpu_findings import reasons

    table = Table(title=f"site {site.name}", title_justify="left")
    for heading in ("measured", "", "found"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.name, f"[{_STYLES[row.status]}]{row.status}[/]", escape(row.found))
    console.print(table)
    why = reasons(rows)
    verdict = "FAIL: " + "; ".join(why) if why else "PASS"
    console.print(verdict, style=_STYLES["fail" if why else "pass"], highlight=False, markup=False, soft_wrap=True)


def _as_json(site: SiteProfile, rows: Sequence[Row], check: Check) -> bytes:
    from storage.protocol.codec import to_plain
    from study.gpu_findings import reasons

    why = reasons(rows)
    plain = {
        "site": site.name,
        "passed": not why,
        "reasons": why,
        "rows": to_plain(list(rows)),
        "request": to_plain(check.request),
        "job": to_plain(check.job),
        "facts": to_plain(check.facts),
        "cost": to_plain(check.cost),
    }
    return json.dumps(plain, indent=2).encode() + b"\n"


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/gpu_check.py",
        description=__doc__,
        epilog="Exit code 0: PASS; 1: FAIL, with the reasons; 2: bad input. See docs/gpu_check.md.",
    )
    add_options_of_sites(parser)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="of the study; default: the paper's, for as many ranks as there are"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override any value of the config"
    )
    parser.add_argument(
        "--minutes", type=_positive, default=10.0, metavar="N", help="for all measurements; default: 10"
    )
    parser.add_argument(
        "--most-samples",
        type=_count,
        metavar="N",
        help="of an update on one rank, the other batch size in proportion; default: 8 without GPUs, else the study's",
    )
    parser.add_argument(
        "--wait", type=_positive, default=600.0, metavar="SECONDS", help="for the queue to start the job; default: 600"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and facts to it, too")
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0.")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0.")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
