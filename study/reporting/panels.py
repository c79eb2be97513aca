"""Several charts side by side in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.protocol.files import write_atomically
from study.reporting.chart import Figure, beside
from study.reporting.curves import score_per_epoch, time_per_epoch
from study.reporting.load import Arm
from study.reporting.wording import label

SUFFIXES = (".pdf", ".png", ".svg")


def write_panels(arms: Sequence[Arm], path: Path) -> None:
    """Draw the times and scores per epoch: the paper's figure 1, top and centre.

    Raises:
        OSError: The file cannot be written.
    """
    charts = [time_per_epoch(arms), *(score_per_epoch(arms, name, label(name)) for name in ("f1_micro", "f1_macro"))]
    panels = beside([chart for chart in charts if chart is not None])
    write_atomically(path, _drawn(panels, path.suffix.lower()))


def _drawn(figure: Figure, suffix: str) -> bytes:
    if suffix == ".svg":
        return figure.svg().encode()
    return figure.png() if suffix == ".png" else figure.pdf()
