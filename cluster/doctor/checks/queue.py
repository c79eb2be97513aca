"""What the batch system says on the login node, before anything is submitted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.doctor.facts import NodeGroup, PartitionFacts, QueueFacts, SiteFacts
from cluster.doctor.findings import Verdict, broken, ok, warning
from cluster.profile import SiteProfile

# States in which sinfo lists nodes that no job gets.
_AWAY = ("down", "drain", "fail", "maint", "unknown", "powered_down", "not_resp")


def judge_answer(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if facts.queue is None:
        return
    if facts.queue.error:
        yield broken(
            facts.queue.error,
            'start the study where Slurm\'s commands work; without Slurm, leave [slurm] out, with launcher = "mpirun"',
        )
    else:
        yield ok(facts.queue.version)


def judge_partition(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.slurm is None or facts.queue is None:
        return
    names = ", ".join(partition.name for partition in facts.queue.partitions)
    partition = _partition(profile, facts.queue)
    if partition is None:
        wanted = profile.slurm.queue
        found = "there is no default partition" if wanted is None else f"slurm.queue={wanted!r}: not found"
        yield broken(found, f"set slurm.queue to one of: {names}")
    elif not partition.is_up:
        yield broken(f"partition {partition.name} is not up", f"wait, or set slurm.queue to one of: {names}")
    else:
        yield ok(partition.name)


def judge_account(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    partition = _partition(profile, facts.queue)
    if profile.slurm is None or partition is None or not partition.accounts:
        return
    account = profile.slurm.account
    if account is None:
        yield warning(
            f"partition {partition.name} is for {', '.join(partition.accounts)}",
            "set slurm.account, unless your default account is one of them",
        )
    elif account not in partition.accounts:
        yield broken(
            f"slurm.account={account!r} may not use partition {partition.name}",
            f"set slurm.account to one of: {', '.join(partition.accounts)}; or another slurm.queue",
        )
    else:
        yield ok(f"{account} may use {partition.name}")


def judge_walltime(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    partition = _partition(profile, facts.queue)
    if profile.slurm is None or partition is None:
        return
    walltime_s, walltime = profile.slurm.walltime_s, profile.slurm.walltime
    if walltime_s > partition.max_walltime_s:
        longest = format_walltime(partition.max_walltime_s)
        yield broken(
            f"slurm.walltime={walltime!r} is above the {longest} of partition {partition.name}",
            f'set slurm.walltime = "{longest}": a trial that takes longer goes on in the next job',
        )
    elif walltime_s <= profile.rendezvous_timeout_s + profile.checkpoint_grace_s:
        yield warning(
            f"slurm.walltime={walltime!r} may be over before ranks have started "
            f"(rendezvous_timeout_s={profile.rendezvous_timeout_s:g}) and saved "
            f"(checkpoint_grace_s={profile.checkpoint_grace_s:g})",
            "set a longer slurm.walltime, or a shorter rendezvous_timeout_s",
        )
    else:
        yield ok(f"{walltime}; partition {partition.name} allows {format_walltime(partition.max_walltime_s)}")


def judge_nodes(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    partition = _partition(profile, facts.queue)
    if profile.slurm is None or facts.queue is None or partition is None:
        return
    groups = [group for group in facts.queue.groups if group.partition == partition.name]
    if groups:
        yield _judge_shape(profile, partition, groups)


def _judge_shape(profile: SiteProfile, partition: PartitionFacts, groups: list[NodeGroup]) -> Verdict:
    cpus = profile.ranks_per_node * (1 if profile.cpus_per_rank == "auto" else profile.cpus_per_rank)
    most_cpus = max(group.cpus for group in groups)
    if cpus > most_cpus:
        return broken(
            f"ranks_per_node x cpus_per_rank = {cpus} CPUs, and a node of {partition.name} has {most_cpus}",
            f"set cpus_per_rank = {max(1, most_cpus // profile.ranks_per_node)}, or fewer ranks_per_node",
        )
    gpu_type = profile.slurm.gpu_type if profile.slurm else None
    types = sorted({kind for group in groups for kind in group.gpus if kind})
    if gpu_type is not None and gpu_type not in types:
        return broken(
            f"slurm.gpu_type={gpu_type!r}: partition {partition.name} has none",
            f"set slurm.gpu_type to one of: {', '.join(types)}" if types else "leave slurm.gpu_type out",
        )
    most_gpus = max(_gpus(group, gpu_type) for group in groups)
    if profile.gpus_per_node > most_gpus:
        return broken(
            f"gpus_per_node={profile.gpus_per_node}, and a node of {partition.name} has {most_gpus}",
            f"set gpus_per_node = {most_gpus}, with as many ranks_per_node at most; or another slurm.queue",
        )
    fitting = [group for group in groups if group.cpus >= cpus and _gpus(group, gpu_type) >= profile.gpus_per_node]
    there = sum(group.nodes for group in fitting)
    if not fitting:
        return broken(
            f"no node of {partition.name} has {cpus} CPUs and {profile.gpus_per_node} GPUs",
            "set a smaller cpus_per_rank or gpus_per_node, or another slurm.queue",
        )
    most_nodes = min(partition.max_nodes, there)
    if profile.nodes_per_trial > most_nodes:
        return broken(
            f"nodes_per_trial={profile.nodes_per_trial}, and partition {partition.name} gives a job {most_nodes:g}",
            f"set nodes_per_trial = {most_nodes:g} at most, or another slurm.queue",
        )
    usable = sum(group.nodes for group in fitting if not any(word in group.state.lower() for word in _AWAY))
    if profile.nodes_per_trial > usable:
        return warning(f"{usable} of {there} such nodes of {partition.name} are up", "wait, or set another slurm.queue")
    return ok(f"{there} nodes with {most_cpus} CPUs and {most_gpus} GPUs; a trial takes {profile.nodes_per_trial}")


def judge_mpi_plugin(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.launcher != "srun" or facts.queue is None or not facts.queue.mpi_plugins:
        return
    plugins, plugin = facts.queue.mpi_plugins, chosen_mpi_plugin(profile.launcher_options)
    pmix = [name for name in plugins if "pmix" in name]
    cure = (
        f'set launcher_options = ["--mpi={pmix[0]}"]' if pmix else 'set launcher = "mpirun" and launcher_options = []'
    )
    if plugin not in plugins:
        yield broken(f"--mpi={plugin}: Slurm has {', '.join(plugins)}", cure)
    elif "pmix" not in plugin:
        yield broken(f"--mpi={plugin}: Open MPI 5 finds its ranks by PMIx only", cure)
    # Servers of PMIx 1 and clients of later ones do not understand one another; all later ones do (OpenPMIx's
    # page on interoperability).
    elif plugin == "pmix_v1" or (plugin == "pmix" and [name for name in pmix if "_v" in name] == ["pmix_v1"]):
        yield broken("Slurm's PMIx is of version 1, and Open MPI 5 talks to 2 or later", 'set launcher = "mpirun"')
    else:
        yield ok(f"--mpi={plugin}, of {', '.join(plugins)}")


def judge_submission(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if facts.queue is None or facts.queue.error:
        return
    if facts.queue.refused:
        yield broken(
            facts.queue.refused,
            "change what it names under [slurm]: memory_per_node, account, extra_directives; "
            "`study/run.py --dry-run` shows the job script",
        )
    else:
        yield ok("Slurm would take a study's job")


def chosen_mpi_plugin(options: tuple[str, ...]) -> str:
    """Of the launcher's own option and the site's, which come last and win."""
    chosen = re.findall(r"(?:^|\n)--mpi(?:=|\n)(\S+)", "\n".join(options))
    return chosen[-1] if chosen else "pmix"


def format_walltime(seconds: float) -> str:
    """As a profile has it."""
    if seconds == float("inf"):
        return "any time"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest_s:02d}"


def _partition(profile: SiteProfile, queue: QueueFacts | None) -> PartitionFacts | None:
    if profile.slurm is None or queue is None:
        return None
    wanted = profile.slurm.queue
    named = (each for each in queue.partitions if (each.is_default if wanted is None else each.name == wanted))
    return next(named, None)


def _gpus(group: NodeGroup, gpu_type: str | None) -> int:
    return sum(count for kind, count in group.gpus.items() if gpu_type in (None, kind))
