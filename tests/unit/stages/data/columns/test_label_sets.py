"""Sets of labels in every published form, and refusals of ambiguous ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask, TaskData
from stages.data.columns.written_lists import NotAList, written_list
from stages.data.tasks.load import load_task
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows


def load(train: list[Any], validation: list[Any] | None = None, *, text: str = "text_a", **changes: Any) -> CheckedRows:
    """Check rows with these labels in a column, or complete rows, as read from files."""
    task = {"kind": "files", "problem": "multi_label", "train": "a", "validation": "b", "text": text}
    parsed = TypeAdapter(TaskData).validate_python(task | changes)
    assert isinstance(parsed, FileTask)
    splits = {"train": train, "validation": train if validation is None else validation}
    raw = {
        split: Dataset.from_list([row if text in _keys(row) else {"text_a": "a", "label": row} for row in rows])
        for split, rows in splits.items()
    }
    return checked_rows(parsed, raw, {split: f"task.{split}" for split in raw})


def _keys(row: Any) -> set[str]:
    return set(row) if isinstance(row, dict) else set()


def texts(header: str, *rows: list[str]) -> list[dict[str, str]]:
    """Return rows of a CSV file, in which every value is text."""
    return [dict(zip(header.split(","), row, strict=True)) for row in rows]


def named(rows: CheckedRows) -> list[set[str]]:
    """Return the names of each training row's labels."""
    return [{name for name, has in zip(rows.labels, row, strict=True) if has} for row in rows.splits["train"]["label"]]


def test_lists_of_zeros_and_ones_are_flags() -> None:
    rows = [[0, 0, 0, 1, 0]] * 10 + [[1, 0, 0, 0, 0]] * 10
    result = load(rows)
    assert result.labels == ("0", "1", "2", "3", "4")
    assert list(result.splits["train"]["label"]) == rows
    assert "a 0 or 1 for each of 5 labels" in result.remarks[0]
    assert "task.labels" in result.remarks[0]
    again = load(rows, labels=["joy", "love", "fear", "anger", "awe"])
    assert named(again)[0] == {"anger"}


@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]],
        [[False, True, False], [True, True, False]],
        [["0", "1", "0"], ["1", "1", "0"]],
        ["0 1 0", "1 1 0"],
        ["0,1,0", "1,1,0"],
        ["010", "110"],
        ["[0 1 0]", "[1 1 0]"],
        ["[0. 1. 0.]", "[1. 1. 0.]"],
        ["[0, 1, 0]", "[1, 1, 0]"],
        ["(0, 1, 0)", "(1, 1, 0)"],
        ["[False, True, False]", "[ True  True False]"],
        ["[np.int64(0), np.int64(1), np.int64(0)]", "[np.int64(1), np.int64(1), np.int64(0)]"],
    ],
    ids=str,
)
def test_flags_may_be_written_in_many_ways(rows: list[Any]) -> None:
    result = load(rows, labels=["joy", "love", "fear"])
    assert named(result) == [{"love"}, {"joy", "love"}]


