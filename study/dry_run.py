"""What a run would do, for a person who wants to see it first: the very requests that it would send."""

from __future__ import annotations

import json
import shlex

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.attempt import rank_command
from cluster.profile import SiteError, SlurmSettings, check_complete
from storage.database.endpoint import public_url
from storage.protocol.codec import to_plain
from storage.protocol.records import BatchScaling
from study.plan import StudyPlan


def describe(
    plan: StudyPlan, job_script: str | None, forecast: str, console: Console, replay: str | None = None
) -> None:
    """Print it; nothing is stored, submitted or made.

    Args:
        forecast: What the study will take, in words.
        replay: What of an earlier study comes again, in words.
    """
    config, layout, slurm = plan.config, plan.layout, plan.site.slurm
    request = plan.request(0, 1, float("inf") if slurm is None else float(slurm.walltime_s))
    table = Table(title=f"dry run: study {plan.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row(
        "trials", f"{config.study.total_trials} in all, {plan.slots} at once, {config.training.epochs} epochs each"
    )
    nodes = f"{layout.nodes} node{'s' * (layout.nodes > 1)}"
    table.add_row("site", f"{plan.site.name}: {nodes} x {layout.ranks_per_node} ranks a trial")
    table.add_row("threads per rank", str(layout.cpus_per_rank))
    for kind, component in config.component_specs(config.search_space.parameters()).items():
        options = "".join(f"\n  {name} = {value}" for name, value in component.options.items())
        table.add_row(kind, escape(f"{component.name}{options}"))
    given = len(config.study.configurations)
    sampler = f"none, {given} configuration{'s' * (given > 1)} in turn" if given else config.study.sampler
    table.add_row("sampler", f"{sampler}; seed {config.study.seed}")
    if replay is not None:
        table.add_row("replay", escape(replay))
    pruner = config.pruner.resolved(config.training.epochs).model_dump(mode="json", exclude_none=True)
    table.add_row("pruner", escape(", ".join(f"{name}={value}" for name, value in pruner.items())))
    if plan.growth:
        table.add_row("resources", _describe_growth(plan))
    if budget := config.budget.model_dump(mode="json", exclude_defaults=True):
        table.add_row("budget", escape(", ".join(f"{name}={value}" for name, value in budget.items())))
    table.add_row("database", public_url(plan.database))
    table.add_row("rank command", shlex.join(rank_command(request)))
    if slurm is not None:
        _describe_jobs(plan, slurm, table)
    table.add_row("forecast", escape(forecast))
    console.print(table)
    # Not wrapped: it is JSON, which a line break in a long path would spoil.
    wire = json.dumps(to_plain(request), indent=2)
    console.print("\nfirst request:", wire, sep="\n", highlight=False, markup=False, soft_wrap=True)
    if job_script is not None:
        console.print("\njob script:\n", job_script, sep="\n", highlight=False, markup=False, soft_wrap=True)
    try:
        check_complete(plan.site)
    except SiteError as error:
        console.print(f"note: {error}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _describe_growth(plan: StudyPlan) -> str:
    more = [
        f"{plan.site.nodes_of(plan.layout_at(growth.epoch))} after epoch {growth.epoch} ({growth.world_size} ranks)"
        for growth in plan.growth
    ]
    begin = plan.site.nodes_of(plan.layout)
    batch = "grows with them" if plan.config.resources.batch is BatchScaling.PER_RANK else "stays"
    return f"nodes of a trial: {begin}, {', '.join(more)}; the global batch {batch}"


def _describe_jobs(plan: StudyPlan, slurm: SlurmSettings, table: Table) -> None:
    jobs = min(plan.slots, plan.config.study.total_trials)
    nodes = jobs * plan.layout.nodes
    table.add_row("jobs", f"{jobs} at once, {plan.layout.nodes} nodes each: {nodes} nodes, for {slurm.walltime}")
    table.add_row(
        "node-hours",
        f"{nodes * slurm.walltime_s / 3600:g} if these jobs last their whole walltime. They end earlier when no trial "
        "is left for them; where the study is longer, others follow.",
    )
