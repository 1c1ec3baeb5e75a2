"""docker/kubernetes is valid, confined, and starts what docker/compose.yaml starts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fault.services.composed import image_command, read_compose
from tests.support.paths import ROOT

FOLDER = ROOT / "docker" / "kubernetes"
SERVICES: dict[str, dict[str, Any]] = read_compose()["services"]
WORKLOADS = {"postgres", "prefect", "mlflow", "s3", "worker", "stages"}
SECRET = re.compile("PASSWORD|SECRET|TOKEN|AUTH_STRING|API_KEY|ACCESS_KEY", re.IGNORECASE)
VERSIONS = ("1.30", "1.35")
HERE_ONLY = {
    "postgres": {"PGDATA"},
    "prefect": {"PREFECT_PASSWORD"},  # a part of PREFECT_SERVER_API_AUTH_STRING
    "stages": {
        "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME",
        "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY",
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES",
    },
}
"""Variables that the compose file does not have, by workload."""


def objects(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects that `kubectl apply -k` makes of a folder."""
    content = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    known = {"apiVersion", "kind", "namespace", "resources", "generatorOptions", "configMapGenerator"}
    assert set(content) <= known, "read here as kustomize reads it"
    for name in content.get("resources", ()):
        path = folder / name
        yield from objects(path) if path.is_dir() else yaml.safe_load_all(path.read_text("utf-8"))
    for config_map in content.get("configMapGenerator", ()):
        pairs = (entry.rpartition("=") for entry in config_map["files"])
        data = {key or Path(file).name: (folder / file).read_text("utf-8") for key, _, file in pairs}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map["name"]}, "data": data}


@cache
def found() -> dict[tuple[str, str], dict[str, Any]]:
    """All objects by kind and name."""
    listed = list(objects(FOLDER / "seaweedfs"))
    named = {(one["kind"], one["metadata"]["name"]): one for one in listed}
    assert len(named) == len(listed)
    return named


