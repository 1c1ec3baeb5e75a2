"""The environment, read once: everything else takes values as arguments.

Constructing settings makes no folder and asks no server. What decides about training stands in
the recipe, not here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from schemas.core.base import Frozen
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.paths import local_path
from schemas.core.wording import shown_value


class Settings(Frozen):
    """Where things are on this machine."""

    store: Path
    """Folder of checkpoints, states and reports (DISTILL_STORE)."""
    tracking_uri: str
    """MLflow's address, with credentials if it has any (MLFLOW_TRACKING_URI).

    Never print it as it is.
    """
    artifacts: Path | None
    """Where MLflow's artifacts go; null when a server decides."""
    experiment: str
    """MLflow experiment (DISTILL_EXPERIMENT)."""
    prefect_api_url: str | None = None
    """Prefect's server, for messages only: Prefect reads it itself (PREFECT_API_URL)."""


def read_settings(store: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; `store`, when given, wins over DISTILL_STORE.

    An empty variable counts as unset.
    """
    given = {name: value for name, value in (os.environ if environ is None else environ).items() if value.strip()}
    place = store or given.get("DISTILL_STORE", "distill-store")
    refuse_credentials({"--store": str(place)})  # it stands in every message and report
    root = local_path(place, "--store").absolute()
    uri = given.get("MLFLOW_TRACKING_URI") or _own_database(root)
    return Settings(
        store=root,
        tracking_uri=uri,
        artifacts=root / "mlartifacts" if uri.startswith("sqlite:") else None,
        experiment=given.get("DISTILL_EXPERIMENT", "distill-flow"),
        prefect_api_url=given.get("PREFECT_API_URL"),
    )


def _own_database(root: Path) -> str:
    """Address of the store's own MLflow database.

    Raises:
        ConfigError: the path holds what means something else in an address, so that the database would be elsewhere.
    """
    if (found := re.search(r"\?|%[0-9A-Fa-f]{2}", str(root))) is not None:
        raise ConfigError(
            f"--store {shown_value(str(root), 300)}: {found[0]} means something else in a database's address, so that "
            "MLflow's would be made elsewhere; rename the folder, give another one, or set MLFLOW_TRACKING_URI"
        )
    return f"sqlite:///{root}/mlflow.db"
