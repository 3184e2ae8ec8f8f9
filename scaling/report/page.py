"""The page: one file that works offline, on a phone and in print.

Content of records is escaped by `text`, or as text in the XML of a figure. In addition, the content
security policy of the page allows only its own script, and no requests.
"""

import base64
import hashlib
import html
from pathlib import Path

from scaling.report.blocks import Block, Note, Picture, Reliefs, Section
from scaling.report.charts import style_of
from scaling.report.contents import Content
from scaling.report.tables import Table
from scaling.report.wording import subscripts

HERE = Path(__file__).parent


def text(value: object) -> str:
    """Any value, escaped for HTML, with symbols such as B_crit typeset."""
    return subscripts(html.escape(str(value)))


def page(content: Content, images: dict[str, str]) -> str:
    """The HTML of the page.

    Args:
      images: name of a picture -> SVG, for pictures with data.
    """
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    body = [f"<h1>{text(content.title)}</h1>", _answers(content), _warnings(content.warnings)]
    for part in content.parts:
        body += [f'<h1 class="kind">{text(part.heading)}</h1>'] * bool(part.heading)
        body += [_section(section, images) for section in part.sections]
    body.append(_provenance(content.origins))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(content.title)}</title>
<style>{(HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
<div id="tip" hidden></div>
<script>{script}</script>
</body>
</html>
"""


def _answers(content: Content) -> str:
    """A single answer is large; several have a label and the colour of the study each."""
    answers = [
        (label, answer, style_of(index)[0])
        for part in content.parts
        for index, (label, answer) in enumerate(part.answers)
    ]
    if len(answers) == 1:
        return f'<p class="answer">{text(answers[0][1])}</p>'
    texts = [
        f'<p class="answer" style="color:{color}"><span><b>{text(label)}</b>: {text(answer)}</span>'
        for label, answer, color in answers
    ]
    return f'<div class="several">{"".join(texts)}</div>'


def _warnings(warnings):
    items = [
        f"<li>{f'<b>{text(label)}</b>: ' if label else ''}{text(sentence)}</li>"
        for label, sentence in warnings
    ]
    return f'<div class="warnings"><ul>{"".join(items)}</ul></div>' if items else ""


def _section(section: Section, images) -> str:
    blocks = "".join(_block(block, images) for block in section.blocks)
    return f"<h2>{text(section.title)}</h2>{blocks}"


def _block(block: Block, images) -> str:
    match block:
        case Note(words):
            return f'<p class="note">{text(words)}</p>'
        case Table():
            return _table(block) if block.shown and block.rows else ""
        case Picture() if block.name not in images:
            return f'<p class="note">There is no figure to show: {text(block.nothing)}.</p>'
        case Picture():
            caption = f"<figcaption>{text(block.caption)}</figcaption>"
            return f"<figure>{images[block.name]}{caption}</figure>"
        case Reliefs():
            return _reliefs(block)


def _reliefs(block: Reliefs) -> str:
    parts = [
        f'<div><b>{text(title)}</b><canvas width="640" height="560" data-heights="'
        f'{[[round(999 * value) for value in row] for row in rows]}"></canvas></div>'
        for title, rows in zip(block.titles, block.heights, strict=True)
    ]
    caption = f"<figcaption>{text(block.caption)}</figcaption>"
    return f'<figure><div class="reliefs">{"".join(parts)}</div>{caption}</figure>'


def _table(table: Table) -> str:
    row = lambda cells, tag: "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in cells)
    titles, *lines = table.cells()
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in lines)
    head = f"<thead><tr>{row(titles, 'th')}</tr></thead>"
    kind = "table wrap" if table.wrap else "table"
    return f'<div class="{kind}"><table>{head}<tbody>{body}</tbody></table></div>'


def _provenance(origins):
    blocks = []
    for label, rows in origins:
        heading = f"<h3>{text(label)}</h3>" if label else ""
        lines = "".join(
            f"<tr><th>{text(name)}</th><td>{'<br>'.join(map(html.escape, values))}</td></tr>"
            for name, values in rows
            if values
        )
        blocks.append(f'{heading}<div class="table provenance"><table>{lines}</table></div>')
    return f"<h2>Where the numbers come from</h2>{''.join(blocks)}"
