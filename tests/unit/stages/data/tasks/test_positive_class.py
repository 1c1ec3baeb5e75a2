"""F1 of a named class: its default, its display with every score, and its values compared with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import accuracy_score, f1_score

from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import Classification
from schemas.core.metrics import titled
from schemas.data.catalogue import catalogue, named_task
from schemas.data.tasks import FileTask, TaskData, task_named
from schemas.recipe.recipe import Recipe
from stages.data.batching.tokens import Tokens
from stages.data.corpus.leaks import held_out_digest
from stages.data.tasks.load import load_task, task_digest
from stages.evaluation.scorer import AnyScorer, scorer_of
from stages.kinds.classification import ClassificationKind
from stages.kinds.rows import TaskRows
from stages.preflight.score_checks import check_scores
from tests.support.toys import toy_recipe_dict, write_rows


def write_task(folder: Path, train: list[str], validation: list[str] | None = None) -> dict[str, Any]:
    """Write files of rows with these labels, and return the task's mapping."""
    for name, labels in (("train", train), ("validation", validation or train)):
        rows = [{"text_a": f"{name} {row}", "label": label} for row, label in enumerate(labels)]
        write_rows(folder / f"{name}.jsonl", rows)
    return {"kind": "files", "train": str(folder / "train.jsonl"), "validation": str(folder / "validation.jsonl")}


def loaded(folder: Path, labels: list[Any], **more: Any) -> TaskRows:
    task = FileTask.model_validate(write_task(folder, labels) | more)
    return load_task(task, folder / "cache")


def scorer(rows: TaskRows) -> AnyScorer:
    chosen = np.arange(len(rows.validation))
    return scorer_of(rows, "validation", cast(Tokens, None), chosen)


FRAUD = ["fraud" if row % 10 == 0 else "legit" for row in range(100)]


def test_f1_defaults_to_the_rarer_class_and_names_it(tmp_path: Path) -> None:
    rows = loaded(tmp_path, FRAUD, metric="f1")
    assert rows.labels == ("fraud", "legit")
    assert rows.positive_label == "fraud"
    assert rows.remarks == (
        "task.metric: f1 is about 'fraud', the rarer class of the training rows; set task.positive_label to legit for "
        "the other",
    )
    names = np.array(FRAUD)
    labels = names.copy()
    labels[[0, 10, 5, 15, 25]] = ["legit", "legit", "fraud", "fraud", "fraud"]
    answers = (labels == "legit").astype(int)
    scores = scorer(rows).scores("f1", answers)
    assert {name: score.of for name, score in scores.items()} == {"f1": "fraud", "accuracy": None, "matthews": None}
    assert scores["f1"].value == pytest.approx(f1_score(names, labels, pos_label="fraud"))
    assert scores["accuracy"].value == accuracy_score(names, labels)
    generator = np.random.default_rng(0)
    drawn = generator.integers(100, size=(1000, 100))
    by_hand = [f1_score(names[d], labels[d], pos_label="fraud", zero_division=0.0) for d in drawn]
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert (scores["f1"].low, scores["f1"].high) == (pytest.approx(low), pytest.approx(high))
    minus = scorer(rows).difference("f1", answers, np.ones(100, int))
    assert (minus.value, minus.of) == (pytest.approx(scores["f1"].value), "fraud")


def test_the_majority_baseline_is_the_best_constant_prediction_by_the_metric(tmp_path: Path) -> None:
    of_fraud = scorer(loaded(tmp_path / "a", FRAUD))
    # Always "fraud": 10 right of 100, so F1 = 2 * 10 / (10 + 100). Always "legit": 0.947 of the other class.
    assert of_fraud.guessed("f1") == pytest.approx(20 / 110)
    assert of_fraud.guessed("accuracy") == 0.9
    assert of_fraud.all_guessed("f1") == {"f1": pytest.approx(20 / 110), "accuracy": 0.9, "matthews": 0.0}
    of_legit = scorer(loaded(tmp_path / "b", FRAUD, positive_label="legit"))
    assert of_legit.guessed("f1") == pytest.approx(180 / 190)
    both = of_fraud.guessed("accuracy_f1")
    assert both == pytest.approx(max((0.1 + 20 / 110) / 2, (0.9 + 0) / 2))


