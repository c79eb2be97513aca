"""What a site was measured to do: the files between `make gpu-check`, its launcher and its ranks.

    FOLDER/spec.json         the trial whose model, optimizer and data set are measured
    FOLDER/check.json        what is to be measured
    FOLDER/NAME.begun        the ranks have begun a measurement
    FOLDER/NAME.json         what they found
    FOLDER/NAME.failed       why there is none
    FOLDER/longest_s         seconds of the measurement that has taken longest
    FOLDER/launcher.json     how the ranks came and went
    FOLDER/attempt-01/       of each start of the ranks: log, and words of the first rank that failed

Names of measurements are those of `CheckRequest.measurements`. A measurement that fails ends the ranks, whatever it did
to them, and so does the last one in a precision: TensorFlow keeps the kernels that it has tuned, by shapes and types
that float32 and tf32 have in common. They are started again for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.protocol.codec import from_json, to_json
from storage.protocol.files import OS_FILES
from storage.protocol.records import CommunicatorReport, Precision
from storage.protocol.trial_dir import TrialDir

Record = TypeVar("Record")

RANKS, ALLREDUCE, INPUT = "ranks", "allreduce", "input"


@dataclass(frozen=True)
class StepProgram:
    """One way to compute the training step."""

    precision: Precision
    jit: bool
    """Whether XLA compiles the model and its gradient."""
    fused: bool
    """With one kernel for each batch normalisation and each variable's update, as trials are trained; else in Keras'
    own layers and optimizer."""

    @property
    def name(self) -> str:
        """As a file's name has it, too: bfloat16-xla, float32-keras."""
        return f"{self.precision}{'-xla' * self.jit}{'-keras' * (not self.fused)}"


@dataclass(frozen=True)
class CheckRequest:
    """What is to be measured, and how long that may take."""

    programs: tuple[StepProgram, ...]
    """That of the study's trials first."""
    local_batch_sizes: tuple[int, ...]
    """Samples of an update on one rank, ascending: those of the two phases, or one if there is no other."""
    reads_input: bool
    """Whether the data are there to be read."""
    limit_s: float
    """For all measurements, from the first start of the ranks."""
    measurement_limit_s: float
    """For one of them, after which the ranks are ended and started again for the next one."""

    @property
    def measurements(self) -> tuple[str, ...]:
        """Their names, in order: what matters most comes first, because time may run out."""
        own, *others = (program.name for program in self.programs)
        return (RANKS, ALLREDUCE, own, *([INPUT] if self.reads_input else []), *others)

    def precision_of(self, measurement: str) -> Precision:
        """What the ranks compute in meanwhile: beside the steps, what the study's trials do."""
        by_name = {program.name: program.precision for program in self.programs}
        return by_name.get(measurement, self.programs[0].precision)


@dataclass(frozen=True)
class RanksFacts:
    """What the ranks found out about themselves."""

    report: CommunicatorReport
    refusal: str
    """Why a trial would not be trained by them; empty if it would."""


@dataclass(frozen=True)
class AllreduceFacts:
    """How long it takes to average over all ranks."""

    gradient_tensors: int
    gradient_bytes: int
    gradient_s: float
    """Of one gradient, in one group as in a step; median."""
    bulk_bytes: int
    bulk_s: float
    """Of one large tensor, where nothing but bandwidth counts; median."""


@dataclass(frozen=True)
class PhaseFacts:
    """Updates of one batch size."""

    local_batch_size: int
    update_s: tuple[float, ...]
    """Of an update, on average over those of a loader batch; several loader batches."""
    first_update_s: float
    """The same of the first loader batch after the phase before."""
    peak_bytes: int | None
    """Largest of all ranks, in use by TensorFlow on the GPU; None without GPUs."""


@dataclass(frozen=True)
class ProgramFacts:
    """One way to compute the training step, measured."""

    build_s: float
    """Of model and optimizer."""
    warm_up_s: float
    """Of the first call with each batch size: tracing, tuning of kernels, XLA."""
    phases: tuple[PhaseFacts, ...]
    evaluation_s: float
    """Of the whole validation split, from one batch of it."""


