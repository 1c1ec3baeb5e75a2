"""Shipped recipes, reduced in size by overrides alone, complete in the real flow, all in one store."""

from __future__ import annotations

import json
import math
import re
import shutil
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from pipeline.execution.judge import scores_of
from pipeline.flow import distill_flow
from pipeline.planning.options import RunOptions
from pipeline.recipes.shipped import read_recipe, shipped_names
from schemas.core.refs import StudentOf
from schemas.recipe.objective import LatentObjective
from schemas.recipe.recipe import Recipe
from schemas.recipe.student import TeacherLayersStart
from schemas.results.manifest import RunReport
from stages.data.readers.docstring_scan import Root, find_sources, read_docstrings
from tests.support.builders import tiny_tokenizer
from tests.support.toys import write_rows

pytestmark = pytest.mark.usefixtures("prefect")

WIDTH, HEADS, LENGTH = 24, 12, 16
LIBRARIES = {"sqlalchemy": "orm", "torch": "nn/modules"}
SHORT = {"duration": "2 steps", "batch": "6 sequences", "precision": "fp32"}
FINE_TUNING = {
    "duration": "30 steps",
    "batch": "16 sequences",
    "optimizer.learning_rate": "5e-3",
    "dropout": "0",
    "precision": "fp32",
}
# Not run: they take the same path through the code as another recipe; only shapes, shares or draws differ.
VARIANTS = ("etd-rand", "tinybert-6", "tinybert-v1")
# Run by `make test` as well: the first recipe that a user runs.
QUICK = ("quickstart",)
RECIPES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in shipped_names()
    if name not in VARIANTS
]
EVERYWHERE = (
    "baselines=[]",
    "evaluation={probe_train_rows: 40, max_rows: 60, latent_rows: 16}",
    "execution.gradient_share_every=null",  # a backward pass and a figure per stage, tested elsewhere
)


@dataclass(frozen=True)
class World:
    """Small replacements for the models and data of recipes, and one store for all runs."""

    teacher: Path
    other: Path
    task: dict[str, Any]
    corpus: dict[str, Any]
    store: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two random teachers and real text: docstrings of two libraries, whose most frequent words are the vocabulary."""
    folder = tmp_path_factory.mktemp("every recipe")
    rows = docstring_rows(folder / "installed")
    train, validation, rest = rows[:320], rows[320:380], rows[380:520]
    words = Counter(word for row in train for word in re.findall(r"[a-z]+", row["text_a"].lower()))
    tokenizer = tiny_tokenizer([word for word, _ in words.most_common(400)])
    task = {
        "kind": "files",
        "train": str(write_rows(folder / "train.jsonl", train)),
        "validation": str(write_rows(folder / "validation.jsonl", validation)),
        "max_length": LENGTH,
    }
    texts = write_rows(folder / "corpus.jsonl", [{"text": row["text_a"]} for row in rest])
    corpus = {"sources": [{"kind": "files", "paths": [str(texts)]}], "max_length": LENGTH, "held_out_rows": 16}
    learnt = leanings(train, tokenizer)
    return World(
        random_bert(folder / "teacher", tokenizer, learnt, layers=12, width=WIDTH),
        random_bert(folder / "other", tokenizer, learnt, layers=14, width=2 * WIDTH),
        task,
        corpus,
        folder / "store",
    )


def docstring_rows(folder: Path) -> list[dict[str, str]]:
    """Return paragraphs of the two libraries in alternation."""
    for library, part in LIBRARIES.items():
        source = Path(sysconfig.get_path("purelib")) / library / part
        shutil.copytree(source, folder / library / part)
    paragraphs = read_docstrings(find_sources([Root(folder)])).paragraphs
    by_library = [[row.text for row in paragraphs if row.library == library] for library in LIBRARIES]
    return [
        {"text_a": text, "label": library}
        for texts in zip(*by_library, strict=False)
        for library, text in zip(LIBRARIES, texts, strict=True)
    ]


def leanings(rows: list[dict[str, str]], tokenizer: Any) -> torch.Tensor:
    """Return for each token a value from -1 to 1: the library whose paragraphs it is more typical of."""
    counts = np.ones((len(LIBRARIES), len(tokenizer)))
    for row in rows:
        ids = tokenizer(row["text_a"], truncation=True, max_length=LENGTH)["input_ids"]
        np.add.at(counts[list(LIBRARIES).index(row["label"])], ids, 1)
    shares = counts / counts.sum(1, keepdims=True)
    return torch.from_numpy(np.tanh(np.log(shares[0] / shares[1]))).float()


def random_bert(folder: Path, tokenizer: Any, learnt: torch.Tensor, *, layers: int, width: int) -> Path:
    """A random BERT with its masked-language head that can be fine-tuned to the words in a few steps."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
    )
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[:, 0] = 0.2 * learnt
        # Weights drawn for a width of 768 are too small here to pass information between tokens.
        attention = model.bert.encoder.layer[0].attention
        attention.self.value.weight.mul_(10)
        attention.output.dense.weight.mul_(10)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(recipe: Recipe, world: World) -> list[str]:
    """Return overrides that reduce a recipe's sizes, models and data, and leave its method unchanged."""
    changes = [*EVERYWHERE, f"task={json.dumps(world.task)}"]
    if recipe.general_corpus is not None:
        changes.append(f"general_corpus={json.dumps(world.corpus)}")
    if recipe.augmentation is not None:
        changes += set_in("augmentation", {"copies": "2", "candidates": "3"})
    for index, stage in enumerate(recipe.stages):
        changes += set_in(f"stages.{index}.training", SHORT)
        latent = stage.objective.latent
        if latent is not None:
            inside = "objective" if latent is stage.objective else "objective.latent"
            changes += fewer_heads(f"stages.{index}.{inside}", latent)
    return changes + small_teachers(recipe, world) + small_student(recipe)


