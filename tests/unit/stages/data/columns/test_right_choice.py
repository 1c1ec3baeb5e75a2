"""Interpretation of answers: one reading for the whole column, and reports of other readings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from datasets import ClassLabel, Dataset
from pydantic import TypeAdapter

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask, TaskData
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows

LETTERED = {"choices": ["A", "B", "C", "D"]}


def load(
    train: list[dict[str, Any]] | Dataset,
    validation: list[dict[str, Any]] | None = None,
    *,
    problem: Any = None,
    **columns: Any,
) -> CheckedRows:
    """Check rows as read from files."""
    task = {"kind": "files", "train": "a", "validation": "b", "text": "question", "label": "answer"}
    task["problem"] = {"kind": "multiple_choice"} | (problem or {})
    parsed = TypeAdapter(TaskData).validate_python(task | columns)
    assert isinstance(parsed, FileTask)
    dataset = train if isinstance(train, Dataset) else Dataset.from_list(train)
    raw = {"train": dataset, "validation": Dataset.from_list(validation) if validation else dataset}
    return checked_rows(parsed, raw, {split: f"task.{split}" for split in raw})


def chosen(result: CheckedRows, split: str = "train") -> list[str]:
    """Return the texts of the right choices."""
    rows = result.splits[split]
    return [row["choices"][row["label"]] for row in rows.to_list()]


def lettered(question: str, choices: str, answer: Any) -> dict[str, Any]:
    """Return a row with one column per choice."""
    return {"question": question, "answer": answer} | dict(zip("ABCD", choices.split(","), strict=True))


def listed(answer: Any, *choices: Any) -> dict[str, Any]:
    return {"question": "which", "choices": [*choices], "answer": answer}


def test_numbers_that_are_also_choices_are_read_like_the_rest() -> None:
    rows = [
        lettered("order of 3 in Z_6?", "8,2,24,120", "2"),
        lettered("capital?", "Rome,Oslo,Bern,Paris", "0"),
        lettered("colour?", "red,blue,green,grey", "3"),
    ]
    result = load(rows, problem=LETTERED)
    assert chosen(result) == ["24", "Rome", "grey"]
    assert result.remarks == (
        "task.label: answers are read by their numbers from 0; 2 of 6 mean other choices by their texts; set "
        "answers: text in task.problem to read them so",
    )
    numbers = {"choices": ["A", "B", "C", "D"], "answers": "number"}
    assert chosen(load(rows, problem=numbers)) == ["24", "Rome", "grey"]


def test_two_readings_that_fit_every_row_and_differ_are_refused() -> None:
    rows = [lettered("order of 3 in Z_6?", "8,2,24,120", "2"), lettered("1 + 0?", "3,0,1,2", "2")]
    rows.append(lettered("0 + 0?", "0,1,2,3", "0"))
    reason = "row 1: label 'answer' is 2, which means '2' and '24': answers can be read by their texts and"
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load(rows, problem=LETTERED)
    assert "set answers: text or answers: number, first: 0 in task.problem" in str(caught.value)
    assert chosen(load(rows, problem=LETTERED | {"answers": "text"})) == ["2", "2", "0"]
    assert chosen(load(rows, problem=LETTERED | {"answers": "number"})) == ["24", "1", "0"]
    from_1 = LETTERED | {"answers": "number", "first": 1}
    assert chosen(load(rows[:2], problem=from_1)) == ["2", "0"]


def test_choices_that_are_numbers_may_be_answered_by_numbers() -> None:
    with pytest.raises(DataError, match="which means '2' and '24': answers can be read by their texts and"):
        load([listed(2, 8, 2, 24, 120)])
    rows = [listed(2, "8", "2", "24", "120"), listed(0, "1", "2", "3", "4")]
    assert chosen(load(rows)) == ["24", "1"], "a number is not a text"
    assert chosen(load([listed(24, 8, 2, 24, 120)])) == ["24"]


def test_one_reading_is_chosen_for_all_splits() -> None:
    train = [listed("2", "8", "2", "24", "120"), listed("0", "1", "0", "3", "4")]
    result = load(train, [listed("3", "red", "blue", "green", "grey")])
    assert chosen(result) == ["24", "1"]
    assert chosen(result, "validation") == ["grey"]


@pytest.mark.parametrize("answers", [["1", "4", "2"], [1, 4, 2], [1.0, 4.0, 2.0], ["1.0", "4.0", "2.0"]], ids=str)
def test_the_highest_number_identifies_counting_from_1(answers: list[Any]) -> None:
    result = load([listed(answer, "a", "b", "c", "d") for answer in answers])
    assert chosen(result) == ["a", "d", "b"]
    assert "by their numbers from 1: none is 0, and one is the number of choices" in result.remarks[0]


def test_ambiguous_counting_is_refused() -> None:
    rows = [listed(answer, "a", "b", "c", "d") for answer in (1, 3, 2)]
    with pytest.raises(DataError, match="may be counted from 0 or from 1; set first: 0 or first: 1"):
        load(rows)
    with pytest.raises(DataError, match="may be counted from 0 or from 1"):
        load(rows, problem={"answers": "number"})
    assert chosen(load(rows, problem={"first": 0})) == ["b", "d", "c"]
    assert chosen(load(rows, problem={"first": 1})) == ["a", "c", "b"]
    result = load([*rows, listed(0, "a", "b", "c", "d")])
    assert (chosen(result)[:3], result.remarks) == (["b", "d", "c"], ())
    numbers = [row | {"answer": int(row["answer"])} for row in rows]
    declared = Dataset.from_list(numbers).cast_column("answer", ClassLabel(names=["A", "B", "C", "D"]))
    assert chosen(load(declared)) == ["b", "d", "c"]


def test_texts_and_numbers_from_1_are_distinguished() -> None:
    rows = [listed("4", "3", "1", "4", "2"), listed("1", "2", "4", "1", "3")]
    with pytest.raises(DataError, match="by their texts and by their numbers from 1"):
        load(rows)


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "(B)", "B.", "B)", "[B]", "option B", "Option (B)", "Answer: B", "B. film", "（B）", "选项B", "Ｂ"],
)
def test_letters_may_have_decorations(answer: str) -> None:
    assert chosen(load([listed(answer, "plot", "film", "song")])) == ["film"]


def test_a_letter_with_the_text_of_another_choice_is_refused() -> None:
    with pytest.raises(DataError, match=r"is B\. plot, none of the row's 3 choices"):
        load([listed("B. plot", "plot", "film", "song")])


ARC = [("film", ["A", "B", "C"], "B"), ("song", ["1", "2", "3"], "3"), ("plot", ["1", "2", "3"], "1")]


@pytest.mark.parametrize("form", ["object of lists", "list of objects", "columns", "deep"])
def test_labels_of_choices_take_precedence(form: str) -> None:
    texts = ["plot", "film", "song"]
    columns: dict[str, Any] = {}
    rows = []
    for _, labels, answer in ARC:
        choices: Any = {"text": texts, "label": labels}
        if form == "list of objects":
            choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        row: dict[str, Any] = {"question": "which", "choices": choices, "answer": answer}
        if form == "deep":
            row |= {"question": {"stem": "which", "choices": choices}}
        rows.append(row)
    if form == "columns":
        columns["problem"] = {"choices": "choices.text"}
    if form == "deep":
        columns = {"text": "question.stem", "problem": {"choices": "question.choices"}}
    result = load(rows, **columns)
    assert chosen(result) == [right for right, *_ in ARC], "1 of 1, 2, 3 is the first"
    assert result.remarks == ()


@pytest.mark.parametrize("array", ["{}", "array({}, dtype=object)"])
def test_objects_of_choices_as_text_are_parsed(array: str) -> None:
    texts = array.format("['plot', \"the film, it's {seen}\", 'song']")
    rows = []
    for _, labels, answer in ARC:
        written = f"{{'text': {texts}, 'label': {array.format(labels)}}}"
        rows.append({"question": "which", "choices": written, "answer": answer})
    assert chosen(load(rows)) == ["the film, it's {seen}", "song", "plot"]


def test_labels_of_choices_are_distinct() -> None:
    row = {"question": "which", "choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answer": "A"}
    with pytest.raises(DataError, match="has 2 choices with the labels A, A; give each choice a different label"):
        load([row])


def test_choices_may_be_named_by_their_columns() -> None:
    rows = [
        {"question": "why", "choice1": "rain", "choice2": "sun", "answer": "choice2"},
        {"question": "why", "choice1": "snow", "choice2": "hail", "answer": "choice1"},
    ]
    assert chosen(load(rows, problem={"choices": ["choice1", "choice2"]})) == ["sun", "snow"]


@pytest.mark.parametrize(
    "written", ["['plot', 'the film, seen']", '["plot", "the film, seen"]', "['plot' 'the film, seen']"]
)
def test_choices_as_text_are_parsed(written: str) -> None:
    result = load([{"question": "which", "choices": written, "answer": "B"}])
    assert chosen(result) == ["the film, seen"]
    assert "column 'choices' are read as lists" in result.remarks[0]


@pytest.mark.parametrize(
    "written",
    ["[plot, the film]", "plot, film", "{'text': ['a', 'b'], 'label': ['A', nan]}", "{'txt': ['a']}", "['a', nan]"],
)
def test_choices_without_clear_bounds_are_refused(written: str) -> None:
    with pytest.raises(DataError, match=r"row 1: column 'choices'.*; write"):
        load([{"question": "which", "choices": written, "answer": "1"}])


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["plot", "1", "film"], "row 2: label 'answer' is 1, which can only be read by their numbers from 0"),
        (["0", "4", "3"], "row 2: label 'answer' is 4, none of the row's 4 choices"),
        (["0", "-1", "3"], "row 2: label 'answer' is -1, none of the row's 4 choices"),
        (["A", "", "B"], "row 2: label 'answer' is empty, none of the row's 4 choices"),
        (["A", "E", "B"], "row 2: label 'answer' is E, none of the row's 4 choices"),
        ([True, False], "row 1: label 'answer' is True, none of the row's 4 choices"),
    ],
)
def test_mixed_answers_are_refused(answers: list[Any], reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(reason)):
        load([listed(answer, "plot", "film", "song", "cast") for answer in answers])


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match=re.escape("(a, b) with answers: text in task.problem; give")):
        load([listed("1", "a", "b")], problem={"answers": "text"})
