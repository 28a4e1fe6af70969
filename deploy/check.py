"""Renders the charts with each set of values, and has what comes out judged: by the strict schemas of Kubernetes, by those
keys that the operator of Prometheus knows, and by `tidegate check`. Values that do not exist have to be refused."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent
CHART = ROOT / "helm/tidegate"
EXAMPLE = ROOT / "helm/examples/app"
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
TIDEGATE = sys.argv[1]

# Of monitoring.coreos.com/v1, whose schemas nobody serves: what we write, by the API's documentation.
ENDPOINT = {"path", "port", "interval", "honorLabels", "authorization", "relabelings"}
OPERATOR = {
    "PodMonitor": ({"selector", "podMetricsEndpoints"}, "podMetricsEndpoints"),
    "ServiceMonitor": ({"selector", "endpoints"}, "endpoints"),
    "PrometheusRule": ({"groups"}, None),
}
# Names that a configuration asks the environment for.
ENVIRONMENT = {"TIDEGATE_ADMIN_TOKEN": "secret", "CONTROL_TOKEN": "secret", "POD_NAME": "pod-0"}


def helm(*args, check=True):
    done = subprocess.run(["helm", *map(str, args)], capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"helm {args}: {done.stderr}")
    return done


def rendered(chart, *args):
    return [doc for doc in yaml.safe_load_all(helm("template", "gateway", chart, *args).stdout) if doc]


def judge(name, docs):
    for doc in docs:
        kind = doc["kind"]
        if kind in OPERATOR:
            keys, endpoints = OPERATOR[kind]
            assert set(doc["spec"]) == keys, (name, kind, set(doc["spec"]))
            for endpoint in doc["spec"].get(endpoints, []):
                assert set(endpoint) <= ENDPOINT, (name, kind, set(endpoint) - ENDPOINT)
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(doc, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise SystemExit(f"{name}: {kind} {doc['metadata']['name']} in {version}: {error.message}")
        if kind == "ConfigMap":
            for file, text in doc["data"].items():
                if file.endswith(".yaml"):
                    check_config(name, file, text)


def check_config(name, file, text):
    with tempfile.TemporaryDirectory() as home:
        path = pathlib.Path(home) / file
        # Folders that a pod has, and this machine does not.
        for there in ("/etc/tidegate-ca", "/var/lib/tidegate/ca"):
            text = text.replace(there, f"{home}/ca")
        text = text.replace("/var/lib/tidegate", f"{home}/state")
        if "/ca" in text and not os.path.exists(f"{home}/ca"):
            run([TIDEGATE, "ca", "init", "--trust-domain", "mesh.local", "--out", f"{home}/ca"], name)
        if "/etc/tidegate-tls" in text:
            text = text.replace("/etc/tidegate-tls", f"{home}/tls")
            os.mkdir(f"{home}/tls")
            run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop.example.com", "-addext",
                 "subjectAltName=DNS:shop.example.com", "-keyout", f"{home}/tls/tls.key", "-out", f"{home}/tls/tls.crt"], name)
        path.write_text(text)
        run([TIDEGATE, "check", "-c", str(path)], f"{name}: {file}", ENVIRONMENT)


def run(command, what, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(f"{what}: {' '.join(command)}\n{done.stdout}{done.stderr}")


def one(docs, kind, name="gateway"):
    found = [doc for doc in docs if doc["kind"] == kind and name in doc["metadata"]["name"]]
    assert found, (kind, name, [doc["kind"] for doc in docs])
    return found[0]


def expectations():
    values = lambda name: CHART / f"ci/{name}-values.yaml"
    kinds = lambda docs: {doc["kind"] for doc in docs}
    default = rendered(CHART)
    pod = one(default, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 10 + 30 + 15
    assert pod["initContainers"][0]["args"][0] == "check"
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert "cpu" not in pod["containers"][0]["resources"]["limits"]
    # Without the operator's kinds in the cluster, nothing of them.
    assert not kinds(default) & set(OPERATOR), kinds(default)
    assert set(OPERATOR) <= kinds(rendered(CHART, "-f", values("monitoring")))
    scaled = rendered(CHART, "-f", values("autoscaling"))
    assert "replicas" not in one(scaled, "Deployment")["spec"] and "HorizontalPodAutoscaler" in kinds(scaled)
    assert "PodDisruptionBudget" in kinds(default)
    assert "PodDisruptionBudget" not in kinds(rendered(CHART, "-f", values("one-replica")))
    limited = one(rendered(CHART, "-f", values("cpu-limit")), "ConfigMap", "config")
    assert yaml.safe_load(limited["data"]["gateway.yaml"])["threads"] == 2
    long = one(rendered(CHART, "-f", values("internal")), "Deployment")["spec"]["template"]["spec"]
    assert long["terminationGracePeriodSeconds"] == 90 + 120 + 15
    console = lambda *args: yaml.safe_load(one(rendered(CHART, *args), "ConfigMap", "config")["data"]["gateway.yaml"])["admin"].get("console", True)
    assert console() and not console("-f", values("internal"))
    # Beside a gateway with the same chart, neither alerts nor the dashboard are there twice.
    assert kinds(rendered(CHART, "-f", values("sidecar"), "--set", "monitoring.force=true")) == {"Secret"}
    control()
    probes = {name: pod["containers"][0][name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}, probes
    ingress = one(default, "NetworkPolicy")["spec"]["ingress"]
    assert [rule["from"] for rule in ingress if {"port": 9901, "protocol": "TCP"} in rule["ports"]], ingress
    assert one(scaled, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    # Where the link to a file leads nowhere, helm renders nothing, and says nothing.
    assert json.loads(one(default, "ConfigMap", "dashboard")["data"]["tidegate.json"]) == json.loads((ROOT / "grafana/tidegate.json").read_text())
    rules = one(rendered(CHART, "-f", values("monitoring")), "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((ROOT / "prometheus/rules.yaml").read_text())
    # A new configuration makes new pods where that is asked for.
    annotation = lambda *args: one(rendered(CHART, "--set", "reload=rollout", *args), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotation() != annotation("--set", "config.watch=true")


def control():
    docs = rendered(CHART, "-f", CHART / "ci/control-plane-values.yaml", "--set", "monitoring.force=true,monitoring.serviceMonitor=true")
    pods = one(docs, "StatefulSet", "control")["spec"]["template"]
    check, serving = pods["spec"]["initContainers"][0], pods["spec"]["containers"][0]
    assert (check["args"][0], serving["args"][0]) == ("check", "control")
    assert (check["env"], check["volumeMounts"]) == (serving["env"], serving["volumeMounts"])
    labels = pods["metadata"]["labels"]
    assert selects(one(docs, "PodDisruptionBudget", "control")["spec"]["selector"], labels)
    # Both monitors find it: one by its pods, the other by a Service of its own.
    assert selects(one(docs, "PodMonitor")["spec"]["selector"], labels)
    admin = one(docs, "Service", "control-admin")
    assert selects({"matchLabels": admin["spec"]["selector"]}, labels)
    assert selects(one(docs, "ServiceMonitor")["spec"]["selector"], admin["metadata"]["labels"])
    alone = rendered(CHART, "-f", CHART / "ci/control-plane-values.yaml", "--set", "kind=Sidecar,monitoring.force=true")
    assert {"PodMonitor", "StatefulSet"} <= {doc["kind"] for doc in alone}
    single = rendered(CHART, "-f", CHART / "ci/control-plane-values.yaml", "--set", "controlPlane.replicas=1")
    assert not [doc for doc in single if doc["kind"] == "PodDisruptionBudget" and "control" in doc["metadata"]["name"]]


def selects(selector, labels):
    one_of = lambda rule: rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
    return all(labels.get(key) == value for key, value in selector["matchLabels"].items()) and all(
        one_of(rule) for rule in selector.get("matchExpressions", []))


def refusals():
    serve = "controlPlane.enabled=true,controlPlane.config.control.serve.address=:9902"
    for args, why in [
        (["--set", "config.admin=false"], "config.admin is false"),
        (["--set", "config.admin.address=127.0.0.1:9901"], "config.admin.address"),
        (["--set", "config.admin.address=:9000"], "config.admin.address"),
        (["--set", "service.ports.https=443,service.targetPorts.https=8443"], "targetPorts.https is 8443"),
        (["--set", "config.listeners[0].address=127.0.0.1:8080"], "targetPorts.http is 8080"),
        (["--set", "service.targetPorts.admin=9901"], "targetPorts.admin"),
        (["--set", "kind=DaemonSet,autoscaling.enabled=true"], "a pod on each node"),
        (["--set", "autoscaling.enabled=true,autoscaling.min=9,autoscaling.max=3"], "more than autoscaling.max"),
        (["--set", "autoscaling.enabled=true,resources.requests.cpu=null"], "resources.requests.cpu"),
        (["--set", f"{serve},controlPlane.config.admin.address=127.0.0.1:9901"], "controlPlane.config.admin.address"),
        (["--set", f"{serve},controlPlane.port=9903"], "controlPlane.port is 9903"),
        (["--set", "replcas=2"], "replcas"),
        (["--set", "image.repo=x"], "repo"),
        (["--set", "kind=ReplicaSet"], "kind"),
        (["--set", "shutdown.grace=30"], "grace"),
        (["--set", "service.ports.web=80"], "targetPorts.web"),
        (["--set", "controlPlane.enabled=true"], "control.serve"),
        (["--set", "controlPlane.enabled=true,controlPlane.replicas=2,controlPlane.config.control.serve.address=:9902"], "etcd"),
    ]:
        done = helm("template", "gateway", CHART, *args, check=False)
        assert done.returncode and why in done.stderr, (args, done.stderr)


def accepted():
    """What is not known here is not refused."""
    for args in [
        ["--set", "config.listeners[0].address=${env:LISTEN}"],
        ["--set", "config.admin.address=0.0.0.0:9901"],
        ["--set", "config.admin.address=${env:ADMIN}"],
        ["--set", "config.include[0]=conf.d/*.yaml,service.ports.https=443,service.targetPorts.https=8443"],
        ["--set", "config.admin.console=false"],
        ["--set", "config.listeners[0].address=[::]:8080"],
        ["--set", "existingConfigMap=mine,service.targetPorts.http=9999"],
    ]:
        rendered(CHART, *args)


def packaged():
    """What the Debian package holds, as far as it is not built: each file is there, and nothing that a user looks for is missing."""
    deb = tomllib.loads((ROOT.parent / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
    held = {}
    for source, place, mode in deb["assets"]:
        files = [source] if source.startswith("target/") else sorted(str(file.relative_to(ROOT.parent)) for file in ROOT.parent.glob(source))
        assert files, f"Cargo.toml, metadata.deb: nothing is {source}"
        for file in files:
            held[place + os.path.basename(file) if place.endswith("/") else place] = mode
    wanted = {
        "usr/bin/tidegate": "755",
        "etc/tidegate/gateway.yaml": "644",
        "lib/systemd/system/tidegate.service": "644",
        "lib/systemd/system/tidegate.socket": "644",
        "usr/lib/sysusers.d/tidegate.conf": "644",
        "usr/share/man/man1/*.1.gz": "644",
        "usr/share/bash-completion/completions/tidegate": "644",
        "usr/share/zsh/vendor-completions/_tidegate": "644",
        "usr/share/fish/vendor_completions.d/tidegate.fish": "644",
        "usr/share/doc/tidegate/THIRD-PARTY.txt": "644",
        "usr/share/doc/tidegate/changelog.gz": "644",
        "usr/share/doc/tidegate/examples/gateway.yaml": "644",
        "usr/share/doc/tidegate/examples/schema.json": "644",
    }
    missing = {place: mode for place, mode in wanted.items() if held.get(place) != mode}
    assert not missing, f"Cargo.toml, metadata.deb has not {missing}"
    assert deb["conf-files"] == ["/etc/tidegate/gateway.yaml"], deb["conf-files"]
    scripts = ROOT.parent / deb["maintainer-scripts"]
    for script in ["postinst", "prerm", "postrm"]:
        run(["sh", "-n", str(scripts / script)], script)


def composed():
    """What docker/README.md promises of compose.yaml: all of it pinned, hardened, and on loopback alone."""
    folder = ROOT.parent / "docker"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["mem_limit"], name
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), (name, service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), (name, service["ports"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (folder / source).exists() if source.startswith(".") else source in compose["volumes"], (name, volume)
    wanted = {"tidegate", "one", "two", "redis", "etcd", "control", "prometheus", "grafana"}
    assert wanted <= set(compose["services"]), wanted - set(compose["services"])
    profiles = {profile for service in compose["services"].values() for profile in service.get("profiles", [])}
    assert profiles == {"tracing", "load"}, profiles


def versioned():
    """All name the version of Cargo.toml: a chart that asks for another image's tag would not start."""
    version = tomllib.loads((ROOT.parent / "Cargo.toml").read_text())["package"]["version"]
    docker, guide = ROOT.parent / "docker", ROOT.parent / "docs/how-to/systemd.md"
    compose = yaml.safe_load((docker / "compose.yaml").read_text())
    found = {
        "Chart.yaml": yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"],
        "compose.yaml": compose["services"]["tidegate"]["image"].split(":")[1],
        "Dockerfile": re.search(r"^ARG VERSION=(.*)$", (docker / "Dockerfile").read_text(), re.M)[1],
        "README.md": re.search(r"tidegate-([\d.]+)-x86_64-linux", (ROOT.parent / "README.md").read_text())[1],
        "systemd.md": re.search(r"tidegate_([\d.]+)-1_amd64", guide.read_text())[1],
        "a rendered pod": one(rendered(CHART), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].split(":")[1],
    }
    assert set(found.values()) == {version}, f"Cargo.toml has {version}: {found}"


