"""How runners reach the driver, and by which clocks."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.facts import MachineFacts, SiteFacts
from cluster.doctor.findings import LOGIN_NODE, Verdict, broken, node_place, ok, warning
from cluster.profile import SiteProfile

# The driver's certificate is valid from so long before it was made: cluster/certificates.py.
_CERTIFICATE_VALID_BEFORE_S = 3600.0
_NOTICEABLE_S = 2.0


def judge_private_network(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if facts.has_private_network is None:
        return
    if facts.has_private_network:
        yield ok("the kernel gives ranks a network of their own")
    else:
        yield warning(
            "the kernel gives ranks no network of their own: while they run, other users can connect to mpirun's ports",
            "have user namespaces allowed, or let nobody else on this machine (docs/adr/0005)",
        )


def judge_driver_interface(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.slurm is None:
        return
    key = "slurm.driver_interface" if profile.slurm.driver_interface else "slurm.interface"
    interface = profile.slurm.driver_interface or profile.slurm.interface
    yield _judge_interface(facts.login, interface, "slurm.driver_interface", LOGIN_NODE, f"{key}={interface!r}") or (
        broken(f"the driver cannot listen on {interface!r}: {facts.listening_error}", "set slurm.driver_interface")
        if facts.listening_error
        else ok(f"{interface}: {', '.join(facts.login.interfaces[interface])}")
    )


def judge_node_interface(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    if profile.slurm is None or facts.job is None:
        return
    interface = profile.slurm.interface
    for node in facts.job.nodes:
        where = node_place(node.machine.host)
        found = _judge_interface(node.machine, interface, "slurm.interface", where, f"slurm.interface={interface!r}")
        yield found or ok(f"{interface} has an address", where)


def judge_link(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    for node in facts.job.nodes if facts.job else ():
        if node.link is None:
            continue
        where = node_place(node.machine.host)
        if node.link.error:
            yield broken(
                f"the driver at {node.link.address} cannot be reached: {node.link.error}",
                "set slurm.driver_interface to the login node's interface of the network that the nodes are on "
                f"({_listed(facts.login)}); or, if the site lets no node connect to the login node's ports above 1023, "
                "start the study in a job of its own",
                where,
            )
        else:
            yield ok("the driver can be reached", where)


def judge_clock(profile: SiteProfile, facts: SiteFacts) -> Iterator[Verdict]:
    for node in facts.job.nodes if facts.job else ():
        if node.link is None or node.link.error:
            continue
        where, ahead_s = node_place(node.machine.host), node.link.clock_ahead_s
        # What is certain.
        off_s = max(0.0, abs(ahead_s) - node.link.uncertainty_s)
        words = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the login node's"
        if ahead_s < 0 and off_s >= _CERTIFICATE_VALID_BEFORE_S:
            yield broken(
                f"its clock is {words}: the driver's certificate is not valid yet",
                "no key of the profile: ask the site to set the clocks (NTP)",
                where,
            )
        elif off_s >= _NOTICEABLE_S:
            yield warning(
                f"its clock is {words}",
                "ask the site to set the clocks (NTP); until then times in logs of nodes and driver do not compare",
                where,
            )
        else:
            yield ok(f"its clock is the login node's, to less than {_NOTICEABLE_S:g} s", where)


def _judge_interface(machine: MachineFacts, name: str, key: str, where: str, setting: str) -> Verdict | None:
    if name not in machine.interfaces:
        return broken(f"{setting}: there is no such interface", f"set {key} to one of: {_listed(machine)}", where)
    if not machine.interfaces[name]:
        return broken(f"{setting}: it has no IPv4 address", f"set {key} to one of: {_listed(machine)}", where)
    return None


def _listed(machine: MachineFacts) -> str:
    """Those with an address."""
    return ", ".join(f"{name} {addresses[0]}" for name, addresses in machine.interfaces.items() if addresses) or "none"
