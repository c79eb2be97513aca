"""A real Slurm in one command: `python -m cluster.sandbox up`, or `Sandbox.start()` in a test.

Standard library only, so that it runs with any Python, in no environment at all.
"""

from cluster.sandbox.commands import CommandError
from cluster.sandbox.layout import Isolation, SandboxLayoutError, SandboxShape
from cluster.sandbox.packages import MissingPackagesError
from cluster.sandbox.sandbox import Sandbox, SandboxError

__all__ = [
    "CommandError",
    "Isolation",
    "MissingPackagesError",
    "Sandbox",
    "SandboxError",
    "SandboxLayoutError",
    "SandboxShape",
]
