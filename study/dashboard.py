"""Show a study's database in a browser, to nobody but who started this.

    python study/dashboard.py --storage sqlite:///runs/demo/study.db

It is optuna-dashboard behind a secret. That program itself has no login, and whoever reaches its port can delete
studies; login nodes are shared, so their loopback is no protection. The secret is in the address that this prints, and
becomes a cookie when that address is opened. Nothing can be changed here: the driver is the database's only writer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import contextlib  # noqa: E402
import hmac  # noqa: E402
import os  # noqa: E402
import secrets  # noqa: E402
import socket  # noqa: E402
from collections.abc import Iterable, Sequence  # noqa: E402
from http import HTTPStatus  # noqa: E402
from http.cookies import CookieError, SimpleCookie  # noqa: E402
from socketserver import ThreadingMixIn  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402
from urllib.parse import parse_qs  # noqa: E402
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server  # noqa: E402

from rich.console import Console  # noqa: E402

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_HOST = "127.0.0.1"
_EXIT_BAD_INPUT = 2


class ReadOnlyTokenMiddleware:
    """WSGI middleware that admits requests with the token, and those that only read."""

    def __init__(self, application: WSGIApplication, token: str, cookie: str, first_page: str) -> None:
        self._application, self._token = application, token
        self._cookie, self._first_page = cookie, first_page

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._is_token(_value_in_query(environ, "token")):
            # Onwards at once, so that the token stays in no address bar, history entry or referrer of a page.
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            headers = [("Location", self._first_page), ("Set-Cookie", cookie), ("Content-Length", "0")]
            start_response(_status(HTTPStatus.SEE_OTHER), headers)
            return []
        if not self._is_token(_value_in_cookies(environ, self._cookie)):
            return _refuse(
                start_response,
                HTTPStatus.FORBIDDEN,
                "Open the address that study/dashboard.py has printed: it lets this browser in.",
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(
                start_response,
                HTTPStatus.METHOD_NOT_ALLOWED,
                "This dashboard shows a study and does not change it; optuna-dashboard itself does.",
            )
        return self._application(environ, start_response)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A log of requests would hold the token."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    # Imported here: --help answers without waiting for Optuna.
    from optuna_dashboard import wsgi

    from storage.database.endpoint import StorageError, open_existing_storage, parse_public_url
    from storage.protocol.variables import STORAGE_URL

    console = Console(stderr=True)
    text, where = arguments.storage, "--storage"
    if text is None:
        text, where = os.environ.get(STORAGE_URL), STORAGE_URL
    try:
        if not text:
            raise StorageError(
                f"no database is named; give --storage sqlite:///runs/STUDY/study.db or set {STORAGE_URL}."
            )
        application = wsgi(open_existing_storage(parse_public_url(text, where)))
        server = make_server(_HOST, arguments.port, application, _ThreadingServer, _SilentHandler)
    except (StorageError, OSError, OverflowError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return _EXIT_BAD_INPUT
    token, port = secrets.token_urlsafe(32), server.server_port
    # A browser sends cookies to all ports of a host alike, so the name tells several dashboards apart.
    server.set_app(ReadOnlyTokenMiddleware(application, token, cookie=f"switchyard-{port}", first_page="/dashboard"))
    with contextlib.suppress(KeyboardInterrupt):
        print(f"http://{_HOST}:{port}/?token={token}", flush=True)
        console.print(
            f"Open this address; from another machine, after `ssh -L {port}:{_HOST}:{port} {socket.gethostname()}` "
            "there. Ctrl-C ends it.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        server.serve_forever()
    return 0


def _value_in_query(environ: WSGIEnvironment, name: str) -> str:
    return parse_qs(environ.get("QUERY_STRING", "")).get(name, [""])[-1]


def _value_in_cookies(environ: WSGIEnvironment, name: str) -> str:
    try:
        cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(name)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _refuse(start_response: StartResponse, status: HTTPStatus, reason: str) -> list[bytes]:
    body = f"{reason}\n".encode()
    start_response(_status(status), [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _status(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="study/dashboard.py", description="Show a study's database in a browser, to nobody but who started this."
    )
    parser.add_argument("--storage", metavar="URL", help="database, as the closing table of study/run.py shows it")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="on 127.0.0.1; default: one that is free")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
