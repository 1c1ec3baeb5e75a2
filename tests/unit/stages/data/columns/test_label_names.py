"""Labels that mean none, several spellings of one, values, ids and numbers: read with a remark, or refused."""

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


def table(given: Sequence[Any]) -> Dataset:
    texts = [f"text {number}" for number in range(len(given))]
    return Dataset.from_dict({"text_a": texts, "label": list(given)})


def read(
    given: Sequence[Any], validation: Sequence[Any] | None = None, *, dropped: float = 0.02, **fields: Any
) -> CheckedRows:
    """The rows of these labels."""
    task = FileTask(train="t.csv", validation="v.csv", **fields)
    raw = {"train": table(given), "validation": table(validation or given)}
    return checked_rows(task, raw, WHERE, droppable=dropped)


def refusal(given: Sequence[Any], validation: Sequence[Any] | None = None, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(given, validation, **fields)
    return str(caught.value)


def names(found: CheckedRows, split: str = "train") -> list[str]:
    return [found.labels[label] for label in found.splits[split]["label"]]


@pytest.mark.parametrize("none", ["-", "nan", "NaN", "?", "<NA>", "#N/A", "null", "–", " - ", "-1"])
def test_a_label_that_means_none_is_no_class(none: str) -> None:
    found = read([*NLI * 33, none])
    assert found.labels == tuple(sorted(NLI))
    assert found.dropped == {"train": 1, "validation": 1}
    assert len(found.splits["train"]) == 99
    assert f"1 of 100 rows have no text or no label ({none!r} means none" in found.remarks[0]
    message = refusal([*NLI, none])
    assert "task.train: t.csv: row 4: label 'label' is" in message
    assert "1 of 4 rows have no text or no label, 25 %" in message
    assert "list every label in task.labels" in message
    kept = read([*NLI, none], labels=(*NLI, none))
    assert names(kept) == [*NLI, none]


def test_minus_one_is_none_beside_counted_classes_and_a_class_of_sentiment() -> None:
    assert read([*[0, 1, 2] * 40, -1]).labels == ("0", "1", "2")
    assert read([-1, 0, 1]).labels == ("-1", "0", "1")
    assert read([-1, 1]).labels == ("-1", "1")
    assert not read([-1, 0, 1]).remarks
    rare = read([*[0, 1] * 100, -1])
    assert rare.labels == ("-1", "0", "1")
    assert "label '-1' in 1 of 201 rows is read as a class of its own" in rare.remarks[0]


def test_signs_alone_are_classes() -> None:
    assert read(["+", "-"]).labels == ("+", "-")
    assert read([".", "?", "-"]).labels == ("-", ".", "?")
    assert not read(["+", "-"]).remarks


@pytest.mark.parametrize("name", ["None", "none", "N/A", "NA", "unlabeled"])
def test_a_label_that_may_mean_none_is_a_class_with_a_remark(name: str) -> None:
    found = read(["pos", "neg", name])
    assert name in found.labels
    assert f"label '{name}' in 1 of 3 rows is read as a class of its own" in found.remarks[0]
    assert "task.labels" in found.remarks[0]
    # A list of the classes without it says that it is none.
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
def test_labels_that_look_alike_are_one_unless_listed(twins: tuple[str, str], shown: str) -> None:
    labels = [twins[0], twins[1], twins[0], "x"]
    message = refusal(labels)
    assert f"task.train: t.csv: row 2: column 'label': the labels {shown} differ only by case, blanks" in message
    assert "list every label in task.labels" in message
    assert names(read(labels, labels=(*twins, "x"))) == labels


def test_a_validation_label_that_is_spelled_otherwise_is_named_with_the_one_meant() -> None:
    assert "task.validation: v.csv: row 2: column 'label'" in refusal(["pos", "neg"], ["neg", "Pos"])
    message = refusal(["pos", "neg"], ["neg", "Pos "], labels=("neg", "pos"))
    assert "row 2: label 'Pos ' is not one of neg, pos" in message
    assert "(did you mean 'pos'?)" in message
    assert "(did you mean positive?)" in refusal(["positive", "negative"], ["positve", "negative"])


@pytest.mark.parametrize("values", [["1.0", "2.5", "3"], ["1,5", "2,5"], ["-0.5", ".5"], ["1e-3", "2"]])
def test_values_as_text_are_no_classes(values: list[str]) -> None:
    message = refusal(values)
    assert "task.train: t.csv: column 'label' holds values such as" in message
    assert "set task.problem to regression" in message
    assert names(read(values, labels=tuple(values))) == values


@pytest.mark.parametrize("labels", [["1.0", "0.0", "1"], [1.0, 0.0, 1.0]])
def test_whole_numbers_that_pandas_made_floats_are_whole(labels: list[Any]) -> None:
    found = read(labels, [0, 1])
    assert found.labels == ("0", "1")
    assert names(found) == ["1", "0", "1"]
    assert names(found, "validation") == ["0", "1"]
    assert "are read as whole numbers" in found.remarks[0]
    assert "regression" in found.remarks[0]


def test_a_gap_in_a_column_of_floats_is_a_missing_label() -> None:
    labels = [1.0, float("nan"), 0.0]
    assert "row 2: label 'label' is missing" in refusal(labels)
    assert names(read(labels, [0, 1], dropped=0.5)) == ["1", "0"]


def test_ids_are_no_classes() -> None:
    ids = [f"id{number}" for number in range(300)]
    message = refusal(ids)
    assert "column 'label' has 300 different labels in 300 rows, such as id0, id1, id10" in message
    assert "name the column of the classes in task.label, or list every label in task.labels" in message
    assert len(read(ids, labels=tuple(ids)).labels) == 300
    few = read(ids * 3)
    assert "300 different labels in 900 rows are read as classes, 3.0 rows each" in few.remarks[0]
    assert "60 different numbers are read as classes" in read([*range(60)] * 9).remarks[0]
    assert not read([f"intent {number}" for number in range(77)] * 10).remarks


def test_numbers_stand_for_the_names_that_a_task_lists() -> None:
    found = read([2, 0, 1], labels=("neg", "neutral", "pos"))
    assert names(found) == ["pos", "neg", "neutral"]
    assert "0 is read as neg and 2 as pos, by their position in task.labels" in found.remarks[0]
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


def test_declared_classes_are_taken_at_their_word() -> None:
    features = datasets.Features(
        {"text_a": datasets.Value("string"), "label": datasets.ClassLabel(names=["Pos", "pos"])}
    )
    rows = Dataset.from_dict({"text_a": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    task = FileTask(train="t.csv", validation="v.csv")
    raw = {"train": rows, "validation": rows.select([0, 1])}
    assert names(checked_rows(task, raw, WHERE, droppable=0.5)) == ["Pos", "pos"]
    with pytest.raises(DataError, match=r"row 3: label 'label' is missing.*hide their labels as -1"):
        checked_rows(task, raw, WHERE)


def test_names_in_sets_of_labels_are_looked_at_too() -> None:
    multi = {"problem": "multi_label"}
    assert "row 3: column 'label': the labels 'joy' (4), 'Joy' (2)" in refusal(
        [["joy"], ["joy", "love"], ["Joy"]], **multi
    )
    found = read([["joy"], ["love", "none"]], **multi)
    assert "label 'none' is read as a label of its own (1 rows)" in found.remarks[0]
    assert not read([["joy"], ["love", "none"]], labels=("joy", "love", "none"), **multi).remarks


def test_truth_values_are_the_same_however_they_are_written() -> None:
    found = read(["True", "False", "True"], [True, False])
    assert found.labels == ("false", "true")
    assert names(found) == ["true", "false", "true"]
    assert "False, True, false, true are read as false and true" in found.remarks[0]
    assert names(read(["True", "False"])) == ["True", "False"]


def test_minus_one_among_floats_and_shares_as_text_are_no_classes() -> None:
    found = read([*[0.0, 1.0, 2.0] * 40, -1.0])
    assert found.labels == ("0", "1", "2")
    assert found.dropped["train"] == 1
    assert "column 'label' holds values such as 45 %, 7.5 %" in refusal(["7.5 %", "45 %"])


def test_names_of_a_thousand_digits_and_of_unseen_signs_are_shown_short() -> None:
    for given in (["9" * 900, "-1", "0"], ["a\x00b", "ab"], ["y" * 900, "Y" * 900]):
        message = refusal(given)
        assert len(message) < 500
        assert message.isprintable()


def test_several_labels_in_one_name_are_said() -> None:
    found = read(["good", "bad", "good;bad"] * 5)
    assert found.labels == ("bad", "good", "good;bad")
    assert "'good;bad' in 5 rows is read as a class of its own; set task.problem to multi_label" in found.remarks[0]
    assert not read(["good, cheap", "bad"] * 5).remarks
