"""GPUs, their driver, and the software that is to use them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cluster.doctor.facts import NodeFacts, SiteFacts
from cluster.doctor.findings import Verdict, broken, node_place, ok, warning
from cluster.profile import SiteProfile

_NO_GPUS = "set gpus_per_node = 0 to train on CPUs"
_NCCL_ENVIRONMENT = "start the study with the Python of `make nccl`: .venv-nccl/bin/python"


def judge_gpus(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    for node in facts.job.nodes if facts.job else ():
        yield _judge_node(profile, node)


def _judge_node(profile: SiteProfile, node: NodeFacts) -> Verdict:
    machine, where = node.machine, node_place(node.machine.host)
    wanted, found = profile.gpus_per_node, machine.gpus
    if wanted == 0:
        return ok("none asked for", where)
    if profile.backend != "nccl" and not found:
        return ok(f'none to be seen, which required_backend = "{profile.backend}" allows', where)
    if found is None:
        return broken("nvidia-smi does not answer: no driver", f"set another slurm.queue; or {_NO_GPUS}", where)
    if len(found) < wanted:
        return broken(
            f"{len(found)} GPUs, and gpus_per_node={wanted}",
            f"set gpus_per_node = {len(found)}, or slurm.extra_directives that give all of them to the job",
            where,
        )
    first = found[0]
    return ok(f"{len(found)} x {first.name} ({first.memory_mib / 1024:.0f} GiB), driver {first.driver}", where)


def judge_software(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.gpus_per_node == 0 or profile.backend != "nccl":
        return
    login = facts.login
    if not login.tensorflow_cuda:
        yield broken("this TensorFlow is built without CUDA", _NCCL_ENVIRONMENT)
        return
    if not login.horovod_has_nccl:
        yield broken(
            "this Horovod is built without NCCL",
            f'{_NCCL_ENVIRONMENT}; or set required_backend = "mpi"',
        )
        return
    yield ok(f"TensorFlow with CUDA {login.tensorflow_cuda}, Horovod with NCCL")


def judge_driver(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if not facts.login.tensorflow_cuda:
        return
    for node in facts.job.nodes if facts.job else ():
        if node.machine.driver_cuda:
            yield _judge_driver(node, facts.login.tensorflow_cuda)


def _judge_driver(node: NodeFacts, cuda: str) -> Verdict:
    where, knows = node_place(node.machine.host), node.machine.driver_cuda
    driver, built = _version(knows), _version(cuda)
    if driver[0] < built[0]:
        return broken(
            f"the driver knows CUDA {knows}, and TensorFlow is built with {cuda}",
            f"ask the site for a driver of CUDA {built[0]}, or build an environment with CUDA {driver[0]}",
            where,
        )
    if driver < built:
        # Compatible within a major version, except for what is compiled on the spot (NVIDIA: CUDA Compatibility).
        return warning(
            f"the driver knows CUDA {knows}, and TensorFlow is built with {cuda}",
            "training.jit may fail: its kernels are compiled for the newer one; ask the site for a newer driver",
            where,
        )
    return ok(f"the driver knows CUDA {knows}", where)


def judge_visible_gpus(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if facts.job is None or profile.gpus_per_node == 0 or profile.backend != "nccl":
        return
    of_host: dict[str, list[str | None]] = defaultdict(list)
    for rank in facts.job.ranks:
        of_host[rank.host].append(rank.visible_gpus)
    for host, visible in of_host.items():
        yield _judge_visible(profile, host, visible)


def _judge_visible(profile: SiteProfile, host: str, visible: list[str | None]) -> Verdict:
    """A rank takes the GPU of its number, or the only one that it sees: trainers/data_plane.py."""
    where = node_place(host)
    counts = {profile.gpus_per_node if text is None else _count_visible(text) for text in visible}
    cure = 'set CUDA_VISIBLE_DEVICES under [environment] to all GPUs of a node, such as "0,1,2,3"'
    if counts == {1} and profile.ranks_per_node > 1:
        if len(set(visible)) < len(visible):
            seen = ", ".join(sorted({text for text in visible if text is not None})) or "the only one"
            return broken(f"ranks share a GPU: each sees one, {seen}", cure, where)
        return warning("each rank sees one GPU of its own: NCCL may not take NVLink", cure, where)
    if min(counts) < profile.ranks_per_node:
        return broken(f"a rank sees {min(counts)} GPUs for {profile.ranks_per_node} ranks", cure, where)
    return ok(f"each rank sees {min(counts)}", where)


def _count_visible(text: str) -> int:
    """In CUDA_VISIBLE_DEVICES, of which CUDA passes over what comes after the first that is no GPU."""
    names = [name.strip() for name in text.split(",")]
    is_none = [name in ("", "-1", "NoDevFiles") for name in names]
    return is_none.index(True) if True in is_none else len(names)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal()) or (0,)
