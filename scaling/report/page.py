"""The page: one file that works offline, on a phone and on paper.

Nothing from a record reaches the page but through `text`, `plain` (Plotly's texts) or `_embedded`
(JSON). Should that fail, the page's own policy runs no script but its two, and loads nothing.
"""

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from pathlib import Path

from plotly.offline import get_plotlyjs

from scaling.report.blocks import Block, Heading, Legend, Note, Picture, Section, Table
from scaling.report.wording import subscripts

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Answer:
    """What a study says; label and colour where there are several."""

    text: str
    label: str
    color: str


@dataclass(frozen=True)
class Content:
    """All of the page.

    Attributes:
      warnings: (label or "", sentence).
      parts: (heading or "", its sections), one per kind of study.
      origins: (label or "", what -> its values), one per study.
    """

    title: str
    answers: list[Answer]
    warnings: list[tuple[str, str]]
    parts: list[tuple[str, list[Section]]]
    origins: list[tuple[str, list[tuple[str, list[str]]]]]

    @property
    def pictures(self) -> list[Picture]:
        """All figures."""
        sections = [section for _, sections in self.parts for section in sections]
        return [b for section in sections for b in section.blocks if isinstance(b, Picture)]


def text(value: object) -> str:
    """Anything, as text in HTML."""
    return html.escape(str(value))


def page(content: Content, images: dict[str, bytes | None]) -> str:
    """The whole page.

    Args:
      images: name of a picture -> SVG, None where there is nothing to show.
    """
    scripts = [get_plotlyjs().replace("</script", r"<\/script"), _read("page.js")]
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(s.encode()).digest())}'" for s in scripts)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"
    )
    body = [_head(content)]
    for heading, sections in content.parts:
        body += [f'<h1 class="kind">{text(heading)}</h1>'] * bool(heading)
        body += [_section(section, images) for section in sections]
    body.append(_provenance(content.origins))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{text(content.title)}</title>
<style>{_read("page.css")}</style>
<noscript><style>.plot {{ display: none }} figure img.static {{ display: block }}</style></noscript>
</head>
<body>
<main>
{"".join(body)}
</main>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _head(content: Content) -> str:
    several = len(content.answers) > 1
    answers = []
    for answer in content.answers:
        says = _with_subscripts(answer.text)
        if not several:
            answers.append(f'<p class="answer">{says}</p>')
            continue
        label = f"<b>{text(answer.label)}</b>: {says}"
        answers.append(f'<p class="answer" style="color:{answer.color}"><span>{label}</span></p>')
    kind = ' class="several"' if several else ""
    title = f"<h1>{text(content.title)}</h1>"
    return f"{title}<div{kind}>{''.join(answers)}</div>{_warnings(content.warnings)}"


def _warnings(warnings):
    items = [
        f"<li>{f'<b>{text(label)}</b>: ' if label else ''}{_with_subscripts(sentence)}</li>"
        for label, sentence in warnings
    ]
    return f'<div class="warnings"><ul>{"".join(items)}</ul></div>' if items else ""


def _section(section: Section, images) -> str:
    blocks = "".join(_block(block, images) for block in section.blocks)
    return f"<h2>{_with_subscripts(section.title)}</h2>{blocks}"


def _block(block: Block, images) -> str:
    match block:
        case Heading(words):
            return f"<h3>{_with_subscripts(words)}</h3>"
        case Note(words):
            return f'<p class="note">{_with_subscripts(words)}</p>'
        case Table():
            return _table(block)
        case Legend(entries):
            spans = "".join(
                f'<span><i style="background:{color}"></i>{text(words)}</span>'
                for color, words in entries
            )
            return f'<div class="legend">{spans}</div>'
        case Picture():
            return _picture(block, images[block.name])


def _picture(picture: Picture, image: bytes | None) -> str:
    """A figure with its caption: interactive on a screen where there are plots, static on paper."""
    if image is None:
        return f'<p class="note">There is no figure to show: {text(picture.nothing)}.</p>'
    source = f"data:image/svg+xml;base64,{_base64(image)}"
    static = ' class="static"' if picture.plots else ""
    divs = "".join(f'<div class="plot">{_embedded(plot)}</div>' for plot in picture.plots)
    row = f'<div class="row">{divs}</div>' if picture.plots else ""
    tag = f'<img{static} src="{source}" alt="{text(picture.caption)}">'
    return (
        f"<figure>{row}{tag}<figcaption>{_with_subscripts(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    row = lambda cells, tag: "".join(f"<{tag}>{_with_subscripts(cell)}</{tag}>" for cell in cells)
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row(table.header, 'th')}</tr></thead>"
    kind = "table wrap" if table.wrap else "table"
    return f'<div class="{kind}"><table>{head}<tbody>{body}</tbody></table></div>'


def _provenance(origins):
    blocks = []
    for label, rows in origins:
        heading = f"<h3>{text(label)}</h3>" if label else ""
        lines = "".join(
            f"<tr><th>{text(name)}</th><td>{'<br>'.join(map(text, values))}</td></tr>"
            for name, values in rows
            if values
        )
        blocks.append(f'{heading}<div class="table provenance"><table>{lines}</table></div>')
    return f"<h2>Where the numbers come from</h2>{''.join(blocks)}"


def _with_subscripts(sentence: object) -> str:
    """Text in HTML, with the symbols of the papers as they write them."""
    return subscripts(text(sentence))


def _embedded(plot) -> str:
    """JSON inside HTML: no < can end the script early, or begin anything."""
    data = json.dumps(plot, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json">{data}</script>'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
