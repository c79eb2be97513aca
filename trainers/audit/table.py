"""What an audit found, for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from trainers.audit.verdict import Audit, Place, Verdict

_DEVICES = {"DEFAULT": "any device"}
"""For a reader, of what TensorFlow calls devices."""


def steps_table(audit: Audit) -> Table:
    """A row for each step."""
    table = Table("step", title="Steps", title_justify="left")
    for column in ("operations", "kinds", "unexpected", "waits"):
        table.add_column(column, justify="right")
    for step in audit.steps:
        kinds = len({node.operation.name for node in step.nodes})
        table.add_row(
            step.name, f"{len(step.nodes):,}", str(kinds), str(audit.unexpected_in(step)), str(audit.waits_in(step))
        )
    return table


def operations_table(audit: Audit) -> Table:
    """A row for each kind of operation and place of its memory, with the types that it was met with."""
    table = Table(title="Operations", title_justify="left")
    for column in ("operation", "types", "kernel for", "in the host's memory", "why"):
        table.add_column(column, overflow="fold")
    rows: dict[_Row, dict[str, set[str]]] = {}
    for verdict in audit.places:
        types = rows.setdefault(_row(verdict), {})
        for name, held in verdict.operation.types:
            types.setdefault(name, set()).update(held)
    for row, types in sorted(rows.items(), key=lambda item: (item[0].operation, item[0].host_arguments)):
        words = "; ".join(f"{name}: {', '.join(sorted(held))}" for name, held in types.items())
        table.add_row(row.operation, words, row.device, row.host_arguments, row.reason)
    return table


def waits_table(audit: Audit) -> Table:
    """A row for each way in which the host comes to need what the GPU computes."""
    table = Table(title="Where the host waits for the GPU", title_justify="left")
    for column in ("for", "which this needs", "as"):
        table.add_column(column, overflow="fold")
    table.add_column("most in a step", justify="right")
    table.add_column("first one", overflow="fold")
    rows: dict[tuple[str, str, str], list[Place]] = {}
    for wait, places in audit.waits.items():
        rows.setdefault((str(wait.source.operation), wait.operation.name, wait.argument), []).extend(places)
    for row, found in rows.items():
        table.add_row(*row, str(max(len(place.nodes) for place in found)), found[0].nodes[0].path)
    return table


@dataclass(frozen=True)
class _Row:
    operation: str
    device: str
    host_arguments: str
    reason: str


def _row(verdict: Verdict) -> _Row:
    kernel = verdict.kernel
    return _Row(
        operation=verdict.operation.name,
        device="NONE" if kernel is None else _DEVICES.get(kernel.device, kernel.device),
        host_arguments="" if kernel is None else ", ".join(kernel.host_arguments),
        reason=verdict.reason if verdict.reason is not None else "UNEXPECTED" * (kernel is not None),
    )
