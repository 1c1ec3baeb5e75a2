"""The data of a stage, tokenised: a general corpus, one labelled task, or several tasks that share a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from schemas.core.kinds import Classification, TaskKind
from schemas.core.training import Selection
from schemas.data.corpus import GeneralCorpus
from schemas.data.stage_data import Data, TaskDataset, TaskMixture
from schemas.data.tasks import AnyTask
from stages.augmentation.task import Augmenter, augmented_task
from stages.data.batching.tokens import Tokens
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import tokenize_corpus
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_split, tokenize_task
from stages.evaluation.task_part import TaskPart, held_out_rows
from stages.training.value_scale import Units


@dataclass(frozen=True)
class StageData:
    """Tokenised text of a stage, ready to be batched."""

    train: Tokens
    held_out: Tokens
    labels: tuple[str, ...]
    """Names of the head's outputs, in order; empty for a general corpus."""
    problem: TaskKind | None = None
    """Kind of the task; None for a general corpus."""
    parts: Mapping[str, TaskPart] = field(default_factory=dict)
    """Labelled tasks by name; a single task has the name "". Empty for a general corpus."""

    @property
    def positive_label(self) -> str | None:
        """The class whose F1 is reported; None without one, and for several tasks."""
        only = self.parts.get("")
        return None if only is None else only.rows.positive_label

    @cached_property
    def units(self) -> Units | None:
        """Mean and deviation of the values that the head predicts; None if it predicts none."""
        return Units.of(part.rows for part in self.parts.values())


def load_data(
    data: Data,
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
    selection: Selection | None = None,
    augmenter: Augmenter | None = None,
) -> StageData:
    """Read and tokenise the data of a stage.

    Args:
        data: source of the text.
        tokenizer: the teacher's.
        cache: folder of tokenised data.
        selection: decides which training rows are held out; None holds out none.
        augmenter: writes the copies of augmented rows; None leaves them out.
    """
    match data:
        case GeneralCorpus():
            train, held_out = tokenize_corpus(
                load_corpus(data, cache), tokenizer, max_length=data.max_length, cache=cache
            )
            return StageData(train, held_out, ())
        case TaskDataset():
            part = _task_part(data.task, tokenizer, cache, selection)
            rows, learnt = part.rows, part.learnt()
            if data.augmentation is not None and augmenter is not None:
                copied = augmented_task(rows, part.rows_learnt(), data.augmentation, augmenter, cache)
                max_length = data.task.max_length
                learnt = tokenize_split(copied, "train", tokenizer, max_length=max_length, cache=cache)
            return StageData(learnt, part.validation, rows.labels, rows.problem, parts={"": part})
        case TaskMixture():
            return _mixture(data, tokenizer, cache, selection)


def _mixture(
    data: TaskMixture, tokenizer: PreTrainedTokenizerFast, cache: Path, selection: Selection | None
) -> StageData:
    """Concatenate the rows of several tasks and the outputs of their heads."""
    parts: dict[str, TaskPart] = {}
    labels: tuple[str, ...] = ()
    for name, task in data.tasks.items():
        part = _task_part(task, tokenizer, cache, selection, first_output=len(labels))
        parts[name] = part
        labels += tuple(f"{name}/{label}" for label in part.rows.labels)
    sizes = [len(part.rows.labels) for part in parts.values()]
    return StageData(
        Tokens.joined([part.learnt() for part in parts.values()], sizes),
        Tokens.joined([part.validation for part in parts.values()], sizes),
        labels,
        # One output layer, whether an output is a class or a value.
        problem=Classification(),
        parts=parts,
    )


def _task_part(
    task: AnyTask,
    tokenizer: PreTrainedTokenizerFast,
    cache: Path,
    selection: Selection | None,
    *,
    first_output: int | None = None,
) -> TaskPart:
    """Load one labelled task; `first_output` is its first output in a shared head, None if it has the head alone."""
    rows = load_task(task, cache, droppable=1)  # the check before the run applied the recipe's limits
    train, validation = tokenize_task(rows, tokenizer, max_length=task.max_length, cache=cache)
    outputs = slice(None) if first_output is None else slice(first_output, first_output + len(rows.labels))
    held_out = None if selection is None else held_out_rows(rows, task, selection)
    return TaskPart(task, rows, train, validation, outputs, held_out)
