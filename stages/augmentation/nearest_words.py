"""Words with the nearest embeddings: from a GloVe file, or among the input embeddings of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from schemas.core.errors import DataError
from schemas.core.paths import local_path
from schemas.core.regular_files import check_regular
from stages.augmentation.vocabulary import SPACED, UNSPACED, Lexicon
from stages.augmentation.words import Word
from stages.data.batching.tokens import Tokens
from stages.data.files.compression import DAMAGED, open_plain
from stages.text.scripts import is_letters, is_unspaced

# As in the source; the files name the most frequent words first.
MOST_WORDS = 100_000
_MOST_NUMBERS = 4096
_LONGEST_LINE = 1 << 20
# Scores held at a time: 16 MB, which a processor's cache nearly takes.
_SCORES = 1 << 22
_PLACE = "augmentation.embeddings"


class Neighbours:
    """A table of vectors, and the words they stand for."""

    def __init__(self, lexicon: Lexicon, vectors: Tensor) -> None:
        """Make every vector as long as the others, so that a product is a cosine.

        Args:
            lexicon: the entries.
            vectors: (entries, width).
        """
        self.lexicon = lexicon
        self.vectors = normalize(vectors.float(), dim=-1)

    def nearest(self, asked: Tensor, words: Sequence[str], number: int) -> list[NDArray[np.int64]]:
        """The entries nearest to each vector by cosine, nearest first, the word itself left out.

        Args:
            asked: (words, width).
            words: what they stand for.
            number: how many at most.
        """
        found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(words)
        kinds = np.array([UNSPACED if is_unspaced(word) else SPACED for word in words])
        own = np.array([self.lexicon.number_of(word) for word in words])
        asked = normalize(asked.float(), dim=-1)
        at_once = max(1, _SCORES // len(self.vectors))
        for kind in (SPACED, UNSPACED):
            chosen = np.flatnonzero(kinds == kind)
            for lines in np.split(chosen, range(at_once, len(chosen), at_once)):
                if not len(lines):
                    continue
                scores = asked[torch.from_numpy(lines)] @ self.vectors.T
                nothing = np.full(len(lines), -1)
                best = self.lexicon.best(scores, kind, number, but_forms=own[lines], but_entries=nothing)
                for line, entries in zip(lines, best, strict=True):
                    found[line] = entries[entries >= 0]
        return found


class GloveNeighbours:
    """The neighbours of words in a GloVe file; a word that it does not hold has none."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigError: no file can have that name.
            DataError: it cannot be read, or a line is not as the first one.
        """
        words, vectors = read_glove(glove_file(path))
        unspaced = np.array([is_unspaced(word) for word in words])
        self.table = Neighbours(Lexicon(words, np.stack([~unspaced, ~unspaced, unspaced])), vectors)
        self.rows = {word: row for row, word in reversed(list(enumerate(words)))}

    def of(self, words: Sequence[Word], _tokens: Tokens, number: int) -> list[list[str]]:
        """The words nearest to each."""
        rows = [self.rows.get(each.written, self.rows.get(each.written.lower())) for each in words]
        known = [place for place, row in enumerate(rows) if row is not None]
        asked = self.table.vectors[[rows[place] for place in known]]
        found = self.table.nearest(asked, [words[place].written for place in known], number)
        answers: list[list[str]] = [[] for _ in words]
        for place, entries in zip(known, found, strict=True):
            answers[place] = [self.table.lexicon.words[entry] for entry in entries]
        return answers


class OwnNeighbours:
    """The neighbours of words among a model's input embeddings: a word is the mean of its pieces."""

    def __init__(self, lexicon: Lexicon, embeddings: Tensor, unknown: int | None) -> None:
        """Take a model's table.

        Args:
            lexicon: of the vocabulary.
            embeddings: (ids or more, width).
            unknown: the token of pieces that the vocabulary lacks; a word with one has no neighbours.
        """
        self.embeddings = embeddings.float()
        words = np.flatnonzero(lexicon.kinds[SPACED] | lexicon.kinds[UNSPACED])
        entries = Lexicon([lexicon.words[word] for word in words.tolist()], lexicon.kinds[:, words])
        self.table = Neighbours(entries, self.embeddings[torch.from_numpy(words)])
        self.unknown = unknown

    def of(self, words: Sequence[Word], tokens: Tokens, number: int) -> list[list[str]]:
        """The words nearest to each."""
        answers: list[list[str]] = [[] for _ in words]
        pieces: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for place, word in enumerate(words):
            start = int(tokens.starts[word.text])
            ids = tuple(tokens.ids[start + word.first : start + word.last].tolist())
            if self.unknown not in ids:
                pieces.setdefault((word.written.lower(), ids), []).append(place)
        if not pieces:
            return answers
        lengths = np.array([len(ids) for _, ids in pieces])
        flat = torch.tensor([one for _, ids in pieces for one in ids])
        offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
        asked = embedding_bag(flat, self.embeddings, offsets, mode="mean")
        found = self.table.nearest(asked, [written for written, _ in pieces], number)
        for places, entries in zip(pieces.values(), found, strict=True):
            for place in places:
                answers[place] = [self.table.lexicon.words[entry] for entry in entries]
        return answers


