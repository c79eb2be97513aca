"""Train a study's best configurations again with fresh seeds, and score them on the test split, once."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from rich.console import Console  # noqa: E402

from study.command_line import add_options_of_drivers, exit_code_of  # noqa: E402

if TYPE_CHECKING:
    import optuna

    from study.plan import StudyPlan

_RUNS_DIR = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    return exit_code_of(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    # Imported here: Optuna takes seconds, and --help needs nothing of it.
    from storage.database import schema
    from storage.database.endpoint import open_existing_study
    from storage.protocol.codec import to_plain
    from study.driver import drive, make_plan, rehearse
    from study.evaluation import Wishes, begin, go_on, scores_of
    from study.evaluation_tables import choice_table, scores_tables
    from study.finding import find_study, folder_of_study, url_of_study

    wishes = Wishes(arguments.top, arguments.seeds, None if arguments.split is None else arguments.split == "test")
    wishes.check()
    name = arguments.name or f"{arguments.study}-evaluation"
    source_url = url_of_study(arguments.study, arguments.storage, arguments.runs_dir or _RUNS_DIR)
    source = open_existing_study(source_url, arguments.study)
    runs_dir = _runs_dir(arguments.runs_dir, folder_of_study(source, source_url))
    url = url_of_study(name, arguments.storage, runs_dir)
    existing = find_study(url, name)
    if existing is not None and schema.STUDY_CONFIG in existing.user_attrs:
        own = folder_of_study(existing, url)
        config, link = go_on(existing, source, wishes, runs_dir if own is None else _runs_dir(arguments.runs_dir, own))
    else:
        config, link = begin(source, source_url, name, wishes, runs_dir)

    console = Console()
    plan = make_plan(config, arguments.site, arguments.site_set, arguments.jobs, arguments.storage)
    _require_same_ranks(plan, source)
    console.print(choice_table(config, link))
    if arguments.dry_run:
        rehearse(plan, console, arguments.forecast_from)
        return 0
    end = drive(
        plan,
        console,
        adopt=arguments.adopt,
        retry_failed_trials=arguments.retry_failed,
        attributes={schema.EVALUATES: to_plain(link)},
        forecast_from=arguments.forecast_from,
    )
    if end.stopped_by is None:
        evaluation = open_existing_study(plan.database, name)
        for table in scores_tables(config, scores_of(evaluation)):
            console.print(table)
    return end.exit_code


def _runs_dir(given: Path | None, folder: Path | None) -> Path:
    """What a person said, or else where a study's folder is: by a short path, if that is the same."""
    if given is not None or folder is None or folder.parent == _RUNS_DIR.resolve():
        return given or _RUNS_DIR
    return folder.parent


def _require_same_ranks(plan: StudyPlan, source: optuna.Study) -> None:
    from storage.database import schema
    from study.evaluation import EvaluationError

    before = source.user_attrs.get(schema.STUDY_CONFIG, {}).get("world_size")
    if before not in (None, plan.layout.world_size):
        raise EvaluationError(
            f"study {source.study_name!r} trained on {before} ranks, and site {plan.site.name!r} gives "
            f"{plan.layout.world_size}, which trains something else: name its site with --site, or set "
            "--site-set ranks_per_node or nodes_per_trial."
        )


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/evaluate.py",
        description=f"{__doc__} It is a study of its own: the same command again resumes it.",
        epilog="See docs/evaluate.md.",
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study that searched")
    parser.add_argument("--top", type=int, metavar="K", help="configurations, the best ones; default: 3")
    parser.add_argument("--seeds", type=int, metavar="N", help="trainings of each configuration; default: 5")
    parser.add_argument(
        "--split", choices=["test", "val"], help="score the test split, too, once per training, or leave it untouched"
    )
    parser.add_argument("--name", metavar="NAME", help="of the evaluation's own study; default: STUDY-evaluation")
    parser.add_argument("--runs-dir", type=Path, metavar="DIR", help="default: where the study's folder is, or runs")
    add_options_of_drivers(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
