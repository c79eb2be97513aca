"""A disk that can be filled up: a few megabytes of memory, mounted where only a few processes see it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MEBIBYTES = 8


@dataclass(frozen=True)
class SmallDisk:
    """Processes that `enter` starts see it at `path`; everybody else at `outside_path`."""

    path: Path
    keeper_pid: int

    @property
    def outside_path(self) -> Path:
        return Path(f"/proc/{self.keeper_pid}/root{self.path}")

    @property
    def enter(self) -> tuple[str, ...]:
        """Put before a command, runs it in the disk's root folder."""
        as_same_user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        nsenter = ("nsenter", f"--target={self.keeper_pid}", "--mount", *as_same_user)
        return (*nsenter, "sh", "-c", 'cd "$0" && exec "$@"', str(self.path))

    def fill(self) -> None:
        """To the last byte."""
        with (self.outside_path / "filling").open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    pass

    def make_room(self) -> None:
        (self.outside_path / "filling").unlink()


@contextmanager
def mount_small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount it over `folder`, until the block ends. The test is skipped where this kernel gives this user no mounts."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={MEBIBYTES}m,mode=700 tmpfs "$0" && echo mounted && exec cat'
    # The mount lives as long as this process, which ends when its input does.
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", *as_root, "sh", "-c", mount, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != "mounted\n":
            pytest.skip(f"no private mounts here: {keeper.stderr.read().strip()}")
        yield SmallDisk(folder, keeper.pid)
