"""Compare studies, such as the arms of one experiment: scores, times and best configurations side by side."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from statistics import fmean  # noqa: E402

import optuna  # noqa: E402
from optuna.trial import FrozenTrial  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from storage.database.endpoint import StorageError, open_existing_study, parse_public_url  # noqa: E402
from study.display import format_parameters  # noqa: E402
from study.report import best_trial, count_outcomes, record_of  # noqa: E402

_EXIT_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    optuna.logging.disable_default_handler()
    try:
        arms = {name: _trials(name, arguments.storage, arguments.runs_dir) for name in arguments.names}
    except StorageError as error:
        Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    console = Console()
    console.print(arms_table(arms))
    console.print(trials_table(arms))
    if arguments.figure:
        draw(arms, arguments.figure)
        console.print(f"figure: {arguments.figure}")
    return 0


def arms_table(arms: dict[str, list[FrozenTrial]]) -> Table:
    """One column per study: its best trial's scores, the time of a trial, and of an epoch in each phase."""
    table = Table(title="studies", title_justify="left")
    table.add_column("", style="bold")
    columns = []
    for name, trials in arms.items():
        table.add_column(name, overflow="fold")
        columns.append(_describe(trials))
    for heading, *cells in zip(_ARM_ROWS, *columns, strict=True):
        table.add_row(heading, *cells)
    return table


def trials_table(arms: dict[str, list[FrozenTrial]]) -> Table:
    """One row per trial number: its configuration and each study's F1 micro (macro)."""
    table = Table(title="F1 micro (macro) by trial", title_justify="left")
    for heading in ("trial", *arms, "configuration"):
        table.add_column(heading)
    numbers = sorted({trial.number for trials in arms.values() for trial in trials})
    for number in numbers:
        same = [next((t for t in trials if t.number == number), None) for trials in arms.values()]
        configurations = {format_parameters(trial.params) for trial in same if trial is not None}
        table.add_row(str(number), *map(_score, same), " / ".join(sorted(configurations)))
    return table


def seconds_per_epoch(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """Mean over the trials of the duration of an epoch, by global batch size."""
    phases: dict[int, list[float]] = {}
    for trial in trials:
        record = record_of(trial)
        for size, seconds in (record.epoch_s_by_batch_size if record else {}).items():
            phases.setdefault(int(size), []).append(seconds)
    return {size: fmean(values) for size, values in sorted(phases.items())}


def draw(arms: dict[str, list[FrozenTrial]], path: Path) -> None:
    """Mean time per epoch, and the best trial's F1 scores, over the epochs: figure 1 of the paper, top and centre."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (times, scores) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for i, (name, trials) in enumerate(arms.items()):
        records = [record for trial in trials if (record := record_of(trial)) is not None]
        durations = [record.curves["wall_s"] for record in records if record.curves]
        # A trial that was pruned has fewer epochs than others.
        length = max(map(len, durations), default=0)
        means = [fmean(trial[n] or 0.0 for trial in durations if len(trial) > n) for n in range(length)]
        times.plot(means, color=f"C{i}", label=name)
        if (best := best_trial(trials)) is not None:
            scores.plot(
                *zip(*sorted(best.intermediate_values.items()), strict=True), color=f"C{i}", label=f"{name}, micro"
            )
            macro = record_of(best)
            scores.plot(
                macro.curves["f1_macro"] if macro else [], color=f"C{i}", linestyle="--", label=f"{name}, macro"
            )
    times.set(xlabel="epoch", ylabel="seconds per epoch, mean of trials", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="validation F1, best trial", ylim=(0, 1))
    for axes in (times, scores):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


_ARM_ROWS = (
    "trials",
    "node-hours",
    "best trial",
    "F1 micro (macro)",
    "configuration",
    "mean trial",
    "seconds per epoch",
)


def _describe(trials: Sequence[FrozenTrial]) -> tuple[str, ...]:
    """The cells of one study's column, as _ARM_ROWS names them."""
    best = best_trial(trials)
    node_hours = sum(record.node_hours for trial in trials if (record := record_of(trial)) is not None)
    totals = (count_outcomes(trials), f"{node_hours:.3g}")
    if best is None:
        return (*totals, "none completed", *[""] * (len(_ARM_ROWS) - 3))
    phases = seconds_per_epoch(trials).items()
    return (
        *totals,
        str(best.number),
        _score(best),
        format_parameters(best.params).replace(" ", "\n"),
        f"{fmean(r.wall_s for t in trials if (r := record_of(t)) is not None):.1f} s",
        "\n".join(f"{seconds:.2f} at batch {size}" for size, seconds in phases),
    )


def _score(trial: FrozenTrial | None) -> str:
    if trial is None:
        return "-"
    record = record_of(trial)
    if record is None or not record.is_completed:
        return trial.state.name.lower() if record is None else record.outcome
    return f"{record.f1_micro:.4f} ({record.f1_macro:.4f})"


def _trials(name: str, storage: str | None, runs_dir: Path) -> list[FrozenTrial]:
    url = parse_public_url(storage or f"sqlite:///{runs_dir / name / 'study.db'}", "--storage")
    return open_existing_study(url, name).get_trials(deepcopy=False)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study/compare.py", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="STUDY", help="names of studies")
    parser.add_argument("--storage", metavar="URL", help="database of all of them; default: each one's own SQLite file")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw times and scores per epoch into this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