@dataclass(frozen=True)
class InputFacts:
    """How fast all ranks together read the training data, beside nothing else."""

    samples: int
    samples_per_s: float


@dataclass(frozen=True)
class LauncherFacts:
    """How the ranks came and went."""

    rendezvous_s: float | None
    """From their first start until they had met; None: they never have."""
    words: str
    """Of ranks that failed beside any measurement; empty if none did."""


@dataclass(frozen=True)
class CheckFacts:
    """All that was found; what is missing was not measured."""

    ranks: RanksFacts | None
    allreduce: AllreduceFacts | None
    programs: dict[str, ProgramFacts]
    """By name."""
    input: InputFacts | None
    failures: dict[str, str]
    """Why, by the name of the measurement."""
    launcher: LauncherFacts | None
    """None: nobody came to starting them, or to the end of it."""


@dataclass(frozen=True)
class CheckFolder:
    """On a file system that all ranks share; nobody else uses it."""

    path: Path

    @property
    def trial(self) -> TrialDir:
        return TrialDir(self.path)

    def write_request(self, request: CheckRequest) -> None:
        OS_FILES.write_atomically(self.path / "check.json", to_json(request).encode())

    def read_request(self) -> CheckRequest:
        """
        Raises:
            OSError, RecordError: There is none.
        """
        return from_json(CheckRequest, (self.path / "check.json").read_text())

    def begin(self, name: str) -> None:
        OS_FILES.create(self.path / f"{name}.begun", b"")

    def write(self, name: str, facts: RanksFacts | AllreduceFacts | ProgramFacts | InputFacts) -> None:
        OS_FILES.write_atomically(self.path / f"{name}.json", to_json(facts).encode())

    def write_longest_s(self, seconds: float) -> None:
        OS_FILES.write_atomically(self.path / "longest_s", str(seconds).encode())

    def read_longest_s(self) -> float:
        """Of the measurement that has taken longest so far; 0 before the first one."""
        return float(OS_FILES.read(self.path / "longest_s") or 0.0)

    def write_launcher(self, facts: LauncherFacts) -> None:
        OS_FILES.write_atomically(self.path / "launcher.json", to_json(facts).encode())

    def read(self, name: str, kind: type[Record]) -> Record | None:
        """None if it was not measured."""
        content = OS_FILES.read(self.path / f"{name}.json")
        return None if content is None else from_json(kind, content.decode())

    def write_failure(self, name: str, reason: str) -> None:
        OS_FILES.write_atomically(self.path / f"{name}.failed", reason.encode())

    def read_failure(self, name: str) -> str | None:
        content = OS_FILES.read(self.path / f"{name}.failed")
        return None if content is None else content.decode(errors="replace")

    def is_settled(self, name: str) -> bool:
        """Whether a measurement has come to a result or has failed."""
        return OS_FILES.exists(self.path / f"{name}.json") or OS_FILES.exists(self.path / f"{name}.failed")

    def left(self, request: CheckRequest) -> tuple[str, ...]:
        """What has come to no end, in order."""
        return tuple(name for name in request.measurements if not self.is_settled(name))

    def under_way(self, names: tuple[str, ...]) -> str | None:
        """The measurement that has begun and has come to no end."""
        begun = (name for name in names if OS_FILES.exists(self.path / f"{name}.begun"))
        return next((name for name in begun if not self.is_settled(name)), None)

    def collect(self, request: CheckRequest) -> CheckFacts:
        programs = {p.name: facts for p in request.programs if (facts := self.read(p.name, ProgramFacts)) is not None}
        failures = {name: why for name in request.measurements if (why := self.read_failure(name)) is not None}
        return CheckFacts(
            ranks=self.read(RANKS, RanksFacts),
            allreduce=self.read(ALLREDUCE, AllreduceFacts),
            programs=programs,
            input=self.read(INPUT, InputFacts),
            failures=failures,
            launcher=self.read("launcher", LauncherFacts),
        )
