"""The model card: an export for people, by the template beside this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from storage.protocol.codec import to_plain
from storage.protocol.exports import ExportRecord, ExportRequest
from trainers.export.trained_model import TrainedTrial

_TEMPLATES = Path(__file__).parent


def render_card(request: ExportRequest, record: ExportRecord, trained: Sequence[TrainedTrial]) -> str:
    """Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Markdown, not HTML.
        autoescape=False,
    )
    environment.filters["json"] = lambda value: json.dumps(to_plain(value), sort_keys=True)
    return environment.get_template("model_card.md.j2").render(
        request=request,
        record=record,
        trained=trained,
        spec=trained[0].spec,
        sizes={str(split): count for split, count in trained[0].dataset.sizes().items()},
        seeds=sorted({each.spec.seed for each in trained}),
        weights=[each.network.count_params() for each in trained],
    )