def test_f1_of_an_absent_class_is_zero_with_a_note(tmp_path: Path) -> None:
    task = FileTask.model_validate(write_task(tmp_path, FRAUD, ["legit"] * 5))
    scores = scorer(load_task(task, tmp_path / "cache")).scores("f1", np.ones(5, int))
    assert (scores["f1"].value, scores["f1"].note) == (0.0, "no row is fraud, and no F1 of it means anything")
    assert scores["accuracy"].note is None
    some = scorer(loaded(tmp_path / "some", FRAUD)).scores("f1", np.ones(100, int))
    assert some["f1"].note is None


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (["a"] * 4 + ["b"] * 6, "a"),
        (["a"] * 6 + ["b"] * 4, "b"),
        (["a"] * 5 + ["b"] * 5, None),
        (["a"] * 9 + ["b"] * 11, None),
        (["a"] * 9 + ["b"] + ["c"], None),
    ],
)
def test_the_positive_class_is_inferred_if_clear_and_required_otherwise(
    labels: list[str], positive: str | None, tmp_path: Path
) -> None:
    rows = loaded(tmp_path, labels)
    assert rows.positive_label == positive
    assert rows.remarks == ()
    reported = ClassificationKind(Classification()).reported(scorer(rows).rows)
    assert ("f1" in reported) == (positive is not None)
    assert ("f1_macro" in reported) == (positive is None)
    for metric in ("f1", "accuracy_f1"):
        task = FileTask.model_validate(write_task(tmp_path, labels) | {"metric": metric})
        if positive is not None:
            assert load_task(task, tmp_path / "cache").positive_label == positive
            continue
        with pytest.raises(
            DataError, match=rf"^task\.metric: {metric} is about one class, .* not clear which; name it"
        ):
            load_task(task, tmp_path / "cache")
        named = task.model_copy(update={"positive_label": "b"})
        assert load_task(named, tmp_path / "cache").positive_label == "b"
        with pytest.raises(DataError, match=f"{metric} is about one class"):
            scorer(rows).score(metric, np.zeros(len(labels), int))


def test_one_class_of_several_is_scored_against_the_rest(tmp_path: Path) -> None:
    names = ["spam", "ham", "news", "ham", "spam", "ham", "news", "spam"]
    rows = loaded(tmp_path, names, positive_label="spam", metric="accuracy_f1")
    predictions = np.array([2, 0, 1, 2, 2, 0, 0, 0])  # ham, news, spam
    predicted_names = [rows.labels[label] for label in predictions]
    f1 = f1_score(names, predicted_names, labels=["spam"], average=None)[0]
    accuracy = accuracy_score(names, predicted_names)
    scores = scorer(rows).scores("accuracy_f1", predictions)
    assert list(scores) == ["accuracy_f1", "accuracy", "f1_macro", "f1"]
    assert scores["f1"].value == pytest.approx(f1)
    assert scores["accuracy_f1"].value == pytest.approx((accuracy + f1) / 2)
    assert scores["accuracy_f1"].of == "spam"
    assert scores["accuracy"].value == accuracy


