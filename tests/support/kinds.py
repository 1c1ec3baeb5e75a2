"""A toy task of every kind: rows of the tiny vocabulary whose answers follow from their words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.support.builders import WORDS
from tests.support.toys import BAD, GOOD, toy_recipe_dict, toy_teacher, write_rows

COLOURS, NUMBERS = ("red", "blue", "green"), ("one", "two", "three")
_FILLER = [word for word in WORDS if word not in (*GOOD, *BAD, *COLOURS, *NUMBERS)]


def _sentence(draw: random.Random, *told: str) -> list[str]:
    words = draw.choices(_FILLER, k=draw.randint(2, 8))
    for word in told:
        words.insert(draw.randrange(len(words) + 1), word)
    return words


def _pair(draw: random.Random) -> dict[str, Any]:
    sides = [draw.choice((GOOD, BAD)) for _ in range(2)]
    texts = [" ".join(_sentence(draw, draw.choice(side))) for side in sides]
    label = "same" if sides[0] == sides[1] else "other"
    return {"text_a": texts[0], "text_b": texts[1], "label": label}


def _label_set(draw: random.Random) -> dict[str, Any]:
    told = [word for word in COLOURS if draw.random() < 0.4]
    return {"text_a": " ".join(_sentence(draw, *told)), "label": told}


def _value(draw: random.Random) -> dict[str, Any]:
    told = draw.choices(GOOD + BAD, k=draw.randint(1, 4))
    value = sum(1.0 if word in GOOD else -1.0 for word in told) / 2
    return {"text_a": " ".join(_sentence(draw, *told)), "label": value}


def _tags(draw: random.Random) -> dict[str, Any]:
    words: list[str] = []
    tags: list[str] = []
    for _ in range(draw.randint(2, 5)):
        filler = draw.choices(_FILLER, k=draw.randint(0, 2))
        told = draw.choice((COLOURS, NUMBERS))
        name = "COLOUR" if told is COLOURS else "NUMBER"
        names = draw.choices(told, k=draw.randint(1, 2))
        words += [*filler, *names]
        tags += ["O"] * len(filler) + [f"B-{name}", f"I-{name}"][: len(names)]
    return {"tokens": words, "tags": tags}


def _question(draw: random.Random) -> dict[str, Any]:
    words = _sentence(draw)
    answer = draw.choice(COLOURS)
    answered = draw.random() < 0.8
    if answered:
        words.insert(draw.randrange(len(words) + 1), answer)
    context = " ".join(words)
    # Words of the vocabulary may contain each other, so the answer is searched as a word.
    start = f" {context} ".find(f" {answer} ")
    answers = {"text": [answer], "answer_start": [start]} if answered else {"text": [], "answer_start": []}
    return {"question": "is it red blue green", "context": context, "answers": answers}


def _choice(draw: random.Random) -> dict[str, Any]:
    right = draw.choice(COLOURS)
    others = draw.sample(NUMBERS, k=draw.randint(1, 3))
    choices = draw.sample([right, *others], k=1 + len(others))
    return {
        "passage": " ".join(_sentence(draw, right)),
        "question": "which of them",
        "choices": choices,
        "answer": right,
    }


def _text(draw: random.Random) -> dict[str, Any]:
    return {"text_a": " ".join(_sentence(draw, draw.choice(GOOD + BAD)))}


ROWS = {
    "pair": _pair,
    "multi_label": _label_set,
    "regression": _value,
    "token_classification": _tags,
    "question_answering": _question,
    "multiple_choice": _choice,
    "embedding": _text,
}
COLUMNS: dict[str, dict[str, Any]] = {
    "pair": {"text_pair": "text_b"},
    "multi_label": {},
    "regression": {},
    "token_classification": {"text": "tokens", "label": "tags"},
    "question_answering": {"text": "question", "text_pair": "context", "label": "answers"},
    "multiple_choice": {"text": "passage", "text_pair": "question", "label": "answer"},
    "embedding": {},
}


def kind_rows(kind: str, number: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of a kind (`pair` is classification of pairs)."""
    draw = random.Random(seed)
    return [ROWS[kind](draw) for _ in range(number)]


def kind_task(folder: Path, kind: str, *, rows: int = 160) -> dict[str, Any]:
    """Return a task of a kind as parsed from YAML; its files are written to `folder`."""
    problem: Any = "classification" if kind == "pair" else kind
    if kind == "question_answering":
        problem = {"kind": kind, "stride": 4, "max_question_tokens": 8, "max_answer_tokens": 3}
    return {
        "kind": "files",
        "train": str(write_rows(folder / kind / "train.jsonl", kind_rows(kind, rows, 1))),
        "validation": str(write_rows(folder / kind / "validation.jsonl", kind_rows(kind, 60, 2))),
        "max_length": 24,
        "problem": problem,
        **COLUMNS[kind],
    }


def kind_recipe_dict(folder: Path, kind: str, *, steps: int = 4) -> dict[str, Any]:
    """The four stages on a toy task of a kind; an embedding task has an existing teacher and no labels."""
    recipe = toy_recipe_dict(folder, steps=steps)
    recipe["task"] = kind_task(folder, kind)
    recipe["teacher"]["minimum_gain"] = 0
    recipe["teacher"]["task_model"]["training"]["duration"] = "50 steps"
    if kind == "embedding":
        teacher = toy_teacher(folder / "sentence teacher")
        recipe["teacher"]["task_model"] = {"kind": "given", "model": str(teacher)}
        recipe["stages"][-1]["objective"] = {"hard_label": None}
    return recipe
