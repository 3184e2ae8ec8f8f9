"""A page as a browser takes it apart."""

import html.parser
import json

from synthetic import HOSTILE


class Parsed(html.parser.HTMLParser):
    """The page as a browser takes it apart."""

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
    """The page's scripts are its own two, all others are data; returns the data."""
    parsed = Parsed(text)
    kinds = [attributes.get("type") for tag, attributes in parsed.tags if tag == "script"]
    assert kinds == ["application/json"] * (len(kinds) - 2) + [None, None]
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert HOSTILE in "".join(parsed.texts)
    return [json.loads(script) for script in parsed.scripts[:-2]]
