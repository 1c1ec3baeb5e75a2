"""The head of each kind of task: made, loaded, and checked against the task's labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from schemas.core.errors import DataError
from schemas.core.kinds import (
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from schemas.results.manifest import LabelOrder
from stages.models.encoders import attention_of, load_config, load_pretrained
from stages.models.sentence_encoder import Model, check_dense, load_sentence_encoder, sentence_encoder
from stages.models.weights import check_weights, tensor_names

_HEADS = {"classifier", "score", "sequence_summary", "qa_outputs"}
_ARCHITECTURES = {
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "multiple_choice": "ForMultipleChoice",
}


def _auto(problem: TaskKind) -> Any:
    if isinstance(problem, TokenClassification):
        return AutoModelForTokenClassification
    if isinstance(problem, QuestionAnswering):
        return AutoModelForQuestionAnswering
    if isinstance(problem, MultipleChoice):
        return AutoModelForMultipleChoice
    return AutoModelForSequenceClassification


def has_head_for(config: PretrainedConfig, problem: TaskKind) -> bool:
    """Whether transformers has a head of a kind for the model's family."""
    families: dict[type, Any] = {
        TokenClassification: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        QuestionAnswering: MODEL_FOR_QUESTION_ANSWERING_MAPPING,
        MultipleChoice: MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    }
    own = families.get(type(problem), MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    return isinstance(problem, Embedding) or type(config) in own


def name_outputs(config: PretrainedConfig, problem: TaskKind, labels: Sequence[str]) -> None:
    """Write what a head answers into a config: its outputs' names in order, and which loss transformers gives it."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.num_labels = len(labels)
    if isinstance(problem, MultiLabel):
        config.problem_type = "multi_label_classification"
    elif isinstance(problem, Regression):
        config.problem_type = "regression"
    elif getattr(config, "problem_type", None) is not None:
        config.problem_type = None


def output_names(config: PretrainedConfig) -> tuple[str, ...]:
    """The names of a head's outputs, in order."""
    named: dict[Any, str] = dict(config.id2label or {})
    return tuple(str(named[index]) for index in sorted(named))


def with_head(
    encoder: PreTrainedModel, problem: TaskKind, labels: Sequence[str], *, seed: int, vector_width: int | None = None
) -> Model:
    """The encoder under a fresh head, drawn with `seed`.

    Args:
        encoder: becomes part of the model, or its weights do.
        problem: the kind of task.
        labels: names of the head's outputs.
        seed: draws the head.
        vector_width: of an embedding task's vectors; None for the encoder's own width.
    """
    if isinstance(problem, Embedding):
        return sentence_encoder(encoder, problem, width=vector_width, seed=seed)
    config = copy.deepcopy(encoder.config)
    name_outputs(config, problem, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = _auto(problem).from_config(config, dtype=torch.float32, **attention_of(config))
    own = model.base_model.state_dict()
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if name in own}
    # Some families (GTE, NomicBERT) have a pooler only below a head: it is drawn with the head.
    assert all(name.startswith("pooler.") for name in own.keys() - weights.keys())
    model.base_model.load_state_dict(own | weights)
    return _of_sequences(model, problem)


def load_with_head(folder: Path, problem: TaskKind) -> Model:
    """A model with the head of a kind of task, fp32, in eval mode.

    Args:
        folder: a transformers folder; without a trained head a fresh one is drawn from torch's current seed.
        problem: the kind.
    """
    if isinstance(problem, Embedding):
        return load_sentence_encoder(folder, problem)
    return _of_sequences(load_pretrained(_auto(problem), folder, load_config(folder)), problem)


def check_head_weights(folder: Path, problem: TaskKind, config: PretrainedConfig) -> None:
    """Refuse a model whose files do not hold the head, or the encoder, that its config describes.

    Raises:
        DataError: which sizes differ, in which files.
    """
    if isinstance(problem, Embedding):
        check_weights(AutoModel, folder, config)
        check_dense(folder, config)
    else:
        check_weights(_auto(problem), folder, config)


def _of_sequences(model: PreTrainedModel, problem: TaskKind) -> PreTrainedModel:
    """The model, taking (batch, sequence) whatever its kind; transformers' choices are (rows, choices, sequence)."""
    if isinstance(problem, MultipleChoice):
        # So every sequence is a row of one choice: rows may have as many as they like, and none is padded.
        model.register_forward_pre_hook(_as_single_choices, with_kwargs=True)
    return model


def _as_single_choices(
    _model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {name: value.unsqueeze(1) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def check_trained_head(folder: Path, problem: TaskKind, name: str) -> None:
    """Refuse a given teacher whose files have no trained head of the task's kind.

    Raises:
        DataError: with what is there and what to do.
    """
    if isinstance(problem, Embedding):
        return  # the encoder's own states are the answer
    heads = {part.split(".")[0] for part in tensor_names(folder)} & _HEADS
    if not heads:
        raise DataError(
            f"teacher.task_model: {name} has no trained {problem.kind} head (no {_wanted(problem)} weights in its "
            "files), but a fine-tuned teacher is needed; give one, or set teacher.task_model.kind to fine_tune"
        )
    suffix = _ARCHITECTURES.get(problem.kind, "ForSequenceClassification")
    found = list(getattr(load_config(folder), "architectures", None) or [])
    if found and not any(each.endswith(suffix) for each in found):
        raise DataError(
            f"teacher.task_model: {name} is a {found[0]}, but a {problem.kind} task needs a model …{suffix}; give one, "
            "or set teacher.task_model.kind to fine_tune"
        )


def _wanted(problem: TaskKind) -> str:
    return "qa_outputs" if isinstance(problem, QuestionAnswering) else "classifier"


def check_outputs(model: Model, problem: TaskKind, labels: tuple[str, ...], folder: Path) -> None:
    """Make a fine-tuned teacher answer in the order of the task's labels, compared by name, whatever its own order.

    A teacher that was fine-tuned elsewhere often has its classes in another order, MNLI's above all; its head's outputs
    are then put into the task's order. Names are compared without regard to case.

    Raises:
        DataError: its outputs are not the task's.
    """
    if isinstance(problem, Embedding | QuestionAnswering | MultipleChoice):
        return
    names = output_names(model.config)
    if isinstance(problem, Regression) and len(names) == len(labels):
        return
    order = label_order(names, labels)
    if order is None:
        tags = isinstance(problem, TokenClassification)
        as_written = " (with task.metric: token_accuracy tags are not turned into BIO)" if tags else ""
        raise DataError(
            f"teacher.task_model: {folder} answers with {', '.join(names)}; the task has {', '.join(labels)}: set "
            f"task.labels to the teacher's names{as_written}, or fine-tune another"
        )
    if order == "reordered":
        theirs, mine = _comparable(names, labels)
        reorder_outputs(model, [theirs.index(name) for name in mine])
        name_outputs(model.config, problem, labels)


def label_order(names: Sequence[str], labels: Sequence[str]) -> LabelOrder | None:
    """How a head's outputs stand to a task's labels, by name and without regard to case; None where they are others."""
    theirs, mine = _comparable(names, labels)
    if theirs == mine:
        return "same"
    plain = [name.casefold() for name in names]
    if len(theirs) == len(mine) and plain == [f"label_{index}" for index in range(len(theirs))]:
        return "unnamed"
    return "reordered" if sorted(theirs) == sorted(mine) else None


def output_layer(model: nn.Module, outputs: int) -> nn.Linear | None:
    """The linear layer that a head ends with; None in a head of another make."""
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == outputs and name.split(".")[0] in _HEADS
    ]
    return layers[-1] if layers else None


def _comparable(*several: Sequence[str]) -> tuple[list[str], ...]:
    """Lists of names without case, unless names of one of them differ by case alone."""
    folded = tuple([name.casefold() for name in names] for names in several)
    if any(len(set(names)) != len(names) for names in folded):
        return tuple([*names] for names in several)
    return folded


@torch.no_grad()
def reorder_outputs(model: nn.Module, order: Sequence[int]) -> None:
    """Let output i of a model's head be what output `order[i]` was."""
    last = output_layer(model, len(order))
    assert last is not None
    last.weight.copy_(last.weight[list(order)].clone())
    if last.bias is not None:
        last.bias.copy_(last.bias[list(order)].clone())
