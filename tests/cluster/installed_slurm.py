"""Whether this machine has what a sandbox is made of. `.ci/run` installs it."""

from __future__ import annotations

import os

import pytest

from cluster.sandbox.layout import Isolation
from cluster.sandbox.packages import missing_packages, with_sbin

_missing = missing_packages(Isolation.NETWORK, with_sbin(os.environ.get("PATH", os.defpath)))
needs_slurm = pytest.mark.skipif(bool(_missing), reason=f"not installed: apt-get install {' '.join(_missing)}")
