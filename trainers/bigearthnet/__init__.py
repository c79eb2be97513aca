"""From the downloaded BigEarthNet archive to shards; the data set that reads them is trainers/datasets/bigearthnet.py.

archive, split_lists -> plan -> prepare -> prepared        synthesize makes both inputs for practice
"""

from __future__ import annotations

from enum import StrEnum


class Version(StrEnum):
    V1 = "v1"
    V2 = "v2"


class PrepareError(ValueError):
    """A command cannot do what it was asked for. The message says what to do."""
