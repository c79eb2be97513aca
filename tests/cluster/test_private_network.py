from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import private_network

ROOT = Path(__file__).parents[2]

needs_namespaces = pytest.mark.skipif(
    not private_network.is_available(), reason="this kernel gives this user no network namespaces"
)


def test_the_commands_exit_code_and_arguments_pass_through():
    assert run("sh", "-c", 'test "$1" = "two words" && exit 7', "sh", "two words").returncode == 7


@needs_namespaces
def test_what_listens_on_this_machine_is_out_of_reach_and_so_is_the_rest_of_the_world():
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=30)"

        assert subprocess.run((sys.executable, "-c", connect)).returncode == 0
        assert "ConnectionRefusedError" in run(sys.executable, "-c", connect).stderr

    interfaces = run(sys.executable, "-c", "import socket; print([name for _, name in socket.if_nameindex()])").stdout
    assert interfaces == "['lo']\n"


@needs_namespaces
def test_the_command_reaches_itself_through_the_loopback():
    talk = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(server.getsockname(), timeout=30)"
    )

    assert run(sys.executable, "-c", talk).returncode == 0


@needs_namespaces
def test_files_that_the_command_writes_belong_to_the_same_user(tmp_path):
    run("touch", str(tmp_path / "file"))

    assert (tmp_path / "file").stat().st_uid == tmp_path.stat().st_uid


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(private_network.wrap(command), cwd=ROOT, capture_output=True, text=True)
