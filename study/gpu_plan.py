"""What `make gpu-check` measures of a study: its config, the forms of its step, its batch sizes. Pure but for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.profile import SiteProfile
from storage.protocol.gpu_check import INPUT, CheckRequest, StepProgram
from storage.protocol.records import ComponentSpec, Precision, TrialSpec
from storage.protocol.workload import Workload
from study.config import CONFIGS_DIR, StudyConfig, load_config
from study.plan import StudyPlan
from study.search_space import Choices

MEASUREMENT_LIMIT_S = 300.0
"""Building, tracing and compiling EfficientNet-B0 for two batch sizes, and the calls that are timed."""
MOST_SAMPLES_ON_CPUS = 8
"""Of an update on one rank: 1,024 patches of 120 pixels are 40 s and 35 GiB of activations there."""

_PAPER = CONFIGS_DIR / "paper.toml"
_PAPER_LOCAL_BATCH_SIZES = (32, 1024)
# As many patches as BigEarthNet's first version has in its official splits, made when they are asked for: only their
# numbers count here. Each is as large as one of all bands that has been upsampled.
_STAND_IN = 'dataset={name="synthetic_bigearthnet", size=120, train=269695, val=123723, test=125866}'
_NOT_ON_CPUS = {
    Precision.TF32: "only GPUs compute in tf32",
    Precision.BFLOAT16: "its time on a CPU says nothing of a GPU's",
}


@dataclass(frozen=True)
class MeasuredConfig:
    """A config, and whether other data stand in for its own."""

    config: StudyConfig
    lacks_data: str
    """Why the input cannot be measured; empty if it can."""


def read_config(path: Path | None, overrides: Sequence[str], site: SiteProfile) -> MeasuredConfig:
    """The config that is measured: one of a person's or, for as many ranks as the site gives a trial, the paper's.

    Raises:
        ConfigError: See `load_config`.
    """
    given = [*([] if path is not None else _paper_batch_sizes(site)), *overrides]
    config = load_config(path or _PAPER, given)
    data = config.dataset.options.get("path")
    if config.dataset.name != "bigearthnet" or not isinstance(data, str) or Path(data).expanduser().exists():
        return MeasuredConfig(config, "")
    why = (
        f"the data are not there ({data}): as many generated patches, of 12 bands at full size, stand in, so that "
        "bands, resampling and augment of the config are not measured; --set dataset.path=..."
    )
    return MeasuredConfig(load_config(path or _PAPER, [*given, _STAND_IN]), why)


def _paper_batch_sizes(site: SiteProfile) -> list[str]:
    ranks = site.nodes_per_trial * site.ranks_per_node
    small, large = (size * ranks for size in _PAPER_LOCAL_BATCH_SIZES)
    return [f"batch_policy.small_global_batch_size={small}", f"batch_policy.large_global_batch_size={large}"]


@dataclass(frozen=True)
class Measured:
    """What is asked of the ranks, and what is not."""

    request: CheckRequest
    spec: TrialSpec
    skipped: dict[str, str]
    """Why, by what was not asked."""


def plan_check(
    plan: StudyPlan, lacks_data: str, workloads: Sequence[Workload], limit_s: float, most_samples: int | None
) -> Measured:
    """Decide what to measure.

    Args:
        lacks_data: See MeasuredConfig.
        most_samples: Of an update on one rank; None: what the site's devices bear.
    """
    training, has_gpus = plan.config.training, trains_on_gpus(plan.site)
    if most_samples is None and not has_gpus:
        most_samples = MOST_SAMPLES_ON_CPUS
    asked = _local_batch_sizes(plan, workloads)
    sizes = reduced(asked, most_samples)
    programs, skipped = step_programs(StepProgram(training.precision, training.jit, fused=True), has_gpus)
    if lacks_data:
        skipped[INPUT] = lacks_data
    request = CheckRequest(programs, sizes, not lacks_data, limit_s, min(MEASUREMENT_LIMIT_S, limit_s))
    return Measured(request, _spec(plan, is_reduced=sizes != asked), skipped)


def trains_on_gpus(site: SiteProfile) -> bool:
    """Whether its ranks have GPUs that TensorFlow sees; a sandbox's are stand-ins, which no NCCL is asked to find."""
    return site.gpus_per_node > 0 and site.backend == "nccl"


def step_programs(own: StepProgram, has_gpus: bool) -> tuple[tuple[StepProgram, ...], dict[str, str]]:
    """The forms of a step, the study's own first; and why others are not measured, by their names."""
    # One precision at a time, for each of which the ranks are started anew. Keras' own forms only say what ours are
    # worth.
    precisions = [own.precision, *(precision for precision in Precision if precision is not own.precision)]
    ours = [StepProgram(precision, jit, fused=True) for precision in precisions for jit in (False, True)]
    of_keras = [StepProgram(precision, jit, fused=False) for precision in reversed(precisions) for jit in (False, True)]
    others = [program for program in (*ours, *of_keras) if program != own]
    left_out = {} if has_gpus else {p.name: _NOT_ON_CPUS[p.precision] for p in others if p.precision in _NOT_ON_CPUS}
    return (own, *(program for program in others if program.name not in left_out)), left_out


def reduced(sizes: tuple[int, ...], most_samples: int | None) -> tuple[int, ...]:
    """Batch sizes in the same proportion, the largest of which is `most_samples` at the most."""
    largest = sizes[-1]
    if most_samples is None or largest <= most_samples:
        return sizes
    return tuple(sorted({max(1, size * most_samples // largest) for size in sizes}))


def _local_batch_sizes(plan: StudyPlan, workloads: Sequence[Workload]) -> tuple[int, ...]:
    ranks = plan.layout.world_size
    every = {size // ranks for workload in workloads for size in workload.global_batch_sizes}
    return tuple(sorted({min(every), max(every)}))


def _spec(plan: StudyPlan, is_reduced: bool) -> TrialSpec:
    # The upper ends: with no momentum or decay at all a step does less.
    sampled = {
        name: parameter.choices[-1] if isinstance(parameter, Choices) else parameter.high
        for name, parameter in plan.config.search_space.parameters().items()
    }
    spec = plan.spec(0, sampled, study_uuid="")
    # A node's cache is filled in minutes, by the first epoch of the first trial.
    options = {name: value for name, value in spec.dataset.options.items() if name != "node_cache"}
    parts = 1 if is_reduced else spec.accumulation_steps
    return replace(spec, dataset=ComponentSpec(spec.dataset.name, options), accumulation_steps=parts)