def documented():
    """The values in the documentation, as a user copies them."""
    page = (ROOT.parent / "docs/how-to/kubernetes.md").read_text()
    blocks = [block for block in re.findall(r"```yaml values\n(.*?)```", page, re.S)]
    assert blocks, "no values in docs/how-to/kubernetes.md"
    for number, block in enumerate(blocks, 1):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(block)
            file.flush()
            judge(f"docs/how-to/kubernetes.md, values {number}", rendered(CHART, "-f", file.name))
    prometheus = 0
    for page in sorted((ROOT.parent / "docs").rglob("*.md")):
        for block in re.findall(r"```yaml prometheus\n(.*?)```", page.read_text(), re.S):
            prometheus += 1
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
                file.write(block)
                file.flush()
                run(["promtool", "check", "config", "--syntax-only", file.name], page.name)
    assert prometheus, "no page has a block `yaml prometheus`"


def notes():
    canary = CHART / "ci/statefulset-canary-values.yaml"
    say = lambda *args: helm("install", "gateway", CHART, "--dry-run=client", "-f", canary, *args).stdout
    many = "each replica judges for itself"
    assert many in say("--set", "replicas=2") and many not in say()
    # A control plane rolls out configurations; canaries are still each gateway's own.
    assert many in say("--set", "replicas=2", "-f", CHART / "ci/control-plane-values.yaml")
    unseen = "does not warn of canaries"
    # Of values that are not used nothing is said.
    mine = say("--set", "replicas=2,existingConfigMap=mine")
    assert unseen in mine and "WARNING" not in mine and unseen not in say()
    assert "begin anew with each pod" in say("--set", "kind=Deployment")


