"""`distill init`: a recipe from data and teacher that can be planned, whether options or answers make it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.init.command import Wanted, write_recipe
from pipeline.init.questions import Questions
from pipeline.planning.plan import make_plan
from pipeline.recipes.shipped import read_recipe
from schemas.data.tasks import FileTask
from schemas.recipe.recipe import Recipe
from schemas.recipe.short_forms import TEACHER_TRAINING
from schemas.recipe.teacher import AlreadyFineTuned, FineTune
from tests.support.command_line import Distill
from tests.support.toys import toy_rows, toy_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews with semicolons, a teacher and a classifier."""
    folder = tmp_path_factory.mktemp("my films")
    lines = [f"{row['text_a']};{row['label']}" for row in toy_rows(120, seed=1)]
    (folder / "films.csv").write_text("\n".join(["review;mood", *lines]), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(row["text_a"] for row in toy_rows(700, seed=3)), encoding="utf-8")
    answers = [{"id": "1", "question": "who", "answers": [{"text": "good", "answer_start": 0}]}]
    articles = [{"title": "t", "paragraphs": [{"context": f"good film {n}", "qas": answers}]} for n in range(20)]
    (folder / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    toy_teacher(folder / "teacher")
    toy_teacher(folder / "classifier", labels=("good", "bad"))
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    for recipe in folder.glob("*.yaml"):
        recipe.unlink()
    return folder


USUAL = FineTune.model_validate({"training": TEACHER_TRAINING})


def task_of(recipe: Recipe) -> FileTask:
    assert isinstance(recipe.task, FileTask)
    return recipe.task


def test_options_make_a_short_recipe_that_can_be_planned(here: Path, distill: Distill) -> None:
    arguments = ("init", "films.csv", "--teacher", "teacher", "--corpus", "texts.txt", "--minutes", "1")
    code, out, err = distill(*arguments, "--store", here / "store")
    assert (code, err) == (0, "")
    assert "120 rows" not in out
    assert "12 validation rows" in out
    # 108 rows make 4 steps an epoch, and a teacher gets about 10 epochs at most.
    assert "teacher: 42 steps are few to learn a task in; give more --minutes or more rows" in out.replace("\n", " ")
    assert "distill plan films.yaml" in out
    text = (here / "films.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    assert text.splitlines()[-1] == "# yaml-language-server: $schema=distill-schema.json"
    assert "# 108 rows: bad 54, good 54" in text
    assert "learning_rate: 5e-5}" in text
    recipe = read_recipe("films.yaml")
    assert (task_of(recipe).text, task_of(recipe).label, task_of(recipe).validation) == ("review", "mood", "10 %")
    assert task_of(recipe).max_length == 16
    assert isinstance(recipe.teacher.task_model, FineTune)
    assert [stage.name for stage in recipe.stages] == ["general", "general_enhanced", "task_adaptive", "task_specific"]
    plan = make_plan(recipe, here / "store")
    assert {stage.status for stage in plan.stages} == {"run"}
    assert "training takes about" in out
    code, _, err = distill(*arguments, "--yes", "--store", here / "store")
    assert code == 2
    assert "films.yaml: exists and is never overwritten unasked; give another name" in err
    assert (here / "films.yaml").read_text(encoding="utf-8") == text


def test_answers_make_the_same_recipe_and_a_wrong_one_is_asked_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80)

    def asked(*answers: str) -> Recipe:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
        path = write_recipe(Wanted(), Questions(console, are_asked=True), console, here / "store")
        return read_recipe(str(path))

    columns, usual = ("", "", "", ""), ("", "", "")
    recipe = asked("film.csv", "films.csv", *columns, "no-teacher", "./classifier", "4", "texts.txt", "y", "", "new")
    assert "did you mean films.csv?" in shown.getvalue()
    assert "the hub cannot be reached" in " ".join(shown.getvalue().split())
    assert isinstance(recipe.teacher.task_model, AlreadyFineTuned)
    assert recipe.student.shape.num_layers < 4
    again = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"task_model": USUAL})})
    assert "write teacher: {fine_tuned: ./classifier}" in make_plan(again, here / "store").notes[0]
    with pytest.raises(KeyboardInterrupt):
        asked("films.csv", "")
    recipe = asked("films.csv", "", "", "", "25 %", "teacher", *usual, "new.yaml", "n", "newer.yaml")
    assert task_of(recipe).validation == "25 %"
    assert [stage.name for stage in recipe.stages] == ["task_adaptive", "task_specific"]
    assert recipe.student.missing_sizes
    assert "Overwrite new.yaml?" in shown.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nobody can be asked here (no terminal, or --yes): also give DATA and --teacher MODEL"),
        (("films.csv",), "also give --teacher MODEL"),
        (("films.cvs",), "there is no file films.cvs (did you mean films.csv?)"),
        (("films.cvs", "--teacher", "teacher"), "there is no file films.cvs (did you mean films.csv?)"),
        (("films.csv", "--teacher", "teacher", "--label", "moods"), "there is no column 'moods' (did you mean mood?)"),
        (("films.csv", "--teacher", "./teache"), "./teache: teache is not a folder"),
        (("films.csv", "--teacher", "a b"), "--teacher 'a b': is no model; give a folder"),
        (("films.csv", "--teacher", "teacher", "--size", "100"), "--size: the smallest student tried has"),
        (("films.csv", "--teacher", "teacher", "--size", "big"), "--size 'big': give the most parameters"),
        (("films.csv", "--teacher", "teacher", "--speedup", "1"), "--speedup 1: give a number above 1"),
        (("films.csv", "--teacher", "teacher", "--size", "1M", "--speedup", "2"), "leave one out"),
        (("films.csv", "--teacher", "teacher", "--minutes", "0"), "--minutes 0: give a number above 0"),
        (("films.csv", "--teacher", "teacher", "--minutes", "nan"), "--minutes nan: give a number above 0"),
        (("films.csv", "--teacher", "teacher", "--validation", "80 %"), "give more than 0 % and at most 50 %"),
        (("films.csv", "--teacher", "teacher", "--validation", "dev.csv"), "task.validation: there is no file dev.csv"),
        (("squad.json", "--teacher", "teacher"), "max_length 64 and max_question_tokens"),
        (("texts.txt", "--teacher", "teacher"), "lines of text without labels"),
        (("films.csv", "--teacher", "teacher", "-o", "no/where.yaml"), "--output no/where.yaml: there is no folder no"),
    ],
)
def test_mistakes_name_the_option_and_the_remedy(
    here: Path, distill: Distill, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = distill("init", *arguments, "--store", here / "store")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(here.glob("*.yaml"))


def test_a_size_and_a_large_speedup_choose_narrower_students_that_the_teacher_can_make(
    here: Path, distill: Distill
) -> None:
    chosen = {}
    for name, option in {"fast": ("--speedup", "8"), "small": ("--size", "9k")}.items():
        code, _, err = distill(
            "init", "films.csv", "--teacher", "teacher", *option, "-o", f"{name}.yaml", "--store", here / "store"
        )
        assert (code, err) == (0, "")
        chosen[name] = read_recipe(f"{name}.yaml").student
    assert chosen["fast"].start.kind == "extract"
    assert chosen["fast"].shape.hidden_size == 8
    assert chosen["fast"].shape.num_attention_heads == 2
    assert not chosen["fast"].missing_sizes
    assert chosen["small"].shape.num_layers == 2
    assert chosen["small"].missing_sizes