def test_an_unknown_positive_class_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'Fraud' is not one of fraud, legit \(did you mean fraud"):
        loaded(tmp_path, FRAUD, positive_label="Fraud")
    fields = {"kind": "files", "train": "t", "validation": "v", "positive_label": "x"}
    with pytest.raises(ValidationError, match="'x' is not one of labels: a, b"):
        FileTask.model_validate(fields | {"labels": ["a", "b"]})
    with pytest.raises(ValidationError, match="a multi_label task has no score about one class"):
        FileTask.model_validate(fields | {"problem": "multi_label"})


def test_a_numeric_positive_label_matches_the_label_of_that_text(tmp_path: Path) -> None:
    rows = loaded(tmp_path, ["0"] * 6 + ["1"] * 4, positive_label=0)
    assert rows.positive_label == "0"
    truths: list[Any] = [True] * 6 + [False] * 4
    assert loaded(tmp_path / "truths", truths, positive_label=True).positive_label == "true"


def test_the_catalogue_names_the_positive_class_of_published_f1() -> None:
    about_one_class = {}
    for name, entry in catalogue().tasks.items():
        task = TypeAdapter(TaskData).validate_python(named_task(name))
        if entry.metrics[0] in ("f1", "accuracy_f1"):
            assert task.labels is not None
            # GLUE's own evaluation scores the class 1.
            assert task.labels.index(task.positive_label or "") == 1
            about_one_class[name] = task.positive_label
    assert about_one_class == {"mrpc": "equivalent", "qqp": "duplicate"}


def test_the_positive_class_is_kept_only_for_the_same_data() -> None:
    task = named_task("mrpc")
    assert task_named(task | {"max_length": 64}, "mrpc")["positive_label"] == "equivalent"
    assert "positive_label" not in task_named(task, "sst2")
    assert task_named(task, "qqp")["positive_label"] == "duplicate"


def test_the_positive_class_is_in_the_task_digest_and_not_in_the_held_out_digest(tmp_path: Path) -> None:
    task = FileTask.model_validate(write_task(tmp_path, FRAUD))
    changed = task.model_copy(update={"positive_label": "legit"})
    assert task_digest(task) != task_digest(changed)
    assert held_out_digest(task) == held_out_digest(changed)


def test_selection_by_the_score_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path)
    content["stages"][-1]["training"] = content["stages"][-1]["training"] | {"selection": {"metric": "f1"}}
    recipe = Recipe.model_validate(content)
    assert recipe.task is not None
    rows = load_task(recipe.task, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"selection\.metric: f1 is about one class, and of bad, good it"):
        check_scores(recipe, rows)
    named = recipe.model_copy(update={"task": recipe.task.model_copy(update={"positive_label": "bad"})})
    assert named.task is not None
    check_scores(named, load_task(named.task, tmp_path / "cache"))


def test_validation_rows_of_one_class_are_refused_before_training(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in")
    content["task"] |= write_task(tmp_path, FRAUD, ["legit"] * 20)
    recipe = Recipe.model_validate(content)
    assert recipe.task is not None
    rows = load_task(recipe.task, tmp_path / "cache")
    with pytest.raises(DataError, match=r"task\.validation: the answer is legit in every row"):
        check_scores(recipe, rows)
    content["teacher"]["minimum_gain"] = 0
    check_scores(Recipe.model_validate(content), rows)


def test_a_title_names_the_class_with_the_score() -> None:
    assert titled("f1", "fraud") == "f1 of fraud"
    assert titled("accuracy", None) == "accuracy"
    assert titled("f1", "a\x1b[31mb") == titled("f1", "a\\x1b[31mb")
    assert isinstance(FileTask(train="t", validation="v").problem, Classification)


@pytest.mark.parametrize(
    ("problem", "column", "same", "labels"),
    [
        ("token_classification", "tags", ["O", "O"], ["O", "B-X"]),
        ("multi_label", "tags", [], ["x", "y"]),
        ("multi_label", "tags", ["x", "y"], ["x", "y"]),
    ],
)
def test_rows_with_a_single_answer_are_refused_before_training(
    problem: str, column: str, same: list[str], labels: list[str], tmp_path: Path
) -> None:
    tags = ["O", "B-X"] if problem == "token_classification" else ["y"]
    for where, split in (("train", "train"), ("validation", "validation")):
        for name in ("train", "validation"):
            told = [same] * 3 if name == split else [same, tags, same]
            rows = [
                {"tokens": ["a", f"{name}{row}"], "text_a": f"{name} {row}", column: label}
                for row, label in enumerate(told)
            ]
            write_rows(tmp_path / split / f"{name}.jsonl", rows)
        content = toy_recipe_dict(tmp_path / split / "in")
        content["task"] = {
            "kind": "files",
            "train": str(tmp_path / split / "train.jsonl"),
            "validation": str(tmp_path / split / "validation.jsonl"),
            "problem": problem,
            "text": "tokens" if problem == "token_classification" else "text_a",
            "label": column,
            "labels": labels,
        }
        recipe = Recipe.model_validate(content)
        assert recipe.task is not None
        rows_read = load_task(recipe.task, tmp_path / "cache")
        with pytest.raises(DataError, match=rf"task\.{where}: the answer is .* in every row"):
            check_scores(recipe, rows_read)
