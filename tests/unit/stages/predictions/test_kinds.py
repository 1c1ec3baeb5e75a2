"""Answers of every kind of head are those that evaluation scores, whatever the order and the batches."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from transformers import AutoModel, BertConfig

from pipeline.export.task_form import task_form
from pipeline.predict.files import rows_of_file
from schemas.core.kinds import TokenClassification
from schemas.data.tasks import TaskData
from schemas.results.export import TaskForm
from stages.data.tasks.load import load_task
from stages.evaluation.scorer import AnyScorer
from stages.judge import task_scorers
from stages.kinds.registry import kind_of
from stages.models.encoders import load_config, load_tokenizer
from stages.predictions.answers import entities_in, no_answer
from stages.predictions.predict import Predictor
from stages.predictions.readers import torch_reader
from stages.predictions.rows import Row
from stages.saved_model import save_model
from stages.scores.metrics import _entities
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import ROWS, kind_task

TASK: TypeAdapter[Any] = TypeAdapter(TaskData)


@dataclass(frozen=True)
class Toy:
    """A model with random weights and the head of a kind, and what evaluation takes its answers to be."""

    name: str
    validation: Path
    form: TaskForm
    labels: tuple[str, ...]
    folder: Path
    scorer: AnyScorer
    expected: Any

    def predictor(self, **options: Any) -> Predictor:
        return Predictor(self.form, self.labels, 24, torch_reader(self.folder, self.form.problem, threads=1), **options)

    def rows(self) -> list[Row]:
        return [row for chunk in rows_of_file(str(self.validation), self.form) for row in chunk]


@pytest.fixture(scope="module", params=ROWS)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    import torch

    folder = tmp_path_factory.mktemp(request.param)
    task = TASK.validate_python(kind_task(folder, request.param))
    rows = load_task(task, folder / "cache")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,  # large enough that answers differ from row to row
    )
    head = kind_of(rows.problem).head
    model = head.on(AutoModel.from_config(config), rows.labels, seed=0)
    save_model(model, tiny_tokenizer(), folder / "model", max_length=24)
    tokenizer = load_tokenizer(folder / "model", load_config(folder / "model"))
    scorer = task_scorers(rows, tokenizer, max_length=24, cache=folder / "cache")["validation"]
    expected = scorer.answers_of(head.load(folder / "model"))
    form = task_form(task, rows)
    return Toy(request.param, Path(task.validation), form, rows.labels, folder / "model", scorer, expected)


def as_scored(toy: Toy, answers: list[dict[str, Any]]) -> Any:
    """Return predictions in the form in which evaluation compares them."""
    match toy.name:
        case "pair":
            return np.array([toy.labels.index(answer["label"]) for answer in answers])
        case "multi_label":
            return np.array([[label in answer["labels"] for label in toy.labels] for answer in answers]).astype(int)
        case "regression":
            return np.array([answer["value"] for answer in answers])
        case "multiple_choice":
            return np.array([answer["index"] for answer in answers])
        case "embedding":
            return np.array([answer["vector"] for answer in answers], np.float32)
        case kind:
            return [answer["tags" if kind == "token_classification" else "answer"] for answer in answers]


def test_answers_are_those_that_evaluation_scores(toy: Toy) -> None:
    found = as_scored(toy, toy.predictor().answers(toy.rows()))
    if toy.name in ("regression", "embedding"):
        np.testing.assert_allclose(found, toy.expected, atol=1e-5)
        return
    assert np.array_equal(found, toy.expected) if isinstance(found, np.ndarray) else found == toy.expected
    assert len({str(answer) for answer in found}) > 1, "one answer to all rows would prove nothing"
    metric = {"pair": "accuracy", "multiple_choice": "accuracy", "question_answering": "exact_match"}.get(toy.name)
    if metric is not None:
        assert toy.scorer.score(metric, found) == toy.scorer.score(metric, toy.expected)


def test_order_and_batches_change_no_answer(toy: Toy) -> None:
    rows = toy.rows()
    answers = toy.predictor().answers(rows)
    order = random.Random(3).sample(range(len(rows)), len(rows))
    shuffled = toy.predictor(batch=3).answers([rows[index] for index in order])
    for index, answer in zip(order, shuffled, strict=True):
        assert answer.keys() == answers[index].keys()
        for name, value in answers[index].items():
            assert answer[name] == (value if name in ("entities",) and not value else approx(value))


def approx(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: approx(item) for name, item in value.items()}
    if isinstance(value, list):
        return [approx(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_a_row_without_text_keeps_its_place_with_null_answers(toy: Toy) -> None:
    first, second = toy.rows()[:2]
    empty = [Row(3, None), Row(4, "  "), Row(5, "the film", pair="")]
    if not toy.form.has_pair and toy.name != "multiple_choice":
        empty.pop()
    predictor = toy.predictor()
    answers = predictor.answers([first, *empty, second])
    assert answers[1:-1] == [no_answer(toy.form)] * len(empty)
    assert set(answers[1].values()) == {None}
    assert no_answer(toy.form) not in (answers[0], answers[-1])
    assert (predictor.rows, predictor.empty) == (2 + len(empty), len(empty))
    assert toy.predictor().answers(empty) == [no_answer(toy.form)] * len(empty)


def test_scores_are_probabilities_of_the_answer(toy: Toy) -> None:
    for answer in toy.predictor().answers(toy.rows()[:20]):
        if "probabilities" in answer:
            values = answer["probabilities"]
            values = list(values.values()) if isinstance(values, dict) else values
            assert all(0 <= value <= 1 for value in values)
            if toy.name != "multi_label":
                assert sum(values) == pytest.approx(1, abs=1e-5)
                assert answer["score"] == max(values)
        elif "score" in answer:
            assert 0 < answer["score"] <= 1
            assert (answer["start"] is None) == (answer["answer"] == "")


@pytest.mark.parametrize("toy", ["token_classification"], indirect=True)
def test_words_of_a_raw_text_are_found_and_their_entities_cut_out_of_it(toy: Toy) -> None:
    text = "the red,  blue film: one two"
    (answer,) = toy.predictor().answers([Row(1, text)])
    assert "tags" not in answer
    for entity in answer["entities"]:
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["text"] == entity["text"].strip()
        assert 0 < entity["score"] <= 1
    (given,) = toy.predictor().answers(
        [Row(1, "the red , blue film : one two", words=(*"the red , blue film : one two".split(),))]
    )
    assert [(entity["text"].split(), entity["label"]) for entity in given["entities"]] == [
        (entity["text"].replace(",", " , ").replace(":", " : ").split(), entity["label"])
        for entity in answer["entities"]
    ]


@pytest.mark.parametrize("toy", ["question_answering"], indirect=True)
def test_a_long_context_is_read_in_windows_and_the_answer_cut_out_of_it(toy: Toy) -> None:
    context = "the film is good and the plot is very slow with a red scene of one actor in a blue play " * 4
    predictor = toy.predictor()
    (answer,) = predictor.answers([Row(1, "is it red", pair=context)])
    assert answer["answer"] == context[answer["start"] : answer["end"]] if answer["answer"] else True
    assert predictor.cut == 0
    predictor.answers([Row(1, "is it red blue green " * 5, pair=context)])
    assert predictor.cut == 1


def test_entities_begin_and_end_where_conlleval_has_them() -> None:
    draw = random.Random(0)
    for _ in range(300):
        tags = draw.choices(["O", "B-A", "I-A", "B-B", "I-B"], k=draw.randint(0, 7))
        expected = {(label, start, end + 1) for label, start, end in _entities(tags)}
        assert set(entities_in(tags)) == expected, tags


def test_tags_that_mark_no_entities_give_every_word() -> None:
    from stages.predictions.answers import answers_of
    from stages.predictions.encode import Encoder

    tokenizer = tiny_tokenizer().backend_tokenizer
    form = TaskForm(problem=TokenClassification(), text="words")
    rows = [Row(1, "red film", words=("red", "film"))]
    sequences = Encoder(tokenizer, form, 8).encode(rows)
    logits = np.zeros((len(sequences.encodings[0].ids), 2), np.float32)
    logits[1, 1] = logits[2, 0] = 2
    (answer,) = answers_of(form, ("NOUN", "ADJ"), rows, sequences, [logits])
    assert [(word["text"], word["label"]) for word in answer["entities"]] == [("red", "ADJ"), ("film", "NOUN")]
    assert answer["tags"] == ["ADJ", "NOUN"]
