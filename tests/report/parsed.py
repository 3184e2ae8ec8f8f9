"""A page as a browser takes it apart."""

import html.parser

from synthetic import HOSTILE


class Parsed(html.parser.HTMLParser):
    """Its tags with their attributes, scripts and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


def check_nothing_runs(text):
    """The page's one script is its own, nothing has a handler, and the hostile text is text."""
    parsed = Parsed(text)
    assert len(parsed.scripts) == 1 and "pointermove" in parsed.scripts[0]
    for tag, attributes in parsed.tags:
        assert tag != "img" and not any(name.startswith("on") for name in attributes), tag
    assert HOSTILE in "".join(parsed.texts)
