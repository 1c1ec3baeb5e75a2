"""Names of work pools in a recipe, and what a run refuses before anything is trained."""

from __future__ import annotations

import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline.pools.registered import ENTRYPOINT, check_pools, has_worker, registered
from pipeline.recipes.shipped import read_recipe
from schemas.core.errors import ConfigError, ServiceError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("execution.pools.generl=gpu", "execution.pools.generl: 'generl' is not allowed (did you mean general?)"),
        ("execution.pools.general=3", "execution.pools.general: 3 is not allowed; expected text"),
        ("execution.pools={general: a/b}", "execution.pools.general: 'a/b' is no name of a work pool"),
        ("execution.pools.other_teacher=gpu", "this recipe makes no other_teacher; it makes teacher, general, "),
        ("execution.pool_minutes=0", "execution.pool_minutes: 0 is not allowed; it must be at least 1"),
    ],
)
def test_a_wrong_stage_or_pool_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_recipe("quickstart", [change])
    assert message in str(error.value)


def test_a_pool_without_a_named_server_is_refused() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match=r"general: gpu, but PREFECT_API_URL is not set, and workers cannot reach"),
    ):
        check_pools({"general": "gpu"})
    assert check_pools({}) == []


def test_a_server_that_is_not_there_is_named() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://user:secret@127.0.0.1:9/api"}),
        pytest.raises(ServiceError, match="no Prefect server answers there") as error,
    ):
        check_pools({"general": "gpu"})
    assert "secret" not in str(error.value)


@pytest.mark.usefixtures("prefect")
def test_missing_pools_are_named_and_a_pool_gets_its_deployment_once() -> None:
    pool, missing = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("gpu", "no"))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        with pytest.raises(ConfigError) as error:
            check_pools({"general": pool, "task_adaptive": missing, "teacher": missing})
        assert [line.split(":")[0] for line in error.value.problems] == [
            "execution.pools.task_adaptive",
            "execution.pools.teacher",
        ]
        assert f"has no work pool {missing} (it has: " in error.value.problems[0]
        assert f"prefect work-pool create {missing} --type process" in error.value.problems[0]
        (line,) = check_pools({"general": pool, "teacher": pool})
        assert line.startswith(f"general, teacher: no worker polls work pool {pool} now")
        assert not has_worker(client, pool)
        first = registered(client, pool)
        assert (first.name, first.work_pool_name, first.entrypoint) == (pool, pool, ENTRYPOINT)
        assert registered(client, pool).id == first.id
