"""Markers of missing labels, several spellings of a label, values, ids and numbers are reported or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import pytest
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows

WHERE = {"train": "task.train: t.csv", "validation": "task.validation: v.csv"}
NLI = ("entailment", "neutral", "contradiction")


def table(values: Sequence[Any]) -> Dataset:
    texts = [f"text {number}" for number in range(len(values))]
    return Dataset.from_dict({"text_a": texts, "label": list(values)})


def read(
    values: Sequence[Any], validation: Sequence[Any] | None = None, *, dropped: float = 0.02, **fields: Any
) -> CheckedRows:
    """Return the checked rows with these labels."""
    task = FileTask(train="t.csv", validation="v.csv", **fields)
    raw = {"train": table(values), "validation": table(validation or values)}
    return checked_rows(task, raw, WHERE, droppable=dropped)


def refusal(values: Sequence[Any], validation: Sequence[Any] | None = None, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(values, validation, **fields)
    return str(caught.value)


def names(result: CheckedRows, split: str = "train") -> list[str]:
    return [result.labels[label] for label in result.splits[split]["label"]]


@pytest.mark.parametrize("none", ["-", "nan", "NaN", "?", "<NA>", "#N/A", "null", "–", " - ", "-1"])
def test_markers_of_missing_labels_are_not_classes(none: str) -> None:
    result = read([*NLI * 33, none])
    assert result.labels == tuple(sorted(NLI))
    assert result.dropped == {"train": 1, "validation": 1}
    assert len(result.splits["train"]) == 99
    assert f"1 of 100 rows have no text or no label ({none!r} means none" in result.remarks[0]
    message = refusal([*NLI, none])
    assert "task.train: t.csv: row 4: label 'label' is" in message
    assert "1 of 4 rows have no text or no label, 25 %" in message
    assert "list every label in task.labels" in message
    kept = read([*NLI, none], labels=(*NLI, none))
    assert names(kept) == [*NLI, none]


def test_minus_one_is_missing_beside_numbered_classes_and_a_class_of_sentiment() -> None:
    assert read([*[0, 1, 2] * 40, -1]).labels == ("0", "1", "2")
    assert read([-1, 0, 1]).labels == ("-1", "0", "1")
    assert read([-1, 1]).labels == ("-1", "1")
    assert not read([-1, 0, 1]).remarks
    rare = read([*[0, 1] * 100, -1])
    assert rare.labels == ("-1", "0", "1")
    assert "label '-1' in 1 of 201 rows is read as a class" in rare.remarks[0]


def test_signs_can_be_classes() -> None:
    assert read(["+", "-"]).labels == ("+", "-")
    assert read([".", "?", "-"]).labels == ("-", ".", "?")
    assert not read(["+", "-"]).remarks


@pytest.mark.parametrize("name", ["None", "none", "N/A", "NA", "unlabeled"])
def test_possibly_missing_labels_are_classes_with_a_remark(name: str) -> None:
    result = read(["pos", "neg", name])
    assert name in result.labels
    assert f"label '{name}' in 1 of 3 rows is read as a class" in result.remarks[0]
    assert "task.labels" in result.remarks[0]
    # A list of classes without it declares that it is not one.
    assert read([*["pos", "neg"] * 50, name], labels=("neg", "pos")).dropped["train"] == 1
    assert not read(["pos", "neg", name], labels=("neg", "pos", name)).remarks


@pytest.mark.parametrize(
    ("twins", "shown"),
    [
        (("pos", "Pos"), "'pos' (4), 'Pos' (2)"),
        (("pos", "pos "), "'pos' (4), 'pos ' (2)"),
        (("caf\u00e9", "cafe\u0301"), r"'caf\xe9' (4), 'cafe\u0301' (2)"),
        (("pos", "\uff50os"), r"'pos' (4), '\uff50os' (2)"),
        (("not it", "not\u00a0it"), r"'not it' (4), 'not\xa0it' (2)"),
        (("pos", "pos\u200b"), r"'pos' (4), 'pos\u200b' (2)"),
        (("stra\u00dfe", "STRASSE"), r"'stra\xdfe' (4), 'STRASSE' (2)"),
        (("1", "01"), "'1' (4), '01' (2)"),
    ],
)
def test_spellings_of_one_label_are_refused_unless_listed(twins: tuple[str, str], shown: str) -> None:
    labels = [twins[0], twins[1], twins[0], "x"]
    message = refusal(labels)
    assert f"task.train: t.csv: row 2: column 'label': the labels {shown} differ only by case, blanks" in message
    assert "list every label in task.labels" in message
    assert names(read(labels, labels=(*twins, "x"))) == labels


def test_misspelled_validation_labels_get_a_suggestion() -> None:
    assert "task.validation: v.csv: row 2: column 'label'" in refusal(["pos", "neg"], ["neg", "Pos"])
    message = refusal(["pos", "neg"], ["neg", "Pos "], labels=("neg", "pos"))
    assert "row 2: label 'Pos ' is not one of neg, pos" in message
    assert "(did you mean 'pos'?)" in message
    assert "(did you mean positive?)" in refusal(["positive", "negative"], ["positve", "negative"])


@pytest.mark.parametrize("values", [["1.0", "2.5", "3"], ["1,5", "2,5"], ["-0.5", ".5"], ["1e-3", "2"]])
def test_values_as_text_are_not_classes(values: list[str]) -> None:
    message = refusal(values)
    assert "task.train: t.csv: column 'label' holds values such as" in message
    assert "set task.problem to regression" in message
    assert names(read(values, labels=tuple(values))) == values


@pytest.mark.parametrize("values", [["1.0", "0.0", "1"], [1.0, 0.0, 1.0]])
def test_whole_numbers_as_floats_are_read_as_whole_numbers(values: list[Any]) -> None:
    result = read(values, [0, 1])
    assert result.labels == ("0", "1")
    assert names(result) == ["1", "0", "1"]
    assert names(result, "validation") == ["0", "1"]
    assert "are read as whole numbers" in result.remarks[0]
    assert "regression" in result.remarks[0]


def test_a_gap_in_a_column_of_floats_is_a_missing_label() -> None:
    labels = [1.0, float("nan"), 0.0]
    assert "row 2: label 'label' is missing" in refusal(labels)
    assert names(read(labels, [0, 1], dropped=0.5)) == ["1", "0"]


def test_ids_are_not_classes() -> None:
    ids = [f"id{number}" for number in range(300)]
    message = refusal(ids)
    assert "column 'label' has 300 different labels in 300 rows, such as id0, id1, id10" in message
    assert "name the column of the classes in task.label, or list every label in task.labels" in message
    assert len(read(ids, labels=tuple(ids)).labels) == 300
    few = read(ids * 3)
    assert "300 different labels in 900 rows are read as classes, 3.0 rows each" in few.remarks[0]
    assert "60 different numbers are read as classes" in read([*range(60)] * 9).remarks[0]
    assert not read([f"intent {number}" for number in range(77)] * 10).remarks


def test_numbers_index_the_listed_names() -> None:
    result = read([2, 0, 1], labels=("neg", "neutral", "pos"))
    assert names(result) == ["pos", "neg", "neutral"]
    assert "0 is read as neg and 2 as pos, by their position in task.labels" in result.remarks[0]
    assert names(read(["1.0", "0.0"], labels=("no", "yes"))) == ["yes", "no"]
    assert names(read([True, False], labels=("no", "yes"))) == ["yes", "no"]
    assert names(read(["True", "False"], labels=("no", "yes"))) == ["yes", "no"]
    assert names(read([1, 0], labels=("1", "0"))) == ["1", "0"]


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2]])
def test_numbers_from_one_are_never_shifted(numbers: list[int]) -> None:
    assert "counted from 0" in refusal(numbers, labels=("neg", "neutral", "pos"))


def test_numbers_beyond_the_list_are_refused() -> None:
    assert "its numbers go up to 3" in refusal([0, 3], labels=("a", "b", "c"))
    assert "row 1: label '0' is not one of 1, 2" in refusal([0, 3], labels=("1", "2"))


def test_declared_classes_are_accepted_unchecked() -> None:
    features = datasets.Features(
        {"text_a": datasets.Value("string"), "label": datasets.ClassLabel(names=["Pos", "pos"])}
    )
    rows = Dataset.from_dict({"text_a": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    task = FileTask(train="t.csv", validation="v.csv")
    raw = {"train": rows, "validation": rows.select([0, 1])}
    assert names(checked_rows(task, raw, WHERE, droppable=0.5)) == ["Pos", "pos"]
    with pytest.raises(DataError, match=r"row 3: label 'label' is missing.*hide their labels as -1"):
        checked_rows(task, raw, WHERE)


def test_names_in_label_sets_are_checked_too() -> None:
    multi = {"problem": "multi_label"}
    assert "row 3: column 'label': the labels 'joy' (4), 'Joy' (2)" in refusal(
        [["joy"], ["joy", "love"], ["Joy"]], **multi
    )
    result = read([["joy"], ["love", "none"]], **multi)
    assert "label 'none' is read as a label (1 rows)" in result.remarks[0]
    assert not read([["joy"], ["love", "none"]], labels=("joy", "love", "none"), **multi).remarks


def test_spellings_of_truth_values_are_equal() -> None:
    result = read(["True", "False", "True"], [True, False])
    assert result.labels == ("false", "true")
    assert names(result) == ["true", "false", "true"]
    assert "False, True, false, true are read as false and true" in result.remarks[0]
    assert names(read(["True", "False"])) == ["True", "False"]


def test_minus_one_among_floats_and_percentages_are_not_classes() -> None:
    result = read([*[0.0, 1.0, 2.0] * 40, -1.0])
    assert result.labels == ("0", "1", "2")
    assert result.dropped["train"] == 1
    assert "column 'label' holds values such as 45 %, 7.5 %" in refusal(["7.5 %", "45 %"])


def test_long_and_unprintable_names_are_shortened_in_messages() -> None:
    for values in (["9" * 900, "-1", "0"], ["a\x00b", "ab"], ["y" * 900, "Y" * 900]):
        message = refusal(values)
        assert len(message) < 500
        assert message.isprintable()


def test_several_labels_joined_in_one_text_are_reported() -> None:
    result = read(["good", "bad", "good;bad"] * 5)
    assert result.labels == ("bad", "good", "good;bad")
    assert "'good;bad' in 5 rows is read as a class; set task.problem to multi_label" in result.remarks[0]
    assert not read(["good, cheap", "bad"] * 5).remarks
