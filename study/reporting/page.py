"""A report as one HTML page that needs nothing else, and as a folder of its figures and tables."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from storage.protocol.files import write_atomically
from study.reporting.chart import vega_lite_version
from study.reporting.content import Report

_TEMPLATE = "page.html.j2"
# What the library is called by the page's own script.
_NAMES = "window.vegaEmbed = vegaEmbed;"


def page(report: Report) -> str:
    """The page: data, styles and the drawing library in one file."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # Not by the file's name, which ends in .j2: everything that is not Markup is escaped.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        report=report,
        specifications=Markup(script_json({figure.key: figure.spec for figure in report.figures})),
        configs={name: json.dumps(config, indent=2) for name, config in report.configs.items()},
        library=Markup(_library()),
    )


def script_json(value: Any) -> str:
    """JSON for a script element: whatever a name or a reason holds, it neither ends the element nor opens a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def export(report: Report, folder: Path) -> int:
    """Write every figure as SVG, every table as CSV and as LaTeX; gives how many files.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    files = {f"{figure.key}.svg": figure.svg() for figure in report.figures}
    for table in report.tables:
        files[f"{table.key}.csv"] = table.csv()
        files[f"{table.key}.tex"] = table.latex()
    for name, text in files.items():
        # A study that another program named may have anything in its name.
        write_atomically(folder / re.sub(r"[^A-Za-z0-9._-]", "_", name), text.encode())
    return len(files)


@cache
def _library() -> str:
    """Vega as a script element holds it."""
    import vl_convert

    # It has no such end tag today; a later version may, in a string.
    return str(vl_convert.javascript_bundle(_NAMES, vega_lite_version())).replace("</script", "<\\/script")
