"""Data sets of the Hugging Face hub: the commit of a branch, and a split's rows, from the hub or its cache."""

from __future__ import annotations

import re
import time
from pathlib import Path

import datasets
from datasets import Dataset
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from schemas.core.errors import DataError
from schemas.data.corpus import HubText
from schemas.data.tasks import HubTask
from stages.data.readers.dataset_files import offline, quiet

HUB_TIMEOUT_SECONDS = 5.0
HUB_PATIENCE_SECONDS = 60.0
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
# The commit of each branch, so that plan, load and digest of one process mean the same rows.
_commits: dict[tuple[str, str], str] = {}
# The time of each failed request: a network that swallows packets costs one wait, not one per split.
_failures: dict[tuple[str, str], float] = {}

LOADING_ERRORS = (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError)
"""Raised by `datasets` for a data set, a config or a split that cannot be loaded."""


def hub_commit(repository: str, revision: str) -> str | None:
    """Return the commit of `revision`; the cached one if the hub is out of reach; or None."""
    if _COMMIT.match(revision):
        return revision
    if (repository, revision) not in _commits and (commit := _commit_by_hub(repository, revision)):
        _commits[repository, revision] = commit
    return _commits.get((repository, revision)) or _cached_commit(repository)


def _commit_by_hub(repository: str, revision: str) -> str | None:
    failed = _failures.get((repository, revision), -HUB_PATIENCE_SECONDS)
    if constants.HF_HUB_OFFLINE or time.monotonic() - failed < HUB_PATIENCE_SECONDS:
        return None
    try:
        return HfApi().dataset_info(repository, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise DataError(
            f"{repository}: the hub has no data set of that name with revision {revision}, or it is not open to you; "
            "check id and revision, or give local files"
        ) from None
    except Exception:
        # Which exception means "no connection" depends on the HTTP client that huggingface_hub brings.
        _failures[repository, revision] = time.monotonic()
        return None


def _cached_commit(repository: str) -> str | None:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / repository.replace("/", "___")
    commits = [path for path in folder.glob("*/*/*") if _COMMIT.match(path.name)]
    return max(commits, key=lambda path: path.stat().st_mtime).name if commits else None


def load_hub(source: HubTask | HubText, split: str, where: str) -> Dataset:
    """Return one split of a hub data set, from the hub or from its local cache.

    Raises:
        DataError: the hub is out of reach and nothing is cached, or the config or split does not exist.
    """
    commit = hub_commit(source.id, source.revision)
    reachable = (source.id, source.revision) in _commits or _commit_by_hub(source.id, source.revision) is not None
    if not reachable and _cached_commit(source.id) is None:
        raise DataError(
            f"{where}: the hub at {constants.ENDPOINT} cannot be reached and {source.id} is not in the local cache; "
            "give local files instead (kind: files, or for a task a folder with train.jsonl and validation.jsonl), or "
            "run where the hub can be reached"
        )
    with offline(not reachable):
        return load_repository(source.id, source.config, split, where, revision=commit)


def load_repository(
    repository: str, config: str | None, split: str, where: str, *, revision: str | None = None
) -> Dataset:
    """Return one split of a data set repository, which may be a local folder laid out like the hub."""
    try:
        with quiet():
            rows = datasets.load_dataset(repository, config, split=split, revision=revision)
    except LOADING_ERRORS as error:
        raise DataError(f"{where}: cannot be loaded ({cause_of(error)}); check id, config and split") from None
    if len(rows) == 0:
        raise no_rows(where)
    return rows


def no_rows(where: str) -> DataError:
    """Return the error for a split without rows."""
    return DataError(f"{where}: has no rows; use another split")


def cause_of(error: Exception) -> str:
    """Return an exception's message on one line, shortened."""
    return " ".join(str(error).split())[:300]
