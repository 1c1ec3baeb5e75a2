"""The templates of work pools in docker/pools: every placeholder has its variable, and Prefect's process worker reads
its own. The workers of Docker and Kubernetes render theirs in tests/integration/test_pool_templates.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prefect.workers.process import ProcessJobConfiguration

from pipeline.pools.registered import JOB_VARIABLES
from tests.support.paths import ROOT

NAMES = ("docker", "kubernetes", "process")


def template(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "docker" / "pools" / f"{name}.json").read_text("utf-8"))
    return content


@pytest.mark.parametrize("name", NAMES)
def test_placeholders_and_variables_of_a_template_match(name: str) -> None:
    content = template(name)
    assert set(content) == {"job_configuration", "variables"}
    placeholders = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(content["job_configuration"])))
    properties = content["variables"]["properties"]
    assert placeholders == set(properties)
    Draft202012Validator.check_schema(content["variables"])
    for variable, schema in properties.items():
        assert schema["description"].endswith("."), variable
        if "default" in schema:
            Draft202012Validator(schema).validate(schema["default"])
    assert properties["env"]["default"].items() >= JOB_VARIABLES["env"].items()
    assert not re.search(r"password|secret_key|token", json.dumps(properties["env"]), re.IGNORECASE)


def test_a_container_that_is_asked_to_end_goes_on_elsewhere_and_has_time_to_save() -> None:
    for name in ("docker", "kubernetes"):
        variables = template(name)["variables"]["properties"]
        assert variables["env"]["default"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    job = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]
    assert job["backoffLimit"] == 0, "Prefect starts it again, and not Kubernetes"
    assert variables["grace_seconds"]["default"] >= variables["grace_seconds"]["minimum"] == 60


@pytest.mark.usefixtures("prefect")
def test_prefects_process_worker_renders_its_template() -> None:
    values = {"env": {"CUDA_VISIBLE_DEVICES": "3"}}
    rendered = asyncio.run(ProcessJobConfiguration.from_template_and_values(template("process"), values))
    assert rendered.stream_output is True
    assert rendered.env == {**JOB_VARIABLES["env"], "CUDA_VISIBLE_DEVICES": "3"}
