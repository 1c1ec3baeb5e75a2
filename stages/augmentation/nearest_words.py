"""Words with the nearest embeddings, from a GloVe file or among the input embeddings of a model."""

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
from stages.text.scripts import is_letters, is_number, is_unspaced

# As in the authors' script; the files list the most frequent words first.
MOST_WORDS = 100_000
_MOST_NUMBERS = 4096
_LONGEST_LINE = 1 << 20
# Scores held at a time: 16 MB, which a processor's cache nearly takes.
_SCORES = 1 << 22
_FIELD = "augmentation.embeddings"


class Neighbours:
    """A table of word vectors."""

    def __init__(self, lexicon: Lexicon, vectors: Tensor) -> None:
        """Normalise the vectors, so that a product is a cosine.

        Args:
            lexicon: the entries.
            vectors: (entries, width).
        """
        self.lexicon = lexicon
        self.vectors = normalize(vectors.float(), dim=-1)

    def nearest(self, queries: Tensor, words: Sequence[str], number: int) -> list[NDArray[np.int64]]:
        """Return the entries nearest to each vector by cosine, nearest first, without the word itself.

        Args:
            queries: (words, width) the vectors.
            words: the words of the vectors.
            number: most entries per word.
        """
        nearest: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(words)
        kinds = np.array([UNSPACED if is_unspaced(word) else SPACED for word in words])
        forms = np.array([self.lexicon.number_of(word) for word in words])
        queries = normalize(queries.float(), dim=-1)
        at_once = max(1, _SCORES // len(self.vectors))
        for kind in (SPACED, UNSPACED):
            chosen = np.flatnonzero(kinds == kind)
            for lines in np.split(chosen, range(at_once, len(chosen), at_once)):
                if not len(lines):
                    continue
                scores = queries[torch.from_numpy(lines)] @ self.vectors.T
                nothing = np.full(len(lines), -1)
                best = self.lexicon.best(scores, kind, number, but_forms=forms[lines], but_entries=nothing)
                for line, entries in zip(lines, best, strict=True):
                    nearest[line] = entries[entries >= 0]
        return nearest

    def words_near(self, queries: Tensor, words: Sequence[str], number: int) -> list[list[str]]:
        """Return the words of the nearest entries; see `nearest`."""
        return [[self.lexicon.words[entry] for entry in entries] for entries in self.nearest(queries, words, number)]


class GloveNeighbours:
    """Neighbours of words in a GloVe file; a word that is not in the file has none."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigError: no file can have that name.
            DataError: it cannot be read, or a line differs in form from the first one.
        """
        words, vectors = read_glove(glove_file(path))
        unspaced = np.array([is_unspaced(word) for word in words])
        self.table = Neighbours(Lexicon(words, np.stack([~unspaced, ~unspaced, unspaced])), vectors)
        self.rows = {word: row for row, word in reversed(list(enumerate(words)))}

    def of(self, words: Sequence[Word], _tokens: Tokens, number: int) -> list[list[str]]:
        """Return the words nearest to each of `words`."""
        rows = [self.rows.get(word.written, self.rows.get(word.written.lower())) for word in words]
        known = [index for index, row in enumerate(rows) if row is not None]
        queries = self.table.vectors[[rows[index] for index in known]]
        near = self.table.words_near(queries, [words[index].written for index in known], number)
        by_index = dict(zip(known, near, strict=True))
        return [by_index.get(index, []) for index in range(len(words))]


class ModelNeighbours:
    """Neighbours of words among a model's input embeddings; the vector of a word is the mean of its pieces'."""

    def __init__(self, lexicon: Lexicon, embeddings: Tensor, unknown: int | None) -> None:
        """Select the words of a model's embedding table.

        Args:
            lexicon: of the vocabulary.
            embeddings: (ids or more, width).
            unknown: the token for pieces outside the vocabulary; a word with one has no neighbours.
        """
        self.embeddings = embeddings.float()
        words = np.flatnonzero(lexicon.kinds[SPACED] | lexicon.kinds[UNSPACED])
        entries = Lexicon([lexicon.words[word] for word in words.tolist()], lexicon.kinds[:, words])
        self.table = Neighbours(entries, self.embeddings[torch.from_numpy(words)])
        self.unknown = unknown

    def of(self, words: Sequence[Word], tokens: Tokens, number: int) -> list[list[str]]:
        """Return the words nearest to each of `words`."""
        answers: list[list[str]] = [[] for _ in words]
        by_pieces: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for index, word in enumerate(words):
            start = int(tokens.starts[word.text])
            ids = tuple(tokens.ids[start + word.first : start + word.last].tolist())
            if self.unknown not in ids:
                by_pieces.setdefault((word.written.lower(), ids), []).append(index)
        if not by_pieces:
            return answers
        lengths = np.array([len(ids) for _, ids in by_pieces])
        flat = torch.tensor([piece for _, ids in by_pieces for piece in ids])
        offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
        queries = embedding_bag(flat, self.embeddings, offsets, mode="mean")
        near = self.table.words_near(queries, [written for written, _ in by_pieces], number)
        for indices, neighbours in zip(by_pieces.values(), near, strict=True):
            for index in indices:
                answers[index] = neighbours
        return answers


def glove_file(name: str) -> Path:
    """Return the file that `embeddings` names.

    Raises:
        ConfigError: no file can have that name.
        DataError: it does not exist.
    """
    path = local_path(name, _FIELD)
    check_regular(path, _FIELD)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"{_FIELD}: {path} {problem}; give a GloVe file (such as glove.6B.300d.txt, plain or .gz), or null to use "
            "the teacher's embeddings"
        )
    return path


def read_glove(path: Path) -> tuple[list[str], Tensor]:
    """Return the words of letters among the first 100,000 of a GloVe file, and their vectors.

    Raises:
        DataError: the file is damaged, or a line is wrong.
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
            f"{_FIELD}: {path} is cut short or not compressed as its name says ({error}); fetch it again"
        ) from None
    except OSError as error:
        raise DataError(f"{_FIELD}: {path} cannot be read ({error.strerror}); check the file and the disk") from None
    if len(words) < 2:
        raise DataError(
            f"{_FIELD}: {path} holds {len(words)} words of letters; give a GloVe file, with a word and its numbers on "
            "each line"
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
                continue  # word2vec's header: the number of words and the width
            width = width or len(parts) - 1
            if not 2 <= width <= _MOST_NUMBERS:
                raise _refused(path, number, f"has {width} numbers after its word")
            yield _parsed(path, number, parts, width)


def _parsed(path: Path, number: int, parts: list[str], width: int) -> tuple[str, NDArray[np.float32]]:
    # A few words of the largest GloVe file hold spaces; no text's word is equal to them.
    word, numbers = " ".join(parts[:-width]), parts[-width:]
    if not word or (len(parts) > width + 1 and is_number(parts[-width - 1])):
        raise _refused(path, number, f"has {len(parts) - 1} numbers after its word where the first line has {width}")
    try:
        vector = np.array(numbers, np.float32)
    except ValueError:
        wrong = next(part for part in numbers if not is_number(part))
        raise _refused(path, number, f"has {wrong[:40]!r} where a number should be") from None
    if not np.isfinite(vector).all():
        raise _refused(path, number, "has a number that is not finite")
    return word, vector


def _refused(path: Path, number: int, problem: str) -> DataError:
    return DataError(
        f"{_FIELD}: {path}: line {number} {problem}; each line of a GloVe file has a word and equally many numbers: "
        "fix the line or fetch the file again"
    )
