"""A shared file system, as each machine sees it: late, with errors, and torn where a writer dies."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from tests.simulation.world import World

STALE_S = 4.0
"""For so long a machine may not see what another one has written."""

_TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT)
Version = tuple[float, str, bytes | None]
"""When it was written, by which machine, and what: None removes it. A folder's content is empty."""


class SharedFiles:
    """What the server holds: every version of every file, with its time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.versions: dict[str, list[Version]] = {}
        self.children: dict[str, dict[str, None]] = {}
        self.is_full = False

    def put(self, path: Path, machine: str, content: bytes | None) -> None:
        key = str(path)
        self.versions.setdefault(key, []).append((self.world.now_s, machine, content))
        self.children.setdefault(str(path.parent), {})[path.name] = None

    def truth(self, path: Path) -> bytes | None:
        versions = self.versions.get(str(path))
        return versions[-1][2] if versions else None

    def seen(self, path: Path, machine: str, before_s: float) -> bytes | None:
        """The newest version that is older than `before_s`, or the machine's own."""
        versions = self.versions.get(str(path), [])
        index = bisect_right(versions, before_s, key=lambda version: version[0])
        own = next((i for i in range(len(versions) - 1, index - 1, -1) if versions[i][1] == machine), None)
        index = index if own is None else own + 1
        return versions[index - 1][2] if index else None


class MachineFiles:
    """The FileSystem of one machine.

    Args:
        fault_rate: Of errors that pass.
    """

    def __init__(self, shared: SharedFiles, machine: str, fault_rate: float = 0.0) -> None:
        self._shared, self._world = shared, shared.world
        self.machine, self._fault_rate = machine, fault_rate
        self._lag_s = 0.0 if shared.world.chance(0.5) else shared.world.between(0.0, STALE_S)
        self.is_dead = False

    def read(self, path: Path) -> bytes | None:
        self._touch(path)
        return self._see(path)

    def exists(self, path: Path) -> bool:
        return self.read(path) is not None

    def write_atomically(self, path: Path, content: bytes) -> None:
        self._touch(path, writes=True)
        self._shared.put(path, self.machine, content)

    def append_line(self, path: Path, line: bytes) -> None:
        self._touch(path, writes=True)
        before = self._shared.truth(path) or b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        self._shared.put(path, self.machine, before + line + b"\n")

    def append_torn(self, path: Path, line: bytes) -> None:
        """What a writer leaves that dies in the middle."""
        before = self._shared.truth(path) or b""
        self._shared.put(path, self.machine, before + line[: len(line) // 2])

    def create(self, path: Path, content: bytes) -> bool:
        self._touch(path, writes=True)
        if self._shared.truth(path) is not None:
            return False
        self._shared.put(path, self.machine, content)
        return True

    def make_dir(self, path: Path) -> bool:
        self._touch(path, writes=True)
        if path.parent != path and self._shared.truth(path.parent) is None:
            self.make_dir(path.parent)
        if self._shared.truth(path) is not None:
            return False
        self._shared.put(path, self.machine, b"")
        return True

    def list_dir(self, path: Path) -> Sequence[str]:
        self._touch(path)
        return [name for name in self._shared.children.get(str(path), {}) if self._see(path / name) is not None]

    def rename(self, path: Path, to: Path) -> None:
        self._touch(path, writes=True)
        prefix = str(path)
        for key in [key for key in self._shared.versions if key == prefix or key.startswith(f"{prefix}/")]:
            content = self._shared.truth(Path(key))
            if content is not None:
                self._shared.put(Path(str(to) + key[len(prefix) :]), self.machine, content)
                self._shared.put(Path(key), self.machine, None)

    def remove(self, path: Path) -> None:
        self._touch(path, writes=True)
        if self._shared.truth(path) is not None:
            self._shared.put(path, self.machine, None)

    def _see(self, path: Path) -> bytes | None:
        return self._shared.seen(path, self.machine, self._world.now_s - self._lag_s)

    def _touch(self, path: Path, writes: bool = False) -> None:
        if self.is_dead:
            raise InterruptedError(errno.EINTR, "this machine is dead", str(path))
        if writes and self._shared.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self._fault_rate and self._world.chance(self._fault_rate):
            number = self._world.random.choice(_TRANSIENT)
            raise OSError(number, os.strerror(number), str(path))
