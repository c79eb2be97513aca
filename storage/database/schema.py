"""What the rows of a study hold beyond what Optuna stores by itself: typed, written and read back here alone.

Stock Optuna and optuna-dashboard show all of it, so every value is JSON and has a name that says what it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from storage.protocol.attempts import AttemptEnd, counted_epoch, merge_epochs
from storage.protocol.codec import RecordError, from_plain, to_plain
from storage.protocol.energy import JOULES_PER_KWH, sum_by_counter
from storage.protocol.records import EpochMetrics

if TYPE_CHECKING:
    import optuna

STUDY_UUID = "switchyard:uuid"
STUDY_CONFIG = "switchyard:config"
"""What must not change; see StudyConfig.identity."""
FULL_CONFIG = "switchyard:full_config"
"""All of the config of the last driver, with absolute paths. Older studies have none."""
STUDY_DIR = "switchyard:study_dir"
EVALUATES = "switchyard:evaluates"
"""Of a study that trains another one's best configurations again: an Evaluated."""
STUDY_OPENINGS = "switchyard:openings"
OBJECTIVE = "objective"
SPENT = "switchyard:spent"

SPEC_SHA256 = "spec_sha256"
ATTEMPTS = "attempts"
FORGIVEN_ATTEMPTS = "forgiven_attempts"
VERDICTS = "verdicts"
UNDER_WAY = "under_way"
"""Of a trial that was sampled: numbers of those before it that were not told then. All others were."""
_CURVE = "epochs:"
CURVES = ("global_batch_size", "train_loss", "val_loss", "f1_micro", "f1_macro", "samples_per_s", "wall_s", "energy_j")
"""What of EpochMetrics is kept for every epoch; the objective is the trial's intermediate value."""


@dataclass(frozen=True)
class Evaluated:
    """The study whose best configurations another one trains again with fresh seeds."""

    study_name: str
    study_uuid: str
    trials: list[list[int]]
    """Of that study: those of each configuration, in the order of study.configurations."""

    def is_of(self, study: optuna.Study) -> bool:
        """Whether it is this study, and no other one of its name."""
        return (self.study_name, self.study_uuid) == (study.study_name, study.user_attrs.get(STUDY_UUID, ""))


@dataclass(frozen=True)
class Opening:
    """With what code and on what data a driver opened the study."""

    first_at: str
    """UTC, as ISO 8601 has it."""
    commit: str | None
    """Of the checkout that the driver ran from; None: it ran from none, or git is missing."""
    is_modified: bool
    """Whether files of the checkout differed from that commit."""
    versions: dict[str, str]
    """Of Python and of the driver's packages."""
    data_sha256: dict[str, str]
    """Of the data set's index files, by name: lists of images, labels, manifests. Empty where it has none."""

    def is_like(self, other: Opening) -> bool:
        """Whether all but the time is the same."""
        return replace(self, first_at=other.first_at) == other


@dataclass(frozen=True)
class AttemptRow:
    """One attempt of a trial."""

    end: str
    """An Outcome or a Failure."""
    exit_code: int | None
    wall_s: float
    reason: str = ""
    nodes: int | None = None
    """That it held; None in what older versions wrote."""

    @classmethod
    def of(cls, end: AttemptEnd) -> AttemptRow:
        return cls(end.name, end.exit_code, round(end.wall_s, 3), end.reason, end.nodes)


@dataclass(frozen=True)
class VerdictRow:
    """What the study's pruner has said of a trial after one of its epochs."""

    epoch: int
    value: float
    verdict: str
    """go on, stop or hold."""
    bracket: int = 0
    rung: int | None = None
    """None: of a pruner without rungs, of whose verdicts only the last one is kept."""
    order: int = 0
    """Of all verdicts of the study, the one after the other: what was decided follows from those before it."""
    promoted: int | None = None
    """The order of the promotion of a trial that was held here; None as long as it is."""


@dataclass(frozen=True)
class SpentRow:
    """What a study has cost, as the last driver knew it, apart from its attempts."""

    wall_s: float = 0.0
    """For which drivers have run."""
    allocations: dict[str, float] = field(default_factory=dict)
    """Node-seconds by the batch system's id of the job."""


