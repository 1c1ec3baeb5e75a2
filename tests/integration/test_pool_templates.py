"""docker/pools rendered by the workers' own classes, and checked against what Docker and Kubernetes take."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from tests.support.paths import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect")]


def rendered(worker: Any, name: str, **values: Any) -> Any:
    """The job of a flow run, as the worker of a pool with that template would start it."""
    template = json.loads((ROOT / "docker" / "pools" / f"{name}.json").read_text("utf-8"))
    values["env"] = {"PREFECT_API_URL": "http://prefect.example.com:4200/api"}
    job = asyncio.run(worker.job_configuration.from_template_and_values(template, values))
    job.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="general"))
    return job


def test_kubernetes_jobs_are_valid_and_have_gpus_shared_memory_and_time_to_save() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra integration")
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="extra integration")
    chosen = {
        "gpus": 8,
        "node_selector": {"node.kubernetes.io/instance-type": "gpu-8"},
        "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        "priority_class": "training",
        "grace_seconds": 120,
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
            {"name": "store", "persistentVolumeClaim": {"claimName": "distill"}},
        ],
    }
    for values in ({}, chosen):
        manifest = rendered(worker.KubernetesWorker, "kubernetes", **values).job_manifest
        for version in ("1.30", "1.35"):
            validate.validate(manifest, version, strict=True)
    spec = manifest["spec"]
    pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert (spec["backoffLimit"], spec["parallelism"], pod["restartPolicy"]) == (0, 1, "Never")
    assert pod["terminationGracePeriodSeconds"] == 120
    assert (pod["nodeSelector"], pod["tolerations"]) == (chosen["node_selector"], chosen["tolerations"])
    assert pod["priorityClassName"] == "training"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert pod["volumes"] == chosen["volumes"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert env["PREFECT__FLOW_RUN_ID"]


def test_docker_containers_have_gpus_shared_memory_and_a_store() -> None:
    worker = pytest.importorskip("prefect_docker.worker", reason="extra integration")
    from docker.models.containers import _create_container_args

    job = rendered(worker.DockerWorker, "docker", networks=["front"], mem_limit="64g")
    settings = worker.DockerWorker("stages")._build_container_settings(None, job)
    host = _create_container_args({**settings, "version": "1.47"})["host_config"]
    assert host["ShmSize"] == 8 << 30
    assert host["DeviceRequests"][0]["Count"] == -1
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert {"Name": "memlock", "Soft": -1, "Hard": -1} in host["Ulimits"]
    assert (host["Init"], host["CapDrop"], host["Memory"]) == (True, ["ALL"], 64 << 30)
    assert host["Binds"] == ["distill-store:/store"]
    assert settings["command"] == "prefect flow-run execute"
    assert settings["environment"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"

    on_cpu = rendered(worker.DockerWorker, "docker", gpus=[])
    settings = worker.DockerWorker("stages")._build_container_settings(None, on_cpu)
    assert not _create_container_args({**settings, "version": "1.47"})["host_config"].get("DeviceRequests")