def set_in(path: str, values: dict[str, str]) -> list[str]:
    return [f"{path}.{key}={value}" for key, value in values.items()]


def fewer_heads(path: str, latent: LatentObjective) -> list[str]:
    return [
        f"{path}.terms.{number}.num_heads={HEADS}"
        for number, term in enumerate(latent.terms)
        if getattr(term, "num_heads", None) is not None
    ]


def small_teachers(recipe: Recipe, world: World) -> list[str]:
    changes = set_in("teacher.task_model.training", FINE_TUNING)
    model = recipe.teacher.model
    if isinstance(model, StudentOf):
        assistant = read_recipe(model.recipe, model.overrides)
        # Two steps are too few to learn: this student can learn the task only if it starts as a copy of its teacher.
        copy = (
            "student.start.kind=teacher_layers",
            f"student.shape.hidden_size={WIDTH}",
            f"student.shape.intermediate_size={2 * WIDTH}",
        )
        overrides = [*model.overrides, *small(assistant, world), *copy]
        changes.append(f"teacher.model.overrides={json.dumps(overrides)}")
    else:
        changes.append(f"teacher.model={world.teacher}")
    for number in range(len(recipe.teacher.others)):
        path = f"teacher.others.{number}"
        changes.append(f"{path}.model={world.other}")
        changes += set_in(f"{path}.task_model.training", SHORT)
    if recipe.teacher.multi_task is not None:
        tasks = {"forwards": world.task, "backwards": world.task | {"labels": list(LIBRARIES)[::-1]}}
        changes.append(f"teacher.multi_task.tasks={json.dumps(tasks)}")
        changes += set_in("teacher.multi_task.training", SHORT)
    return changes


def small_student(recipe: Recipe) -> list[str]:
    copied = isinstance(recipe.student.start, TeacherLayersStart)
    wide = copied or recipe.student.shape.hidden_size == 768
    width = WIDTH if wide else WIDTH // 2
    return [f"student.shape.hidden_size={width}", f"student.shape.intermediate_size={2 * width}"]


def numbers_of(report: RunReport) -> list[float]:
    return [value for row in report.rows for value in scores_of(row.judgement).values()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_runs_to_its_end(name: str, world: World) -> None:
    recipe = read_recipe(name)
    report = distill_flow(recipe=name, overrides=small(recipe, world), options=RunOptions(store=str(world.store)))
    rows = {row.name: row for row in report.rows if row.kind == "stage" and row.checkpoint}
    assert list(rows) == [stage.name for stage in recipe.stages]
    assert numbers_of(report)
    assert all(math.isfinite(value) for value in numbers_of(report))
    client = MlflowClient(tracking_uri=f"sqlite:///{world.store}/mlflow.db")
    for row in rows.values():
        metrics = client.get_run(row.mlflow_run_id).data.metrics
        assert row.status == "reused" or math.isfinite(metrics["train/loss"])
        assert 0 <= metrics["eval/probe_accuracy"] <= 1
    last = rows["task_specific"]
    assert last.checkpoint is not None
    folder = Path(last.checkpoint.path) / "model"
    encoder = AutoModel.from_pretrained(folder)
    assert encoder.config.num_hidden_layers == recipe.student.shape.num_layers
    student = AutoModelForSequenceClassification.from_pretrained(folder)
    assert tuple(student.config.id2label.values()) == tuple(LIBRARIES)
    assert last.judgement.accuracy is not None
    assert last.judgement.agreement is not None
