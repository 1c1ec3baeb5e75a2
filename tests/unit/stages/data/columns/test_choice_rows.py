"""Multiple choice: rows, sequences, batches that keep the choices of a row together, and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModelForMultipleChoice

from schemas.core.errors import DataError
from schemas.core.kinds import MultipleChoice
from schemas.core.training import BatchSize
from schemas.data.tasks import TaskData
from schemas.recipe.objective import SoftLabels
from stages.data.batching.batches import Batches, evaluation_batches, padded_tokens
from stages.data.batching.choice_groups import Groups
from stages.data.batching.payloads import ChoiceLabels
from stages.data.batching.tokens import Tokens
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_task
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.models.encoders import load_config, load_encoder
from tests.support.builders import tiny_tokenizer
from tests.support.families import FAMILIES, family_folder
from tests.support.toys import write_rows

TOKENIZER = tiny_tokenizer()


def load(folder: Path, rows: list[dict[str, Any]], problem: Any, **changes: Any) -> TaskRows:
    """Load a task with the same rows for training and validation."""
    task: dict[str, Any] = {"kind": "files", "problem": problem} | changes
    for split in ("train", "validation"):
        task[split] = str(write_rows(folder / f"{split}.jsonl", rows))
    return load_task(TypeAdapter(TaskData).validate_python(task), folder / "cache")


def test_answers_may_be_texts_numbers_or_letters(tmp_path: Path) -> None:
    choices = ["film", "1", "plot"]
    for answers in (("plot", "1", " film "), ("2", "1", "0"), ("C", "b", "A")):
        rows = [{"text_a": "a", "choices": choices, "label": answer} for answer in answers]
        result = load(tmp_path, rows, "multiple_choice")
        assert result.train["label"] == [2, 1, 0]
        assert result.train["choices"] == [choices] * 3
        assert result.labels == ("choice",)


def test_choices_may_have_one_column_each(tmp_path: Path) -> None:
    row = {"sent1": "a man", "sent2": "he", "ending0": "sings", "ending1": "runs", "label": 1}
    problem = {"kind": "multiple_choice", "choices": ["ending0", "ending1"], "first": 0}
    result = load(tmp_path, [row], problem, text="sent1", text_pair="sent2").train
    assert result.to_list() == [{"text": "a man", "text_pair": "he", "choices": ["sings", "runs"], "label": 1}]


def test_every_blank_becomes_a_row(tmp_path: Path) -> None:
    row = {
        "content": ["a #idiom1# b #idiom22# c", "no blank", "#idiom3#"],
        "candidates": ["x", "y", "z"],
        "answers": {"text": ["y", "x", "z"], "candidate_id": [1, 0, 2]},
    }
    problem = {"kind": "multiple_choice", "choices": "candidates", "blank": "#idiom{number}#"}
    result = load(tmp_path, [row, row], problem, text="content", label="answers.text").train
    assert result["text"] == ["a ____ b … c", "a … b ____ c", "____"] * 2
    assert result["label"] == [1, 0, 2] * 2
    assert result["choices"] == [["x", "y", "z"]] * 6


def test_unequal_numbers_of_blanks_and_answers_are_refused(tmp_path: Path) -> None:
    row = {"text_a": "a #b# and #b#", "choices": ["x", "y"], "label": ["x"]}
    with pytest.raises(DataError, match=r"row 1: column 'text_a' has 2 blanks #b# but 'label' has 1 answers"):
        load(tmp_path, [row], {"kind": "multiple_choice", "blank": "#b#"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": ["a", "b"]}, "a multiple_choice task has none"),
        ({"metric": "f1"}, "f1 does not score multiple_choice tasks"),
        ({"problem": {"kind": "multiple_choice", "choices": ["one"]}}, "at least 2 items"),
        (
            {"problem": {"kind": "multiple_choice", "blank": "#"}, "marks": [{"text": "a", "start": "b"}]},
            "makes a row of every blank",
        ),
    ],
)
def test_settings_that_do_not_apply_to_choices_are_refused(changes: dict[str, Any], reason: str) -> None:
    task = {"kind": "files", "train": "a", "validation": "b", "problem": "multiple_choice"}
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(TaskData).validate_python(task | changes)


def test_each_choice_is_encoded_after_passage_and_question() -> None:
    encode = kind_of(MultipleChoice()).encoder(TOKENIZER, 64, is_pair=True)
    columns = encode(
        {
            "text": ["film plot", "red"],
            "text_pair": ["one", "two"],
            "choices": [["blue", "green", "red"], ["film", "plot"]],
            "label": [2, 0],
        },
        [7, 9],
    )
    reason = [" ".join(TOKENIZER.convert_ids_to_tokens(row)) for row in columns["input_ids"]]
    assert reason == [
        "[CLS] film plot [SEP] one blue [SEP]",
        "[CLS] film plot [SEP] one green [SEP]",
        "[CLS] film plot [SEP] one red [SEP]",
        "[CLS] red [SEP] two film [SEP]",
        "[CLS] red [SEP] two plot [SEP]",
    ]
    assert columns["label"] == [0, 0, 1, 1, 0]
    assert columns["example"] == [7, 7, 7, 9, 9]
    assert columns["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1]


def test_passages_are_truncated_before_choices(tmp_path: Path) -> None:
    row = {"text_a": "film " * 40, "choices": ["red", "blue"], "label": "red"}
    rows = load(tmp_path, [row], "multiple_choice")
    tokens, _ = tokenize_task(rows, TOKENIZER, max_length=12, cache=tmp_path / "tokens")
    assert tokens.lengths.tolist() == [12, 12]
    assert tokens.cut is not None
    assert tokens.cut.all()
    assert TOKENIZER.convert_ids_to_tokens(int(tokens.ids[10])) == "red"


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=40)


def drawn_tokens(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(3, 30, sum(sizes)).astype(np.int32), np.repeat(np.arange(len(sizes)) * 3, sizes)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from(["3 sequences", "90 tokens"]))
def test_steps_never_split_rows_and_cover_every_sequence_once(sizes: list[int], size: str) -> None:
    lengths, choice_of = drawn_tokens(sizes)
    batches = Batches(lengths, TypeAdapter(BatchSize).validate_python(size), 64, 0, choice_of=choice_of)
    assert batches.rows_in_epoch == len(sizes)
    seen = []
    for step in range(batches.steps_in_epoch(0)):
        cuts = batches.step(step)
        for cut in cuts:
            rows, counts = np.unique(choice_of[cut], return_counts=True)
            assert counts.tolist() == [sizes[row // 3] for row in rows.tolist()]
            assert np.count_nonzero(np.diff(choice_of[cut])) == len(rows) - 1, "side by side"
            assert len(rows) == 1 or padded_tokens(lengths, [cut]) <= 64
        seen += [int(row) for cut in cuts for row in cut]
        assert batches.tokens_in_step(step) == sum(int(lengths[cut].sum()) for cut in cuts)
        if size == "3 sequences" and step < len(sizes) // 3:
            assert sum(len(np.unique(choice_of[cut])) for cut in cuts) == 3
    assert sorted(seen) == list(range(len(lengths)))


def test_rows_with_a_single_sequence_are_batched_like_ungrouped_rows() -> None:
    lengths, _ = drawn_tokens([1] * 9)
    alone, none = Groups(lengths, np.arange(9)), Groups(lengths, None)
    for cut, plain_batch in zip(alone.cut(np.argsort(lengths), 60), none.cut(np.argsort(lengths), 60), strict=True):
        assert np.array_equal(cut, plain_batch)
    apart = evaluation_batches(lengths, 60)
    assert all(padded_tokens(lengths, [cut]) <= 60 for cut in apart)


def test_a_step_of_one_row_cannot_be_split() -> None:
    lengths, choice_of = drawn_tokens([5, 5])
    first, second = (
        Batches(lengths, TypeAdapter(BatchSize).validate_python(size), budget, 0, choice_of=choice_of)
        for size, budget in (("1 sequence", 4), ("2 sequences", 10**6))
    )
    assert not first.can_be_cut(0), "a single row stays whole above the budget"
    assert second.can_be_cut(0)


def answered(folder: Path) -> Tokens:
    rows = [
        {"text_a": "film", "choices": ["red", "blue", "green"], "label": "blue"},
        {"text_a": "plot and film", "choices": ["one", "two"], "label": "one"},
    ]
    return tokenize_task(load(folder, rows, "multiple_choice"), TOKENIZER, max_length=24, cache=folder / "tokens")[0]


def test_losses_compare_the_choices_of_each_row(tmp_path: Path) -> None:
    batch = answered(tmp_path).batch(np.arange(5))
    assert batch.targets_as(ChoiceLabels).row_of.tolist() == [0, 0, 0, 1, 1]
    student = torch.tensor([1.0, 2.0, 0.5, -1.0, 3.0], dtype=torch.float64)[:, None]
    teacher = torch.tensor([0.0, 4.0, 1.0, 2.0, 2.5], dtype=torch.float64)[:, None]
    answers = kind_of(MultipleChoice())
    hard = answers.hard(student, batch)
    by_row = [student[:3, 0].numpy(), student[3:, 0].numpy()]
    right = [by_row[0][1], by_row[1][0]]
    expected = sum(np.log(np.exp(row).sum()) - score for row, score in zip(by_row, right, strict=True))
    assert hard.total.item() == pytest.approx(expected, rel=1e-12)
    assert int(hard.count) == answers.hard_count(batch) == 2
    soft = answers.soft(SoftLabels(), student, teacher, batch, None)
    apart = 0.0
    for part in (slice(0, 3), slice(3, 5)):
        p, q = (np.exp(x[part, 0].numpy()) / np.exp(x[part, 0].numpy()).sum() for x in (teacher, student))
        apart += float((p * np.log(p / q)).sum())
    assert soft.total.item() == pytest.approx(apart, rel=1e-9)
    assert int(soft.count) == answers.soft_count(batch) == 2


@pytest.mark.parametrize(("asked", "kept"), [(1, 3), (3, 3), (4, 3), (5, 5), (9, 5)])
def test_first_sequences_of_a_batch_are_whole_rows(asked: int, kept: int, tmp_path: Path) -> None:
    part = answered(tmp_path).batch(np.arange(5)).first(asked)
    assert len(part.input_ids) == kept
    assert len(part.targets_as(ChoiceLabels).row_of) == kept


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_those_of_transformers_multiple_choice_heads(family: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "encoder", family)
    if not kind_of(MultipleChoice()).head.exists_for(load_config(folder)):
        assert family in ("nomic_bert", "gte", "eurobert", "layoutlm")
        return
    model = kind_of(MultipleChoice()).head.on(load_encoder(folder), ("choice",), seed=0).eval()
    ids = torch.randint(5, 60, (6, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    model.save_pretrained(tmp_path / "model")
    reference = AutoModelForMultipleChoice.from_pretrained(tmp_path / "model").eval()
    again = kind_of(MultipleChoice()).head.load(tmp_path / "model")
    with torch.no_grad():
        alone = model(input_ids=ids, attention_mask=mask).logits
        beside = reference(input_ids=ids.view(2, 3, 7), attention_mask=mask.view(2, 3, 7)).logits
        assert torch.equal(again(input_ids=ids, attention_mask=mask).logits, alone)
    assert alone.shape == (6, 1)
    torch.testing.assert_close(alone.view(2, 3), beside, rtol=1e-4, atol=1e-5)
