"""The heads that tasks have: drawn, loaded, and matched with the task's labels."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from typing_extensions import override

from schemas.core.errors import DataError
from schemas.core.kinds import Embedding
from schemas.results.manifest import LabelOrder
from stages.models.encoders import attention_of, load_config, load_pretrained
from stages.models.sentence_encoder import Model, check_dense, load_sentence_encoder, sentence_encoder, vector_width
from stages.models.weights import check_weights, tensor_names

_HEADS = {"classifier", "score", "sequence_summary", "qa_outputs"}
"""First parts of the names of a head's tensors."""


class Head(ABC):
    """A head: the layers on an encoder that answer a kind of task."""

    @abstractmethod
    def exists_for(self, config: PretrainedConfig) -> bool:
        """Return True where there is such a head for a model's family."""

    @abstractmethod
    def on(self, encoder: PreTrainedModel, labels: Sequence[str], *, seed: int, teacher: Path | None = None) -> Model:
        """Return an encoder under a fresh head.

        Args:
            encoder: becomes part of the model, or its weights do.
            labels: names of the head's outputs.
            seed: draws the head.
            teacher: folder of the model whose answers are learnt; None without one.
        """

    @abstractmethod
    def load(self, folder: Path) -> Model:
        """Return a model with the head, fp32, in eval mode.

        Args:
            folder: a transformers folder; without a trained head a fresh one is drawn from torch's current seed.
        """

    @abstractmethod
    def check_weights(self, folder: Path, config: PretrainedConfig) -> None:
        """Refuse a model whose files do not hold the head, or the encoder, that its config describes.

        Raises:
            DataError: which sizes differ, in which files.
        """

    @abstractmethod
    def check_trained(self, folder: Path, name: str) -> None:
        """Refuse a given teacher whose files have no trained head of this make.

        Args:
            folder: the teacher's.
            name: the teacher's name in messages.

        Raises:
            DataError: what the files have instead, and what to do.
        """

    @abstractmethod
    def match_labels(self, model: Model, labels: tuple[str, ...], folder: Path) -> None:
        """Put a fine-tuned teacher's outputs into the order of the task's labels, which are compared by name.

        A teacher that was fine-tuned elsewhere often has its classes in another order, MNLI's above all. Case is
        ignored.

        Raises:
            DataError: its outputs are not the task's.
        """


