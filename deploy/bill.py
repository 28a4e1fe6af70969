#!/usr/bin/env python3
"""bill.py FOLDER [TARGET]: what is in the binary, by cargo's own account. THIRD-PARTY.txt has the licence texts of all crates,
each text once; sbom.cdx.json is the same as a CycloneDX bill of materials. Nothing is downloaded: the crates are there, since
they were built."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

# Only needed to build, but what they build from source is linked in.
VENDORED = {"openssl-src"}
NAMES = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.I)


def metadata(target):
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version=1"]
    command += ["--filter-platform", target]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def host():
    about = subprocess.run([os.environ.get("RUSTC", "rustc"), "-vV"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^host: (.*)$", about, re.M)[1]


def linked(data):
    """What the program is linked from: neither tools of the build nor of the tests."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = data["resolve"]["root"] or next(p["id"] for p in data["packages"] if p["name"] == "tidegate")
    seen, queue = set(), [root]
    while queue:
        node = nodes[queue.pop()]
        if node["id"] in seen:
            continue
        seen.add(node["id"])
        is_linked = lambda dep: dep["name"].replace("_", "-") in VENDORED or any(kind["kind"] is None for kind in dep["dep_kinds"])
        queue += [dep["pkg"] for dep in node["deps"] if is_linked(dep)]
    packages = [package for package in data["packages"] if package["id"] in seen]
    return root, sorted(packages, key=lambda package: (package["name"], package["version"])), nodes, seen


def licences(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = {file for file in folder.iterdir() if file.is_file() and NAMES.match(file.name)}
    # What is built from another project's source has its licence one folder down.
    if package["name"] in VENDORED or package["name"].endswith("-sys"):
        files |= {file for file in folder.glob("*/*") if file.is_file() and NAMES.match(file.name)}
    if package.get("license_file"):
        files.add(folder / package["license_file"])
    return [file.read_text(errors="replace").strip() for file in sorted(files)]


def third_party(packages, out):
    texts, lines = {}, ["What tidegate is made of, and under which licences. The texts are below.", ""]
    for package in packages:
        numbers = []
        for text in licences(package):
            digest = hashlib.sha256(re.sub(r"\s+", " ", text).encode()).hexdigest()
            numbers.append(texts.setdefault(digest, (len(texts) + 1, text))[0])
        where = ", ".join(f"[{number}]" for number in numbers) or "(no text in the crate)"
        lines.append(f"{package['name']} {package['version']}: {package['license'] or 'see its text'} {where}")
    for number, text in texts.values():
        lines += ["", "-" * 78, f"[{number}]", "", text]
    (out / "THIRD-PARTY.txt").write_text("\n".join(lines) + "\n")


def sbom(root, packages, nodes, seen, out):
    sums = checksums()
    ref = lambda package: f"pkg:cargo/{package['name']}@{package['version']}"
    refs = {package["id"]: ref(package) for package in packages}

    def component(package, kind):
        shown = {"type": kind, "bom-ref": ref(package), "name": package["name"], "version": package["version"], "purl": ref(package)}
        if package["license"]:
            # Older crates write `MIT/Apache-2.0`.
            shown["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if digest := sums.get((package["name"], package["version"])):
            shown["hashes"] = [{"alg": "SHA-256", "content": digest}]
        if package.get("repository"):
            shown["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        return shown

    of_root = next(package for package in packages if package["id"] == root)
    others = [package for package in packages if package["id"] != root]
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(of_root, "application")},
        "components": [component(package, "library") for package in others],
        "dependencies": [
            {"ref": refs[id], "dependsOn": sorted({refs[dep["pkg"]] for dep in nodes[id]["deps"] if dep["pkg"] in seen})}
            for id in sorted(seen)
        ],
    }
    (out / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")


def checksums():
    entries = pathlib.Path("Cargo.lock").read_text().split("[[package]]")
    field = lambda entry, name: (re.search(rf'^{name} = "(.*)"$', entry, re.M) or [None, None])[1]
    return {(field(e, "name"), field(e, "version")): field(e, "checksum") for e in entries if field(e, "checksum")}


def main():
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    out = pathlib.Path(sys.argv[1])
    data = metadata(sys.argv[2] if len(sys.argv) > 2 else host())
    root, packages, nodes, seen = linked(data)
    third_party(packages, out)
    sbom(root, packages, nodes, seen, out)


main()
