"""The file system that the driver and the nodes share."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.facts import FolderFacts, NodeFacts, SiteFacts
from cluster.doctor.findings import Verdict, broken, node_place, ok, warning
from cluster.doctor.folder import TRIED_BYTES
from cluster.profile import SiteProfile

_MIB, _GIB = 2**20, 2**30
_LITTLE_SPACE = 10 * _GIB
# A supervisor looks every second whether a newer attempt has taken over, and a second one in its place trains double.
_SLOW_ROUND_TRIP_S = 10.0
_MOVE = "set study.runs_dir and study.cache_dir to a folder of a file system"


def judge_login_folder(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    folder = facts.folder
    if broken_folder := _failure(folder, "login node"):
        yield broken_folder
    elif folder.free_bytes < _LITTLE_SPACE:
        yield warning(
            f"{folder.path}: {folder.free_bytes / _GIB:.1f} GiB are free", "make room, or set study.runs_dir elsewhere"
        )
    else:
        yield ok(f"{folder.path} ({folder.file_system}): {folder.free_bytes / _GIB:.0f} GiB free, renames, locks")


def judge_node_folder(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    for node in facts.job.nodes if facts.job else ():
        yield _judge_node(node)


def _judge_node(node: NodeFacts) -> Verdict:
    where = node_place(node.machine.host)
    if failure := _failure(node.folder, where):
        return failure
    if node.round_trip_s is None:
        return broken(
            "no answer of the login node was seen in time",
            f"{_MOVE} with coherent attributes (NFS: mount it with a shorter actimeo)",
            where,
        )
    if node.is_lock_shared is False:
        return warning(
            "locks hold on one machine only",
            "have it mounted with locks (Lustre: -o flock; NFS: without nolock); until then prepare the cache of a "
            "data set before the study, on one node",
            where,
        )
    if node.round_trip_s > _SLOW_ROUND_TRIP_S:
        return warning(
            f"a new file is seen, and its answer, after {node.round_trip_s:.0f} s",
            f"{_MOVE} whose attributes are cached for a shorter time (NFS: actimeo): ranks of a lost attempt train on "
            "beside their successors for so long",
            where,
        )
    return ok(
        f"{node.folder.file_system}: writing, renames, locks; a new file is seen within {_SLOW_ROUND_TRIP_S:g} s", where
    )


def _failure(folder: FolderFacts, where: str) -> Verdict | None:
    if words := folder.failures.get("write"):
        return broken(
            f"{folder.path}: {TRIED_BYTES // _MIB} MiB cannot be written: {words}",
            f"make room in your quota, or {_MOVE} that you may write to",
            where,
        )
    if words := folder.failures.get("rename"):
        return broken(f"{folder.path}: renames do not work: {words}", f"{_MOVE} with atomic renames", where)
    if words := folder.failures.get("lock"):
        return warning(
            f"{folder.path}: locks do not work: {words}",
            "set study.cache_dir to a file system with locks: ranks prepare the cache of a data set one at a time",
            where,
        )
    return None
