"""Renders the charts with each set of values, and has what comes out judged: by the strict schemas of Kubernetes, by those
keys that the operator of Prometheus knows, and by `tidegate check`. Values that do not exist have to be refused."""

import os
import pathlib
import subprocess
import sys
import tempfile

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
    assert kinds(rendered(CHART, "-f", values("sidecar"))) == {"Secret", "ConfigMap"}
    # A new configuration makes new pods where that is asked for.
    annotation = lambda *args: one(rendered(CHART, "--set", "reload=rollout", *args), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotation() != annotation("--set", "config.watch=true")


def refusals():
    for args, why in [
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


def notes():
    canary = CHART / "ci/statefulset-canary-values.yaml"
    say = lambda *args: helm("install", "gateway", CHART, "--dry-run=client", "-f", canary, *args).stdout
    many = "several replicas, and no control plane"
    assert many in say("--set", "replicas=2") and many not in say()
    assert "begin anew with each pod" in say("--set", "kind=Deployment")


def main():
    helm("lint", "--strict", "--quiet", CHART)
    refusals()
    expectations()
    notes()
    sets = sorted((CHART / "ci").glob("*-values.yaml"))
    for values in sets:
        judge(values.stem, rendered(CHART, "-f", values))
    helm("dependency", "build", EXAMPLE)
    example = rendered(EXAMPLE)
    judge("examples/app", example)
    sidecar = one(example, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    assert sidecar["restartPolicy"] == "Always" and sidecar["name"] == "tidegate"
    with tempfile.TemporaryDirectory() as home:
        helm("package", CHART, "-d", home)
    for file in ["docker/gateway.yaml", "docker/conf/gateway.yaml", "docker/conf/tracing.yaml", "deploy/debian/gateway.yaml"]:
        run([TIDEGATE, "check", "-c", str(ROOT.parent / file)], file, ENVIRONMENT)
    check_config("docker/conf", "control.yaml", (ROOT.parent / "docker/conf/control.yaml").read_text()
                 .replace("demo.local", "mesh.local").replace("${env:TIDEGATE_CONTROL_TOKEN}", "secret"))
    print(f"helm: {len(sets)} sets of values and the example are valid in Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}, and their configurations compile")


main()
