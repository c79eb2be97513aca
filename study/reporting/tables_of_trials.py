"""Tables of how it went: every trial, throughput, cost, faults, and where the numbers come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from storage.database.schema import TrialRecord
from storage.protocol.records import Outcome
from study.display import format_parameters
from study.reporting.load import Arm, Trial, config_sha256, is_lost
from study.reporting.tables import Cell, Column, ReportTable
from study.reporting.wording import epoch_rule

UNKNOWN = "unknown"


def trials(arms: Sequence[Arm]) -> ReportTable:
    """Every trial of every study."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        for trial in arm.trials:
            record = trial.record
            counted = None if record is None or record.counted_epoch is None else record.counted_epoch + 1
            rows.append(
                (
                    arm.name,
                    trial.number,
                    trial.outcome,
                    trial.score("f1_micro"),
                    trial.score("f1_macro"),
                    counted,
                    len(trial.batch_sizes) or None,
                    None if record is None else record.wall_s,
                    None if record is None else record.node_hours,
                    len(trial.attempts) or None,
                    format_parameters(dict(trial.parameters)),
                )
            )
    return ReportTable(
        "trials",
        "All trials",
        (
            Column("study", is_number=False),
            Column("trial", 0),
            Column("outcome", is_number=False),
            Column("F1 micro"),
            Column("F1 macro"),
            Column("counted epoch", 0),
            Column("epochs", 0),
            Column("seconds", 1),
            Column("node-hours"),
            Column("attempts", 0),
            Column("configuration", is_number=False),
        ),
        tuple(rows),
        f"Validation split, {epoch_rule(arms)}, one seed each. Epochs count from 1; an older "
        "study does not say which one counted.",
    )


def throughput(arms: Sequence[Arm]) -> ReportTable | None:
    """What each phase of the training processed, by data plane."""
    rows = [row for arm in arms for plane in _planes(arm) for row in _phases(arm, *plane)]
    if not rows:
        return None
    return ReportTable(
        "throughput",
        "Throughput by phase and data plane",
        (
            Column("study", is_number=False),
            Column("global batch size", 0),
            Column("data plane", is_number=False),
            Column("ranks", 0),
            Column("nodes", 0),
            Column("trials", 0),
            Column("images/s", 0),
            Column("lowest", 0),
            Column("highest", 0),
            Column("seconds per epoch", 2),
        ),
        tuple(rows),
        "Means over trials of the means over their epochs. Images/s is of training alone, over all ranks; the seconds "
        "contain the evaluation.",
    )


def _planes(arm: Arm) -> list[tuple[str, int, int]]:
    """Data plane, ranks and nodes on which its trials ran."""
    return sorted({_plane(trial) for trial in arm.trials if trial.record is not None and trial.batch_sizes})


def _plane(trial: Trial) -> tuple[str, int, int]:
    record = trial.record
    return ("", 0, 0) if record is None else (record.data_plane, _ranks(trial), len(record.hosts))


def _phases(arm: Arm, plane: str, ranks: int, nodes: int) -> Iterator[tuple[Cell, ...]]:
    """A row for each batch size."""
    records = [t.record for t in arm.trials if t.record is not None and _plane(t) == (plane, ranks, nodes)]
    for size in sorted({size for record in records for size in record.images_per_s_by_batch_size}, key=int):
        images = [speed[size] for r in records if size in (speed := r.images_per_s_by_batch_size)]
        seconds = [duration[size] for r in records if size in (duration := r.epoch_s_by_batch_size)]
        mean_s = math.fsum(seconds) / len(seconds) if seconds else None
        mean = math.fsum(images) / len(images)
        yield (arm.name, int(size), plane or UNKNOWN, ranks, nodes, len(images), mean, min(images), max(images), mean_s)


def cost(arms: Sequence[Arm]) -> ReportTable:
    """Node-hours, of which lost; trials and attempts."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        outcomes = [trial.outcome for trial in arm.trials]
        counted = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
        walls = [trial.record.wall_s for trial in arm.completed if trial.record is not None]
        rows.append(
            (
                arm.name,
                len(arm.trials),
                counted or "none",
                None if arm.elapsed_s is None else arm.elapsed_s / 3600,
                math.fsum(walls) / 3600 if walls else None,
                arm.nodes,
                arm.node_hours,
                arm.lost_node_hours,
                sum(len(trial.attempts) > 1 for trial in arm.trials),
            )
        )
    return ReportTable(
        "cost",
        "What it cost",
        (
            Column("study", is_number=False),
            Column("trials", 0),
            Column("outcomes", is_number=False),
            Column("total runtime (h)", 3),
            Column("sum of completed trials (h)", 3),
            Column("nodes per trial", 0),
            Column("node-hours"),
            Column("lost node-hours"),
            Column("trials retried", 0),
        ),
        tuple(rows),
        "Lost: of attempts that ended in a failure. It is an upper bound, because the next attempt goes on from the "
        "newest checkpoint. Time between trials, in which an allocation is idle, is not in the node-hours.",
    )


def attempts(arms: Sequence[Arm]) -> ReportTable | None:
    """How the attempts ended."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        ended = [row for trial in arm.trials for row in trial.attempts]
        for end in dict.fromkeys(row.end for row in ended):
            those = [row for row in ended if row.end == end]
            rows.append(
                (
                    arm.name,
                    end,
                    len(those),
                    math.fsum(row.wall_s for row in those) * (arm.nodes or 1) / 3600,
                    "yes" if is_lost(those[0]) else "no",
                )
            )
    if not rows:
        return None
    return ReportTable(
        "attempts",
        "How the attempts ended",
        (
            Column("study", is_number=False),
            Column("end", is_number=False),
            Column("attempts", 0),
            Column("node-hours"),
            Column("a failure", is_number=False),
        ),
        tuple(rows),
        f"Not failures are {', '.join(Outcome)}.",
    )


