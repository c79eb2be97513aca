"""The model card: an export for people, by the template beside this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from storage.protocol.codec import to_plain
from storage.protocol.exports import ExportRecord, ExportRequest, SeedInterval
from storage.protocol.records import SCORES
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
    environment.filters["score"] = "{:.4f}".format
    environment.filters["interval"] = _describe_interval
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    spec = trained[0].spec
    return environment.get_template("model_card.md.j2").render(
        request=request,
        evaluation=request.evaluation,
        evaluated_scores=[name for name in SCORES if request.evaluation and name in request.evaluation.validation],
        record=record,
        trained=trained,
        spec=spec,
        # Of one trial: the classes' scores of several are not those of their mean.
        classes=trained[0].trial.classes if len(trained) == 1 else None,
        scores=[name for name in SCORES if all(name in each.trial.scores for each in trained)],
        chooses_thresholds=spec.task.options.get("thresholds") == "validation",
        sizes={str(split): count for split, count in trained[0].dataset.sizes().items()},
        seeds=sorted({each.spec.seed for each in trained}),
        weights=[each.network.count_params() for each in trained],
    )


def _describe_interval(interval: SeedInterval) -> str:
    if interval.deviation is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ± {interval.deviation:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
