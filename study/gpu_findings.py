"""What the measurements of a site mean for a person: a row each, and whether a study may start. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from cluster.doctor.facts import JobFacts
from storage.protocol.gpu_check import (
    ALLREDUCE,
    INPUT,
    RANKS,
    AllreduceFacts,
    CheckFacts,
    CheckRequest,
    PhaseFacts,
    ProgramFacts,
    StepProgram,
)
from study.forecast.fit import Estimate
from study.forecast.performance_model import Placement, gradients_carried

_LEAST_OF_LINK = 0.5
"""Of the profile's rate, for one large tensor: less is another network, or a host's memory on the way."""
_MOST_AFTER_SWITCH = 1.5
"""Times a usual update: more, and something is compiled or tuned only when the batch size switches."""
_TIME_WAS_OVER = "not measured: time ran out; raise --minutes"


class Status(StrEnum):
    PASS = "pass"
    WARNING = "warning"
    """Studies run, and something about them will surprise."""
    FAIL = "fail"
    """A study should not start."""
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    status: Status
    found: str


@dataclass(frozen=True)
class Cost:
    """Of the study, by the times that were measured."""

    trials: int
    node_hours: Estimate
    wall_s: Estimate
    constant_node_hours: Estimate | None
    """With the smallest batch to the end; None where that is how its trials train."""
    quickest: str
    """The form of the step with which it costs least."""
    quickest_node_hours: Estimate


@dataclass(frozen=True)
class Check:
    """What was to be measured, and what was found."""

    request: CheckRequest
    placement: Placement
    has_gpus: bool
    """Whether trials are trained on GPUs there."""
    is_job: bool
    """Whether the site has a batch system."""
    link_gbit_per_s: float | None
    has_node_cache: bool
    """Whether the study's nodes keep what they have read."""
    skipped: Mapping[str, str]
    """Why something was not to be measured, by its name."""
    job: JobFacts
    facts: CheckFacts
    cost: Cost | None

    @property
    def own(self) -> StepProgram:
        """That of the study's trials."""
        return self.request.programs[0]

    @property
    def device(self) -> str:
        return "GPU" if self.has_gpus else "rank"


