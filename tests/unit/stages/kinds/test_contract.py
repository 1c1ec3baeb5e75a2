"""The contract of every kind of task, from its rows to its scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from schemas.core.kinds import KindName, TaskKind
from schemas.core.metrics import KNOWN_METRICS, metrics_of
from schemas.data.tasks import TaskData
from schemas.recipe.objective import SoftLabels
from stages.data.batching.batches import evaluation_batches
from stages.data.batching.payloads import RowLabels
from stages.data.batching.tokens import Batch, Tokens
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_task
from stages.evaluation.baselines import bag_of_words, probe_rows
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.kinds.base import AnyKind
from stages.kinds.registry import KINDS, kind_of
from stages.kinds.rows import TaskRows
from stages.models.encoders import load_config, load_encoder
from stages.models.heads import body_parameters
from stages.models.read import head_answer
from stages.models.sentence_encoder import Model
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import ROWS, kind_task
from tests.support.toys import toy_teacher, used_for

_OF_VECTORS = ("cosine", "similarity_spearman")


@dataclass
class Toy:
    """A toy task of a kind, and an untrained model with its head."""

    kind: AnyKind
    rows: TaskRows
    train: Tokens
    validation: Tokens
    model: Model
    folder: Path
    """Folder of the encoder."""

    @property
    def scorer(self) -> AnyScorer:
        """Return the scorer of the validation rows."""
        scorer = scorer_of(self.rows, "validation", self.validation, np.arange(len(self.rows.validation)))
        return scorer.with_teacher(scorer.answers_of(self.model))

    def batch(self) -> Batch:
        """Return a batch of complete rows."""
        return self.train.batch(evaluation_batches(self.train.lengths, 2048, self.train.choice_of)[0])

    def logits(self, batch: Batch) -> Tensor:
        """Return the head's output for a batch."""
        answer = head_answer(self.model(**batch.model_inputs()))
        assert answer is not None
        return answer


@pytest.fixture(scope="module", params=sorted(ROWS))
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp(request.param)
    task: Any = TypeAdapter(TaskData).validate_python(kind_task(folder, request.param, rows=60))
    rows = load_task(task, folder / "cache")
    train, validation = tokenize_task(rows, tiny_tokenizer(), max_length=task.max_length, cache=folder / "cache")
    encoder = toy_teacher(folder / "encoder")
    kind = kind_of(task.problem)
    model = kind.head.on(load_encoder(encoder), rows.labels, seed=1).eval()
    return Toy(kind, rows, train, validation, model, encoder)


def test_every_kind_of_task_has_a_class_metrics_and_a_toy_task() -> None:
    configs = get_args(TaskKind)
    assert set(KINDS) == set(configs)
    names = [config().kind for config in configs]
    assert sorted(names) == sorted(get_args(KindName))
    assert all(metrics_of(name) for name in names)
    assert {"classification" if name == "pair" else name for name in ROWS} == set(names)


def test_checked_rows_have_the_form_of_the_kind(toy: Toy) -> None:
    assert len(toy.rows.train) == 60
    assert len(toy.rows.labels) >= 1
    payload = toy.train.payload
    assert not isinstance(payload, RowLabels) or payload.labels.dtype == toy.kind.label_type
    assert set(toy.train.row_of) == set(range(60))
    for number, classes in (
        (60, toy.kind.classes(toy.rows.train)),
        (len(toy.train), toy.kind.sequence_classes(toy.train)),
    ):
        assert classes is None or classes.shape == (number,)
    balance = toy.kind.balance(toy.rows.labels, toy.rows.train)
    assert all(isinstance(name, str) and math.isfinite(value) for name, value in balance.items())
    assert toy.kind.only_answer(toy.rows.train, toy.rows.labels) is None


