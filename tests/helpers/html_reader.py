"""Reads an HTML page back: tags, texts, scripts."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """The content of a page.

    tags       [(tag, attributes)] in order
    text       visible texts
    scripts    texts of the scripts
    open       tags that are not closed
    wrong      end tags that do not fit
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.open, self.wrong = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text.append(data)
