"""Rows of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.predict.standard_input import is_unicode
from schemas.core.errors import ConfigError
from schemas.core.kinds import MultipleChoice
from schemas.core.wording import printable
from schemas.results.export import TaskForm
from stages.predictions.rows import Row, needed_texts

_FILES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".conll", ".gz", ".bz2", ".xz", ".zst")


def rows_of_texts(form: TaskForm, texts: Sequence[str], pairs: Sequence[str], choices: Sequence[str]) -> list[Row]:
    """Return a row for each text.

    Args:
        form: the task's.
        texts: the texts.
        pairs: `--pair`: the second text of each, or one for all.
        choices: `--choice`, of every row.

    Raises:
        ConfigError: the task has other texts.
    """
    for text in (*texts, *pairs, *choices):
        if not is_unicode(text):
            raise ConfigError(f"{printable(text, 60)} is not text in UTF-8; give a file with --file and --encoding")
    if len(texts) == 1 and texts[0].endswith(_FILES) and Path(texts[0]).is_file():
        raise ConfigError(f"{texts[0]} is a file: read its rows with --file {texts[0]}")
    is_choice = isinstance(form.problem, MultipleChoice)
    if is_choice != bool(choices) or (choices and len(choices) < 2):
        needed = "--choice A --choice B, twice or more" if is_choice else "no --choice"
        raise ConfigError(f"rows of this task have {needed_texts(form)}: give {needed}")
    if form.has_pair and not pairs:
        raise ConfigError(f'rows of this task have {needed_texts(form)}: give the second text with --pair "…"')
    if pairs and form.has_pair is False:
        raise ConfigError(f"--pair: rows of this task have {needed_texts(form)}; leave it out")
    if len(pairs) not in (0, 1, len(texts)):
        raise ConfigError(f"--pair is given {len(pairs)} times for {len(texts)} texts; give it once, or for each text")
    second: list[str | None] = [*pairs] if len(pairs) == len(texts) else [pairs[0] if pairs else None] * len(texts)
    return [
        Row(number, text, pair, choices=tuple(choices))
        for number, (text, pair) in enumerate(zip(texts, second, strict=True), start=1)
    ]
