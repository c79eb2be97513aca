"""Sends one message to all services: `python -m study.send_notification < MESSAGE`, a process of study/notify.py.

MESSAGE is JSON with title and body, the URLs are in the environment. Prints the number, from 1, of each service that
has taken it, at once; with --check, of each URL that apprise knows what to do with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from storage.protocol.variables import NOTIFY_URLS


def main(argv: Sequence[str]) -> int:
    # A second: only those wait for it who want to be told.
    import apprise

    sent = json.load(sys.stdin)

    def send(number: int, url: str) -> None:
        service = apprise.Apprise()
        if service.add(url) and ("--check" in argv or service.notify(body=sent["body"], title=sent["title"])):
            # In one call: print writes the line's end by itself, and another thread's number may come between.
            os.write(sys.stdout.fileno(), f"{number}\n".encode())

    urls = os.environ.get(NOTIFY_URLS, "").split()
    # At the same time: one that hangs keeps the message from nobody else.
    with ThreadPoolExecutor(max(1, len(urls))) as threads:
        list(threads.map(send, range(1, len(urls) + 1), urls))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