@dataclass(frozen=True)
class TrialRecord:
    """What is stored of a trial that is over."""

    outcome: str
    """An Outcome, or what went wrong."""
    reason: str
    wall_s: float
    """Of all its attempts."""
    node_hours: float
    """Of all its attempts, lost ones included."""
    attempt_count: int
    f1_micro: float | None = None
    """Of the epoch that counts, on the validation split; as the next three."""
    f1_macro: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    """ClassScores."""
    counted_epoch: int | None = None
    test: dict[str, Any] = field(default_factory=dict)
    """SplitScores of the test split, where it was asked for."""
    images_per_s_by_batch_size: dict[str, float] = field(default_factory=dict)
    """Mean over the epochs of each global batch size: one entry per phase of the training."""
    epoch_s_by_batch_size: dict[str, float] = field(default_factory=dict)
    energy_j: float | None = None
    """Of all epochs of all its attempts; None: an epoch was not measured."""
    energy_source: str = ""
    """The counters that were added up, such as nvml+rapl."""
    energy_j_by_counter: dict[str, float] = field(default_factory=dict)
    """Of them, `energy_j` is the sum."""
    energy_j_by_batch_size: dict[str, float] = field(default_factory=dict)
    """Of the epochs that led to its result: one entry per phase of the training."""
    energy_repeated_j: float | None = None
    """Of epochs that were trained again, after a loss: what the phases lack of `energy_j`."""
    kg_co2e: float | None = None
    """Of `energy_j`, by the constant of the site at which the trial ended; None: it has none."""
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    """By the names of CURVES: one value per epoch, None where it is not finite."""
    hosts: list[str] = field(default_factory=list)
    data_plane: str = ""
    communicator: dict[str, Any] = field(default_factory=dict)
    """The rest of the last CommunicatorReport."""
    log_tail: str = ""
    """Of the last attempt that failed."""

    @property
    def is_completed(self) -> bool:
        return self.outcome == "completed"

    def attributes(self) -> dict[str, Any]:
        """The trial's user attributes. What is empty is left out."""
        plain = to_plain(self)
        curves = {f"{_CURVE}{name}": values for name, values in plain.pop("curves").items()}
        kept = {name: value for name, value in plain.items() if value not in (None, {}, [], "") or name == "reason"}
        return {**kept, **curves}

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> TrialRecord | None:
        """Out of a trial's user attributes; None of a trial that is not over."""
        if "outcome" not in attributes:
            return None
        curves = {name: attributes[f"{_CURVE}{name}"] for name in CURVES if f"{_CURVE}{name}" in attributes}
        # Older versions had fewer fields.
        absent = {"reason": "", "wall_s": 0.0, "node_hours": 0.0, "attempt_count": 0}
        return from_plain(cls, {**absent, **attributes, "curves": curves}, ignore_unknown=True)


def trial_record(
    outcome: str,
    reason: str,
    ends: Sequence[AttemptEnd],
    last_epoch: int | None = None,
    kg_co2e_per_kwh: float | None = None,
) -> TrialRecord:
    """What is to be stored of a trial that is over. Pure.

    Args:
        last_epoch: That of a trial that was stopped, which is the one that counts; later ones were trained in vain.
        kg_co2e_per_kwh: Of the site's electricity, where it is known.
    """
    epochs, result = merge_epochs(ends), ends[-1].result if ends else None
    counted = counted_epoch(ends) if epochs else None
    if last_epoch is not None:
        counted = next((metrics for metrics in epochs if metrics.epoch == last_epoch), counted)
    is_of_result = last_epoch is None or epochs[-1:] == [counted]
    wall_s = sum(end.wall_s for end in ends)
    report = next((end.communicator for end in reversed(ends) if end.communicator is not None), None)
    facts = {} if report is None else to_plain(report)
    facts.pop("spec_sha256", None)
    energy = _energy_of(ends, epochs)
    tails = [end.log_tail for end in ends if end.log_tail]
    return TrialRecord(
        outcome=outcome,
        reason=reason,
        wall_s=round(wall_s, 3),
        node_hours=round(sum(end.wall_s * end.nodes for end in ends) / 3600, 6),
        attempt_count=len(ends),
        f1_micro=counted.f1_micro if counted else None,
        f1_macro=counted.f1_macro if counted else None,
        scores=counted.scores if counted else {},
        classes=to_plain(result.classes) if result is not None and result.classes is not None and is_of_result else {},
        counted_epoch=counted.epoch if counted else None,
        test=to_plain(result.test) if result is not None and result.test is not None else {},
        images_per_s_by_batch_size=_mean_by_batch_size(epochs, "samples_per_s"),
        epoch_s_by_batch_size=_mean_by_batch_size(epochs, "wall_s"),
        energy_j=None if energy is None else energy.joules,
        energy_source="" if energy is None else energy.source,
        energy_j_by_counter={} if energy is None else energy.by_counter,
        energy_j_by_batch_size={} if energy is None else energy.by_batch_size,
        energy_repeated_j=None if energy is None else energy.repeated_j,
        kg_co2e=None
        if energy is None or kg_co2e_per_kwh is None
        else round(energy.joules / JOULES_PER_KWH * kg_co2e_per_kwh, 9),
        curves=_curves(epochs),
        hosts=sorted(set(facts.pop("hosts", []))),
        data_plane=facts.pop("data_plane", ""),
        communicator=facts,
        log_tail=tails[-1] if tails else "",
    )