def workload(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pod and container of a workload."""
    (one,) = (
        value for (kind, other), value in found().items() if other == name and "template" in value.get("spec", {})
    )
    pod = one["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def test_every_object_is_valid_for_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra dev")
    for one in found().values():
        for version in VERSIONS:
            validate.validate(one, version, strict=True)
    broken = json.loads(json.dumps(found()["Deployment", "worker"]))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("folder", ["base", "seaweedfs"])
def test_kubectl_makes_the_same_objects(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    words = (kubectl, "kustomize", str(FOLDER / folder))
    made = list(yaml.safe_load_all(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    expected = {(one["kind"], one["metadata"]["name"]): one for one in objects(FOLDER / folder)}
    assert {(one["kind"], one["metadata"]["name"]) for one in made} == set(expected)
    for one in made:
        if one["kind"] not in ("Namespace",):
            assert one["metadata"]["namespace"] == "distill"
        for part in ("spec", "data", "rules"):
            assert one.get(part) == expected[one["kind"], one["metadata"]["name"]].get(part), one["metadata"]["name"]


def test_the_folder_has_a_workload_for_each_service() -> None:
    names = {name for (_, name), one in found().items() if "template" in one.get("spec", {})}
    assert names == WORKLOADS == set(SERVICES)
    without = {
        name
        for one in objects(FOLDER / "base")
        if "template" in one.get("spec", {})
        for name in [one["metadata"]["name"]]
    }
    assert without == WORKLOADS - {"s3"}


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_images_and_commands_are_those_of_the_compose_file(name: str) -> None:
    (_, container), service = workload(name), SERVICES[name]
    assert container["image"] == service["image"]
    assert container.get("command") == service.get("entrypoint")
    words = service.get("command", image_command() if "build" in service else None)
    if name == "stages":
        words = [
            word.replace("--type=process", "--type=kubernetes").replace("--limit=1", "--limit=8") for word in words
        ]
    assert container.get("args") == words
    if name != "worker":
        health = service["healthcheck"]["test"][1:]
        assert container["readinessProbe"]["exec"]["command"] == health
        assert container["livenessProbe"] == container["startupProbe"] == container["readinessProbe"]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_variables_are_those_of_the_compose_file_and_secrets_are_references(name: str) -> None:
    here = {variable["name"]: variable for variable in workload(name)[1]["env"]}
    there = SERVICES[name]["environment"]
    only_here = HERE_ONLY.get(name, set())
    if name == "stages":  # its jobs have the others: the keys of the secret `distill`
        there = {key: value for key, value in there.items() if key.startswith("PREFECT_")}
    assert set(here) - only_here == set(there)
    for key, variable in here.items():
        value = variable.get("value")
        if value is None:
            (source,) = variable["valueFrom"]
            assert source == "secretKeyRef" or key.endswith("OBSERVER_NAMESPACES")
            continue
        if key == "PREFECT_SERVER_API_AUTH_STRING":
            assert value == "distill:$(PREFECT_PASSWORD)"
        elif key not in only_here:
            assert value == there[key], key
        is_name = key.endswith(("SECRET_NAME", "SECRET_KEY")) or key == "AWS_ACCESS_KEY_ID"
        assert is_name or not SECRET.search(key) or value.startswith("distill:$("), key


def test_no_secret_is_in_the_folder_and_the_page_makes_every_one() -> None:
    assert "Secret" not in {kind for kind, _ in found()}
    asked: dict[str, set[str]] = {}
    for name in WORKLOADS:
        for variable in workload(name)[1]["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                asked.setdefault(reference["name"], set()).add(reference["key"])
    assert set(asked) == {"servers", "distill"}
    example = (ROOT / "docker" / ".env.example").read_text("utf-8")
    assert asked["servers"] == set(re.findall(r"^([A-Z]\w+)=", example, re.MULTILINE))
    page = (ROOT / "docker" / "README.md").read_text("utf-8")
    made = set(re.findall(r"--from-literal=(\w+)=", page))
    assert asked["distill"] - {"HF_TOKEN"} <= made
    # The jobs of stages read nothing but the secret: it has what the worker is told by name, too.
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME"} <= made
    template = json.loads((ROOT / "docker" / "pools" / "kubernetes.json").read_text("utf-8"))
    variables = template["variables"]["properties"]
    assert (variables["secret"]["default"], variables["namespace"]["default"]) == ("distill", "distill")
    assert variables["image"]["default"] == SERVICES["worker"]["image"]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_every_pod_is_confined(name: str) -> None:
    pod, container = workload(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is (name == "stages")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container["resources"])


def test_the_worker_of_the_pool_may_start_jobs_here_and_nothing_else() -> None:
    assert {kind for kind, _ in found() if "Role" in kind} == {"Role", "RoleBinding"}
    rules = found()["Role", "stages"]["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("jobs", "create"), ("jobs", "delete"), ("jobs", "watch"), ("pods", "list"), ("pods/log", "get")} <= may
    assert {resource for resource, _ in may} == {"jobs", "pods", "pods/log"}
    assert not [pair for pair in may if "*" in pair or (pair[0] != "jobs" and pair[1] not in ("get", "list", "watch"))]
    assert workload("stages")[0]["serviceAccountName"] == "stages"


def test_the_database_is_reached_by_the_two_servers_alone() -> None:
    policy = found()["NetworkPolicy", "postgres"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"app": "postgres"}}
    (rule,) = policy["ingress"]
    assert sorted(one["podSelector"]["matchLabels"]["app"] for one in rule["from"]) == ["mlflow", "prefect"]
    services = {name: one["spec"] for (kind, name), one in found().items() if kind == "Service"}
    assert set(services) == {"postgres", "prefect", "mlflow", "s3"}
    for name, spec in services.items():
        assert spec.get("type", "ClusterIP") == "ClusterIP"
        assert spec["selector"] == {"app": name}


def test_settings_of_prefects_worker_are_known_to_it() -> None:
    settings = pytest.importorskip("prefect_kubernetes.settings", reason="extra kubernetes")
    here = {variable["name"]: variable for variable in workload("stages")[1]["env"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_"
    for name in here:
        if name.startswith(prefix):
            part, _, field = name.removeprefix(prefix).lower().partition("_")
            annotation = settings.KubernetesSettings.model_fields[part].annotation
            assert field in annotation.model_fields, name
