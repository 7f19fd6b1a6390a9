"""The page: one file that loads nothing, or one that a `--serve` keeps up to date."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from longshort.inspection.look import Inspection

MISSING = "the page of `longshort inspect` needs plotly and jinja2: pip install 'longshort[inspect]'."


def page(made: Inspection, live: bool = False) -> str:
    """The whole page as text.

    Args:
        made: what it shows.
        live: whether it asks where it came from for something newer, once a second.

    Raises:
        ImportError: plotly or jinja2 is not installed.
    """
    template, script, plotly = _parts()
    from markupsafe import Markup

    held = made.json.replace("<", "\\u003c")
    return template.render(title=made.title, data=Markup(held), plotly=Markup(plotly), script=Markup(script), live=live)


@cache
def _parts() -> tuple[Any, str, str]:
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError(MISSING) from None
    here = Path(__file__).parent
    text = (here / "page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template, (here / "page.js").read_text(encoding="utf-8"), get_plotlyjs()
