"""What facts mean for a person: a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cluster.doctor.facts import SiteFacts
from cluster.profile import SiteProfile

LOGIN_NODE = "login node"
JOB = "job"
_NODE = "node "


def node_place(host: str) -> str:
    """The place of what is so on one node."""
    return f"{_NODE}{host}"


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Studies run, and something about them will surprise."""
    BROKEN = "broken"
    """No study will run."""


@dataclass(frozen=True)
class Verdict:
    """What one check says of one place."""

    status: Status
    found: str
    advice: str = ""
    """Which key of the profile to change, or whom to ask; empty where all is well."""
    where: str = LOGIN_NODE


@dataclass(frozen=True)
class Check:
    """One thing that a site must have.

    Args:
        judge: Pure. Gives nothing where its facts are missing.
        after: Checks whose failure explains this one's, which then says nothing.
        stops_job: Whether no job can be started where this is broken.
    """

    name: str
    judge: Callable[[SiteProfile, SiteFacts], Iterable[Verdict]]
    after: tuple[str, ...] = ()
    stops_job: bool = False


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's table."""

    check: str
    where: str
    status: Status
    found: str
    advice: str


def ok(found: str, where: str = LOGIN_NODE) -> Verdict:
    return Verdict(Status.OK, found, "", where)


def warning(found: str, advice: str, where: str = LOGIN_NODE) -> Verdict:
    return Verdict(Status.WARNING, found, advice, where)


def broken(found: str, advice: str, where: str = LOGIN_NODE) -> Verdict:
    return Verdict(Status.BROKEN, found, advice, where)


def judge(checks: Sequence[Check], profile: SiteProfile, facts: SiteFacts) -> list[Finding]:
    """What the checks say, in their order; of nodes that are alike, one line."""
    findings: list[Finding] = []
    silenced: set[str] = set()
    for check in checks:
        if silenced.intersection(check.after):
            # What it would say is a consequence, and so is what comes after it.
            silenced.add(check.name)
            continue
        found = _merge_places(check, check.judge(profile, facts))
        findings += found
        if any(finding.status is Status.BROKEN for finding in found):
            silenced.add(check.name)
    return findings


def _merge_places(check: Check, verdicts: Iterable[Verdict]) -> list[Finding]:
    places: dict[tuple[Status, str, str], list[str]] = {}
    for verdict in verdicts:
        places.setdefault((verdict.status, verdict.found, verdict.advice), []).append(verdict.where)
    return [
        Finding(check.name, _joined(where), status, found, advice) for (status, found, advice), where in places.items()
    ]


def _joined(places: Sequence[str]) -> str:
    """node1; nodes node1, node2."""
    if len(places) == 1:
        return places[0]
    return "nodes " + ", ".join(place.removeprefix(_NODE) for place in places)
