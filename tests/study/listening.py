"""Which ports a process and its descendants hold open, as anybody on this machine could reach them."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil

_LISTEN = "0A"


def listening_sockets(process: psutil.Process) -> set[str]:
    """Listening TCP sockets of the process and its descendants, in the network of this process.

    A socket in a private network namespace is not among them: nobody outside can connect to it.
    """
    open_here = _open_to_this_network()
    held = {inode for member in _family(process) for inode in _socket_inodes(member.pid)}
    return {address for inode, address in open_here.items() if inode in held}


def _open_to_this_network() -> dict[str, str]:
    """From a socket's inode to its address."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                sockets[fields[9]] = f"{table} {fields[1]}"
    return sockets


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = descriptor.readlink().name
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    except OSError:
        pass  # It has ended meanwhile.
    return inodes


def listen_on_loopback() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server
