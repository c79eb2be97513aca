"""Write what studies found as one self-contained page: verdict, tables, figures and where the numbers come from."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from datetime import UTC, datetime  # noqa: E402

from rich.console import Console  # noqa: E402

_EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    # Imported here: Optuna and the charts take seconds, and --help needs neither.
    import optuna

    from storage.database.endpoint import StorageError
    from study.reporting.load import ReportError

    optuna.logging.disable_default_handler()
    try:
        _write(arguments)
    except (StorageError, ReportError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    return 0


def _write(arguments: argparse.Namespace) -> None:
    from storage.protocol.files import write_atomically
    from study.reporting import destinations, page
    from study.reporting.content import make_report
    from study.reporting.load import load_arms

    destinations.check_file(arguments.out, "--out")
    if arguments.export:
        destinations.check_folder(arguments.export, "--export")
    report = make_report(load_arms(arguments.names, arguments.storage, arguments.runs_dir), datetime.now(UTC))
    write_atomically(arguments.out, page.page(report).encode())
    console = Console()
    said = [*report.verdict, *(f"note: {notice}" for notice in report.notices), f"report: {arguments.out}"]
    if arguments.export:
        count = page.export(report, arguments.export)
        said.append(f"figures and tables: {count} files in {arguments.export}")
    for line in said:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study/report.py", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="STUDY", help="names of studies, such as the arms of an experiment")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, such as report.html")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="also each figure as SVG, each table as CSV and LaTeX"
    )
    parser.add_argument("--storage", metavar="URL", help="database of all of them; default: each one's own SQLite file")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
