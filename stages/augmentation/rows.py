"""A task's training rows with copies in which words are replaced by likely others, as TinyBERT makes them.

Jiao et al. 2020, section 3.3 and algorithm 1: a word that is one token is masked and the masked-language model's K
likeliest words are its candidates; for any other word they are the K words with the nearest embeddings. A copy replaces
each word with probability p_t by a candidate drawn evenly. Candidates come from the text as it is, once for each place.

What the authors' script does otherwise, and we do not:
- it gives the model the masked text and, as second segment, the text itself; the paper speaks of the masked text alone,
  and so do we, at half the tokens;
- it masks one word at a time; so do we with `passes: null`, and by default every other word (`benchmarks.augmentation`
  says what that saves, and how many candidates it leaves the same);
- of the K likeliest entries it drops continuation pieces, but keeps the word itself and signs; here the K likeliest
  whole words other than the word itself are taken, so that a replaced word is another word;
- a copy of its is made of tokens joined by spaces; here everything around a replaced word stays as it was written;
- of a pair it varies one text at a time, the second beside whatever became of the first; here both texts of a copy are
  varied, each from its own original.

Rows are worked on in parts that are sealed one by one, so that a run that was stopped goes on at the first that is
missing. Which words of a copy are replaced depends on the seed, the row's number, the copy's number and, of a pair, the
text's place alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

# A part is what may be lost when a run is stopped, and what is in memory at a time.
PART_ROWS, PART_BYTES = 4096, 1 << 20
_WRITTEN_CHARACTERS = 4 << 20
_DESCRIPTION = "augmentation"
_NOTHING_REPLACED = (
    f"{_DESCRIPTION}: no copy differs from its row: the {{:,}} rows have no word of letters that is no stop-word and "
    "has candidates; give stop_words of the texts' language, or another teacher"
)
_TEXTS = ("text", "text_pair")
_KEPT = -1


def augmentation_digest(config: Augmentation, teacher_folder: Path, rows_digest: str) -> str:
    """SHA-256 of what decides the augmented rows; nothing is computed for it but the digests of files.

    Args:
        config: the settings.
        teacher_folder: the model whose predictions and embeddings are used.
        rows_digest: of the rows.

    Raises:
        ConfigError: the teacher has no masked-language head, but one is required.
        DataError: a file that the settings name is not there.
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
    """Every row and its copies, memory-mapped: `text`, `text_pair` for pairs, `row` and `variant`.

    `row` is the number of the row that a copy was made of, from 0; `variant` the number of the copy, 0 for the row
    itself. A copy that came out like the row or an earlier copy is left out.

    Args:
        rows: `text`, `text_pair` for pairs; other columns are not looked at.
        config: the settings.
        teacher_folder: a transformers folder.
        digest: what `augmentation_digest` gives for all three.
        cache: folder that the copies are kept in, under their digest.
        progress: is told of every part, and what else a person should know.
        stop_requested: asked before every forward pass.
        precision: number format of the model's passes.

    Raises:
        ConfigError: the teacher lacks the head that is required, or a mask token.
        DataError: a file that the settings name cannot be used, with the line; or the teacher cannot.
        Interrupted: somebody asked to stop; finished parts are kept.
        OSError: the cache cannot be written.
    """
    folder = cache / "augmented" / digest[:32]
    parts = [(bounds, folder / f"{number:06d}") for number, bounds in enumerate(part_bounds(rows))]
    missing = [(bounds, part) for bounds, part in parts if not is_whole(part)]
    if missing:
        between = _between(stop_requested)
        finder = CandidateFinder(config, teacher_folder, between, precision=precision)
        for note in finder.notes:
            progress.note(f"{_DESCRIPTION}: {note}")
        done = len(parts) - len(missing)
        progress.start(_DESCRIPTION, len(parts), done)
        for number, (bounds, part) in enumerate(missing, start=done + 1):
            make_part(rows, bounds, config, finder, part)
            progress.advance(number, {})
    found = datasets.concatenate_datasets([Dataset.from_file(str(part / "rows.arrow")) for _, part in parts])
    if len(found) == len(rows):
        progress.note(_NOTHING_REPLACED.format(len(rows)))
    return found


