#!/usr/bin/env python3
"""look-at-book.py FOLDER: whether the site that mdBook has built can be searched: each page of docs/SUMMARY.md is in the index,
and words lead to the pages that are about them."""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# As the index has them, by their stems, which these are themselves.
WORDS = {"nginx": "how-to/from-nginx.html", "breaker": "traffic/circuit-breakers.html", "helm": "how-to/kubernetes.html"}

site = pathlib.Path(sys.argv[1])
files = list(site.glob("searchindex*.js"))
assert len(files) == 1, f"{site} has {len(files)} search indexes: is it an old one? (remove it, then `make docs`)"
assert files[0].name in (site / "index.html").read_text(), f"{site}/index.html does not load {files[0].name}"
written = re.fullmatch(r".*?JSON\.parse\('(.*)'\)\);?\s*", files[0].read_text(), re.S)
assert written, f"{files[0]} is no longer written as JSON in a string"
# A string of JavaScript's, around JSON.
search = json.loads(re.sub(r"\\(['\\])", r"\1", written[1]))
pages = search["doc_urls"]

summary = (ROOT / "docs/SUMMARY.md").read_text()
wanted = {re.sub(r"(^|/)README\.html$", r"\1index.html", page[:-2] + "html") for page in re.findall(r"\]\(([^)#]+\.md)\)", summary)}
missing = wanted - {page.split("#")[0] for page in pages}
assert wanted and not missing, f"not in the index: {sorted(missing)}"

for word, page in WORDS.items():
    node = search["index"]["index"]["body"]["root"]
    for letter in word:
        node = node.get(letter, {})
    found = {pages[int(number)].split("#")[0] for number in node.get("docs", {})}
    assert page in found, f"{word} does not lead to {page}, but to {sorted(found)}"
print(f"{site}: {len(wanted)} pages can be searched")
