"""Somebody else on the network who has found a Dask port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def connect_as_stranger(address: str, **security: Path) -> str:
    """What another process gets that runs a plain distributed.Client."""
    options = {name: str(path) for name, path in security.items()}
    program = (
        "from distributed import Client; from distributed.security import Security\n"
        f"security = Security(require_encryption=True, **{options!r}) if {options!r} else None\n"
        f"print(Client({address!r}, security=security, timeout=5).submit(sum, (1, 2)).result(timeout=5))"
    )
    ended = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert ended.stdout == ""
    return ended.stderr
