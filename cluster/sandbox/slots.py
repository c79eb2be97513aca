"""Who has which slot: two sandboxes, of one user or of two, never get the same ports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.sandbox.layout import SLOTS, Slot


class NoFreeSlotError(RuntimeError):
    """Every range of ports is taken."""


@contextmanager
def claim_slot(nodes: int) -> Iterator[Slot]:
    """A slot that is this process's own until the block ends, by when daemons listen on its ports.

    The claim is a name among Linux's abstract sockets: all users see it, it lies in the same network namespace as the
    ports, and it ends with the process.

    Raises:
        NoFreeSlotError: There is none with ports for so many nodes.
    """
    for slot in SLOTS:
        with socket.socket(socket.AF_UNIX) as claim:
            if _can_bind(claim, f"\0switchyard-sandbox-{slot.number}") and _is_unused(slot, nodes):
                yield slot
                return
    raise NoFreeSlotError(
        f"none of the {len(SLOTS)} ranges of ports from {SLOTS[0].first_port} has {nodes + 1} free ones; "
        "`down` a sandbox, or see with `ss -ltnp` who listens there."
    )


def _is_unused(slot: Slot, nodes: int) -> bool:
    with socket.socket() as probe:
        if _can_bind(probe, (slot.address(254), 0)):
            return False  # This machine has the address already: a sandbox in network mode.
    return all(_is_port_free(port) for port in range(slot.first_port, slot.first_port + 1 + nodes))


def _is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Slurm does it: connections of a sandbox that was here a minute ago are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _can_bind(probe, ("", port))


def _can_bind(probe: socket.socket, address: str | tuple[str, int]) -> bool:
    try:
        probe.bind(address)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            raise
        return False
    return True
