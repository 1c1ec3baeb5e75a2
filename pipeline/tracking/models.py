"""The finished student in MLflow's own form.

MLflow 3.17 cannot write its transformers form from a folder under transformers 5 (it expects the
pipeline registry of transformers 4), and asks the model hub for a licence on the way. Both are
avoided here by handing it the loaded components under a name that is no hub id.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.tracking.client import load_mlflow

_NO_HUB_ID = "distill-flow student"  # the blank makes it no hub id, so that nothing is looked up
_CARD = "---\nlicense: other\n---\nA student made by distill-flow. Its licence follows its teacher's.\n"


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
    from stages.models.encoders import load_config
    from stages.models.weights import LOADING

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
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder, local_files_only=True, trust_remote_code=False)
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
                f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch", "transformers")
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