def test_a_saved_head_is_loaded_unchanged_with_the_tasks_labels(toy: Toy, tmp_path: Path) -> None:
    head, labels = toy.kind.head, toy.rows.labels
    assert head.exists_for(load_config(toy.folder))
    toy.model.save_pretrained(tmp_path)
    head.check_weights(tmp_path, load_config(tmp_path))
    head.check_trained(tmp_path, "the toy")
    loaded = head.load(tmp_path)
    head.match_labels(loaded, labels, tmp_path)
    batch = toy.batch()
    with torch.no_grad():
        answer = head_answer(loaded(**batch.model_inputs()))
        assert torch.equal(toy.logits(batch), answer)  # type: ignore[arg-type]


def test_the_body_is_what_the_last_states_are_computed_from(toy: Toy) -> None:
    output = toy.model(**toy.batch().model_inputs(), output_hidden_states=True)
    below_states = used_for(output.hidden_states[-1], toy.model)
    assert below_states
    assert set(map(id, body_parameters(toy.model))) == below_states
    answer = head_answer(output)
    assert answer is not None
    # A vector is the mean of the body's states: nothing above them learns.
    assert (used_for(answer, toy.model) == below_states) == (toy.kind.config.kind == "embedding")


def test_soft_losses_are_zero_at_the_teachers_output_and_decrease_along_their_gradient(toy: Toy) -> None:
    batch, config = toy.batch(), SoftLabels()
    teacher = toy.logits(batch).detach()
    same = toy.kind.soft(config, teacher, teacher, batch, None)
    assert float(same.total) == pytest.approx(0, abs=1e-4)
    assert int(same.count) == toy.kind.soft_count(batch) > 0
    student = (teacher + torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    apart = toy.kind.soft(config, student, teacher, batch, None)
    apart.total.backward()
    assert student.grad is not None
    closer = toy.kind.soft(config, student.detach() - 1e-3 * student.grad, teacher, batch, None)
    assert 0 < float(closer.total) < float(apart.total.detach())


def test_hard_losses_decrease_along_their_gradient(toy: Toy) -> None:
    if toy.kind.needs_teacher:
        pytest.skip("rows of this kind have no labels")
    batch = toy.batch()
    student = toy.logits(batch).detach().requires_grad_()
    loss = toy.kind.hard(student, batch)
    loss.total.backward()
    assert int(loss.count) == toy.kind.hard_count(batch) > 0
    assert student.grad is not None
    closer = toy.kind.hard(student.detach() - 1e-2 * student.grad, batch)
    assert float(closer.total) < float(loss.total.detach())


def test_predictions_can_be_scored_by_every_metric_of_the_kind(toy: Toy) -> None:
    scorer = toy.scorer
    answers = scorer.answers_of(toy.model)
    assert len(answers) == len(toy.kind.labels(scorer.rows))
    # The toy rows of vectors have no similarities for correlations.
    metrics = [name for name in metrics_of(toy.kind.config.kind) if not toy.kind.needs_teacher or name in _OF_VECTORS]
    assert set(toy.kind.reported(scorer.rows)) <= set(metrics)
    for metric in metrics:
        if toy.kind.why_no_score(metric, toy.rows) is not None:
            continue
        assert KNOWN_METRICS[metric].lowest <= scorer.score(metric, answers) <= 1
        guess = scorer.guessed(metric)
        assert (guess is None) == (not toy.kind.constants(scorer.rows))
    assert scorer.agreement(answers, answers) == pytest.approx(1)
    assert set(scorer.scores(metrics[0], answers)) == {metrics[0], *toy.kind.reported(scorer.rows)}


def test_baselines_predict_in_the_same_form(toy: Toy) -> None:
    scorer = toy.scorer
    chosen = probe_rows(toy.train, toy.kind.config, 48)
    probed = toy.kind.probe(toy.model, toy.train, chosen, scorer.rows)
    metric = metrics_of(toy.kind.config.kind)[0]
    assert math.isfinite(scorer.score(metric, probed))
    guess = scorer.guessed(metric)
    assert guess is None or scorer.score(metric, bag_of_words(scorer)) > guess - 0.2