def part_bounds(rows: Dataset) -> list[tuple[int, int]]:
    """First row and the row after the last of each part: as many as there may be, fewer where they are long."""
    bounds, start, size, place = [], 0, 0, 0
    for table in rows.with_format("arrow").iter(batch_size=10_000):
        sizes = sum(
            pc.binary_length(table[name]).to_numpy().astype(np.int64) for name in _TEXTS if name in table.column_names
        )
        for length in np.asarray(sizes).tolist():
            if place > start and (place - start == PART_ROWS or size + length > PART_BYTES):
                bounds.append((start, place))
                start, size = place, 0
            size += length
            place += 1
    return [*bounds, (start, place)] if place else []


def make_part(
    rows: Dataset, bounds: tuple[int, int], config: Augmentation, finder: CandidateFinder, folder: Path
) -> None:
    """Augment some of the rows into a sealed folder."""
    start, end = bounds
    columns = rows[start:end]
    names = [name for name in _TEXTS if name in columns]
    # A text that stands in several rows has the same candidates in each.
    texts = list(dict.fromkeys(text for name in names for text in columns[name]))
    places = dict(zip(texts, finder.find(texts), strict=True))

    def copies() -> Iterator[_Row]:
        for row in range(start, end):
            own = tuple(columns[name][row - start] for name in names)
            yield from _copies(row, own, [places[text] for text in own], config)

    def fill(beside: Path) -> None:
        _write(beside / "rows.arrow", names, copies())

    make_whole(folder, fill)


class _Row(NamedTuple):
    texts: tuple[str, ...]
    row: int
    variant: int


def _between(stop_requested: Callable[[], bool]) -> Callable[[], None]:
    def look() -> None:
        if stop_requested():
            raise Interrupted("stopped while the training rows were augmented; finished parts kept")

    return look


def _copies(
    row: int, texts: tuple[str, ...], places: Sequence[Sequence[Replaceable]], config: Augmentation
) -> Iterator[_Row]:
    """The row itself and its copies, each once."""
    varied = [
        variants(text, each, config, np.random.Generator(np.random.PCG64([config.seed, row, field])))
        for field, (text, each) in enumerate(zip(texts, places, strict=True))
    ]
    seen = {texts}
    yield _Row(texts, row, 0)
    for variant, copy in enumerate(zip(*varied, strict=True), start=1):
        if copy not in seen:
            seen.add(copy)
            yield _Row(copy, row, variant)


def variants(text: str, places: Sequence[Replaceable], config: Augmentation, random: np.random.Generator) -> list[str]:
    """Copies of one text; what is drawn for a copy does not depend on how many there are."""
    if not places:
        return [text] * config.copies
    draws = random.random((config.copies, 2, len(places)))
    replaced = draws[:, 0] < config.replace_probability
    numbers = np.array([len(place.candidates) for place in places])
    chosen = np.where(replaced, draws[:, 1] * numbers, _KEPT).astype(np.int64)
    ends = [0, *(place.end for place in places)]
    between = [text[end : place.start] for end, place in zip(ends, places, strict=False)]
    # The word itself stands last, so that it is what _KEPT takes.
    words = [[*place.candidates, text[place.start : place.end]] for place in places]
    answers = []
    for copy in chosen.tolist():
        pairs = zip(between, words, copy, strict=True)
        parts = [part for before, among, one in pairs for part in (before, among[one])]
        answers.append("".join(parts) + text[ends[-1] :])
    return answers


def _write(file: Path, names: Sequence[str], rows: Iterator[_Row]) -> None:
    """Write rows as an Arrow stream, some at a time."""
    schema = pa.schema([(name, pa.string()) for name in names] + [("row", pa.int64()), ("variant", pa.int64())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        some: list[_Row] = []
        characters = 0

        def flush() -> None:
            columns = list(zip(*(row.texts for row in some), strict=True))
            numbers = [[row.row for row in some], [row.variant for row in some]]
            arrays = [*columns, *numbers]
            writer.write_table(pa.table(dict(zip(schema.names, arrays, strict=True)), schema))

        for row in rows:
            some.append(row)
            characters += sum(map(len, row.texts))
            if characters > _WRITTEN_CHARACTERS:
                flush()
                some, characters = [], 0
        if some:
            flush()
