"""Runs a command where only itself can connect to what it opens: `python -m cluster.private_network COMMAND...`

mpirun opens control ports on all interfaces, without authentication and with no option against it (its daemons on
other nodes would connect there; on one machine there are none). In a network namespace of its own, which has nothing
but a loopback, those ports are out of everybody's reach. Needs no root where the kernel allows user namespaces;
where it does not, the command runs all the same, and `is_available` lets the driver say so.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def wrap(command: Sequence[str]) -> tuple[str, ...]:
    """The command that runs `command` in a private network. Pure."""
    return (sys.executable, "-m", __name__ if __name__ != "__main__" else "cluster.private_network", *command)


def is_available() -> bool:
    """Whether this kernel gives this user a network namespace."""
    return subprocess.run(wrap(["true"]), stderr=subprocess.PIPE, cwd=_root()).stderr == b""


def enter() -> None:
    """Move this process into a network namespace with a loopback that is up.

    Raises:
        OSError: The kernel refuses.
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET if uid == 0 else _CLONE_NEWUSER | _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if uid != 0:
        # The same user inside as outside, so that files keep their owner and ranks may share memory.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


if __name__ == "__main__":
    try:
        enter()
    except OSError as error:
        print(f"no private network ({error.strerror}): this command's ports are open", file=sys.stderr)
    os.execvp(sys.argv[1], sys.argv[1:])
