#!/usr/bin/env python3
"""look-at-bill.py FILE: whether a bill of materials is what CycloneDX 1.5 says, and names what it should. It needs
cyclonedx-python-lib[json-validation], which deploy/dist installs."""

import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

file = sys.argv[1]
text = pathlib.Path(file).read_text()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
assert error is None, f"{file}: {error}"
bill = json.loads(text)
assert bill["metadata"]["component"]["name"] == "tidegate", f"{file} is of something else"
assert len(bill["components"]) > 100, f"{file} has {len(bill['components'])} components"
# The schema does not ask whether what is referred to is there.
there = {bill["metadata"]["component"]["bom-ref"]} | {component["bom-ref"] for component in bill["components"]}
named = {ref for node in bill["dependencies"] for ref in [node["ref"], *node["dependsOn"]]}
assert named == there, f"{file}: dependencies and components differ: {sorted(named ^ there)[:5]}"
print(f"{file}: CycloneDX 1.5, {len(bill['components'])} components")