def main():
    helm("lint", "--strict", "--quiet", CHART)
    refusals()
    accepted()
    expectations()
    documented()
    packaged()
    composed()
    versioned()
    notes()
    sets = sorted((CHART / "ci").glob("*-values.yaml"))
    for values in sets:
        judge(values.stem, rendered(CHART, "-f", values))
    helm("dependency", "build", EXAMPLE)
    example = rendered(EXAMPLE)
    judge("examples/app", example)
    pod = one(example, "Deployment")["spec"]["template"]["spec"]
    sidecar = pod["initContainers"][0]
    assert sidecar["restartPolicy"] == "Always" and sidecar["name"] == "tidegate"
    assert {mount["name"] for mount in sidecar["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    config = yaml.safe_load(one(example, "ConfigMap", "sidecar")["data"]["sidecar.yaml"])
    assert config["mode"] == "sidecar" and config["identity"] and config["sidecar"]["inbound"]["allow"]
    assert {"name": "mtls", "containerPort": 15006} in sidecar["ports"]
    with tempfile.TemporaryDirectory() as home:
        helm("package", CHART, "-d", home)
        with tarfile.open(next(pathlib.Path(home).glob("*.tgz"))) as packed:
            for name, source in [("rules.yaml", "prometheus/rules.yaml"), ("tidegate.json", "grafana/tidegate.json")]:
                assert packed.extractfile(f"tidegate/files/{name}").read() == (ROOT / source).read_bytes(), name
    for file in ["docker/gateway.yaml", "docker/conf/gateway.yaml", "docker/conf/tracing.yaml", "deploy/debian/gateway.yaml"]:
        run([TIDEGATE, "check", "-c", str(ROOT.parent / file)], file, ENVIRONMENT)
    check_config("docker/conf", "control.yaml", (ROOT.parent / "docker/conf/control.yaml").read_text()
                 .replace("demo.local", "mesh.local").replace("${env:TIDEGATE_CONTROL_TOKEN}", "secret"))
    print(f"helm: {len(sets)} sets of values and the example are valid in Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}, and their configurations compile")


main()
