"""A report as one HTML file, which needs nothing beside it: no network, no server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from crossmodal.report.plots import CONFIG, SCHEMA, Plot
from crossmodal.whole_files import known

# header and rows, beneath a title or none
Table = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True)
class ShownRow:
    """A row as the page shows it.

    Args:
        row: Its name.
        inputs: As HTML.
        target: What is right, in words or numbers.
        prediction: What was said.
        right: Whether that is so; None where an answer is more or less right.
        sure: How sure it was.
        members: What each member of a mixture said.
    """

    row: str
    inputs: list[Markup]
    target: str
    prediction: str
    right: bool | None
    sure: str
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the page: texts, plots, tables, rows, then what can be copied.

    Args:
        title: Its own.
        texts: Paragraphs.
        plots: Beside each other.
        tables: Each beneath a title, or none.
        samples: Rows, beneath a title.
        listings: Texts as they are, beneath a title.
    """

    title: str
    texts: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    samples: list[tuple[str, list[ShownRow]]] = field(default_factory=list)
    listings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What a link to it names."""
        return re.sub(r"\W+", "-", self.title.lower())

    @property
    def is_empty(self) -> bool:
        """Whether it shows nothing."""
        return not (self.texts or self.plots or self.tables or self.samples or self.listings)


@dataclass(frozen=True)
class Page:
    """A report before it is written.

    Args:
        title: Its heading.
        subtitle: Beneath it.
        headline: Names and values of the figures that matter most.
        sections: Its parts; those that show nothing are left out.
    """

    title: str
    subtitle: str
    headline: list[tuple[str, str]]
    sections: list[Section]


def render(page: Page, script: str) -> str:
    """Return the page as HTML.

    Args:
        page: What it shows.
        script: That draws, as `vega_script` gives it.
    """
    sections = [section for section in page.sections if not section.is_empty]
    plots = [plot for section in sections for plot in section.plots]
    template = Environment(autoescape=True, loader=PackageLoader("crossmodal.report", ".")).get_template("page.html")
    return template.render(
        title=page.title,
        subtitle=page.subtitle,
        headline=page.headline,
        sections=sections,
        plots=plots,
        specs=_json([{"$schema": SCHEMA, **plot.spec} for plot in plots]),
        config=_json(CONFIG),
        script=Markup(script.replace("</script", "<\\/script")),
    )


def _json(value: Any) -> Markup:
    return Markup(json.dumps(known(value), allow_nan=False).replace("<", "\\u003c"))
