"""MLflow's registry of models: registered models, their versions, and the alias `champion`.

The store's own database and a server are asked in the same way, by a client with an explicit address.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.process.settings import Settings
from pipeline.registry.champion import ANSWERS, KeptAnswers
from pipeline.store.checkpoints import CheckpointStore
from pipeline.tracking import run_files
from pipeline.tracking.artifacts import DIGEST_TAG, STAGE_TAG, runs_of_stage
from pipeline.tracking.client import Rejected, brief, create_run, http_status, refusals
from pipeline.tracking.server import Server
from pipeline.tracking.session import REUSED_TAG
from schemas.core.credentials import without_credentials
from schemas.core.errors import ConfigError, DistillError, ServiceError
from schemas.core.regular_files import read_regular
from schemas.results.export import ExportManifest

CHAMPION = "champion"
MODEL_TAG, FILE_TAG = "distill.model_id", "distill.file_sha256"
_DESCRIPTION_TAG = "mlflow.note.content"
_VERSIONS_TAG = "mlflow.modelVersions"
"""MLflow's tag of a logged model that names its versions; servers set it, the store's own database does not."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    number: str
    is_new: bool
    """False where the same file was registered before."""


class Registry:
    """Registered models on one MLflow.

    Args:
        settings: say where MLflow is.
        store: has the files of runs.

    Raises:
        ServiceError: MLflow cannot be reached.
    """

    def __init__(self, settings: Settings, store: CheckpointStore) -> None:
        self.address = without_credentials(settings.tracking_uri)
        self._uri, self._points = settings.tracking_uri, store.points
        with self._answers():
            self.server = Server(
                settings.tracking_uri,
                settings.experiment,
                store.points,
                settings.artifacts,
                _refuse,
            )
            self.server.probe()
        self._client = self.server.client

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn failures of MLflow into errors with a remedy."""
        try:
            with warnings.catch_warnings(action="ignore"), refusals():  # MLflow and SQLAlchemy on deprecations
                yield
        except DistillError:
            raise
        except Rejected as error:
            raise ConfigError(f"MLflow at {self.address} refuses this: {brief(error)}") from error
        except Exception as error:  # drivers and transports raise what they like
            raise ServiceError(_failure(self.address, error)) from error

    def log(self, request: run_files.Request, files: Path, export: ExportManifest) -> tuple[str, str]:
        """Log a model of the run that made the export's stage; return the ids of both.

        A run that MLflow does not know yet is created, from the store's files where they have it.

        Raises:
            ConfigError: MLflow refuses it, or is older than logged models.
        """
        from pipeline.tracking.logged_models import send_model

        with self._answers():
            run_id = self._run_of(export)
            model_id = send_model(self._client, run_id, request.values, files)
        if model_id is None:
            raise ConfigError(
                f"MLflow at {self.address} is older than version 3 and has no logged models; update it, or leave "
                "MLFLOW_TRACKING_URI unset to register in the store's own database"
            )
        return run_id, model_id

    def _run_of(self, export: ExportManifest) -> str:
        runs = runs_of_stage(self._client, self.server.experiment(), export.digest)
        runs.sort(key=lambda run: REUSED_TAG in run.data.tags)  # the run that made it first
        if runs:
            return str(runs[0].info.run_id)
        for path in run_files.runs_tagged(self._points, DIGEST_TAG, export.digest):
            if run_files.server_run(path) is None:  # otherwise another MLflow has it
                return self.server.run_of(path)
        tags = {STAGE_TAG: export.stage, DIGEST_TAG: export.digest}
        run_id = create_run(self._client, self.server.experiment(), export.stage, tags)
        self._client.set_terminated(run_id, "FINISHED", round(time.time() * 1000))
        return run_id

    def add_version(
        self, name: str, model_id: str, run_id: str, tags: Mapping[str, str], *, about: str, description: str
    ) -> Version:
        """Register a logged model as the next version of a name; a file that is registered already stays as it is.

        Args:
            name: the registered model, which is created if need be.
            model_id: the logged model.
            run_id: its run.
            tags: of the version; `FILE_TAG` tells its file.
            about: description of a new registered model, in Markdown.
            description: of the version, in Markdown.

        Raises:
            ConfigError: MLflow refuses it, such as a name with a slash.
        """
        with self._answers():
            self._create(name, about)
            for version in self._client.search_model_versions(f"name='{name}'"):
                if version.tags.get(FILE_TAG) == tags[FILE_TAG]:
                    return Version(str(version.version), is_new=False)
            model = self._client.get_logged_model(model_id)
            created = self._client.create_model_version(
                name,
                model.artifact_location,
                run_id,
                tags={**tags, MODEL_TAG: model_id},
                description=description,
                await_creation_for=0,
                model_id=model_id,
            )
            self._name_versions(model_id, name, created.version)
            self._client.set_logged_model_tags(model_id, {_DESCRIPTION_TAG: description})
        return Version(str(created.version), is_new=True)

    def _create(self, name: str, about: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _name_versions(self, model_id: str, name: str, version: object) -> None:
        """Have the Models tab show the version beside the logged model."""
        versions = json.loads(self._client.get_logged_model(model_id).tags.get(_VERSIONS_TAG, "[]"))
        if not any((entry["name"], str(entry["version"])) == (name, str(version)) for entry in versions):
            versions.append({"name": name, "version": int(str(version))})
            self._client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps(versions)})

    def champion(self, name: str) -> tuple[str, KeptAnswers | str] | None:
        """Return the champion's number and its answers, or the reason why there are none; None without a champion."""
        with self._answers():
            number = self._client.get_registered_model(name).aliases.get(CHAMPION)
            if number is None:
                return None
            source = self._client.get_model_version(name, number).source
        return str(number), self._kept_answers(source)

    def _kept_answers(self, source: str) -> KeptAnswers | str:
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix="distill-registry-") as folder:
            try:
                file = download_artifacts(f"{source}/{ANSWERS}", dst_path=folder, tracking_uri=self._uri)
                return KeptAnswers.model_validate_json(read_regular(Path(file)))
            except Exception as error:  # transports raise what they like; a damaged file is no answer either
                return f"the champion's {ANSWERS} cannot be read ({type(error).__name__})"

    def make_champion(self, name: str, number: str) -> None:
        """Give a version the alias `champion`."""
        with self._answers():
            self._client.set_registered_model_alias(name, CHAMPION, number)


def _refuse(what: str, refusal: Exception) -> None:
    raise Rejected(f"{what}: {refusal}")


def _failure(address: str, error: Exception) -> str:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and http_status(error) in (401, 403):
        variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"MLflow at {address} requires other credentials; set {variables}"
    return (
        f"MLflow at {address} cannot be reached ({brief(error)}); nothing was registered: start the server, or unset "
        "MLFLOW_TRACKING_URI to register in the store's own database"
    )
