"""The driver as a person starts it: `python study/run.py` in a folder of theirs."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from optuna.trial import FrozenTrial

from storage.protocol.trial_dir import TrialDir
from tests.architecture.sources import REPOSITORY
from tests.small_disk import SmallDisk
from tests.study.small_study import write_config, write_site
from tests.waiting import wait_until

RUN = REPOSITORY / "study" / "run.py"
WITHIN_S = 240
"""Far longer than anything here takes; a busy machine is no failure."""


@dataclass(frozen=True)
class Finished:
    """A driver that has ended."""

    exit_code: int
    output: str
    """What it printed, errors included."""

    @property
    def error(self) -> str:
        """The one line that a driver said before it ended with exit code 2."""
        assert self.exit_code == 2, self.output
        assert self.output.startswith("error: "), self.output
        assert self.output.count("\n") == 1, self.output
        return self.output


@dataclass(frozen=True)
class Workplace:
    """A folder with a config and a site, and what the studies in it left behind."""

    folder: Path
    options: tuple[str, ...] = ()
    """For every driver that is started here."""
    enter: tuple[str, ...] = ()
    """Put before a command, starts it where only some processes see the folder..."""
    inner_folder: Path | None = None
    """...under this name."""
    program: Path = RUN
    what: tuple[str, ...] = ("--config", "small.toml")
    """The program's first arguments: what to run."""
    study_name: str = "small"

    @property
    def study_dir(self) -> Path:
        return self.folder / "runs" / self.study_name

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.study_dir / 'study.db'}"

    def trial_dir(self, number: int) -> TrialDir:
        return TrialDir(self.study_dir / "trials" / f"{number:04d}")

    def trials(self, storage: str | None = None) -> list[FrozenTrial]:
        return optuna.load_study(storage=storage or self.database_url, study_name=self.study_name).trials

    def copy_to(self, folder: Path) -> Workplace:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workplace(folder, self.options)

    def files(self) -> dict[str, bytes]:
        """All that lies here, by path."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def command(self, *arguments: str) -> list[str]:
        run = (sys.executable, str(self.program), *self.what, "--site", "here.toml")
        return [*self.enter, *run, *self.options, *arguments]

    def run_on_terminal(self, *arguments: str) -> Finished:
        """Run a driver to its end on a terminal of 160 columns; its output comes without colours."""
        command = f"stty columns 160; {shlex.join(self.command(*arguments))}"
        finished = self._run(["script", "--quiet", "--return", "--command", command, "/dev/null"])
        return Finished(finished.exit_code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", finished.output))

    def run(self, *arguments: str, within_s: float = WITHIN_S, **environment: str) -> Finished:
        """Run a driver to its end."""
        return self._run(self.command(*arguments), within_s, **environment)

    def _run(self, command: list[str], within_s: float = WITHIN_S, **environment: str) -> Finished:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )
        return Finished(done.returncode, done.stdout)

    @contextmanager
    def start(self, *arguments: str, waits_for_ranks: bool = True, **environment: str) -> Iterator[RunningDriver]:
        """Start a driver in a session of its own, as a terminal does; it is gone at the end of the block.

        Args:
            waits_for_ranks: Whether its ranks are gone then, too.
        """
        output = self.folder / "output.txt"
        with output.open("w") as file:
            process = psutil.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=clean_environment(**environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        driver = RunningDriver(self, process, output)
        try:
            yield driver
        finally:
            if driver.is_running():
                driver.kill()
            if waits_for_ranks:
                wait_until(lambda: not self.rank_processes(), WITHIN_S)

    def rank_processes(self) -> list[psutil.Process]:
        """Ranks of this place's study, with their launchers and supervisors, whosoever's children they are."""
        return _processes_that_name(f"{self.inner_folder or self.folder}/runs/{self.study_name}/trials")


@dataclass(frozen=True)
class RunningDriver:
    workplace: Workplace
    process: psutil.Popen
    output_path: Path

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for_attempt(self, trial: int, attempt: int) -> None:
        """Until the ranks of an attempt have been started."""
        self._wait(lambda: self.workplace.trial_dir(trial).attempt(attempt).log_path.exists())

    def wait_for_epochs(self, trial: int, attempt: int, count: int) -> None:
        """Until an attempt has finished this many epochs."""
        attempt_dir = self.workplace.trial_dir(trial).attempt(attempt)
        self._wait(lambda: len(attempt_dir.read_metrics()) >= count)

    def wait_for_ranks(self, trial: int, attempt: int) -> list[psutil.Process]:
        """The Python processes that train."""
        marks = (str(self.workplace.trial_dir(trial).path), f"--attempt={attempt}")
        return self._wait(lambda: [p for p in _processes_that_name(*marks) if _is_rank(p)])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """A terminal sends SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self, within_s: float = WITHIN_S) -> Finished:
        return Finished(self.process.wait(timeout=within_s), self.output)

    def _wait(self, condition):
        def holds():
            if not self.is_running():
                raise AssertionError(f"the driver has ended with {self.process.returncode}:\n{self.output}")
            return condition()

        return wait_until(holds, WITHIN_S)


def new_workplace(folder: Path, *options: str, ranks: int = 1) -> Workplace:
    write_config(folder)
    write_site(folder, ranks)
    cache = folder / "runs" / "cache"
    cache.mkdir(parents=True)
    (cache / "preflight").symlink_to(_shared_preflight().name)
    return Workplace(folder, options)


@functools.cache
def _shared_preflight() -> tempfile.TemporaryDirectory[str]:
    """What one study of a session has built, the others need not build again: it takes TensorFlow seconds."""
    return tempfile.TemporaryDirectory(prefix="switchyard-tests-preflight-")


def run_command(workplace: Workplace, program: str, *arguments: str) -> Finished:
    """Another of the project's commands, as a person types it in their folder."""
    done = subprocess.run(
        (sys.executable, str(REPOSITORY / "study" / program), *arguments),
        cwd=workplace.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
    )
    return Finished(done.returncode, done.stdout)


def new_workplace_on(disk: SmallDisk, *options: str) -> Workplace:
    write_config(disk.outside_path)
    write_site(disk.outside_path)
    return Workplace(disk.outside_path, options, disk.enter, disk.path)


def slow_training(epochs: int = 30) -> tuple[str, ...]:
    """Options for a trial that trains for some seconds, so that something can happen to it meanwhile."""
    return ("--set", "dataset.train=1024", "--set", f"training.epochs={epochs}")


def clean_environment(**added: str) -> dict[str, str]:
    """This process's environment, without what would tell the driver where its database is.

    Compiled Python is kept: without it, TensorFlow takes twice as long to start.
    """
    unwanted = ("SWITCHYARD_", "PG", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**inherited, "COLUMNS": "160", **added}


def _is_rank(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return command[1:3] == ["-m", "trainers"]


def _processes_that_name(*marks: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            is_alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if is_alive and all(mark in command for mark in marks):
            found.append(process)
    return found