@pytest.mark.parametrize(
    ("train", "validation", "changes", "reason"),
    [
        ([[0, 0, 1], [0, 1]], None, {}, "row 2: column 'label' holds 2 values of 0 and 1 but row 1 of train 3"),
        ([[0, 0, 1]], [[0, 1, 0], [0, 0, 1, 0]], {}, "task.validation"),
        ([[0, 0, 1]], None, {"labels": ["a", "b"]}, "each of 3 labels, but task.labels has 2 names, a, b"),
        ([[0, -1, 1], [0, 0, 1]], None, {}, "row 1: column 'label' holds -1, which hides a label"),
        ([[0, 0.7, 1]], None, {}, "row 1: column 'label' holds 0.7, but a flag is 1 or 0"),
        ([[3, 0, 0]], None, {}, "row 1: column 'label' holds 0 twice"),
        ([[0], [1]], None, {}, "a single 0 or 1 in every row, which is one label"),
        ([1, 0], None, {}, "column 'label' is '1', not a list"),
        (["0 0 1", ""], None, {}, "row 2: column 'label' is empty, but other rows hold a 0 or 1"),
        (["['joy', 'love']", "joy"], None, {}, "row 2: column 'label' is joy, but other rows hold lists such as"),
        (["['joy']", ""], None, {}, "row 2: column 'label' is empty, but other rows hold lists"),
        (["['joy'", "['love']"], None, {}, "row 1: column 'label' is ['joy', but other rows hold lists"),
        (["[0 0 ... 0 1]"], None, {}, "was shortened"),
        (["['joy', nan]"], None, {}, "holds a missing value"),
        (["[['joy'], ['love']]"], None, {}, "holds lists in lists"),
        (["joy, love", "nan"], None, {}, "row 2: column 'label' is nan, which stands for a missing value"),
        (["joy, love", "joy; fear"], None, {}, "',' and ';' may both separate names"),
        ([{"joy": 1, "fear": 0}, {"joy": 1}], None, {}, "'label' does not give 'fear'"),
        ([{"joy": 1, "fear": 2}], None, {}, "row 1: column 'label' has '2' for 'fear'"),
        ([[18, 2], [3]], None, {"labels": ["a", "b", "c"]}, "numbers go up to 18, and the 3 names of task.labels"),
        ([[1, 3], [2]], None, {"labels": ["a", "b", "c"]}, "1 to 3, count from 1"),
        ([{"choices": ["joy"]}], None, {}, "holds a list in 'choices'; name the list itself"),
        (['{"choices": ["joy"], "others": ["love"]}'], None, {}, "holds lists in lists"),
    ],
)
def test_ambiguous_or_broken_sets_are_refused(
    train: list[Any], validation: list[Any] | None, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        load(train, validation, **changes)
    assert re.search(r"; \w+", str(caught.value)), "and what to do"


@pytest.mark.parametrize(
    "written",
    [
        ["['joy']", "['love', 'fear']", "[]"],
        ['["joy"]', '["love", "fear"]', "[]"],
        ["['joy']", "['love' 'fear']", "[]"],
        ["{'joy'}", "{'love', 'fear'}", "set()"],
        ["('joy',)", "('love', 'fear')", "()"],
        ["[joy]", "[love, fear]", "[]"],
        ["{joy}", "{love,fear}", "{}"],
        ["[np.str_('joy')]", "[np.str_('love'), np.str_('fear')]", "[]"],
        ["array(['joy'], dtype=object)", "array(['love', 'fear'], dtype=object)", "array([], dtype=object)"],
        ["joy", "love,fear", ""],
        ["joy", "love; fear", ""],
        ["joy", "love|fear", ""],
        ["joy", "love、fear", ""],
        ["joy", "love\nfear", ""],
        ["{'joy': 1, 'love': 0, 'fear': 0}", "{'joy': 0, 'love': 1, 'fear': 1}", "{'joy': 0, 'love': 0, 'fear': 0}"],
        ['{"choices": ["joy"]}', '{"choices": ["love", "fear"]}', '{"choices": []}'],
        ['{"joy": true}', '{"love": true, "fear": true}', "{}"],
    ],
    ids=str,
)
def test_lists_as_text_are_parsed(written: list[str]) -> None:
    result = load(written)
    assert named(result) == [{"joy"}, {"love", "fear"}, set()]
    assert set(result.labels) == {"fear", "joy", "love"}
    if written[1] != "love,fear":
        assert any("task.label: the texts of column 'label'" in reason for reason in result.remarks)


def test_numbers_are_names_or_index_the_listed_names() -> None:
    result = load(["[18, 14]", "[0]"])
    assert (result.labels, named(result)) == (("0", "14", "18"), [{"18", "14"}, {"0"}])
    result = load([[2, 1], [0]], labels=["joy", "love", "fear"])
    assert named(result) == [{"fear", "love"}, {"joy"}]
    assert "0 is read as joy and 2 as fear, by their position in task.labels" in result.remarks[0]
    result = load([["2", "1"], ["0"]], labels=["2", "1", "0"])
    assert named(result) == [{"2", "1"}, {"0"}], "names before numbers"
    result = load([[0, 1], [0], [1], []], labels=["joy", "love"])
    assert named(result) == [{"joy", "love"}, {"joy"}, {"love"}, set()], "never twice in a row"


@pytest.mark.parametrize(("zero", "true_name"), [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("no", "yes")])
def test_labels_may_have_one_column_each(zero: str, true_name: str) -> None:
    header = "comment,toxic,obscene,insult"
    rows = texts(header, ["you are, well", true_name, zero, true_name], ["thank you", zero, zero, zero])
    columns: dict[str, Any] = {"label": ["toxic", "obscene", "insult"], "text": "comment"}
    result = load(rows, **columns)
    assert result.labels == ("toxic", "obscene", "insult")
    assert list(result.splits["train"]["label"]) == [[1, 0, 1], [0, 0, 0]]
    order = {"labels": ["insult", "toxic", "obscene"]}
    again = load(rows, **columns, **order)
    assert list(again.splits["train"]["label"]) == [[1, 1, 0], [0, 0, 0]]
    others = {"labels": ["giftig", "anstößig", "beleidigend"]}
    again = load(rows, **columns, **others)
    assert named(again)[0] == {"giftig", "beleidigend"}


def test_flag_columns_may_have_any_type() -> None:
    rows = [{"text_a": "a", "x": True, "y": 1.0, "z": 0}, {"text_a": "b", "x": False, "y": 0.0, "z": 1}]
    result = load(rows, label=["x", "y", "z"])
    assert list(result.splits["train"]["label"]) == [[1, 1, 0], [0, 0, 1]]


def test_lists_in_a_csv_of_pandas_are_read(tmp_path: Path) -> None:
    table = pd.DataFrame({"text_a": ["a", "b", "c"], "label": [["joy"], ["love", "fear"], []]})
    table.to_csv(tmp_path / "train.csv", index=False)
    task = {"kind": "files", "problem": "multi_label"}
    task |= dict.fromkeys(("train", "validation"), str(tmp_path / "train.csv"))
    result = load_task(TypeAdapter(TaskData).validate_python(task), tmp_path / "cache")
    assert result.labels == ("fear", "joy", "love")
    assert list(result.train["label"]) == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert "['joy'], are read as lists" in result.remarks[0]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("-1", "row 2: label 'toxic' is -1, not 0 or 1 (test splits hide their labels"),
        ("", "row 2: label 'toxic' is empty, not 0 or 1"),
        ("0.7", "row 2: label 'toxic' is 0.7, not 0 or 1"),
        ("nan", "row 2: label 'toxic' is nan, not 0 or 1"),
    ],
)
def test_flag_columns_hold_only_0_and_1(cell: str, reason: str) -> None:
    rows = texts("text_a,toxic,insult", ["a", "1", "0"], ["b", cell, "1"])
    with pytest.raises(DataError, match=re.escape(reason)):
        load(rows, label=["toxic", "insult"])


