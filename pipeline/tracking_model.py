"""The finished student in MLflow's own form, and the way back from a run id to a checkpoint.

MLflow 3.17 cannot write its transformers form from a folder under transformers 5 (it expects the
pipeline registry of transformers 4), and asks the model hub for a licence on the way. Both are
avoided here by handing it the loaded components under a name that is no hub id.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pipeline.tracking import CHECKPOINT_TAG
from pipeline.tracking_client import http_status, is_run_id, load_mlflow
from schemas.credentials import without_credentials
from schemas.errors import CheckpointError

log = logging.getLogger(__name__)
T = TypeVar("T")

_NO_HUB_ID = "distill-flow student"  # the blank makes it no hub id, so that nothing is looked up
_CARD = (
    "---\nlicense: other\n---\nA student made by distill-flow. Its licence follows its teacher's.\n"
)


# By the end of a model's architecture: the class that loads it, and the pipeline that MLflow makes of it.
_FORMS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "Model": ("AutoModel", "feature-extraction"),
}


def save_mlflow_model(model_folder: Path, to: Path) -> None:
    """Writes a student as `mlflow.transformers.load_model` loads it, offline.

    One that answers questions or chooses among answers stays a transformers folder: MLflow's form is made of a
    pipeline, and transformers 5 has none for it.

    Args:
        model_folder: transformers folder with the model and its tokenizer.
        to: folder to make; it must not exist or be empty.
    """
    from stages.encoders import LOADING, load_config

    (architecture,) = load_config(model_folder).architectures or ("",)
    form = next((each for end, each in _FORMS.items() if architecture.endswith(end)), None)
    if form is None:
        shutil.copytree(model_folder, to, dirs_exist_ok=True)
        return
    load_mlflow()
    import transformers
    from transformers import AutoTokenizer

    loader, task = form
    with LOADING:
        model: Any = getattr(transformers, loader).from_pretrained(
            model_folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(
        model_folder, local_files_only=True, trust_remote_code=False
    )
    model.name_or_path = model.config._name_or_path = _NO_HUB_ID
    with _quiet():
        import mlflow.transformers as flavor
        from huggingface_hub import ModelCard

        flavor.save_model(
            transformers_model={"model": model.eval(), "tokenizer": tokenizer},
            path=str(to),
            task=task,
            model_card=ModelCard(_CARD),
            pip_requirements=[
                f"{name}=={version(name).partition('+')[0]}"
                for name in ("mlflow", "torch", "transformers")
            ],
        )
    # It only says that no licence was found under a name that is no hub id.
    (to / "LICENSE.txt").unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow warns of its own type hints, and of a licence it did not find for no hub id."""
    logger = logging.getLogger("mlflow.transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def resolve_run(run_id: str, *, uri: str, into: Path) -> Path:
    """The checkpoint folder of a stage's run: where it was made if that is here, else downloaded.

    The files are not verified here; `open_checkpoint` does that.

    Args:
        run_id: MLflow's id of a stage's (child) run.
        uri: MLflow's address.
        into: folder for downloads; a subfolder by run id is made.

    Raises:
        CheckpointError: no such run, no checkpoint in it, or a server that cannot be reached.
    """
    place = f"mlflow:{run_id[:80]}"
    if not is_run_id(run_id):
        raise CheckpointError(
            f"{place!r} is no id of a run; copy it from the stage's page in MLflow"
        )
    mlflow = load_mlflow()
    client = _try(place, uri, lambda: mlflow.MlflowClient(tracking_uri=uri))
    run = _try(place, uri, lambda: client.get_run(run_id))
    tag = run.data.tags.get(CHECKPOINT_TAG)
    if tag and (Path(tag) / "manifest.json").is_file():
        return Path(tag)
    names = [
        item.path for item in _try(place, uri, lambda: client.list_artifacts(run_id, "checkpoint"))
    ]
    if "checkpoint/manifest.json" not in names:
        was = f"; it was made in {tag}, which is not on this machine" if tag else ""
        raise CheckpointError(
            f"{place} has no checkpoint{was}; give the id of a stage's (child) run, or a "
            "checkpoint's folder"
        )
    target = into / run_id
    target.mkdir(parents=True, exist_ok=True)
    _try(place, uri, lambda: client.download_artifacts(run_id, "checkpoint", str(target)))
    return target / "checkpoint"


def _try(place: str, uri: str, job: Callable[[], T]) -> T:
    from mlflow.exceptions import MlflowException

    address = without_credentials(uri)
    try:
        return job()
    except MlflowException as error:
        if http_status(error) in (400, 404):
            raise CheckpointError(
                f"{place}: MLflow at {address} knows no such run; copy the id from "
                "the stage's page there"
            ) from error
        raise CheckpointError(
            f"{place}: MLflow at {address} cannot be asked ({_brief(error)}); start it, set "
            "MLFLOW_TRACKING_URI, or give the checkpoint's folder"
        ) from error
    except Exception as error:  # drivers and transports raise what they like
        raise CheckpointError(
            f"{place}: MLflow at {address} cannot be asked ({_brief(error)}); give the "
            "checkpoint's folder"
        ) from error


def _brief(error: Exception) -> str:
    return without_credentials(" ".join(str(error).split()))[:200]