def faults(arms: Sequence[Arm]) -> ReportTable | None:
    """Each attempt that failed and each trial whose rows are malformed."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        for trial in arm.trials:
            rows.extend(
                (arm.name, trial.number, number, row.end, row.exit_code, row.wall_s, row.reason)
                for number, row in enumerate(trial.attempts, start=1)
                if is_lost(row)
            )
            if trial.record is not None and not trial.record.is_completed and not _is_told(trial):
                rows.append(
                    (arm.name, trial.number, None, trial.record.outcome, None, trial.record.wall_s, trial.record.reason)
                )
            if trial.problem:
                rows.append((arm.name, trial.number, None, "malformed", None, None, trial.problem))
    if not rows:
        return None
    return ReportTable(
        "faults",
        "Faults",
        (
            Column("study", is_number=False),
            Column("trial", 0),
            Column("attempt", 0),
            Column("what", is_number=False),
            Column("exit code", 0),
            Column("seconds", 1),
            Column("reason", is_number=False),
        ),
        tuple(rows),
    )


def provenance(arms: Sequence[Arm]) -> ReportTable:
    """Where the numbers come from: one column per study."""
    described = [_provenance_of(arm) for arm in arms]
    headings = list(dict.fromkeys(heading for column in described for heading in column))
    return ReportTable(
        "provenance",
        "Where the numbers come from",
        (Column("", is_number=False), *(Column(arm.name, is_number=False) for arm in arms)),
        tuple((heading, *(column.get(heading, UNKNOWN) for column in described)) for heading in headings),
        "Commit, packages and data are noted when a driver opens a study; older studies have them unknown. A data set "
        "is told by the checksums of its index files.",
    )


def _provenance_of(arm: Arm) -> dict[str, str]:
    study = arm.config.get("study")
    settings = study if isinstance(study, dict) else {}
    data = {f"{name} {sha[:16]}": None for opening in arm.openings for name, sha in opening.data_sha256.items()}
    return {
        "commit": _joined(_commit(o.commit, o.is_modified) for o in arm.openings),
        "opened": _joined(o.first_at for o in arm.openings),
        "driver": _joined(_versions(o.versions) for o in arm.openings),
        "ranks": _joined(_versions(record.communicator.get("versions")) for record in arm.records),
        "hosts": _joined(host for record in arm.records for host in record.hosts),
        "GPUs": _joined(gpu for record in arm.records for gpu in _gpus(record)) if arm.records else UNKNOWN,
        "seed": str(settings.get("seed", UNKNOWN)),
        "sampler": str(settings.get("sampler", UNKNOWN)),
        "trials per configuration": str(settings.get("repeats", 1)),
        "config identity (SHA-256)": config_sha256(arm)[:16] if arm.config else UNKNOWN,
        "data (SHA-256)": ", ".join(data) or UNKNOWN,
        "study UUID": arm.uuid or UNKNOWN,
        "database": arm.storage,
    }


def _joined(values: Iterable[str]) -> str:
    """Each of the values once."""
    return ", ".join(dict.fromkeys(value for value in values if value)) or UNKNOWN


def _commit(commit: str | None, is_modified: bool) -> str:
    if commit is None:
        return "not run from a checkout"
    return f"{commit[:12]}{', with changes that are not committed' * is_modified}"


def _versions(versions: object) -> str:
    return (
        " ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        if isinstance(versions, dict)
        else ""
    )


def _gpus(record: TrialRecord) -> list[str]:
    gpus = record.communicator.get("gpus")
    # By their model: sixteen UUIDs say nothing to a reader.
    return [str(gpu).partition(" GPU-")[0] or "none" for gpu in gpus] if isinstance(gpus, list) else []


def _ranks(trial: Trial) -> int:
    size = trial.record.communicator.get("world_size") if trial.record else None
    return size if isinstance(size, int) else 0


def _is_told(trial: Trial) -> bool:
    """Whether an attempt's row says it already."""
    return any(is_lost(row) for row in trial.attempts)
