"""Data and models that change at random moments of a stage: the stage uses their first state, or is refused.

A completed stage must have the digest that it began with, and the weights of an undisturbed stage.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from schemas.core.base import digest_of
from schemas.core.errors import DistillError
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import TaskDataset
from schemas.recipe.expand import TaskTeachers, stage_config, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.data.corpus.prepare import load_corpus
from stages.data.readers.first_reading import first_reading
from stages.data.tasks.load import load_task
from stages.identity import stage_identity
from stages.ports.plain import MetricList, plain_ports
from stages.run import run_stage
from stages.storage.sealed_folder import sha256_of
from tests.support.toys import toy_recipe

_FILES = (
    "task/train.jsonl",
    "task/validation.jsonl",
    "corpus.jsonl",
    "teacher/model.safetensors",
    "teacher/config.json",
    "teacher/tokenizer.json",
)


@dataclass
class Changes:
    """Result of a campaign."""

    cases: Counter[str] = field(default_factory=Counter)
    """Number of stages by change and outcome."""
    losses: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = "".join(f"\n  {number:5d}  {kind}" for kind, number in sorted(self.cases.items()))
        return f"{self.cases.total()} stages disturbed by a changed file{kinds}\n"


def _append(file: Path) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write('{"text_a": "a good film", "text": "a good film", "label": "good"}\n')


def _flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-3, os.SEEK_END)
        (byte,) = opened.read(1)
        opened.seek(-3, os.SEEK_END)
        opened.write(bytes([byte ^ 1]))


def _replace(file: Path) -> None:
    replacement = file.with_name(f"other-{file.name}")
    shutil.copy(file, replacement)
    _flip(replacement)
    os.replace(replacement, file)


def _half(file: Path) -> None:
    # Truncating a mapped file in place would kill the process.
    replacement = file.with_name(f"half-{file.name}")
    replacement.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    os.replace(replacement, file)


CHANGES: dict[str, Callable[[Path], None]] = {
    "grown": _append,
    "one bit": _flip,
    "replaced": _replace,
    "cut in half": _half,
    "removed": Path.unlink,
    "touched": Path.touch,
}


def change_campaign(folder: Path, *, cases: int, seed: int = 0) -> Changes:
    """Run stages, each disturbed once.

    Args:
        folder: an empty folder.
        cases: number of stages.
        seed: of every draw.
    """
    draw, tally = random.Random(seed), Changes()
    recipe = toy_recipe(folder / "in", steps=3)
    shutil.copytree(folder / "in", folder / "kept")
    stages = (teacher_configs(recipe)[0], stage_config(recipe, recipe.stages[0], TaskTeachers()))
    short = recipe.stages[0].training.duration
    configs = [
        config.model_copy(update={"training": config.training.model_copy(update={"duration": short})})
        for config in stages
    ]
    undisturbed = {config.name: _Stage(config, folder / "undisturbed") for config in configs}
    for stage in undisturbed.values():
        stage.run(recipe)
    for case in range(cases):
        config = draw.choice(configs)
        file, change = draw.choice(_FILES), draw.choice(sorted(CHANGES))
        wanted = undisturbed[config.name]
        stage = _Stage(config, folder / "case")
        delay = draw.uniform(0, 1.1 * wanted.seconds)
        timer = threading.Timer(delay, CHANGES[change], (folder / "in" / file,))
        timer.start()
        stage.run(recipe)
        timer.join()
        tally.cases[f"{change}: {stage.end(wanted)}"] += 1
        if (loss := stage.loss(wanted)) is not None:
            tally.losses.append(f"case {case}: {config.name}, {file} {change} after {delay:.2f} s: {loss}")
        for part in ("in", "case"):
            shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(folder / "kept", folder / "in")
    return tally


class _Stage:
    """One stage as in a run: the data is read first."""

    def __init__(self, config: StageConfig, folder: Path) -> None:
        self.config, self.folder = config, folder / config.name
        self.digest = self.stored_digest = self.weights = ""
        self.seconds = 0.0
        self.sink = MetricList()
        self.error: BaseException | None = None

    def run(self, recipe: Recipe) -> None:
        """Run the stage to its end, or to its first error."""
        began = time.monotonic()
        ports = plain_ports(self.folder, sink=self.sink)
        try:
            with first_reading():
                match self.config.data:
                    case TaskDataset(task=task):
                        load_task(task, ports.cache)
                    case GeneralCorpus() as corpus:
                        load_corpus(corpus, ports.cache)
                identity = stage_identity(self.config, None)
                self.digest = digest_of(identity)
                result = run_stage(self.config, None, ports, identity)
            self.stored_digest = result.checkpoint.digest
            self.weights = sha256_of(Path(result.checkpoint.path) / "model" / "model.safetensors")
        except Exception as error:
            self.error = error
        self.seconds = time.monotonic() - began

    def end(self, wanted: _Stage) -> str:
        """Describe the outcome."""
        if self.error is not None:
            return "refused"
        return "as undisturbed" if self.digest == wanted.digest else "another stage"

    def loss(self, wanted: _Stage) -> str | None:
        """Return the reason for a loss, or None."""
        if self.error is not None:
            if self.sink.points:
                return f"it failed after training began: {self.error!r}"
            return None if isinstance(self.error, DistillError) else repr(self.error)
        if self.stored_digest != self.digest:
            return f"it was stored under another digest ({self.stored_digest[:8]})"
        if self.digest == wanted.digest and self.weights != wanted.weights:
            return "it has other weights than the digest says"
        return None
