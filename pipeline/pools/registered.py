"""Work pools and the deployments `distill-stage/NAME` through which runs reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.process.prefect_api import prepare_environment, server_errors
from schemas.core.credentials import without_credentials
from schemas.core.errors import ConfigError
from schemas.recipe.stage import StageName

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

FLOW = "distill-stage"
ENTRYPOINT = "pipeline.stage_flow.distill_stage"
DESCRIPTION = "Train one stage for a run of distill-flow, which starts it and finds the result in the store."
JOB_VARIABLES: dict[str, Any] = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}
"""Seconds between two signs of life of a stage; Prefect's own 180 would have a run wait long for one that died."""


def check_pools(pools: Mapping[StageName, str]) -> list[str]:
    """Check that Prefect's server is there and has every pool; return remarks on pools that nobody works for.

    Args:
        pools: names of work pools by stage.

    Raises:
        ConfigError: no server is named, or it lacks a pool.
        ServiceError: the server does not answer, or requires other credentials.
    """
    if not pools:
        return []
    prepare_environment()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        stage, pool = next(iter(pools.items()))
        raise ConfigError(
            f"execution.pools.{stage}: {pool}, but PREFECT_API_URL is not set, and workers cannot reach the server "
            "that a run starts for itself; start one with: prefect server start, then: export "
            "PREFECT_API_URL=http://127.0.0.1:4200/api, or train every stage here: --set execution.pools={}"
        )
    server = f"PREFECT_API_URL={without_credentials(address)}"
    answering = server_errors(server, "no Prefect server answers there", "start one with: prefect server start")
    with answering, get_client(sync_client=True) as client:
        names = {pool: _work_pool(client, pool) for pool in dict.fromkeys(pools.values())}
        missing = [stage for stage, pool in pools.items() if names[pool] is None]
        if missing:
            known = ", ".join(pool.name for pool in client.read_work_pools()) or "none"
            raise ConfigError([_missing(stage, pools[stage], known) for stage in missing])
        return [
            f"{', '.join(stage for stage, other in pools.items() if other == pool)}: no worker polls work pool {name} "
            f"now; start one with: prefect worker start --pool {name}"
            for pool, name in names.items()
            if name is not None and not has_worker(client, name)
        ]


def _missing(stage: str, name: str, known: str) -> str:
    return (
        f"execution.pools.{stage}: Prefect's server has no work pool {name} (it has: {known}) and no deployment "
        f"{FLOW}/{name}; make a pool with: prefect work-pool create {name} --type process, and start a worker: prefect "
        f"worker start --pool {name}"
    )


def _work_pool(client: SyncPrefectClient, name: str) -> str | None:
    """Name of the work pool to which the deployment `distill-stage/NAME` sends its runs; None without either."""
    from prefect.exceptions import ObjectNotFound

    try:
        deployment: DeploymentResponse = client.read_deployment_by_name(f"{FLOW}/{name}")
        return deployment.work_pool_name
    except ObjectNotFound:
        pass
    try:
        return client.read_work_pool(name).name
    except ObjectNotFound:
        return None


def registered(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """The deployment `distill-stage/NAME`; made for the work pool of that name if there is none yet."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{FLOW}/{name}")
    except ObjectNotFound:
        pass
    identifier = client.create_deployment(
        flow_id=client.create_flow_from_name(FLOW),
        name=name,
        work_pool_name=name,
        entrypoint=ENTRYPOINT,  # of the installed package: nothing is pulled
        pull_steps=[],
        description=DESCRIPTION,
        tags=["distill"],
        job_variables=JOB_VARIABLES,
    )
    return client.read_deployment(identifier)


def has_worker(client: SyncPrefectClient, pool: str) -> bool:
    """Return whether a worker has polled a work pool lately; always true of pools that need none."""
    from prefect.client.schemas.objects import WorkerStatus

    work_pool: WorkPool = client.read_work_pool(pool)
    if work_pool.is_push_pool or work_pool.is_managed_pool:
        return True
    return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))
