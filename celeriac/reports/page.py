"""Pages that a person opens: one file, which asks for nothing from anywhere."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac import errors
from celeriac.reports import charts

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 1_000_000


def render(template: Path, **values: Any) -> bytes:
    """The page that ``template``, which extends ``page.html``, makes of the values.

    Whatever the values are, they come out as text. Raises RuntimeMissing without Jinja2.
    """
    page = _environment(template.parent).get_template(template.name).render(**values)
    # Half of a surrogate pair may be in a file's name.
    return page.encode("utf-8", "replace")


@lru_cache(maxsize=8)
def _environment(folder: Path) -> Environment:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise errors.RuntimeMissing(
            'reports need Jinja2, which is not installed here: pip install "celeriac[datasets]"'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {
        "number": charts.number, "duration": charts.duration, "share": charts.share,
        "moment": charts.moment, "many": charts.many,
        "count": lambda value: f"{value:,}",
    }
    environment.globals |= {"plot_of": charts.of_profile}
    return environment
