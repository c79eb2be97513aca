"""A real PostgreSQL server on this machine, which asks for a password."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy.engine import make_url

DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")


def find_programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them off the PATH."""
    for folder in [*sorted(DEBIAN_PROGRAMS.glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    return None


@dataclass(frozen=True)
class PostgresServer:
    """One server with one user and any number of databases, gone when the tests are."""

    programs: Path
    folder: Path
    port: int
    user = "ada"
    password = "correct-horse-battery"

    def url(self, database: str) -> str:
        """Without the password, as a person writes it."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def url_with_password(self, database: str) -> str:
        """As SQLAlchemy takes it."""
        url = make_url(self.url(database)).set(drivername="postgresql+psycopg", password=self.password)
        return url.render_as_string(hide_password=False)

    def create(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        self._run(
            "initdb",
            f"--username={self.user}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "--wait", f"--log={self.folder / 'log'}", "-o", options, "start")

    def stop(self) -> None:
        """At once, in the middle of whatever its clients do."""
        self._run("pg_ctl", "--wait", "--mode=fast", "stop")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """For the length of the block, the server takes connections and statements and answers none of them."""
        server = psutil.Process(int((self.folder / "data/postmaster.pid").read_text().split()[0]))
        # The server itself first: it starts no process more then.
        server.suspend()
        processes = [server, *server.children()]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                process.resume()

    def create_database(self, name: str) -> str:
        """Give its URL."""
        subprocess.run(
            [self.programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, name],
            env={**os.environ, "PGPASSWORD": self.password},
            check=True,
        )
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), f"--pgdata={self.folder / 'data'}", *arguments]
        # The server refuses to run as root.
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run([*as_nobody, *command], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


@contextmanager
def run_postgres(programs: Path, folder: Path) -> Iterator[PostgresServer]:
    """Run a server in `folder`, which others must be able to reach: root's server belongs to nobody."""
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", pwd.getpwnam("nobody").pw_gid)
    server = PostgresServer(programs, folder, _free_port())
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
