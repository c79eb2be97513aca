"""What a person sees while a study runs: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from optuna.trial import TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from storage.protocol.records import EpochMetrics
from study.transitions import Tell


@dataclass
class _Row:
    parameters: str
    """As Rich's markup: what is sampled or said by others may have brackets in it."""
    attempt: int
    metrics: EpochMetrics | None = None


class LiveDisplay:
    """A progress bar over the trials and a row per running one. Finished trials scroll away above it."""

    def __init__(self, console: Console, name: str, epochs: int) -> None:
        self._console, self._epochs = console, epochs
        self._rows: dict[int, _Row] = {}
        self._spent = ""
        self._progress = Progress(
            TextColumn(f"[bold]{name}"), BarColumn(), MofNCompleteColumn(), TextColumn("trials"), TimeElapsedColumn()
        )
        self._task = self._progress.add_task(name, total=None)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)
        self._started: dict[int, float] = {}

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def trial_started(self, number: int, attempt: int, parameters: dict[str, object]) -> None:
        self._rows[number] = _Row(escape(format_parameters(parameters)), attempt)
        self._started.setdefault(number, time.monotonic())

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None:
        if number in self._rows:
            self._rows[number].metrics = metrics

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None:
        self._rows.pop(number, None)
        self._live.console.print(f"trial {number:>3}  [yellow]{escape(reason)}[/]: {_outlook(has_checkpoint)}")

    def trial_held(self, number: int, reason: str) -> None:
        self._rows.pop(number, None)
        self._live.console.print(f"trial {number:>3}  [yellow]held[/] with its checkpoint: {escape(reason)}")

    def trial_promoted(self, number: int, reason: str) -> None:
        self._live.console.print(f"trial {number:>3}  [green]promoted[/] from {escape(reason)}")

    def trial_finished(self, number: int, tell: Tell) -> None:
        row = self._rows.pop(number, None)
        took = time.monotonic() - self._started.get(number, time.monotonic())
        parameters = row.parameters if row else ""
        self._live.console.print(f"trial {number:>3}  {_verdict(tell, row)}  {took:5.1f} s  [dim]{parameters}[/]")

    def progressed(self, finished: int, total: int) -> None:
        self._progress.update(self._task, completed=finished, total=total)

    def spent(self, words: str) -> None:
        self._spent = words

    def notice(self, text: str) -> None:
        self._live.console.print(f"note: {text}", style="yellow", highlight=False, markup=False)

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for heading in ("trial", "epoch", "batch", "loss", "F1 micro", "F1 macro", "images/s"):
            table.add_column(heading, justify="right")
        table.add_column("configuration", style="dim", no_wrap=True)
        for number, row in sorted(self._rows.items()):
            m = row.metrics
            cells = (
                ("starting", "", "", "", "", "")
                if m is None
                else (
                    f"{m.epoch + 1}/{self._epochs}",
                    str(m.global_batch_size),
                    f"{m.train_loss:.3f}",
                    f"{m.f1_micro:.3f}",
                    f"{m.f1_macro:.3f}",
                    f"{m.samples_per_s:.0f}",
                )
            )
            table.add_row(str(number), *cells, row.parameters)
        return Group(self._progress, Text(self._spent, style="dim"), table)


class PlainDisplay:
    """One line per event, for logs and pipes."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console, self._epochs = console, epochs

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def trial_started(self, number: int, attempt: int, parameters: dict[str, object]) -> None:
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._say(f"trial {number} started{again}: {format_parameters(parameters)}")

    def epoch_finished(self, number: int, metrics: EpochMetrics) -> None:
        self._say(
            f"trial {number} epoch {metrics.epoch + 1}/{self._epochs}: batch {metrics.global_batch_size}, "
            f"loss {metrics.train_loss:.4f}, F1 micro {metrics.f1_micro:.4f} macro {metrics.f1_macro:.4f}, "
            f"{metrics.samples_per_s:.0f} images/s"
        )

    def trial_waits(self, number: int, reason: str, has_checkpoint: bool) -> None:
        self._say(f"trial {number} {reason}: {_outlook(has_checkpoint)}")

    def trial_held(self, number: int, reason: str) -> None:
        self._say(f"trial {number} held with its checkpoint: {reason}")

    def trial_promoted(self, number: int, reason: str) -> None:
        self._say(f"trial {number} promoted from {reason}")

    def trial_finished(self, number: int, tell: Tell) -> None:
        value = "" if tell.value is None else f" value {tell.value:.4f}"
        self._say(f"trial {number} {tell.outcome}{value} {tell.reason}".rstrip())

    def progressed(self, finished: int, total: int) -> None:
        pass

    def spent(self, words: str) -> None:
        pass

    def notice(self, text: str) -> None:
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def format_parameters(parameters: dict[str, object]) -> str:
    """name=value pairs, short enough for a table."""
    return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items())


def _outlook(has_checkpoint: bool) -> str:
    return "goes on from its checkpoint" if has_checkpoint else "starts again, it had no checkpoint"


def _verdict(tell: Tell, row: _Row | None) -> str:
    if tell.state is TrialState.FAIL:
        return f"[red]{tell.outcome}[/] {escape(tell.reason)}"
    if row is None or row.metrics is None or tell.value == 0.0 or tell.state is TrialState.PRUNED:
        return f"[yellow]{tell.outcome}[/] {escape(tell.reason)}"
    return f"[green]{tell.outcome}[/] F1 micro {row.metrics.f1_micro:.4f} macro {row.metrics.f1_macro:.4f}"
