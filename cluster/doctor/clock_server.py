"""A server on the driver's machine that tells the time to whoever knows its token.

A node that gets an answer can reach the driver, and learns how far its own clock is off.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.doctor.facts import LinkFacts

_CONNECTED_WITHIN_S = 5.0
_LONGEST_LINE = 200


@dataclass(frozen=True)
class ClockServer:
    address: str
    """HOST:PORT."""
    token: str


@contextmanager
def serve_clock(host: str) -> Iterator[ClockServer]:
    """Serve at an address of this machine, on a port of the kernel's choice as Dask's scheduler does.

    Raises:
        OSError: Nobody can listen there.
    """
    token = secrets.token_hex(32)

    class Handler(socketserver.StreamRequestHandler):
        timeout = _CONNECTED_WITHIN_S

        def handle(self) -> None:
            said = self.rfile.readline(_LONGEST_LINE).strip()
            if hmac.compare_digest(said, token.encode()):
                self.wfile.write(f"{time.time()!r}\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Of whoever came without a word: a port scanner, or a node that lost its connection."""

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield ClockServer(f"{host}:{server.server_address[1]}", token)
        finally:
            server.shutdown()
            thread.join()


def ask_clock(server: ClockServer) -> LinkFacts:
    """Connect to it and compare its clock with this machine's."""
    host, _, port = server.address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECTED_WITHIN_S) as connection:
            sent_s = time.time()
            connection.sendall(f"{server.token}\n".encode())
            with connection.makefile("rb") as answer:
                line = answer.readline(_LONGEST_LINE)
            received_s = time.time()
    except OSError as error:
        return LinkFacts(server.address, error.strerror or str(error))
    try:
        drivers_s = float(line)
    except ValueError:
        return LinkFacts(server.address, "something else answers there")
    return LinkFacts(
        server.address,
        clock_ahead_s=(sent_s + received_s) / 2 - drivers_s,
        uncertainty_s=(received_s - sent_s) / 2,
    )
