"""What a study will cost where its step was timed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from storage.protocol.gpu_check import CheckFacts, CheckRequest, ProgramFacts
from storage.protocol.workload import Workload
from study.forecast.forecast import StudyForecast
from study.forecast.measured_steps import measurements_of
from study.forecast.measurements import Conditions
from study.forecast.outlook import Outlook
from study.gpu_findings import Cost
from study.plan import StudyPlan


def cost_of(
    plan: StudyPlan,
    conditions: Conditions,
    workloads: Sequence[Workload],
    request: CheckRequest,
    facts: CheckFacts,
) -> Cost | None:
    """By the study's own step, and by the one that costs least; None if too little was measured."""
    placement = conditions.placement(plan.layout.world_size, plan.layout.nodes)
    train_samples = max(workload.train_samples for workload in workloads)
    # What each node keeps in its memory is read from the file system in the first epoch of the first trial only.
    ceiling = None if plan.config.dataset.options.get("node_cache") else facts.input
    meeting_s = 0.0 if facts.launcher is None else facts.launcher.rendezvous_s or 0.0
    trials = plan.config.study.total_trials

    def outlook(program: ProgramFacts) -> Outlook:
        measured = measurements_of(program, ceiling, placement, train_samples, meeting_s)
        return Outlook(plan, conditions, workloads, measured)

    outlooks = {name: outlook(program) for name, program in facts.programs.items()}
    forecasts: dict[str, StudyForecast] = {
        name: forecast for name, each in outlooks.items() if (forecast := each.study(trials)) is not None
    }
    own = request.programs[0].name
    if own not in forecasts:
        return None
    constant = outlooks[own].constant_study(trials)
    quickest = min(forecasts, key=lambda name: forecasts[name].node_hours.expected)
    return Cost(
        trials=trials,
        node_hours=forecasts[own].node_hours,
        wall_s=forecasts[own].wall_s,
        constant_node_hours=None if constant is None else constant.node_hours,
        quickest=quickest,
        quickest_node_hours=forecasts[quickest].node_hours,
    )
