"""Data augmentation of TinyBERT: copies of a task's training rows with words replaced by likely others.

Jiao et al. 2020, section 3.3 and algorithm 1: a word that is one token is masked, and its candidates are the K
likeliest words of the masked-language model; candidates of other words are the K words with the nearest embeddings. A
copy replaces each word with probability p_t by a candidate drawn uniformly. All candidates come from the original text.

Differences from the authors' script:
- It gives the model the masked text and, as second segment, the text itself. The paper mentions the masked text alone,
  which is what the model gets here, at half the tokens.
- It masks one word at a time. So does `passes: null`; by default every other word is masked (`benchmarks.augmentation`
  measures the time saved and the share of equal candidates).
- Of the K likeliest entries it drops continuation pieces, but keeps the word itself and signs. Here they are the K
  likeliest whole words other than the word itself, so that a replaced word is a different word.
- Its copies are tokens joined by spaces. Here everything around a replaced word stays as it was written.
- It augments one text of a pair at a time, the second next to the augmented first. Here both texts of a copy are
  augmented independently.

Rows are augmented in parts that are sealed one by one, so an interrupted run continues at the first missing part. The
words that a copy replaces depend only on the seed, the numbers of row and copy and, for a pair, the text's column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.base import digest_of
from schemas.core.errors import Interrupted
from schemas.data.augmentation import Augmentation
from stages.augmentation.candidates import CandidateFinder, Replaceable, uses_head
from stages.augmentation.nearest_words import glove_file
from stages.augmentation.stop_words import stop_words
from stages.device.runtime import Precision
from stages.models.encoders import folder_digest
from stages.ports.protocols import Progress
from stages.storage.format_versions import AUGMENTATION_VERSION
from stages.storage.sealed_folder import file_digest, is_whole, make_whole
from stages.text.pieces import pieces_of

# One part is in memory at a time, and lost when a run is stopped.
PART_ROWS, PART_BYTES = 4096, 1 << 20
_COPIES_AT_ONCE = 4096
_ROWS_AT_ONCE = 10_000
_DESCRIPTION = "augmentation"
_NOTHING_REPLACED = (
    f"{_DESCRIPTION}: no copy differs from its row: no word of the {{:,}} rows consists of letters, is no stop-word "
    "and has candidates; give stop_words of the texts' language, or another teacher"
)
_TEXTS = ("text", "text_pair")
_KEPT = -1


def augmentation_digest(config: Augmentation, teacher_folder: Path, rows_digest: str) -> str:
    """Return the SHA-256 of all that decides the augmented rows, from digests of files alone.

    Args:
        config: the settings.
        teacher_folder: the model whose predictions and embeddings are used.
        rows_digest: of the rows.

    Raises:
        ConfigError: a masked-language head is required, but the teacher has none.
        DataError: a file of the settings does not exist.
    """
    settings = config.model_dump(mode="json", exclude={"embeddings", "stop_words", "masked_language", "passes"})
    has_head = uses_head(config, teacher_folder)
    embeddings = config.embeddings and file_digest(glove_file(config.embeddings))
    return digest_of(
        {
            "settings": settings,
            "passes": ["predicted", config.passes] if has_head else None,
            "embeddings": embeddings,
            "stop_words": sorted(stop_words(config)),
            "teacher": folder_digest(teacher_folder),
            "rows": rows_digest,
            "version": AUGMENTATION_VERSION,
        }
    )


def augmented_rows(
    rows: Dataset,
    config: Augmentation,
    teacher_folder: Path,
    *,
    digest: str,
    cache: Path,
    progress: Progress,
    stop_requested: Callable[[], bool] = lambda: False,
    precision: Precision = "auto",
) -> Dataset:
    """Return every row and its copies, memory-mapped: `text`, `text_pair` for pairs, `row` and `variant`.

    `row` is the number of the original, `variant` that of the copy, 0 for the row itself. Equal copies are left out.

    Args:
        rows: `text`, and `text_pair` for pairs; other columns are ignored.
        config: the settings.
        teacher_folder: a transformers folder.
        digest: result of `augmentation_digest` for all three.
        cache: folder that keeps the copies under their digest.
        progress: receives every finished part, and messages for the user.
        stop_requested: called before every forward pass.
        precision: number format of the model's passes.

    Raises:
        ConfigError: the teacher lacks the required head, or a mask token.
        DataError: a file of the settings, or the teacher, cannot be used.
        Interrupted: a stop was requested; finished parts are kept.
        OSError: the cache cannot be written.
    """
    parts = _parts(rows, cache / "augmented" / digest[:32])
    missing = [(bounds, part) for bounds, part in parts if not is_whole(part)]
    if missing:
        finder = CandidateFinder(config, teacher_folder, _between(stop_requested), precision=precision)
        for note in finder.notes:
            progress.note(f"{_DESCRIPTION}: {note}")
        progress.start(_DESCRIPTION, len(parts), done := len(parts) - len(missing))
        for number, (bounds, part) in enumerate(missing, start=done + 1):
            make_part(rows, bounds, config, finder, part)
            progress.advance(number, {})
    augmented = datasets.concatenate_datasets([Dataset.from_file(str(part / "rows.arrow")) for _, part in parts])
    if len(augmented) == len(rows):
        progress.note(_NOTHING_REPLACED.format(len(rows)))
    return augmented


def _parts(rows: Dataset, folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """Return bounds and folder of each part."""
    return [(bounds, folder / f"{number:06d}") for number, bounds in enumerate(part_bounds(rows))]


def part_bounds(rows: Dataset) -> list[tuple[int, int]]:
    """Return the first row and the row after the last of each part, which holds fewer rows if they are long."""
    sizes = np.zeros(len(rows), np.int64)
    for number, table in enumerate(rows.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)):
        for name in set(_TEXTS) & set(table.column_names):
            start = number * _ROWS_AT_ONCE
            sizes[start : start + len(table)] += pc.binary_length(table[name]).to_numpy()
    return [(piece.start, piece.stop) for piece in pieces_of(sizes, PART_BYTES, PART_ROWS)]


def make_part(
    rows: Dataset, bounds: tuple[int, int], config: Augmentation, finder: CandidateFinder, folder: Path
) -> None:
    """Write some of the rows and their copies to a sealed folder."""
    start, end = bounds
    columns = rows[start:end]
    names = [name for name in _TEXTS if name in columns]
    # A text that several rows share has the same candidates in each.
    texts = list(dict.fromkeys(text for name in names for text in columns[name]))
    words = dict(zip(texts, finder.find(texts), strict=True))

    def copies() -> Iterator[_Row]:
        for row in range(start, end):
            of_row = tuple(columns[name][row - start] for name in names)
            yield from _copies(row, of_row, [words[text] for text in of_row], config)

    def fill(beside: Path) -> None:
        _write(beside / "rows.arrow", names, copies())

    make_whole(folder, fill)


class _Row(NamedTuple):
    texts: tuple[str, ...]
    row: int
    variant: int


def _between(stop_requested: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if stop_requested():
            raise Interrupted("stopped while the training rows were augmented; finished parts kept")

    return check


def _copies(
    row: int, texts: tuple[str, ...], words: Sequence[Sequence[Replaceable]], config: Augmentation
) -> Iterator[_Row]:
    """Yield the row itself and its copies, without repetitions."""
    varied = [
        variants(text, of_text, config, np.random.Generator(np.random.PCG64([config.seed, row, field])))
        for field, (text, of_text) in enumerate(zip(texts, words, strict=True))
    ]
    seen = {texts}
    yield _Row(texts, row, 0)
    for variant, copy in enumerate(zip(*varied, strict=True), start=1):
        if copy not in seen:
            seen.add(copy)
            yield _Row(copy, row, variant)


def variants(text: str, words: Sequence[Replaceable], config: Augmentation, random: np.random.Generator) -> list[str]:
    """Return copies of one text; the draws for a copy do not depend on the number of copies."""
    if not words:
        return [text] * config.copies
    draws = random.random((config.copies, 2, len(words)))
    replaced = draws[:, 0] < config.replace_probability
    numbers = np.array([len(word.candidates) for word in words])
    chosen = np.where(replaced, draws[:, 1] * numbers, _KEPT).astype(np.int64)
    ends = [0, *(word.end for word in words)]
    between = [text[end : word.start] for end, word in zip(ends, words, strict=False)]
    # The word itself comes last, where _KEPT finds it.
    choices = [[*word.candidates, text[word.start : word.end]] for word in words]
    copies = []
    for copy in chosen.tolist():
        pairs = zip(between, choices, copy, strict=True)
        parts = [part for before, among, number in pairs for part in (before, among[number])]
        copies.append("".join(parts) + text[ends[-1] :])
    return copies


def _write(file: Path, names: Sequence[str], rows: Iterator[_Row]) -> None:
    """Write rows as an Arrow stream, some at a time."""
    schema = pa.schema([(name, pa.string()) for name in names] + [("row", pa.int64()), ("variant", pa.int64())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while some := list(islice(rows, _COPIES_AT_ONCE)):
            texts = map(list, zip(*(row.texts for row in some), strict=True))
            columns = [*texts, [row.row for row in some], [row.variant for row in some]]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema))
