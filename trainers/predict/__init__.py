"""Predicts with an export: `python -m trainers.predict < REQUEST` writes a table of images or the map of a scene."""


class PredictionError(ValueError):
    """The export, an input or the output cannot be used as asked."""
