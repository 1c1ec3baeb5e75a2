"""Methods, starts and changes that `benchmarks.quality` compares, as variants of one recipe.

Settings are chosen on rows held out of a task's training file; the reported rows stay unread.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from schemas.data.tasks import FileTask

Settings = dict[str, Any]

LATENT: Settings = {"kind": "latent"}
RELATIONS: Settings = {
    "kind": "latent",
    "layer_map": {"kind": "last"},
    "terms": [
        # 12 relation heads: 48, the source's number, does not divide a width of 312.
        {"kind": "relation", "between": between, "num_heads": 12}
        for between in ("query", "key", "value")
    ],
}
# A control begins with a fresh head: the teacher's is part of what is measured.
HARD: Settings = {"kind": "task", "latent": None, "soft_label": None, "head": "fresh"}
SOFT: Settings = {"kind": "task", "latent": None, "hard_label": None}
SOFT_AND_HARD: Settings = {"kind": "task", "latent": None, "head": "fresh"}
ALL_THREE: Settings = {"kind": "task"}


@dataclass(frozen=True)
class Method:
    """Stages, each with its share of the tokens and its objective, and the start of the student."""

    stages: dict[str, tuple[float, Settings]]
    start: Settings | None = None
    """Replaces the recipe's start; None keeps it."""


@dataclass(frozen=True)
class Change:
    """Settings that replace those of a method, wherever the method has the part that they belong to."""

    latent: Settings = field(default_factory=dict)
    """Every latent objective, in `task_specific` too."""
    labels: Settings = field(default_factory=dict)
    """The objective of `task_specific`, but not of a control."""
    training: Mapping[str, Settings] = field(default_factory=dict)
    """Training, by the name of the stage."""
    start: Settings = field(default_factory=dict)
    """Start of the student."""
    corpus: Settings = field(default_factory=dict)
    """The general corpus."""
    teacher: Settings = field(default_factory=dict)
    """Training of the teacher; every method then gets another teacher."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Shares of the tokens, for the method of four stages."""

    def to_objective(self, stage: str, objective: Settings) -> Settings:
        """Return a stage's objective with the change."""
        if objective["kind"] == "latent":
            return objective | self.latent
        if objective in (HARD, SOFT_AND_HARD):
            return objective
        changed = objective | self.labels
        if self.latent and objective.get("latent", LATENT) is not None:
            changed |= {"latent": {"kind": "latent"} | (objective.get("latent") or {}) | self.latent}
        return changed


NO_CHANGE = Change()
FOUR: dict[str, tuple[float, Settings]] = {
    "general": (0.10, LATENT),
    "general_enhanced": (0.05, LATENT),
    "task_adaptive": (0.10, LATENT),
    "task_specific": (0.75, ALL_THREE),
}
"""Shares that were best on held-out rows (docs/results.md, "Distillation against its control")."""
FOUR_STAGES = "four stages"
CONTROL = "hard labels"
CONTROLS = (CONTROL, "soft + hard labels")
"""Methods that every comparison runs: the same start and tokens, with labels alone."""


def without(stage: str) -> Method:
    """Return the four stages without one, whose tokens go to the next one.

    Without `task_specific` the student still needs a classifier, so hard labels alone replace distillation.
    """
    if stage == "task_specific":
        return Method(FOUR | {stage: (FOUR[stage][0], HARD)})
    names = list(FOUR)
    following = names[names.index(stage) + 1]
    return Method(
        {
            name: (share + FOUR[stage][0] if name == following else share, objective)
            for name, (share, objective) in FOUR.items()
            if name != stage
        }
    )


METHODS: dict[str, Method] = {
    CONTROL: Method({"task_specific": (1.0, HARD)}),
    "soft + hard labels": Method({"task_specific": (1.0, SOFT_AND_HARD)}),
    FOUR_STAGES: Method(FOUR),
    **{f"without {name}": without(name) for name in FOUR},
    "TinyBERT": Method({"general": (0.40, LATENT), "task_adaptive": (0.35, LATENT), "task_specific": (0.25, SOFT)}),
    "MiniLMv2, fine-tuned": Method({"general": (0.6, RELATIONS), "task_specific": (0.4, HARD)}),
}
STARTS: dict[str, Settings] = {
    "random start": {"kind": "random"},
    "ETD-Rand": {"kind": "extract", "units": "random"},
    "ETD-Impt": {"kind": "extract", "units": "importance"},
}


def attention(loss: str) -> Settings:
    """Return the latent terms with another loss of the attention."""
    return {"terms": [{"kind": "attention", "loss": loss}, {"kind": "hidden"}, {"kind": "embedding"}]}


