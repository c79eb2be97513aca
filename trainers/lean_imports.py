"""Imports TensorFlow and Keras without what they import only because somebody has installed it: scikit-learn, for
wrappers that no rank needs, and matplotlib, for plots. They are a fifth of what a rank imports, by time.
"""

from __future__ import annotations

import sys

_NOT_NEEDED = ("sklearn", "matplotlib")


def import_tensorflow() -> None:
    """Whoever wants those packages themselves can import them afterwards."""
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    # What Python's import system takes for a package that is not installed.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
