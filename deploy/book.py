#!/usr/bin/env python3
"""A preprocessor of mdBook: links that leave docs/ lead to the repository, those to a README to the page that it becomes."""

import json
import posixpath
import re
import sys

REPOSITORY = "https://github.com/tidegate/tidegate/blob/main/"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
# mdBook calls a folder's README.md index.md and leaves the links to it as they are.
README = re.compile(r"(^|/)README\.md$")


def in_the_book(target, page):
    """`target` as it has to be written in `page`, a path below docs/."""
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z][a-z0-9+.-]*:", path):
        return target
    there = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), path))
    if there.startswith("docs/"):
        return README.sub(r"\1index.md", path) + hash_ + anchor
    return REPOSITORY + there + hash_ + anchor


def rewrite(text, page):
    def line(at):
        return LINK.sub(lambda link: link[1] + in_the_book(link[2], page) + link[3], at)

    out, fenced = [], False
    for at in text.split("\n"):
        fenced ^= at.lstrip().startswith("```")
        out.append(at if fenced else line(at))
    return "\n".join(out)


def walk(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            chapter = item["Chapter"]
            page = chapter.get("source_path") or chapter.get("path")
            if page:
                chapter["content"] = rewrite(chapter["content"], page)
            walk(chapter["sub_items"])


if len(sys.argv) > 1 and sys.argv[1] == "supports":
    sys.exit(0)
_, book = json.load(sys.stdin)
# Called `sections` until 0.4, and `items` from 0.5 on.
walk(book.get("items") or book.get("sections"))
json.dump(book, sys.stdout)
