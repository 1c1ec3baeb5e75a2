"""One training run: load the data and the models, train the student, evaluate it, write its checkpoint.

Imports neither Prefect nor MLflow: the outside of a stage is its `Ports`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.kinds import Classification
from schemas.data.stage_data import TaskMixture, longest_sequence
from schemas.recipe.objective import MaskedLanguageObjective
from schemas.recipe.stage import StageConfig
from schemas.recipe.teacher import located
from schemas.results.manifest import CheckpointRef, Manifest, StageResult
from stages.augmentation.task import Augmenter
from stages.build import EXTRACTION, PROJECTIONS, InitialStudent, initial_student, load_teachers, shares_of
from stages.data.batching.seeds import stage_seed
from stages.evaluation.stage_scores import stage_scores
from stages.identity import differences, stage_identity
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.sentence_encoder import Model
from stages.models.student import count_parameters, dropout
from stages.objective.masking import Masking
from stages.objective.objective import ObjectiveTerms
from stages.objective.projection_start import start_projections
from stages.ports.protocols import Ports
from stages.saved_model import readable, save_model
from stages.stage_data import StageData, load_data
from stages.start import start_text
from stages.training.fit import TrainingResult, fit
from stages.training.selection import Selector
from stages.training.value_scale import fold_units
from stages.versions import installed_versions, utc_now

FINISH_SECONDS = 5.0
"""Time to evaluate and save a fully trained stage after a request to stop."""


def run_stage(
    config: StageConfig, parent: CheckpointRef | None, ports: Ports, identity: dict[str, Any] | None = None
) -> StageResult:
    """Train one stage and write its checkpoint.

    Args:
        config: the stage, with every setting resolved.
        parent: the checkpoint that the student continues from; None starts it afresh.
        ports: destinations of metrics, training states and the checkpoint.
        identity: everything that the stage's digest covers; None to compute it.

    Raises:
        DataError: data or a model changed while it was read; nothing was trained.
        Interrupted: a stop was requested; the training state was saved.
        NonFiniteLossError: a loss or gradient is NaN or infinite; the last state is kept.
    """
    stage = PreparedStage.of(config, parent, ports, identity)
    with ports.shielded(FINISH_SECONDS):
        return stage.keep(stage.train(ports), ports)


@dataclass(frozen=True)
class PreparedStage:
    """Data and models of a stage, ready to be trained."""

    config: StageConfig
    parent: CheckpointRef | None
    identity: dict[str, Any]
    tokenizer: PreTrainedTokenizerFast
    data: StageData
    teachers: list[Model]
    initial: InitialStudent
    objective: ObjectiveTerms

    @classmethod
    def of(
        cls, config: StageConfig, parent: CheckpointRef | None, ports: Ports, identity: dict[str, Any] | None
    ) -> PreparedStage:
        """Load the data and the models of a stage; see `run_stage`."""
        parent_digest = parent.digest if parent else None
        identity = identity or stage_identity(config, parent_digest)
        folder = locate(config.pretrained)
        tokenizer = load_tokenizer(folder, load_config(folder))
        data = prepare_data(config, folder, tokenizer, ports)
        ports.progress.phase("loading models")
        # Where the teachers lie is known to this process alone, and recorded nowhere.
        reading = config.model_copy(update={"teacher": located(config.teacher, ports.checkpoints.folder_of)})
        teachers = load_teachers(reading, data.labels, data.problem, data.units)
        initial = initial_student(
            reading,
            parent,
            data.train,
            data.labels,
            data.problem,
            tokenizer,
            data.units,
            teachers,
            start_text=None if config.start_text is None else start_text(config, tokenizer, ports.cache),
            cache=ports.cache,
        )
        _check_unchanged(config, identity, stage_identity(config, parent_digest))
        objective = make_objective(config, initial, teachers, data, tokenizer)
        _note_misfits(config, objective, ports)
        return cls(config, parent, identity, tokenizer, data, teachers, initial, objective)

    def train(self, ports: Ports) -> TrainingResult:
        """Train the student in place, with the stage's dropout and its selection of weights."""
        training, student, selector = self.config.training, self.initial.model, None
        if training.selection is not None:
            selector = Selector(training.selection, tuple(self.data.parts.values()), self.teachers)
        with dropout(student, training.dropout):
            result = fit(
                student,
                self.teachers,
                self.data.train,
                self.objective,
                training,
                ports,
                stage=self.config.name,
                selector=selector,
            )
        fold_units(student)
        return result

    def keep(self, result: TrainingResult, ports: Ports) -> StageResult:
        """Evaluate the trained student and write its checkpoint."""
        config, data, student = self.config, self.data, self.initial.model
        ports.progress.phase("judging")
        scores = stage_scores(config, student, self.teachers, self.objective, data.held_out, data.parts)
        metrics = result.metrics | scores
        ports.sink.log(result.steps, {key: metrics[key] for key in metrics if key.startswith("eval/")})
        manifest = _manifest(config, self.parent, result, metrics, data, student, ports, self.identity)
        max_length = longest_sequence(config.data)
        checkpoint = ports.checkpoints.commit(
            manifest, lambda into: _write_model(into, self.initial, self.objective, self.tokenizer, max_length)
        )
        return StageResult(
            checkpoint=checkpoint,
            metrics=metrics,
            steps=result.steps,
            tokens=result.tokens,
            seconds=result.seconds,
            mlflow_run_id=ports.mlflow_run_id,
        )


