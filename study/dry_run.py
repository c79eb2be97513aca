"""What a run would do, for a person who wants to see it first."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.attempt import AttemptRequest, rank_command
from cluster.launchers import RankLayout
from cluster.profile import SiteError, SiteProfile, SlurmSettings, check_complete
from study.config import StudyConfig


def describe(
    config: StudyConfig,
    profile: SiteProfile,
    layout: RankLayout,
    slots: int,
    storage_url: str,
    job_script: str | None,
    console: Console,
) -> None:
    """Print it; nothing is stored, submitted or made."""
    request = AttemptRequest(config.trial_dir(0), 1, layout, profile.launcher, profile.launcher_options)
    table = Table(title=f"dry run: study {config.study.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("trials", f"{config.study.trials} in all, {slots} at once, {config.training.epochs} epochs each")
    table.add_row("site", f"{profile.name}: {layout.nodes} nodes x {layout.ranks_per_node} ranks a trial")
    table.add_row("threads per rank", str(layout.cpus_per_rank))
    for kind, component in config.component_specs(config.search_space.parameters()).items():
        options = "".join(f"\n  {name} = {value}" for name, value in component.options.items())
        table.add_row(kind, escape(f"{component.name}{options}"))
    table.add_row("sampler", f"{config.study.sampler}, seed {config.study.seed}")
    table.add_row("database", storage_url)
    table.add_row("rank command", shlex.join(rank_command(request)))
    if profile.slurm is not None:
        _describe_jobs(config, profile, profile.slurm, slots, table)
    console.print(table)
    if job_script is not None:
        console.print("\njob script:\n", job_script, sep="\n", highlight=False, markup=False, soft_wrap=True)
    try:
        check_complete(profile)
    except SiteError as error:
        console.print(f"note: {error}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _describe_jobs(config: StudyConfig, profile: SiteProfile, slurm: SlurmSettings, slots: int, table: Table) -> None:
    jobs = min(slots, config.study.trials)
    nodes = jobs * profile.nodes_per_trial
    table.add_row("jobs", f"{jobs} at once, {profile.nodes_per_trial} nodes each: {nodes} nodes, for {slurm.walltime}")
    table.add_row(
        "node-hours",
        f"{nodes * slurm.walltime_s / 3600:g} if these jobs last their whole walltime. They end earlier when no trial "
        "is left for them; where the study is longer, others follow.",
    )
