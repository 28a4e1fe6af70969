"""Holds configurations against the schema: as they were read by others, and as PyYAML reads them."""

import json
import sys

import yaml
from jsonschema import Draft7Validator

with open(sys.argv[1]) as file:
    schema = json.load(file)
Draft7Validator.check_schema(schema)
validator = Draft7Validator(schema)


def innermost(error):
    """Of alternatives, the one that most of it fits."""
    while error.context:
        error = max(error.context, key=lambda one: len(one.absolute_path))
    return error


found = 0
for shown in json.load(sys.stdin):
    # Written as JSON and read again, keys are text: a boolean becomes `true`.
    by_pyyaml = json.loads(json.dumps(yaml.safe_load(shown["text"]), default=str))
    for reader, value in [("YAML 1.2", shown["read"]), ("PyYAML", by_pyyaml)]:
        for error in validator.iter_errors(value):
            place = "/".join(str(part) for part in error.absolute_path)
            print(f"{shown['name']}, by {reader}: {place}: {innermost(error).message}")
            found += 1
sys.exit(1 if found else 0)