def glove_file(given: str) -> Path:
    """The file that `embeddings` names.

    Raises:
        ConfigError: no file can have that name.
        DataError: it is not there.
    """
    path = local_path(given, _PLACE)
    check_regular(path, _PLACE)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise DataError(
            f"{_PLACE}: {path} {what}; give a GloVe file (such as glove.6B.300d.txt, plain or .gz), or null to take "
            "the teacher's own embeddings"
        )
    return path


def read_glove(path: Path) -> tuple[list[str], Tensor]:
    """The words of letters among the first 100,000 of a GloVe file, and their vectors.

    Raises:
        DataError: what is wrong with it, with the line and what to do.
    """
    words: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    try:
        for word, vector in islice(_lines(path), MOST_WORDS):
            if is_letters(word) and vector.any():
                words.append(word)
                vectors.append(vector)
    except DAMAGED as error:
        raise DataError(
            f"{_PLACE}: {path} is cut short or not packed as its name says ({error}); fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"{_PLACE}: {path} cannot be read ({error.strerror}); check the file and the disk") from None
    if len(words) < 2:
        raise DataError(
            f"{_PLACE}: {path} holds {len(words)} words of letters; give a GloVe file: a word and its numbers a line"
        )
    return words, torch.from_numpy(np.stack(vectors))


def _lines(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    width = 0
    with open_plain(path) as file:
        for number in count(1):
            line = file.readline(_LONGEST_LINE)
            if not line:
                return
            try:
                parts = line.decode("utf-8-sig" if number == 1 else "utf-8").split()
            except UnicodeDecodeError:
                raise _refused(path, number, "is not UTF-8") from None
            if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                continue  # word2vec's heading: how many words, how many numbers
            width = width or len(parts) - 1
            if not 2 <= width <= _MOST_NUMBERS:
                raise _refused(path, number, f"has {width} numbers after its word")
            yield _parsed(path, number, parts, width)


def _parsed(path: Path, number: int, parts: list[str], width: int) -> tuple[str, NDArray[np.float32]]:
    # A few words of the largest GloVe file have spaces in them; they are not looked up.
    word, numbers = " ".join(parts[:-width]), parts[-width:]
    if not word or (len(parts) > width + 1 and _is_number(parts[-width - 1])):
        given = len(parts) - 1
        raise _refused(path, number, f"has {given} numbers after its word where the first line has {width}")
    try:
        vector = np.array(numbers, np.float32)
    except ValueError:
        wrong = next(part for part in numbers if not _is_number(part))
        raise _refused(path, number, f"has {wrong[:40]!r} where a number should be") from None
    if not np.isfinite(vector).all():
        raise _refused(path, number, "has a number that is not finite")
    return word, vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refused(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"{_PLACE}: {path}: line {number} {what}; a GloVe file has a word and its numbers on each line, as many on "
        "all: mend the line or fetch the file again"
    )
