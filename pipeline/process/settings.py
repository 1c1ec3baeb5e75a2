"""Settings of this machine, read from the environment once; settings of the training are in the recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from schemas.core.base import Frozen, digest_of
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError
from schemas.core.paths import REMOTE_NOTE, local_path, remote_address
from schemas.core.wording import shown_value


class Settings(Frozen):
    """Locations of the store and of MLflow."""

    store: Path
    """Folder of checkpoints, states and reports (DISTILL_STORE); of an object store, its local copy."""
    tracking_uri: str
    """MLflow's address (MLFLOW_TRACKING_URI), with credentials if it has any; never print it as it is."""
    artifacts: Path | None
    """Folder of MLflow's artifacts; null when a server decides."""
    experiment: str
    """MLflow experiment (DISTILL_EXPERIMENT)."""
    exports: bool
    """False if a run's closing table shows the models in torch alone (DISTILL_EXPORTS=0)."""


def read_settings(store: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; `store` takes precedence over DISTILL_STORE, and empty variables count as unset."""
    variables = {name: value for name, value in (os.environ if environ is None else environ).items() if value.strip()}
    path = store or variables.get("DISTILL_STORE", "distill-store")
    refuse_credentials({"--store": str(path)})  # it is in every message and report
    address = remote_address(str(path))
    root = _copy_of(address, variables) if address else local_path(path, "--store").absolute()
    uri = variables.get("MLFLOW_TRACKING_URI") or _store_database(root)
    return Settings(
        store=root,
        tracking_uri=uri,
        artifacts=root / "mlartifacts" if uri.startswith("sqlite:") else None,
        experiment=variables.get("DISTILL_EXPERIMENT", "distill-flow"),
        exports=_switch("DISTILL_EXPORTS", variables.get("DISTILL_EXPORTS", "1")),
    )


def _copy_of(address: str, variables: Mapping[str, str]) -> Path:
    """Folder of an object store's local copy (DISTILL_CACHE, or in the user's cache), which knows its origin."""
    home = Path(variables.get("XDG_CACHE_HOME", "~/.cache")) / "distill-flow"
    folder = local_path(variables.get("DISTILL_CACHE", home), "DISTILL_CACHE").absolute()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", address).strip("-")[:80]
    copy = folder / f"{readable}-{digest_of(address)[:8]}"
    note = copy / REMOTE_NOTE
    try:
        if not note.exists():
            copy.mkdir(parents=True, exist_ok=True)
            beside = copy / f".{REMOTE_NOTE}-{os.getpid()}"
            beside.write_text(f"{address}\n", encoding="utf-8")
            os.replace(beside, note)
    except OSError as error:
        raise ConfigError(
            f"--store {address}: its local copy {copy} cannot be made ({error.strerror}); set DISTILL_CACHE to a "
            "folder that can be written to"
        ) from None
    return copy


def _switch(name: str, value: str) -> bool:
    """Return whether a variable is 1 or 0; raises ConfigError for anything else."""
    if value not in ("0", "1"):
        raise ConfigError(f"{name}={shown_value(value)}: set it to 1 or 0, or unset it")
    return value == "1"


def _store_database(root: Path) -> str:
    """Address of the store's own MLflow database; raises ConfigError for a path that would mean another address."""
    if (match := re.search(r"\?|%[0-9A-Fa-f]{2}", str(root))) is not None:
        raise ConfigError(
            f"--store {shown_value(str(root), 300)}: {match[0]} means something else in a database's address, so that "
            "MLflow's would be made elsewhere; rename the folder, give another one, or set MLFLOW_TRACKING_URI"
        )
    return f"sqlite:///{root}/mlflow.db"
