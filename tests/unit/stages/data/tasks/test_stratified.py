"""Stratified draws: every class keeps its share, small draws lose no class, and the seed decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from schemas.core.kinds import (
    Classification,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TokenClassification,
)
from schemas.core.training import Selection
from schemas.data.tasks import FileTask
from stages.data.batching.payloads import NO_WORD, Choices, Payload, RowLabels, WordTags
from stages.data.batching.tokens import Tokens
from stages.data.tasks.load import load_task
from stages.data.tasks.stratified import drawn_from, drawn_rows
from stages.evaluation.baselines import probe_rows
from stages.evaluation.task_part import held_out_rows
from stages.kinds.linear_probe import fitted as fitted_probe
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from tests.support.toys import write_rows

ONE_IN_THIRTY = np.arange(600) % 30 // 29


@pytest.mark.parametrize("seed", range(40))
def test_a_class_with_one_row_in_thirty_is_in_every_draw(seed: int) -> None:
    drawn = drawn_rows(600, 80, seed=seed, by=ONE_IN_THIRTY)
    assert len(set(drawn.tolist())) == 80
    assert np.bincount(ONE_IN_THIRTY[drawn]).tolist() == [77, 3]
    assert np.array_equal(drawn, drawn_rows(600, 80, seed=seed, by=ONE_IN_THIRTY))


def test_an_unstratified_draw_often_lacks_a_class_and_depends_on_the_seed() -> None:
    alike = [ONE_IN_THIRTY[drawn_rows(600, 40, seed=seed)].sum() for seed in range(40)]
    assert 0 in alike
    first, second = (drawn_rows(600, 80, seed=seed, by=ONE_IN_THIRTY) for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_rows_of_a_single_class_are_drawn_as_without_stratification() -> None:
    assert np.array_equal(drawn_rows(900, 50, by=np.zeros(900, np.int64)), drawn_rows(900, 50))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70), st.booleans())
def test_shares_are_as_close_as_possible_without_omitting_a_class(
    classes: list[int], wanted: int, keep_one: bool
) -> None:
    by = np.array(classes)
    drawn = drawn_rows(len(by), wanted, by=by, keep_one=keep_one)
    most = {name: classes.count(name) - keep_one for name in set(classes)}
    assert len(set(drawn.tolist())) == len(drawn) == min(wanted, sum(most.values()))
    got = {name: int((by[drawn] == name).sum()) for name in most}
    assert all(got[name] <= most[name] for name in most)
    if len(drawn) >= sum(count > 0 for count in most.values()):
        assert all(got[name] >= 1 for name in most if most[name] > 0)
    exact = {name: len(drawn) * classes.count(name) / len(classes) for name in most}
    if not keep_one and all(share >= 1 for share in exact.values()):
        assert all(abs(got[name] - exact[name]) < 1 for name in most)


def test_rows_with_several_labels_or_tags_are_stratified_by_the_rarest() -> None:
    sets = Dataset.from_dict({"label": [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]]})
    assert kind_of(MultiLabel()).classes(sets).tolist() == [0, 1, -1, 2, 0]  # type: ignore[union-attr]
    tags = Dataset.from_dict({"label": [[0, 0], [0, 1, 1, 1], [0], [2, 0]]})
    rarest = kind_of(TokenClassification()).classes(tags)
    # The tags 1 and 2 are in one sentence each, any number of times.
    assert rarest is not None
    assert rarest.tolist() == [0, 1, 0, 2]
    numbers = Dataset.from_dict({"label": [3, 1, 3]})
    for problem in (Classification(), MultipleChoice()):
        assert kind_of(problem).classes(numbers).tolist() == [3, 1, 3]  # type: ignore[union-attr]
    for none in (Regression(), QuestionAnswering()):
        assert kind_of(none).classes(numbers) is None


def test_a_label_of_a_single_row_is_in_the_probes_training_rows() -> None:
    labels = np.zeros((500, 3), np.int64)
    labels[:, 0] = np.arange(500) % 2
    labels[417, 2] = 1
    tokens = _sequences(500, RowLabels(labels))
    assert 417 in probe_rows(tokens, MultiLabel(), 20)
    assert len(probe_rows(tokens, MultiLabel(), 20)) == 20


def test_a_tag_of_a_single_sentence_is_in_the_probes_training_rows() -> None:
    tags = np.full(900, 0, np.int16)  # three tokens a sentence, whose first is no word
    tags[::3] = NO_WORD
    tags[3 * 217 + 2] = 1
    tokens = _sequences(300, WordTags(tags, np.zeros(900, np.int32)))
    drawn = probe_rows(tokens, TokenClassification(), 10)
    assert 217 in drawn
    assert len(drawn) == 10


def test_a_draw_of_choices_is_stratified_by_right_and_wrong() -> None:
    right = (np.arange(400) % 40 == 0).astype(np.int64)
    tokens = _sequences(400, Choices(right, np.arange(400) // 4))
    assert right[probe_rows(tokens, MultipleChoice(), 20)].sum() == 1


def test_a_probe_of_a_single_class_predicts_it() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    fitted = fitted_probe(LogisticRegression(), features, np.full(6, 4))
    assert fitted.predict(features).tolist() == [4] * 6
    assert fitted.decision_function(features).tolist() == [[0.0]] * 6
    assert fitted[-1].classes_.tolist() == [4]


def _sequences(number: int, payload: Payload) -> Tokens:
    """Sequences of three tokens each."""
    starts = 3 * np.arange(number)
    return Tokens(np.zeros(3 * number, np.int32), np.full(number, 3, np.int32), None, payload, 0, "", starts)


def _rows(train: Dataset, problem: Any, labels: str) -> TaskRows:
    return TaskRows(train, train, tuple(labels.split()), "0" * 64, problem)


def imbalanced(number: int, every: int) -> list[dict[str, Any]]:
    return [{"text_a": f"row {row}", "label": "fraud" if row % every == 0 else "legit"} for row in range(number)]


def test_a_small_training_subset_contains_both_classes(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", imbalanced(600, 30))
    write_rows(tmp_path / "validation.jsonl", imbalanced(60, 30))
    for seed in range(8):
        task = FileTask(
            train=str(tmp_path / "train.jsonl"),
            validation=str(tmp_path / "validation.jsonl"),
            max_train_rows=12,
            seed=seed,
        )
        labels = load_task(task, tmp_path / "cache").train["label"]
        assert sorted(set(labels)) == [0, 1]
        assert len(labels) == 12


def test_held_out_rows_have_every_class_with_more_than_one_row() -> None:
    labels = [0] * 540 + [1] * 18 + [2]
    texts = [f"row {row}" for row in range(len(labels))]
    rows = _rows(Dataset.from_dict({"text": texts, "label": labels}), Classification(), "a b c")
    task = FileTask(train="t", validation="v")
    for seed in range(8):
        held = held_out_rows(
            rows, task.model_copy(update={"seed": seed}), Selection.model_validate({"rows": "held_out"})
        )
        assert held is not None
        assert np.bincount(np.array(labels)[held], minlength=3).tolist() == [54, 2, 0]
    few = drawn_from(rows.train, rows.problem, 30)
    assert np.bincount(np.array(labels)[few]).tolist() == [28, 1, 1]


def test_a_class_with_one_repeated_text_is_not_held_out_completely() -> None:
    labels = np.array([0] * 570 + [1] * 30)
    texts = [f"row {row}" if label == 0 else "call now" for row, label in enumerate(labels)]
    train = Dataset.from_dict({"text": texts, "label": labels.tolist()})
    rows = _rows(train, Classification(), "ham spam")
    selection = Selection.model_validate({"rows": "held_out"})
    held = held_out_rows(rows, FileTask(train="t", validation="v"), selection)
    assert held is not None
    # Three of the thirty would be drawn, and the other twenty-seven left out with them.
    assert np.bincount(labels[held], minlength=2).tolist() == [57, 0]
    mixed = train.remove_columns("text").add_column("text", [f"row {row}" for row in range(600)])
    rows = _rows(mixed, Classification(), "ham spam")
    held = held_out_rows(rows, FileTask(train="t", validation="v"), selection)
    assert held is not None
    assert np.bincount(labels[held], minlength=2).tolist() == [57, 3]
