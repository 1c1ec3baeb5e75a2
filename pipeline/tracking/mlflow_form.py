"""Students in the form that `mlflow.transformers` loads."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.tracking.client import load_mlflow

Example = Mapping[str, str]
"""A real input of a student: `text`, and `text_pair` for pairs."""
_NO_HUB_ID = "distill-flow student"  # the blank makes it no hub id, so that nothing is looked up
_REQUIRED = ("mlflow", "transformers")
"""Requirements without torch: no requirement can say which processor's build is wanted, and that of the default index
holds gigabytes for graphics cards. Whoever installs the student's requirements has torch, or chooses its build."""
_CARD = """---
license: other
---
A student made by distill-flow. Its licence follows its teacher's.

It needs torch, which its requirements leave out, since a requirement cannot name a build: install the one for your
processor first (on Linux, pip's default holds gigabytes for graphics cards). To serve a student without torch, register
it with `distill register`: that model needs ONNX Runtime and tokenizers.
"""
# By the end of a model's architecture: the class that loads it, and the pipeline that MLflow builds from it.
_FORMS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "Model": ("AutoModel", "feature-extraction"),
}


def save_mlflow_model(model_folder: Path, to: Path, example: Example | None = None) -> None:
    """Write a student in the form that `mlflow.transformers.load_model` loads, without network access.

    MLflow 3.17 cannot write that form from a folder under transformers 5 (it expects the pipeline registry of
    transformers 4), and asks the model hub for a licence on the way. So it gets the loaded components under a name
    that is no hub id. A student that answers questions or chooses among answers stays a transformers folder, since
    transformers 5 has no pipeline for it.

    Args:
        model_folder: transformers folder with the model and its tokenizer.
        to: folder to create; it must not exist or be empty.
        example: an input to store beside it; None for none.
    """
    from stages.models.encoders import load_config

    (architecture,) = load_config(model_folder).architectures or ("",)
    form = next((form for suffix, form in _FORMS.items() if architecture.endswith(suffix)), None)
    if form is None:
        shutil.copytree(model_folder, to, dirs_exist_ok=True)
        return
    load_mlflow()
    loader, task = form
    model, tokenizer = _components(model_folder, loader)
    with quiet():
        import mlflow.transformers as flavor
        from huggingface_hub import ModelCard

        flavor.save_model(
            transformers_model={"model": model, "tokenizer": tokenizer},
            path=str(to),
            task=task,
            model_card=ModelCard(_CARD),
            input_example=_as_input(example),
            signature=_signature(task, example),
            pip_requirements=pinned(_REQUIRED),
        )
    # It only says that no licence was found under a name that is no hub id.
    (to / "LICENSE.txt").unlink(missing_ok=True)


def _components(model_folder: Path, loader: str) -> tuple[Any, Any]:
    """Return model and tokenizer, under a name that is no hub id."""
    import transformers

    from stages.models.weights import LOADING

    with LOADING:
        model: Any = getattr(transformers, loader).from_pretrained(
            model_folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    model.name_or_path = model.config._name_or_path = _NO_HUB_ID
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
        model_folder, local_files_only=True, trust_remote_code=False
    )
    return model.eval(), tokenizer


def _as_input(example: Example | None) -> Any:
    """Return an example as pipelines take it: a text, or a mapping of the two texts of a pair; None without one."""
    if example is None:
        return None
    return dict(example) if "text_pair" in example else example["text"]


def _signature(task: str, example: Example | None) -> Any:
    """Return the inputs and outputs of a pipeline; MLflow would run the model to find them."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    is_pair = task == "text-classification" and example is not None and "text_pair" in example
    names = ("text", "text_pair") if is_pair else (None,)
    inputs: list[Any] = [ColSpec("string", name) for name in names]
    outputs: dict[str, list[Any]] = {
        "text-classification": [ColSpec("string", "label"), ColSpec("double", "score")],
        "token-classification": [ColSpec("string")],
        "feature-extraction": [TensorSpec(np.dtype("float64"), (-1,), "double")],
    }
    return ModelSignature(Schema(inputs), Schema(outputs[task]))


def pinned(packages: Iterable[str]) -> list[str]:
    """Return requirements of the installed versions, without the name of a build."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in packages]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide MLflow's remarks while it writes a model: on type hints, examples, and a licence that it did not find."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
