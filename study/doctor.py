"""Say whether a site is as its profile says: on this machine, and in one short job on its nodes."""

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
    from cluster.doctor.facts import SiteFacts
    from cluster.doctor.findings import Finding
    from cluster.doctor.probe_job import Examination
    from cluster.profile import SiteProfile

_EXIT_BROKEN = 1
_STYLES = {"ok": "green", "warning": "yellow", "broken": "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    exit_on_signals()
    return exit_code_of(lambda: _examine(arguments))


def _examine(arguments: argparse.Namespace) -> int:
    # Imported here: --help or a bad option need nothing of it.
    from cluster.doctor.checks import CHECKS
    from cluster.doctor.examination import examine
    from cluster.doctor.findings import Status, judge
    from cluster.doctor.probe_job import Limits
    from cluster.profile import load_site
    from storage.protocol.files import write_atomically

    console = Console()
    site = load_site(arguments.site, arguments.site_set)
    require_folder_for("--json", arguments.json)
    facts = examine(
        site,
        arguments.runs_dir,
        lambda folder: _batch_system(site, folder),
        Limits(start_within_s=arguments.wait),
        lambda text: print_note(console, text),
        submit=not arguments.no_job,
    )
    findings = judge(CHECKS, site, facts)
    _print(site, findings, console)
    if facts.job is None and not arguments.no_job:
        console.print("Nodes were not looked at: first put right what is broken here, then run it again.", markup=False)
    if arguments.json is not None:
        write_atomically(arguments.json, _as_json(site, findings, facts))
    return _EXIT_BROKEN if any(finding.status is Status.BROKEN for finding in findings) else 0


def _batch_system(site: SiteProfile, folder: Path) -> Examination | None:
    if site.slurm is None:
        return None
    from cluster.slurm.examination import SlurmExamination

    return SlurmExamination(site, site.slurm, folder)


def _print(site: SiteProfile, findings: Sequence[Finding], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"site {site.name}", title_justify="left")
    for heading in ("check", "where", "", "found, and what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = _STYLES[finding.status]
        advice = f"\n→ {finding.advice}" if finding.advice else ""
        table.add_row(
            finding.check, escape(finding.where), f"[{style}]{finding.status}[/]", escape(f"{finding.found}{advice}")
        )
    console.print(table)


def _as_json(site: SiteProfile, findings: Sequence[Finding], facts: SiteFacts) -> bytes:
    from storage.protocol.codec import to_plain

    plain = {"site": site.name, "findings": to_plain(list(findings)), "facts": to_plain(facts)}
    return json.dumps(plain, indent=2).encode() + b"\n"


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/doctor.py",
        description=__doc__,
        epilog="Exit code 0: nothing is broken; 1: something is; 2: bad input. See docs/sites/README.md.",
    )
    add_options_of_sites(parser)
    parser.add_argument("--no-job", action="store_true", help="look at this machine only; submit and start nothing")
    parser.add_argument(
        "--wait", type=_seconds, default=600.0, metavar="SECONDS", help="for the queue to start the job; default: 600"
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where studies would lie; default: runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings and facts to it, too")
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0.")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