def judge(check: Check) -> list[Row]:
    """All rows, in the order in which they matter."""
    return [
        *_job(check),
        *_ranks(check),
        *_gpus(check),
        *_allreduce(check),
        *_steps(check),
        *_phases(check),
        *_input(check),
        *_cost(check),
    ]


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why a study should not start; nothing where it may."""
    return [f"{row.name}: {row.found}" for row in rows if row.status is Status.FAIL]


def _job(check: Check) -> Iterator[Row]:
    job, launcher = check.job, check.facts.launcher
    if job.refused:
        yield Row("job", Status.FAIL, job.refused)
    elif not job.has_left_queue:
        yield Row("job", Status.FAIL, f"not started after {job.waited_s:.0f} s: {job.state}; see --wait")
    elif launcher is None and check.facts.ranks is None:
        words = job.log_tail or job.state or "it has left nothing behind"
        yield Row("job", Status.FAIL, f"{words}; study/doctor.py looks for the cause")
    elif check.is_job:
        yield Row("job", Status.PASS, f"started after {job.waited_s:.0f} s")
    if launcher is not None and launcher.words:
        yield Row("launcher", Status.FAIL, launcher.words)


def _ranks(check: Check) -> Iterator[Row]:
    wanted, facts = check.placement, check.facts.ranks
    if facts is None:
        yield Row("ranks", Status.FAIL, check.facts.failures.get(RANKS, f"none of {wanted.ranks} have met"))
        return
    report = facts.report
    hosts = len(set(report.hosts))
    found = f"{report.world_size} of {wanted.ranks} have met, on {hosts} host{'s' * (hosts > 1)}"
    met = report.world_size == wanted.ranks
    yield Row("ranks", Status.PASS if met else Status.FAIL, found)
    yield Row("data plane", Status.FAIL if facts.refusal else Status.PASS, facts.refusal or report.data_plane)


def _gpus(check: Check) -> Iterator[Row]:
    if not check.has_gpus:
        yield Row("GPUs", Status.SKIPPED, "trials use none: gpus_per_node is 0, or required_backend is not nccl")
        return
    if check.facts.ranks is None:
        yield Row("GPUs", Status.SKIPPED, "no rank has said which it has")
        return
    # Without the number, which is different for each.
    models = Counter(gpu.rpartition(" ")[0] for gpu in check.facts.ranks.report.gpus if gpu)
    missing = sum(not gpu for gpu in check.facts.ranks.report.gpus)
    found = [f"{count} x {model}" for model, count in models.items()]
    if missing:
        found.append(f"{missing} of {check.placement.ranks} ranks have none")
    # Where the site asks for NCCL, the data plane is what fails.
    yield Row("GPUs", Status.WARNING if missing else Status.PASS, ", ".join(found))


def _allreduce(check: Check) -> Iterator[Row]:
    facts, placement = check.facts.allreduce, check.placement
    if placement.ranks == 1:
        yield Row("allreduce", Status.SKIPPED, "one rank has nobody to average with")
        return
    if facts is None:
        yield _missing(check, ALLREDUCE, "allreduce", Status.FAIL)
        return
    sent = 2 * (placement.ranks - 1) / placement.ranks * facts.bulk_bytes / facts.bulk_s
    yield Row(
        "allreduce",
        Status.PASS,
        f"gradient of {facts.gradient_tensors} tensors, {facts.gradient_bytes / 1e6:.3g} MB: "
        f"{1e3 * facts.gradient_s:.3g} ms; {facts.bulk_bytes / 2**20:.0f} MiB: {1e3 * facts.bulk_s:.3g} ms, "
        f"{sent / 1e9:.3g} GB/s sent by each rank",
    )
    yield Row("link", *_of_link(check, facts))


def _of_link(check: Check, facts: AllreduceFacts) -> tuple[Status, str]:
    if check.placement.nodes == 1:
        return Status.SKIPPED, "all ranks are on one node"
    gbit_per_s = 8e-9 * gradients_carried(check.placement) * facts.bulk_bytes / facts.bulk_s
    if check.link_gbit_per_s is None:
        return Status.SKIPPED, f"no link rate in the profile: set link_gbit_per_s; a node sent {gbit_per_s:.3g} Gbit/s"
    share = gbit_per_s / check.link_gbit_per_s
    found = f"a node sent {gbit_per_s:.3g} Gbit/s, {share:.0%} of the link's {check.link_gbit_per_s:g}"
    if share >= _LEAST_OF_LINK:
        return Status.PASS, found
    return (
        Status.FAIL,
        f"{found}, below {_LEAST_OF_LINK:.0%}: look at NCCL_DEBUG=INFO, NCCL_IB_HCA, "
        "NCCL_SOCKET_IFNAME and OMPI_MCA_btl_tcp_if_include under [environment]",
    )


def _steps(check: Check) -> Iterator[Row]:
    for program in check.request.programs:
        facts = check.facts.programs.get(program.name)
        if facts is None:
            is_own = program == check.own
            yield _missing(check, program.name, _step(program.name), Status.FAIL if is_own else Status.WARNING)
            continue
        phases = "; ".join(_described(check, phase) for phase in facts.phases)
        yield Row(_step(program.name), Status.PASS, phases)
    left_out: dict[str, list[str]] = {}
    for name, why in check.skipped.items():
        if name != INPUT:
            left_out.setdefault(why, []).append(name)
    for why, names in left_out.items():
        yield Row(_step(", ".join(names)), Status.SKIPPED, why)


def _described(check: Check, phase: PhaseFacts) -> str:
    memory = "" if phase.peak_bytes is None else f", {phase.peak_bytes / 2**30:.3g} GiB"
    update_s = median(phase.update_s)
    return (
        f"{phase.local_batch_size:,} a rank: {1e3 * update_s:.3g} ms, "
        f"{_three(phase.local_batch_size / update_s)} images/s a {check.device}{memory}"
    )


def _phases(check: Check) -> Iterator[Row]:
    """What the study's own trials have of it."""
    facts = check.facts.programs.get(check.own.name)
    names = ("switch", "peak memory", f"images/s a {check.device}")
    if facts is None:
        yield from (Row(name, Status.SKIPPED, f"{_step(check.own.name)} was not measured") for name in names)
        return
    yield Row(names[0], *_of_switch(facts))
    peaks = [f"{phase.peak_bytes / 2**30:.3g} GiB" for phase in facts.phases if phase.peak_bytes is not None]
    if peaks:
        yield Row(names[1], Status.PASS, f"{' and '.join(peaks)} of a GPU, in use by TensorFlow")
    else:
        yield Row(names[1], Status.SKIPPED, "TensorFlow counts that of GPUs only")
    rates = [phase.local_batch_size / median(phase.update_s) for phase in facts.phases]
    found = " and ".join(
        f"{_three(rate)} at {phase.local_batch_size:,}" for rate, phase in zip(rates, facts.phases, strict=True)
    )
    factor = f": {rates[-1] / rates[0]:.3g} times" if len(rates) > 1 else ""
    yield Row(names[2], Status.PASS, f"{found}{factor}")


