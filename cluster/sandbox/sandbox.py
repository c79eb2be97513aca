"""A private Slurm of several nodes on this machine: started, asked, hurt and removed."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from types import TracebackType

from cluster.sandbox import daemons, network
from cluster.sandbox.commands import CommandError, output_of, tail_of
from cluster.sandbox.layout import Isolation, SandboxLayout, SandboxShape
from cluster.sandbox.packages import require_packages, with_sbin
from cluster.sandbox.processes import SandboxProcess, sandbox_processes, signal_until_gone, wait_until
from cluster.sandbox.slots import claim_slot
from storage.protocol.codec import RecordError, from_json

_DEFAULT_SHAPE = SandboxShape()
_READY_WITHIN_S = 30
_GONE_WITHIN_S = 10
# Ranks and Dask workers end well under a second after SIGTERM; more would only wait for those that ignore it.
_GRACE_S = 2


class SandboxError(RuntimeError):
    """A sandbox did not do what was asked of it."""


class Sandbox:
    """A running sandbox. As a context manager, `with Sandbox.start() as sandbox:`, it ends with the block."""

    def __init__(self, layout: SandboxLayout) -> None:
        self.layout = layout
        self._search_path = _search_path()

    @classmethod
    def start(
        cls,
        shape: SandboxShape = _DEFAULT_SHAPE,
        directory: Path | None = None,
        isolation: Isolation | None = None,
    ) -> Sandbox:
        """Start a sandbox and wait until all its nodes are idle. If that fails, nothing of it stays.

        Args:
            directory: Where to keep all its files; must not exist. By default a new one among the temporary files.
            isolation: By default a host name per node where the machine allows that, else plain.

        Raises:
            MissingPackagesError: Slurm, or a part of it, is not installed.
            SandboxLayoutError: The directory's path is too long or too strange.
            NoFreeSlotError: Too many sandboxes are running.
            SandboxError, CommandError: A daemon or a node did not start; quotes its log.
        """
        require_packages(isolation or Isolation.PLAIN, _search_path())
        if isolation is Isolation.NETWORK and os.geteuid() != 0:
            raise SandboxError(f"only root can make networks, and this is user {os.geteuid()}; leave out --network.")
        with claim_slot(shape.nodes) as slot:
            layout = SandboxLayout(
                # Resolved, because it is by the open files below it that the daemons are found again.
                directory=str((directory or default_directory(secrets.token_hex(4))).resolve()),
                isolation=isolation or daemons.best_isolation(_search_path()),
                slot=slot,
                user=_user_name(),
                controller_host=socket.gethostname().partition(".")[0],
                shape=shape,
            )
            _make_directory(layout.root)
            sandbox = cls(layout)
            try:
                sandbox._start_daemons()
            except BaseException:
                sandbox.stop()
                raise
        return sandbox

    @classmethod
    def open(cls, directory: Path) -> Sandbox:
        """The sandbox that another process started in this directory.

        Raises:
            SandboxError: There is none, or it is somebody else's.
        """
        record = directory.resolve() / "sandbox.json"
        try:
            layout = from_json(SandboxLayout, record.read_text())
        except FileNotFoundError as error:
            others = ", ".join(map(str, sandbox_directories())) or "none"
            raise SandboxError(f"there is no sandbox in {directory}; those in their usual place: {others}.") from error
        except (OSError, RecordError) as error:
            raise SandboxError(f"{record} cannot be read ({error}); remove its directory by hand.") from error
        # What the record says is ended and removed, so it must not be followed when anybody could have put it there.
        if record.parent.lstat().st_uid != os.geteuid() or layout.record_path != record:
            raise SandboxError(f"{record} is another user's, or was moved from {layout.root}; it is not to be trusted.")
        return cls(layout)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment, less what it says of any other Slurm, for programs that are to use this one."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return outside | {"SLURM_CONF": str(self.layout.slurm_conf_path)}

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """What a command, such as srun, prints in this sandbox.

        Args:
            timeout_s: Without one, srun would wait for as long as its nodes are down.

        Raises:
            CommandError: It ended with another code than 0, or not in time; quotes what it said.
        """
        return output_of(command, self.environ, timeout_s)

    def node_states(self) -> dict[str, str]:
        """Each node's state in sinfo's words: idle, allocated, down* ... The star means that it does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_state(self, node: str, *states: str, within_s: float) -> None:
        """Return as soon as the node is in one of these states.

        Raises:
            SandboxError: It is not, and the time is over.
        """
        self._require_node(node)
        if not wait_until(lambda: self.node_states()[node] in states, within_s):
            raise SandboxError(
                f"after {within_s} s {node} is {self.node_states()[node]}, not {' or '.join(states)}; "
                f"see {self.layout.log_dir}/slurmctld.log."
            )

    def processes(self, node: str | None = None) -> list[SandboxProcess]:
        """The daemons and all that jobs started, of one node or of the whole sandbox."""
        return [process for process in sandbox_processes(self.layout) if node in (None, process.node)]

    def cut(self, node: str) -> None:
        """Pull a node's network cable. What runs on the node goes on running."""
        self._require_network()
        network.unplug(self.layout, self._require_node(node), self._search_path)

    def heal(self, node: str) -> None:
        """Plug a node's network cable in again."""
        self._require_network()
        network.plug(self.layout, self._require_node(node), self._search_path)
        # It registers anew. slurmctld itself asks a node that is down at every twentieth ping only, after 100 s or so.
        for process in self.processes(node):
            if process.name == "slurmd":
                os.kill(process.pid, signal.SIGHUP)

    def limit_bandwidth(self, mbit_per_s: float) -> None:
        """Shape the network: each node receives no more than this. Ends with the node that was shaped."""
        self._require_network()
        if not mbit_per_s > 0:
            raise SandboxError(f"a link of {mbit_per_s:g} Mbit/s carries nothing; give a rate above 0.")
        for node in self.layout.nodes:
            network.limit_rate(self.layout, node, mbit_per_s, self._search_path)

    def kill_node(self, node: str) -> None:
        """Pull a node's power plug: all its processes are gone at once, and nobody is told."""
        self._require_node(node)
        _require_gone(signal_until_gone(lambda: self.processes(node), signal.SIGKILL, _GONE_WITHIN_S))
        network.remove_device(self.layout.link(node), self._search_path)

    def start_node(self, node: str) -> None:
        """Switch a node on again after `kill_node`.

        Let the node go down first, as it does while a real one boots: of a node that was away for a moment, slurmctld
        may believe that its jobs still run.
        """
        if alive := self.processes(self._require_node(node)):
            raise SandboxError(f"{node} is on, with {_listed(alive)}; kill-node comes before start-node.")
        daemons.start_slurmd(self.layout, node, self._search_path)

    def kill_controller(self) -> None:
        """End slurmctld at once: jobs run on, and no command of Slurm's has an answer."""
        _require_gone(signal_until_gone(self._controllers, signal.SIGKILL, _GONE_WITHIN_S))

    def start_controller(self) -> None:
        """Start slurmctld again after `kill_controller`; what it had last saved is what it knows."""
        daemons.start_slurmctld(self.layout, self._search_path)

    def stop(self) -> None:
        """End all processes, remove the network and the directory: nothing is left."""
        # Slurm's daemons first, so that nothing starts any more; their state is deleted with the directory anyway.
        signal_until_gone(self._starters, signal.SIGKILL, _GONE_WITHIN_S)
        signal_until_gone(lambda: [p for p in self.processes() if not p.is_daemon], signal.SIGTERM, _GRACE_S)
        _require_gone(signal_until_gone(self.processes, signal.SIGKILL, _GONE_WITHIN_S))
        for device in (*map(self.layout.link, self.layout.nodes), self.layout.bridge):
            network.remove_device(device, self._search_path)
        shutil.rmtree(self.layout.root)

    def _controllers(self) -> list[SandboxProcess]:
        return [process for process in self.processes() if process.name == "slurmctld"]

    def _starters(self) -> list[SandboxProcess]:
        return [process for process in self.processes() if process.name in ("slurmctld", "slurmd")]

    def _start_daemons(self) -> None:
        daemons.write_files(self.layout)
        daemons.start_munged(self.layout, self._search_path)
        if self.layout.isolation is Isolation.NETWORK:
            network.create_bridge(self.layout, self._search_path)
        daemons.start_slurmctld(self.layout, self._search_path)
        for node in self.layout.nodes:
            daemons.start_slurmd(self.layout, node, self._search_path)
        if not wait_until(self._is_ready, _READY_WITHIN_S):
            logs = (self.layout.log_dir / name for name in ("slurmctld.log", "slurmd-node1.log", "start.log"))
            raise SandboxError(f"not all nodes are idle after {_READY_WITHIN_S} s; {tail_of(*logs)}")

    def _is_ready(self) -> bool:
        if not any(process.name == "slurmctld" for process in self.processes()):
            raise SandboxError(f"slurmctld ended at once; {tail_of(self.layout.log_dir / 'slurmctld.log')}")
        try:
            return list(self.node_states().values()) == ["idle"] * self.layout.shape.nodes
        except CommandError:  # slurmctld does not listen yet.
            return False

    def _require_node(self, node: str) -> str:
        if node not in self.layout.nodes:
            raise SandboxError(f"{node!r} is not a node of this sandbox; it has {', '.join(self.layout.nodes)}.")
        return node

    def _require_network(self) -> None:
        if self.layout.isolation is not Isolation.NETWORK:
            raise SandboxError("the nodes of this sandbox have no network of their own; `up` it with --network.")


