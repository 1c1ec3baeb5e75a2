"""Card of a run's texts: sizes, balance, and faults, which are refused above the limits of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.data.cards import DataCard, DataLimits, LengthCard, SplitCard, TaskCard
from schemas.data.tasks import TaskData, describe_task
from schemas.recipe.recipe import Recipe
from stages.data.batching.tokens import Tokens
from stages.data.corpus.digests import corpus_digest
from stages.data.corpus.leaks import leaks_of
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.tokenize import corpus_summary
from stages.data.tasks.load import load_task, task_digest
from stages.data.tasks.repeated_rows import row_hashes
from stages.data.tasks.tokenize import tokenize_split, tokenizer_digest
from stages.kinds.registry import kind_of
from stages.kinds.rows import TaskRows
from stages.storage.format_versions import CARD_VERSION
from stages.storage.sealed_folder import is_whole, make_whole
from stages.text.fingerprints import Hashes

_CARD = "card.json"


def make_data_card(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, cache: Path) -> DataCard:
    """Return the card of all data that a recipe reads, which is thereby prepared for the run.

    Raises:
        DataError: more rows are faulty than `recipe.limits` accepts.
    """
    task, corpus = recipe.task, recipe.general_corpus
    identity = {
        "task": None if task is None else [task_digest(task), task.max_length],
        "corpus": None if corpus is None else corpus_digest(corpus),
        "tokenizer": tokenizer_digest(tokenizer),
        "version": CARD_VERSION,
    }
    folder = cache / "cards" / digest_of(identity)[:32]
    if not is_whole(folder):
        made = _make_card(recipe, tokenizer, cache)

        def write(into: Path) -> None:
            (into / _CARD).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")

        make_whole(folder, write)
    card = DataCard.model_validate_json((folder / _CARD).read_text(encoding="utf-8"))
    check_card(card, recipe.limits)
    return card


def _make_card(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, cache: Path) -> DataCard:
    task, corpus = recipe.task, recipe.general_corpus
    card = summary = leaks = None
    if task is not None:
        rows = load_task(task, cache, droppable=recipe.limits.dropped)
        card = task_card(task, rows, tokenizer, cache)
    if corpus is not None:
        summary = corpus_summary(corpus, cache, tokenizer)
        if task is not None:
            leaks = leaks_of(task, load_corpus(corpus, cache).train, cache)
    return DataCard(task=card, corpus=summary, leaks=leaks)


def task_card(task: TaskData, rows: TaskRows, tokenizer: PreTrainedTokenizerFast, cache: Path) -> TaskCard:
    """Return the card of a task."""
    splits = {}
    train = row_hashes(rows.train)
    for name in ("train", "validation", *rows.more):
        tokens = tokenize_split(rows, name, tokenizer, max_length=task.max_length, cache=cache)
        splits[name] = _split_card(rows, name, tokens, train)
    return TaskCard(task=describe_task(task), kind=task.problem.kind, splits=splits)


def _split_card(rows: TaskRows, name: str, tokens: Tokens, train: Hashes) -> SplitCard:
    data = rows.split(name)
    hashes = train if name == "train" else row_hashes(data)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    answers = _answer_numbers(data)
    return SplitCard(
        rows=len(data),
        sequences=len(tokens),
        tokens=tokens.num_tokens,
        lengths=_lengths(tokens.lengths),
        cut=_rows_cut(tokens),
        duplicates=len(data) - len(first),
        contradictions=0 if answers is None else _contradictions(group, answers),
        in_train=0 if name == "train" else int(np.isin(hashes, train).sum()),
        dropped=rows.dropped.get(name, 0),
        labels=kind_of(rows.problem).balance(rows.labels, data),
    )


def _rows_cut(tokens: Tokens) -> int:
    """Return the number of rows with a truncated sequence."""
    if tokens.cut is None:
        return 0
    return len(np.unique(tokens.row_of[tokens.cut]))


def _lengths(lengths: np.ndarray) -> LengthCard:
    return LengthCard(
        mean=float(lengths.mean()),
        median=int(np.median(lengths)),
        most_of=int(np.quantile(lengths, 0.95, method="higher")),
        longest=int(lengths.max()),
    )


def _answer_numbers(data: Dataset) -> np.ndarray | None:
    """Return (rows,) a number for each distinct label; None without labels."""
    column = next((name for name in ("label", "answers") if name in data.column_names), None)
    if column is None:
        return None
    texts = np.array([repr(value) for value in data[column]], dtype=object)
    return np.unique(texts.astype(str), return_inverse=True)[1]


def _contradictions(group: np.ndarray, answers: np.ndarray) -> int:
    """Return the number of rows whose text occurs with several labels."""
    pairs = np.unique(np.stack([group, answers], axis=1), axis=0)
    answers_of_text = np.bincount(pairs[:, 0], minlength=group.max() + 1)
    return int((answers_of_text[group] > 1).sum())


def _faults(card: DataCard) -> Iterator[tuple[str, int, int, str, str]]:
    """Yield the limit, the number of faulty rows, that of all rows, the fault, and the remedy."""
    for name, split in card.task.splits.items() if card.task else ():
        where, rows = f"task, {name}", split.rows
        yield "cut", split.cut, rows, f"{where}: cut off by max_length", "raise task.max_length"
        if name == "train":
            yield "duplicates", split.duplicates, rows, f"{where}: repeated texts", "leave the repeated rows out"
            yield "contradictions", split.contradictions, rows, f"{where}: texts with several labels", "fix the labels"
        else:
            texts = f"{where}: texts that are also in train"
            yield "in_train", split.in_train, rows, texts, "give other validation rows"
    if card.leaks is not None and card.corpus is not None:
        rows = sum(source.train for source in card.corpus.sources)
        texts = "general_corpus: rows that hold a validation text of the task"
        yield "corpus_leaks", card.leaks.rows, rows, texts, "name the task in general_corpus.decontaminate"


def check_card(card: DataCard, limits: DataLimits) -> None:
    """Refuse texts with more faults than a recipe accepts.

    Raises:
        DataError: every limit that is exceeded, with the figures and what to do.
    """
    problems = []
    for name, odd, of, what, remedy in _faults(card):
        limit: float = getattr(limits, name)
        if of and odd / of > limit:
            problems.append(
                f"limits.{name}: {what}: {odd:,} of {of:,} rows, {100 * odd / of:.1f} %, and {100 * limit:g} % are "
                f"accepted; {remedy}, or raise limits.{name}"
            )
    if problems:
        raise DataError(problems[0] if len(problems) == 1 else "; ".join(problems))
