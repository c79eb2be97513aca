"""Start a study, or go on with it: the same command again continues where the database stands."""

from __future__ import annotations

import sys
from pathlib import Path

# `python study/run.py` puts study/ first on the path, where this project's own folders cannot be found.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(_ROOT)

import argparse  # noqa: E402
import json  # noqa: E402

from rich.console import Console  # noqa: E402

from study.command_line import add_options_of_drivers, exit_code_of  # noqa: E402
from study.config import CONFIGS_DIR, load_config  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, _overrides(arguments))
    # Imported here: Optuna takes seconds, and --help or a bad config need nothing of it.
    from study.driver import drive, make_plan, rehearse

    console = Console()
    plan = make_plan(config, arguments.site, arguments.site_set, arguments.jobs, arguments.storage)
    if arguments.dry_run:
        rehearse(plan, console, arguments.forecast_from)
        return 0
    end = drive(
        plan,
        console,
        adopt=arguments.adopt,
        retry_failed_trials=arguments.retry_failed,
        forecast_from=arguments.forecast_from,
    )
    return end.exit_code


def _overrides(arguments: argparse.Namespace) -> list[str]:
    # Quoted: a name may be a number.
    name = None if arguments.name is None else json.dumps(arguments.name)
    named = {"study.trials": arguments.trials, "study.name": name}
    if arguments.warm_start:
        named["study.warm_start"] = json.dumps(arguments.warm_start)
    if arguments.replay is not None:
        named["study.replay"] = json.dumps(arguments.replay)
    flags = [f"{key}={value}" for key, value in named.items() if value is not None]
    if arguments.deterministic:
        flags.append("training.deterministic=true")
    return [*arguments.set, *flags]


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/run.py", description=__doc__, epilog="See README.md for configs, sites and the dashboard."
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS_DIR / "demo.toml", metavar="FILE", help="the study; default: demo.toml"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials of the study in all, earlier runs included")
    parser.add_argument("--name", metavar="NAME", help="of the study; the same as --set study.name=NAME")
    parser.add_argument("--deterministic", action="store_true", help="bit-identical repetitions; slower")
    parser.add_argument(
        "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override any value of the config"
    )
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        metavar="STUDY[@URL]",
        help="have the sampler learn from an earlier study of the same search space, too; may be repeated",
    )
    parser.add_argument(
        "--replay",
        metavar="STUDY[@URL]",
        help="take the configurations of an earlier study of the same search space, sampler and seed, trial by trial",
    )
    add_options_of_drivers(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
