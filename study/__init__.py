"""Studies from a Python program or a notebook: `from study import StudyConfig, run_study, load_study`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.config import StudyConfig
    from study.loaded_study import LoadedStudy, load_study, run_study

__all__ = ["LoadedStudy", "StudyConfig", "load_study", "run_study"]

_WHERE = {
    "StudyConfig": "study.config",
    "LoadedStudy": "study.loaded_study",
    "load_study": "study.loaded_study",
    "run_study": "study.loaded_study",
}


def __getattr__(name: str) -> Any:
    # When it is asked for: Optuna takes seconds, and the commands import this package, too.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