@dataclass(frozen=True)
class TaskHead(Head):
    """A head of transformers."""

    kind: str
    """Name of the kind of task in messages."""
    auto_class: Any = AutoModelForSequenceClassification
    families: Mapping[Any, Any] = field(default_factory=lambda: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    architecture: str = "ForSequenceClassification"
    """End of the names of model classes with the head."""
    layer: str = "classifier"
    """Usual name of the head's tensors."""
    problem_type: Literal["regression", "multi_label_classification"] | None = None
    """The `problem_type` of transformers' configs, which decides its loss."""
    has_names: bool = True
    """True where outputs are named after labels."""
    names_matter: bool = True
    """False where as many outputs as labels are the same outputs, whatever their names."""
    naming_hint: str = ""
    """Added to the advice to name the labels as the teacher does."""

    @override
    def exists_for(self, config: PretrainedConfig) -> bool:
        return type(config) in self.families

    def name_outputs(self, config: PretrainedConfig, labels: Sequence[str]) -> None:
        """Write the names of the outputs, and the loss that transformers gives them, into a config."""
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.num_labels = len(labels)
        if self.problem_type is not None or getattr(config, "problem_type", None) is not None:
            config.problem_type = self.problem_type

    @override
    def on(self, encoder: PreTrainedModel, labels: Sequence[str], *, seed: int, teacher: Path | None = None) -> Model:
        config = copy.deepcopy(encoder.config)
        self.name_outputs(config, labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = self.auto_class.from_config(config, dtype=torch.float32, **attention_of(config))
        base = model.base_model.state_dict()
        weights = {name: tensor for name, tensor in encoder.state_dict().items() if name in base}
        # Some families (GTE, NomicBERT) have a pooler only below a head: it is drawn with the head.
        assert all(name.startswith("pooler.") for name in base.keys() - weights.keys())
        model.base_model.load_state_dict(base | weights)
        return self._reading_sequences(model)

    @override
    def load(self, folder: Path) -> Model:
        return self._reading_sequences(load_pretrained(self.auto_class, folder, load_config(folder)))

    def _reading_sequences(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with inputs (batch, sequence)."""
        return model

    @override
    def check_weights(self, folder: Path, config: PretrainedConfig) -> None:
        check_weights(self.auto_class, folder, config)

    @override
    def check_trained(self, folder: Path, name: str) -> None:
        if not {part.split(".")[0] for part in tensor_names(folder)} & _HEADS:
            raise DataError(
                f"teacher.task_model: {name} has no trained {self.kind} head (no {self.layer} weights in its "
                "files), but a fine-tuned teacher is needed; give one, or set teacher.task_model.kind to fine_tune"
            )
        architectures = list(getattr(load_config(folder), "architectures", None) or [])
        if architectures and not any(architecture.endswith(self.architecture) for architecture in architectures):
            raise DataError(
                f"teacher.task_model: {name} is a {architectures[0]}, but a {self.kind} task needs a model "
                f"…{self.architecture}; give one, or set teacher.task_model.kind to fine_tune"
            )

    @override
    def match_labels(self, model: Model, labels: tuple[str, ...], folder: Path) -> None:
        names = output_names(model.config)
        if not self.has_names or (not self.names_matter and len(names) == len(labels)):
            return
        order = label_order(names, labels)
        if order is None:
            raise DataError(
                f"teacher.task_model: {folder} answers with {', '.join(names)}; the task has {', '.join(labels)}: set "
                f"task.labels to the teacher's names{self.naming_hint}, or fine-tune another"
            )
        if order == "reordered":
            outputs, wanted = _comparable(names, labels)
            reorder_outputs(model, [outputs.index(name) for name in wanted])
            self.name_outputs(model.config, labels)


class ChoiceHead(TaskHead):
    """A score for each choice, read as a sequence of its own; transformers reads (rows, choices, sequence)."""

    @override
    def _reading_sequences(self, model: PreTrainedModel) -> PreTrainedModel:
        # Every sequence is a row of one choice: rows may have any number of choices, and none is padded.
        model.register_forward_pre_hook(_as_single_choices, with_kwargs=True)
        return model


def _as_single_choices(
    _model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {name: value.unsqueeze(1) if isinstance(value, Tensor) else value for name, value in inputs.items()}


@dataclass(frozen=True)
class VectorHead(Head):
    """The pooling of an encoder's last states, and a map to the teacher's width where it differs."""

    config: Embedding

    @override
    def exists_for(self, config: PretrainedConfig) -> bool:
        return True

    @override
    def on(self, encoder: PreTrainedModel, labels: Sequence[str], *, seed: int, teacher: Path | None = None) -> Model:
        width = None if teacher is None else vector_width(teacher, load_config(teacher))
        return sentence_encoder(encoder, self.config, width=width, seed=seed)

    @override
    def load(self, folder: Path) -> Model:
        return load_sentence_encoder(folder, self.config)

    @override
    def check_weights(self, folder: Path, config: PretrainedConfig) -> None:
        check_weights(AutoModel, folder, config)
        check_dense(folder, config)

    @override
    def check_trained(self, folder: Path, name: str) -> None:
        pass  # the encoder's states are the answer

    @override
    def match_labels(self, model: Model, labels: tuple[str, ...], folder: Path) -> None:
        pass  # a vector has no names


def output_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a head's outputs, in order."""
    names: dict[Any, str] = dict(config.id2label or {})
    return tuple(str(names[index]) for index in sorted(names))


def label_order(names: Sequence[str], labels: Sequence[str]) -> LabelOrder | None:
    """Return how a head's output names relate to a task's labels, ignoring case; None where they differ."""
    outputs, wanted = _comparable(names, labels)
    if outputs == wanted:
        return "same"
    plain = [name.casefold() for name in names]
    if len(outputs) == len(wanted) and plain == [f"label_{index}" for index in range(len(outputs))]:
        return "unnamed"
    return "reordered" if sorted(outputs) == sorted(wanted) else None


def output_layer(model: nn.Module, outputs: int) -> nn.Linear | None:
    """Return the linear layer that a head ends with; None in a head of another make."""
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == outputs and name.split(".")[0] in _HEADS
    ]
    return layers[-1] if layers else None


def body_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters below the last hidden states of a model with a head.

    A pooler reads those states and counts as part of the head: it is drawn with the head where the encoder brings none,
    and untrained in a student of latent stages.
    """
    body = model.base_model
    assert isinstance(body, nn.Module)
    parameters = body.named_parameters()
    return [parameter for name, parameter in parameters if parameter.requires_grad and not name.startswith("pooler.")]


def _comparable(*several: Sequence[str]) -> tuple[list[str], ...]:
    """Return lists of names without case, unless some names of a list differ by case alone."""
    folded = tuple([name.casefold() for name in names] for names in several)
    if any(len(set(names)) != len(names) for names in folded):
        return tuple([*names] for names in several)
    return folded


@torch.no_grad()
def reorder_outputs(model: nn.Module, order: Sequence[int]) -> None:
    """Move output `order[i]` of a model's head to position i."""
    last = output_layer(model, len(order))
    assert last is not None
    last.weight.copy_(last.weight[list(order)].clone())
    if last.bias is not None:
        last.bias.copy_(last.bias[list(order)].clone())
