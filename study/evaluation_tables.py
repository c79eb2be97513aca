"""An evaluation as tables: what is trained again, and what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from storage.database.schema import Evaluated
from storage.protocol.exports import SeedInterval
from storage.protocol.records import ObjectiveEpoch
from study.config import StudyConfig
from study.display import format_parameters
from study.evaluation import ConfigurationScores
from study.seeds import derive_seed

_SHOWN = {
    "f1_micro": "F1 micro",
    "f1_macro": "F1 macro",
    "average_precision_micro": "mAP micro",
    "average_precision_macro": "mAP macro",
    "accuracy": "accuracy",
}
_MAX_CLASSES_SHOWN = 20


def choice_table(config: StudyConfig, link: Evaluated) -> Group:
    """The configurations that are trained again."""
    chosen = config.study.configurations
    seeds = config.study.trials // len(chosen)
    split = "validation and test split" if config.study.test_split else "validation split"
    table = Table()
    for heading in ("", "trials of the search", "configuration"):
        table.add_column(heading)
    for place, (parameters, trials) in enumerate(zip(chosen, link.trials, strict=True), start=1):
        table.add_row(str(place), ", ".join(map(str, trials)), escape(format_parameters(dict(parameters))))
    return _titled(
        f"evaluation {config.study.name}: the best {len(chosen)} of study {link.study_name}, {seeds} fresh "
        f"seed{'s' * (seeds > 1)} each; {split}",
        table,
    )


def scores_tables(config: StudyConfig, scores: Sequence[ConfigurationScores]) -> list[Group]:
    """Scores by configuration, of each split; and of the test split by class, for the first configuration."""
    tables = [_split_table(config, "validation", scores, [each.validation for each in scores])]
    if config.study.test_split:
        tables.append(_split_table(config, "test", scores, [each.test for each in scores]))
        if 0 < len(scores[0].test_f1) <= _MAX_CLASSES_SHOWN:
            tables.append(_class_table(scores[0]))
    return tables


def describe_interval(interval: SeedInterval) -> str:
    """Mean and deviation, and on a second line the interval; of one seed, the score alone."""
    if interval.deviation is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ± {interval.deviation:.4f}\n[{interval.low:.4f}, {interval.high:.4f}]"


def _split_table(
    config: StudyConfig,
    split: str,
    scores: Sequence[ConfigurationScores],
    intervals: Sequence[Mapping[str, SeedInterval]],
) -> Group:
    epoch = "best" if config.study.objective_epoch is ObjectiveEpoch.BEST else "last"
    table = Table()
    # A column each, because the scores of one would not fit into a line of a terminal.
    for heading in ("", *(str(place) for place in range(1, len(scores) + 1))):
        table.add_column(heading)
    table.add_row("n", *map(_count, scores))
    for name, heading in _SHOWN.items():
        if any(name in of_split for of_split in intervals):
            table.add_row(heading, *(_cell(of_split.get(name)) for of_split in intervals))
    title = f"{split} split, {epoch} epoch: mean ± standard deviation [95 % interval of the mean] over n seeds"
    return _titled(title, table, _caption(config, scores))


def _cell(interval: SeedInterval | None) -> str:
    return "-" if interval is None else escape(describe_interval(interval))


def _count(scores: ConfigurationScores) -> str:
    return "\n".join([str(scores.count), *(f"+ {count} {outcome}" for outcome, count in scores.others.items())])


def _caption(config: StudyConfig, scores: Sequence[ConfigurationScores]) -> str:
    lines = []
    for place, each in enumerate(scores, start=1):
        seeds = ", ".join(str(derive_seed(config.study.seed, number)) for number in each.completed)
        lines.append(f"{place}: {format_parameters(each.parameters)}; seeds {seeds or '-'}")
    if any(each.count == 1 for each in scores):
        lines.append("Of one seed there is neither deviation nor interval.")
    return "\n".join(lines)


def _titled(title: str, table: Table, caption: str = "") -> Group:
    """A title as wide as the terminal: a table's own would be wrapped to the table's width."""
    return Group(Text(title, style="bold"), table, *([Text(caption, style="dim")] if caption else []))


def _class_table(scores: ConfigurationScores) -> Group:
    table = Table()
    for heading in ("class", "F1"):
        table.add_column(heading)
    for name, interval in scores.test_f1.items():
        table.add_row(escape(name), escape(describe_interval(interval).replace("\n", " ")))
    return _titled("test split by class, configuration 1: F1", table)