CHANGES: dict[str, Change] = {
    "teacher's head": Change(labels={"head": "teacher"}),
    "fitted head": Change(labels={"head": "fitted"}),
    "gradient shares": Change(latent={"normalize": "gradient_share"}),
    "first step": Change(latent={"normalize": "first_step"}),
    "centred scores": Change(latent=attention("mse_centred_scores")),
    "KL of attention": Change(latent=attention("kl_probabilities")),
    "channel projections": Change(latent={"projection_start": "channels"}),
    "fitted projections": Change(latent={"projection_start": "least_squares"}),
    "corpus of pairs": Change(corpus={"cut": "pairs"}),
    "lower layers": Change(start={"layer_map": {"kind": "bottom"}}, latent={"layer_map": {"kind": "bottom"}}),
    "last block only": Change(latent={"layer_map": {"kind": "last"}}),
    "no dropout in task_specific": Change(training={"task_specific": {"dropout": 0}}),
    "frozen word table": Change(training={stage: {"frozen": "word_embeddings"} for stage in FOUR}),
    "half in task_specific": Change(
        shares={"general": 0.2, "general_enhanced": 0.1, "task_adaptive": 0.2, "task_specific": 0.5}
    ),
    "a quarter in task_specific": Change(
        shares={"general": 0.4, "general_enhanced": 0.1, "task_adaptive": 0.25, "task_specific": 0.25}
    ),
    "no latent in task_specific": Change(labels={"latent": None}),
    "head first in task_specific": Change(training={"task_specific": {"head_first": {}}}),
    "head first in the teacher": Change(teacher={"head_first": {}}),
    "int8 simulated in task_specific": Change(training={"task_specific": {"simulated_precision": "int8"}}),
    "int8 teacher": Change(training={stage: {"teacher_precision": "int8"} for stage in FOUR}),
}
"""Changes to the four stages, by the names that `--changes` takes; each is a line of the ablation table."""


def four_stages(change: Change) -> Method:
    """Return the four stages with the shares of a change."""
    return Method({stage: (change.shares.get(stage, share), objective) for stage, (share, objective) in FOUR.items()})


def merged(changes: list[Change]) -> Change:
    """Return several changes as one; later ones win."""
    total = NO_CHANGE
    for change in changes:
        training = {
            stage: {**total.training.get(stage, {}), **change.training.get(stage, {})}
            for stage in {*total.training, *change.training}
        }
        total = replace(
            total,
            latent=total.latent | change.latent,
            labels=total.labels | change.labels,
            training=training,
            start=total.start | change.start,
            corpus=total.corpus | change.corpus,
            teacher=total.teacher | change.teacher,
            shares={**total.shares, **change.shares},
        )
    return total


def variant(
    base: Settings, method: Method, *, tokens: float, seed: int, change: Change = NO_CHANGE, factor: float = 1.0
) -> Settings:
    """Return the base recipe with a method's stages and start.

    Args:
        base: the recipe; a stage keeps the learning rate and batch of the recipe's stage of the same name.
        method: the method.
        tokens: tokens of all stages together.
        seed: seed of the start and of every stage.
        change: settings that replace the method's.
        factor: multiplies the learning rates.
    """
    trainings = {stage["name"]: stage["training"] for stage in base["stages"]}
    stages = []
    for name, (share, objective) in method.stages.items():
        training = deepcopy(trainings[name]) | dict(change.training.get(name, {}))
        training |= {"duration": f"{round(tokens * share)} tokens", "seed": seed}
        training["optimizer"]["learning_rate"] *= factor
        stages.append({"name": name, "objective": change.to_objective(name, objective), "training": training})
    start = (method.start or base["student"]["start"]) | change.start
    if start["kind"] in ("random", "extract"):
        start |= {"seed": seed}
    teacher = deepcopy(base["teacher"])
    if change.teacher:
        teacher["task_model"]["training"] |= change.teacher
    student = base["student"] | {"start": start}
    corpus = base["general_corpus"] and base["general_corpus"] | change.corpus
    return base | {
        "stages": stages,
        "student": student,
        "teacher": teacher,
        "general_corpus": corpus,
        "baselines": [],
    }


def held_out_task(task: FileTask, folder: Path, *, rows: int, seed: int = 0) -> dict[str, Any]:
    """Return a task whose validation rows are drawn from the training file.

    Training rows with the text of a drawn row are left out, so that no validation row is learnt by heart.

    Args:
        task: a task in a JSON-lines file, which may be compressed with gzip.
        folder: receives the two files.
        rows: number of rows to hold out.
        seed: seeds the draw.
    """
    path = Path(task.train)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    texts = [_text(json.loads(line), task) for line in lines]
    drawn = np.random.default_rng(seed).permutation(len(lines))[:rows]
    held_texts = {texts[index] for index in drawn}
    parts = {
        "validation": [lines[index] for index in sorted(drawn)],
        "train": [line for line, text in zip(lines, texts, strict=True) if text not in held_texts],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    return task.model_dump(mode="json") | {
        "train": str(folder / "train.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "more_validation": {},
    }


def _text(row: dict[str, Any], task: FileTask) -> tuple[str, ...]:
    columns = [task.text] if task.text_pair is None else [task.text, task.text_pair]
    return tuple(str(row[column]).casefold().strip() for column in columns)
