"""Servers listen on the loopback interface by default, and the compose file requires passwords everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipeline.tracking.open_ui import mlflow_ui
from tests.fault.services.composed import read_compose
from tests.support.paths import ROOT

SERVICES: dict[str, dict[str, Any]] = read_compose()["services"]
SECRET = re.compile("PASSWORD|SECRET|TOKEN|AUTH_STRING|API_KEY", re.IGNORECASE)
NEEDED = re.compile(r"(?:\w+:)?\$\{\w+:\?[^}]+\}")  # refused when unset and when empty
OPTIONAL = "${HF_TOKEN:-}"
LOGINS = {
    "postgres": {"POSTGRES_PASSWORD"},
    "prefect": {"PREFECT_SERVER_API_AUTH_STRING", "PGPASSWORD"},
    "mlflow": {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "PGPASSWORD"},
    "s3": {"AWS_SECRET_ACCESS_KEY"},
    "worker": {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"},
    "stages": {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"},
}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_a_default_password(name: str) -> None:
    for key, value in SERVICES[name]["environment"].items():
        if SECRET.search(key):
            assert NEEDED.fullmatch(value) or value == OPTIONAL, key
    text = yaml.safe_dump(SERVICES[name])
    assert not re.search(r"://[^\s/@]*:[^\s/@]*@", text), "a password in an address"


@pytest.mark.parametrize("name", LOGINS)
def test_every_service_requires_or_sends_a_password(name: str) -> None:
    assert set(SERVICES) == set(LOGINS)
    assert LOGINS[name] <= {key for key, value in SERVICES[name]["environment"].items() if NEEDED.fullmatch(value)}
    if name == "mlflow":
        assert "--app-name=basic-auth" in SERVICES[name]["command"]
    if name == "postgres":
        assert "POSTGRES_HOST_AUTH_METHOD" not in SERVICES[name]["environment"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices", "cap_add"} & set(service)
    assert "docker.sock" not in yaml.safe_dump(service)
    assert re.fullmatch(r"[\w\-/]+:[\w.\-]*\d[\w.\-]*", service["image"]), "a version"
    assert name == "worker" or "healthcheck" in service  # the worker's is its image's


def test_ports_are_published_on_the_loopback_interface_and_the_database_not_at_all() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    numbers = {"prefect": 4200, "mlflow": 5000, "s3": 8333}
    assert ports == {name: [f"127.0.0.1:{number}:{number}"] for name, number in numbers.items()}
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert read_compose()["networks"]["database"] == {"internal": True}


def test_the_object_store_listens_to_logins_only_and_reports_nothing() -> None:
    """Its master, volume and filer, which know no login, are on the container's own loopback interface."""
    words = SERVICES["s3"]["command"]
    assert [word for word in words if "ip" in word] == ["-ip=127.0.0.1", "-s3.ip.bind=0.0.0.0"]
    assert {"-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"} <= set(words)


def test_both_workers_have_the_store_and_the_servers_of_the_file() -> None:
    worker, stages = (SERVICES[name]["environment"] for name in ("worker", "stages"))
    assert worker.items() <= stages.items()
    assert set(stages) - set(worker) == {"PREFECT_WORKER_WEBSERVER_HOST", "PREFECT_WORKER_WEBSERVER_PORT"}
    assert stages["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert worker["DISTILL_STORE"] == "${DISTILL_STORE:-s3://distill/store}"
    for name in ("prefect", "mlflow", "s3"):
        address = next(value for value in worker.values() if value.startswith(f"http://{name}:"))
        port = re.search(r"(?<=:)\d+", address)
        assert port is not None
        assert any(re.search(rf"\b{port[0]}$", word) for word in SERVICES[name]["command"]), address
        assert SERVICES["worker"]["depends_on"][name] == {"condition": "service_healthy"}
        assert set(SERVICES[name]["networks"]) & set(SERVICES["worker"]["networks"])


def test_the_worker_of_the_pool_uses_the_template_of_process_pools() -> None:
    service = SERVICES["stages"]
    assert "./pools/process.json:/etc/distill/pool.json:ro" in service["volumes"]
    assert {"--type=process", "--base-job-template=/etc/distill/pool.json"} <= set(service["command"])


def test_the_variant_with_gpus_adds_nothing_but_gpus_and_memory_for_their_exchange() -> None:
    added = read_compose("compose.gpu.yaml")["services"]
    assert set(added) == {"worker", "stages"}
    for service in added.values():
        assert set(service) == {"deploy", "shm_size", "ulimits"}
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "-f docker/compose.yaml -f docker/compose.gpu.yaml" in (ROOT / "docker" / "README.md").read_text("utf-8")


def test_required_variables_are_listed_and_empty() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
    example = (ROOT / "docker" / ".env.example").read_text("utf-8")
    example_values = dict(line.split("=") for line in example.splitlines() if "=" in line and line[0] != "#")
    assert set(example_values) == set(re.findall(r"\$\{(\w+):\?", text))
    assert set(example_values.values()) == {""}
    assert "docker/.env" in (ROOT / ".gitignore").read_text("utf-8").split()


def test_files_mounted_by_compose_exist_and_contain_no_secret() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", ()) if volume[0] == "."]
    assert len(mounted) == 3
    for volume in mounted:
        source, _, mode = volume.split(":")
        assert mode == "ro"
        text = (ROOT / "docker" / source).read_text("utf-8")
        assert not re.search(r"password\s*=|://\w+:", text, re.IGNORECASE)


def commands() -> Iterator[tuple[str, str]]:
    """Yield every line of the project outside compose.yaml that starts a server."""
    files = [ROOT / "README.md", ROOT / "Makefile", ROOT / "prefect.yaml", *(ROOT / "docs").glob("*.md")]
    files += [*(ROOT / "docker").glob("*.md"), ROOT / "docker" / "Dockerfile", *(ROOT / "pipeline").rglob("*.py")]
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            if re.search(r"mlflow (ui|server)|prefect server start|0\.0\.0\.0|--host", line):
                yield str(file.relative_to(ROOT)), line


def test_no_documented_or_printed_command_exposes_a_server() -> None:
    shown = list(commands())
    assert {"docs/mlflow.md", "docs/prefect.md", "pipeline/process/prefect_api.py"} <= {file for file, _ in shown}
    for file, line in shown:
        assert "0.0.0.0" not in line, (file, line)
        if "mlflow ui" in line or "mlflow server" in line:
            assert "127.0.0.1" in line or "--host" not in line, (file, line)


def test_the_command_for_mlflow_binds_to_the_loopback_interface(tmp_path: Any) -> None:
    command, address = mlflow_ui(str(tmp_path))
    assert command is not None
    assert "--host 127.0.0.1" in command
    assert address.startswith("http://127.0.0.1:")


def test_prefect_binds_to_the_loopback_interface_by_default() -> None:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    assert settings.server.api.host == "127.0.0.1"
    # `distill serve` polls Prefect's server and opens no port.
    assert settings.runner.server.enable is False