def default_directory(name: str) -> Path:
    """Where a sandbox of this name lies."""
    return Path(tempfile.gettempdir()) / f"switchyard-sandbox-{os.geteuid()}-{name}"


def sandbox_directories() -> list[Path]:
    """The directories of this user's sandboxes, those excepted that were given another place."""
    pattern = default_directory("*") / "sandbox.json"
    return sorted(record.parent for record in pattern.parent.parent.glob(f"{pattern.parent.name}/{pattern.name}"))


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError as error:
        raise SandboxError(
            f"{directory} exists; use the sandbox that is in it (`status` says how), `down` it, or choose another "
            "--name or --dir."
        ) from error
    except OSError as error:
        raise SandboxError(f"{directory} cannot be made ({error.strerror}); choose another --dir.") from error


def _search_path() -> str:
    return with_sbin(os.environ.get("PATH", ""))


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # A container's user without a name; Slurm takes the number as well.
        return str(os.geteuid())


def _require_gone(left: list[SandboxProcess]) -> None:
    if left:
        raise SandboxError(f"still there {_GONE_WITHIN_S} s after SIGKILL: {_listed(left)}.")


def _listed(processes: list[SandboxProcess]) -> str:
    return ", ".join(f"{process.name} ({process.pid})" for process in processes)