def test_flag_columns_are_offered_if_the_label_column_is_missing() -> None:
    rows = texts("id,comment,toxic,insult", ["1", "you", "1", "0"], ["2", "me", "0", "1"])
    with pytest.raises(DataError, match=re.escape("task.label: [toxic, insult]")):
        load(rows, text="comment")
    with pytest.raises(DataError, match="there is no column 'obscene'"):
        load(rows, text="comment", label=["toxic", "obscene"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem": "classification"}, "a classification task has one column of labels; name one, or set problem"),
        ({"label": ["toxic", "toxic"]}, "a column is named twice"),
        ({"label": ["toxic"]}, "at least 2 items"),
    ],
)
def test_several_columns_require_a_multi_label_task(changes: dict[str, Any], reason: str) -> None:
    task = {"kind": "files", "train": "a", "validation": "b", "problem": "multi_label"}
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(TaskData).validate_python({**task, "label": ["toxic", "insult"], **changes})


def test_separators_from_the_recipe_are_used() -> None:
    problem = {"kind": "multi_label", "separator": ","}
    result = load(["R&B; soul", "rock"], problem=problem)
    assert named(result) == [{"R&B; soul"}, {"rock"}]
    assert "no row of column 'label' holds ','" in result.remarks[0]
    assert len(result.remarks) == 2, "and none has several"
    assert "some hold ';'" in result.remarks[0]
    result = load(["R,B / soul", "rock"], problem={"kind": "multi_label", "separator": "/"})
    assert named(result) == [{"R,B", "soul"}, {"rock"}]


def test_rows_without_several_labels_are_reported() -> None:
    (reason,) = load(["joy/love", "fear", "joy"]).remarks
    assert "no row of column 'label' has more than one label (if 'joy/love' means several, set" in reason
    (reason,) = load([["joy"], ["fear"]]).remarks
    assert "has more than one label; task.problem: classification is for one" in reason
    assert load([["joy", "fear"], ["fear"]]).remarks == ()


def test_listed_names_are_never_split() -> None:
    result = load(["[sarcasm]", "nan"], labels=["[sarcasm]", "nan"])
    assert named(result) == [{"[sarcasm]"}, {"nan"}]


def test_printed_lists_are_never_executed() -> None:
    assert written_list("[__import__('os').getcwd()]") == ["__import__('os').getcwd()"]
    with pytest.raises(NotAList, match="unbalanced quotes"):
        written_list("['" + "a'" * 10_000 + "]")


@pytest.mark.parametrize(
    "items", [["it's", 'a "b"', "c,d"], ["", "x"], ["\\", "\n"], ["😀", "é"], ["[a]", "{b: 1}"]], ids=str
)
def test_lists_printed_by_python_and_json_are_parsed(items: list[str]) -> None:
    assert written_list(repr(items)) == items
    assert written_list(json.dumps(items)) == items
    assert written_list(repr(tuple(items))) == items