def read_attempts(attributes: Mapping[str, Any]) -> list[AttemptRow]:
    """The rows of a trial's attempts, oldest first."""
    return [from_plain(AttemptRow, row, ignore_unknown=True) for row in attributes.get(ATTEMPTS, [])]


def read_openings(attributes: Mapping[str, Any]) -> list[Opening]:
    """Each different opening of a study, oldest first, from the study's user attributes; older versions stored none.

    Raises:
        RecordError: They are malformed.
    """
    return from_plain(_Openings, {"rows": attributes.get(STUDY_OPENINGS, [])}, ignore_unknown=True).rows


def openings_with(attributes: Mapping[str, Any], opening: Opening) -> list[Any] | None:
    """What is to be stored under STUDY_OPENINGS now; None if the last opening was like this one."""
    try:
        rows = read_openings(attributes)
    except RecordError:
        # Damaged rows help nobody, and are no reason not to train.
        rows = []
    if rows and rows[-1].is_like(opening):
        return None
    return to_plain([*rows, opening])


@dataclass(frozen=True)
class _Openings:
    rows: list[Opening]


def read_verdicts(attributes: Mapping[str, Any]) -> list[VerdictRow]:
    """The pruner's verdicts on a trial, oldest first."""
    return [from_plain(VerdictRow, row, ignore_unknown=True) for row in attributes.get(VERDICTS, [])]


def read_spent(attributes: Mapping[str, Any]) -> SpentRow:
    """Out of a study's user attributes; nothing where an older version has run it."""
    return from_plain(SpentRow, attributes.get(SPENT, {}), ignore_unknown=True)


def _mean_by_batch_size(epochs: Sequence[EpochMetrics], name: str) -> dict[str, float]:
    phases: dict[int, list[float]] = defaultdict(list)
    for metrics in epochs:
        phases[metrics.global_batch_size].append(getattr(metrics, name))
    return {str(size): round(fmean(values), 4) for size, values in phases.items()}


@dataclass(frozen=True)
class _Energy:
    joules: float
    source: str
    by_counter: dict[str, float]
    by_batch_size: dict[str, float]
    repeated_j: float


def _energy_of(ends: Sequence[AttemptEnd], epochs: Sequence[EpochMetrics]) -> _Energy | None:
    """What all epochs of all attempts took; None if one was not measured.

    Args:
        epochs: Those of `ends` that count.
    """
    trained = [metrics for end in ends for metrics in end.epochs]
    # A line of an attempt's file may be lost, and the epoch be in the result all the same.
    known = {metrics.epoch for metrics in trained}
    trained += [metrics for metrics in epochs if metrics.epoch not in known]
    # Of a counter that was missing in one epoch, nobody knows the trial's sum.
    counters = sorted(sum_by_counter([metrics.energy_by_counter_j for metrics in (*trained, *epochs)]))
    if not counters:
        return None
    phases: dict[int, list[float]] = defaultdict(list)
    for metrics in epochs:
        phases[metrics.global_batch_size] += [metrics.energy_by_counter_j[counter] for counter in counters]
    by_counter = {name: math.fsum(metrics.energy_by_counter_j[name] for metrics in trained) for name in counters}
    total = math.fsum(by_counter.values())
    counted = math.fsum(math.fsum(parts) for parts in phases.values())
    return _Energy(
        joules=round(total, 3),
        source="+".join(counters),
        by_counter={name: round(joules, 3) for name, joules in by_counter.items()},
        by_batch_size={str(size): round(math.fsum(parts), 3) for size, parts in phases.items()},
        repeated_j=round(max(0.0, total - counted), 3),
    )


def _curves(epochs: Sequence[EpochMetrics]) -> dict[str, list[float | None]]:
    curves = {name: [_finite(getattr(metrics, name)) for metrics in epochs] for name in CURVES}
    # Most machines measure none.
    return {name: curve for name, curve in curves.items() if epochs and (name != "energy_j" or any(curve))}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN, and the dashboard's parser refuses it."""
    return value if value is not None and math.isfinite(value) else None
