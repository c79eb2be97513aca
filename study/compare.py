"""Compare studies, such as the arms of one experiment: scores, times and configurations side by side."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from rich.console import Console  # noqa: E402

if TYPE_CHECKING:
    from study.reporting.compare_arms import Comparison
    from study.reporting.load import Arm

_EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    # Imported here: Optuna and the statistics take seconds, and --help needs neither.
    import optuna

    from storage.database.endpoint import StorageError
    from study.reporting.load import ReportError

    optuna.logging.disable_default_handler()
    try:
        _compare(arguments, Console())
    except (StorageError, ReportError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    return 0


def _compare(arguments: argparse.Namespace, console: Console) -> None:
    from study.reporting import side_by_side
    from study.reporting.compare_arms import compare_arms
    from study.reporting.destinations import check_file
    from study.reporting.load import load_arms
    from study.reporting.panels import SUFFIXES, write_panels
    from study.reporting.summary import pareto_front
    from study.reporting.verdict import verdict

    if arguments.figure:
        check_file(arguments.figure, "--figure", SUFFIXES)
    arms = load_arms(arguments.names, arguments.storage, arguments.runs_dir)
    comparisons = compare_arms(arms)
    _require_comparable(arms, comparisons)
    for comparison in comparisons:
        if comparison.unlike:
            note = f"note: {comparison.unlike_in_words}"
            console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(side_by_side.by_study(arms, comparisons).rich())
    console.print(side_by_side.by_configuration(arms).rich())
    if (front := pareto_front(arms)) is not None:
        console.print(front.rich())
    for comparison in comparisons:
        if comparison.pairs:
            console.print(side_by_side.differences(comparison).rich())
    for sentence in verdict(arms, comparisons):
        console.print(sentence, highlight=False, markup=False)
    if arguments.figure:
        write_panels(arms, arguments.figure)
        console.print(f"figure: {arguments.figure}", highlight=False, markup=False, soft_wrap=True)


def _require_comparable(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> None:
    """
    Raises:
        ReportError: A study has no completed trial, or two search other spaces or for another score.
    """
    from study.reporting.load import ReportError

    for arm in arms:
        if not arm.completed:
            raise ReportError(
                f"study {arm.name!r} has no completed trial to compare; study/report.py shows what there is of it."
            )
    for comparison in comparisons:
        if comparison.is_decisively_unlike:
            raise ReportError(
                f"{comparison.baseline.name!r} and {comparison.other.name!r} cannot be compared: "
                f"{comparison.obstacle}. study/report.py shows them side by side."
            )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study/compare.py", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="STUDY", help="names of studies")
    parser.add_argument("--storage", metavar="URL", help="database of all of them; default: each one's own SQLite file")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="draw times and scores per epoch into this .png, .svg or .pdf"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