def _of_switch(facts: ProgramFacts) -> tuple[Status, str]:
    if len(facts.phases) == 1:
        return Status.SKIPPED, "the batch size does not change"
    large = facts.phases[-1]
    ratio = large.first_update_s / median(large.update_s)
    found = f"the first update of {large.local_batch_size:,} takes {ratio:.3g} times as long as the others"
    if ratio <= _MOST_AFTER_SWITCH:
        return Status.PASS, found
    return Status.WARNING, f"{found}: something is compiled or tuned only then"


def _input(check: Check) -> Iterator[Row]:
    if INPUT in check.skipped:
        yield Row(INPUT, Status.SKIPPED, check.skipped[INPUT])
        return
    facts, own = check.facts.input, check.facts.programs.get(check.own.name)
    if facts is None:
        yield _missing(check, INPUT, INPUT, Status.WARNING)
        return
    found = f"{_three(facts.samples_per_s)} images/s, all ranks together, of {facts.samples:,} read"
    if own is None:
        yield Row(INPUT, Status.PASS, found)
        return
    needed = max(phase.local_batch_size / median(phase.update_s) for phase in own.phases) * check.placement.ranks
    if facts.samples_per_s >= needed:
        yield Row(INPUT, Status.PASS, f"{found}; training takes {_three(needed)}")
    elif check.has_node_cache:
        later = "the first epoch reads like this, later ones from node_cache where that has room"
        yield Row(INPUT, Status.PASS, f"{found}, and training could take {_three(needed)}: {later}")
    else:
        yield Row(
            INPUT,
            Status.WARNING,
            f"{found}, and training could take {_three(needed)}: the data set's node_cache, or more cpus_per_rank",
        )


def _cost(check: Check) -> Iterator[Row]:
    cost = check.cost
    if cost is None:
        yield Row("cost", Status.SKIPPED, f"{_step(check.own.name)} was not measured, or too little of it")
        return
    found = [f"{cost.trials} trials: {_range(cost.node_hours)} node-hours, {_range(cost.wall_s.times(1 / 3600))} hours"]
    if cost.constant_node_hours is not None:
        found.append(f"with the smallest batch to the end {_range(cost.constant_node_hours)} node-hours")
    if cost.quickest != check.own.name:
        found.append(f"as {cost.quickest} {_range(cost.quickest_node_hours)}")
    yield Row("cost", Status.PASS, "; ".join(found))


def _missing(check: Check, measurement: str, name: str, if_failed: Status) -> Row:
    """Of what was to be measured and was not."""
    if (reason := check.facts.failures.get(measurement)) is not None:
        return Row(name, if_failed, reason)
    ranks = check.facts.ranks
    if ranks is None or ranks.refusal:
        return Row(name, Status.SKIPPED, "no ranks to measure it with")
    return Row(name, if_failed if if_failed is Status.FAIL else Status.SKIPPED, _TIME_WAS_OVER)


def _step(program: str) -> str:
    return f"step {program}"


def _range(estimate: Estimate) -> str:
    return f"{_two(estimate.low)} to {_two(estimate.high)}"


def _two(value: float) -> str:
    """No more than a forecast is worth."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _three(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"