def prepare_data(config: StageConfig, folder: Path, tokenizer: PreTrainedTokenizerFast, ports: Ports) -> StageData:
    """Load the data of a stage, tokenised; the second time from the cache.

    Args:
        config: the stage.
        folder: the pretrained teacher.
        tokenizer: the teacher's.
        ports: the stage's outside.
    """
    ports.progress.phase("reading data")
    augmenter = Augmenter(folder, ports.progress, ports.stop_requested, config.training.precision)
    return load_data(config.data, tokenizer, ports.cache, config.training.selection, augmenter)


def _check_unchanged(config: StageConfig, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changed := differences(before, now):
        raise DataError(
            f"{config.name}: {' and '.join(changed)} changed while it was read; run again once nothing writes to it"
        )


def _note_misfits(config: StageConfig, objective: ObjectiveTerms, ports: Ports) -> None:
    if objective.misfits:
        ports.progress.note(
            f"{config.name}: the previous stage's projections {', '.join(objective.misfits)} have another width and "
            "are initialised afresh"
        )


def _manifest(
    config: StageConfig,
    parent: CheckpointRef | None,
    result: TrainingResult,
    metrics: dict[str, float],
    data: StageData,
    student: Model,
    ports: Ports,
    identity: dict[str, Any],
) -> Manifest:
    """Manifest of a finished stage before its files are written."""
    return Manifest(
        stage=config.name,
        digest=digest_of(identity),
        identity=identity,
        parent_digest=parent.digest if parent else None,
        config=config,
        files={},
        metrics=metrics,
        steps=result.steps,
        tokens=result.tokens,
        seconds=result.seconds,
        num_parameters=count_parameters(student.config),
        labels=data.labels if config.objective.trains_task_head else (),
        positive_label=data.positive_label,
        versions=installed_versions(),
        mlflow_run_id=ports.mlflow_run_id,
        created=utc_now(),
    )


def _write_model(
    into: Path,
    initial: InitialStudent,
    objective: ObjectiveTerms,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
) -> None:
    """Write the student as a transformers folder, with its projections and the summary of its extraction."""
    save_model(initial.model, tokenizer, into / "model", max_length=max_length)
    tensors = {name: tensor.contiguous() for name, tensor in objective.projection_tensors().items()}
    if tensors:
        save_file(tensors, into / PROJECTIONS)
        (into / PROJECTIONS).chmod(readable())
    if initial.extraction is not None:
        text = json.dumps(initial.extraction, indent=1)
        (into / EXTRACTION).write_text(text + "\n", encoding="utf-8")


def make_objective(
    config: StageConfig,
    initial: InitialStudent,
    teachers: list[Model],
    data: StageData,
    tokenizer: PreTrainedTokenizerFast,
) -> ObjectiveTerms:
    """Build the stage's objective for its student and teachers."""
    masking = None
    if isinstance(config.objective, MaskedLanguageObjective):
        masking = Masking.of(
            tokenizer, ratio=config.objective.mask_ratio, seed=stage_seed(config.training.seed, config.name)
        )
    groups = None
    if isinstance(config.data, TaskMixture):
        groups = tuple((part.outputs.start, part.outputs.stop) for part in data.parts.values())
    objective = ObjectiveTerms(
        config.objective,
        student=initial.model,
        teachers=teachers,
        seed=config.training.seed,
        shares=shares_of(config),
        projections=initial.projections,
        problem=data.problem or Classification(),
        class_groups=groups,
        scales=None if (units := data.units) is None else units.scales,
        masking=masking,
    )
    start_projections(
        objective,
        initial.model,
        teachers,
        data.train,
        channels=initial.channels,
        seed=config.training.seed,
        parent=initial.parent,
    )
    return objective
