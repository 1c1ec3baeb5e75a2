"""Preparation of a corpus: bounded memory for any number of rows, and the same draw for any piece size."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.data.corpus import GeneralCorpus
from stages.data.corpus import duplicates
from stages.data.corpus.duplicates import NEAR, Sketches, sketches
from stages.data.corpus.prepare import load_corpus, read_summary
from stages.data.corpus.special_tokens import Encoder, template_of
from stages.data.corpus.tokenize import _percentiles, _Writer
from stages.data.files.read_request import Reading
from stages.data.readers.files import read_file
from stages.storage import mapped_columns as scratch
from stages.storage.mapped_columns import Column, counted, slices, zeros
from stages.text.fingerprints import letters_of
from tests.support.builders import WORDS, tiny_tokenizer
from tests.support.paths import ROOT
from tests.support.toys import write_rows

# The draw, against lists


def some_rows(seed: int, number: int) -> list[dict[str, Any]]:
    """Rows of documents of one to eighty rows: blank ones, repeats and near repeats."""
    draw = np.random.default_rng(seed)
    many = "the same row of text is there again and again whatever else there is beside it or in it"
    rows: list[dict[str, Any]] = []
    document = 0
    while len(rows) < number:
        document += 1
        for _ in range(int(draw.choice([1, 2, 5, 32, 33, 80]))):
            text = " ".join(draw.choice(WORDS, draw.integers(2, 30)))
            match int(draw.integers(0, 8)):
                case 0 if rows:
                    text = str(rows[int(draw.integers(len(rows)))]["text"]).upper()
                case 1:
                    text = f"{many} {draw.choice(WORDS)}"
                case 2:
                    text = "  "
            rows.append({"text": text, "doc": document})
    return rows[:number]


def key(text: str) -> str:
    return text.replace(" ", "").lower()


def almost(texts: list[str], counts: list[bool]) -> list[bool]:
    """Return near duplicates by comparing each row with the first and the last that share one of its band hashes."""
    chosen, bins = sketches(letters_of(texts), np.array([bool(text.strip()) for text in texts]))
    kept = (bins & np.uint64(0xFF)).astype(np.uint8)
    result = [False] * len(texts)
    for hashes in duplicates._bands(bins).T.tolist():
        groups: dict[int, list[int]] = {}
        for index, (row, value) in enumerate(zip(chosen.tolist(), hashes, strict=True)):
            if counts[row]:
                before = groups.setdefault(value, [])
                for earlier in before[:1] + before[-1:]:
                    equal = float((kept[earlier] == kept[index]).mean())
                    result[row] |= (equal - 1 / 256) / (1 - 1 / 256) >= NEAR
                before.append(index)
    return result


@dataclass
class Expected:
    """Fate of rows by a plain implementation with lists."""

    rows: list[dict[str, Any]]
    corpus: GeneralCorpus
    train: list[tuple[str, bool]] = field(default_factory=list)
    held_out: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        passages = self.passages(self.usable())
        random = np.random.Generator(np.random.PCG64(self.corpus.seed))
        held: list[int] = []
        rest: list[int] = []
        for index in random.permutation(len(passages)).tolist():
            (rest if len(held) >= self.corpus.held_out_rows else held).extend(passages[index])
        known = {key(self.rows[row]["text"]) for row in held}
        train = [row for row in rest if key(self.rows[row]["text"]) not in known]
        fates = dict.fromkeys(train[: self.corpus.max_rows], "train") | dict.fromkeys(held, "held")
        last: tuple[Any, Any] | None = None
        for row in sorted(row for passage in passages for row in passage):
            now = (self.rows[row]["doc"], fates.get(row))
            entry = (self.rows[row]["text"], not self.corpus.needs_documents or now != last)
            last = now
            if row in fates:
                (self.train if fates[row] == "train" else self.held_out).append(entry)

    def usable(self) -> list[int]:
        texts = [row["text"] for row in self.rows]
        seen: set[str] = set()
        counts = []
        for text in texts:
            counts.append(bool(text.strip()) and not (self.exact and key(text) in seen))
            seen.add(key(text))
        near = almost(texts, counts) if self.corpus.duplicates == "near" else [False] * len(texts)
        return [row for row in range(len(texts)) if counts[row] and not near[row]]

    @property
    def exact(self) -> bool:
        return self.corpus.duplicates != "keep"

    def passages(self, usable: list[int]) -> list[list[int]]:
        result: list[list[int]] = []
        for row in usable:
            begins = not result or self.rows[result[-1][-1]]["doc"] != self.rows[row]["doc"]
            if begins or not self.corpus.needs_documents or len(result[-1]) == 32:
                result.append([])
            result[-1].append(row)
        return result


@pytest.mark.parametrize("at_once", [1 << 18, 50, 7])
@pytest.mark.parametrize("max_rows", [None, 40])
@pytest.mark.parametrize("cut", ["rows", "sequences"])
@pytest.mark.parametrize("repeats", ["keep", "exact", "near"])
def test_draw_equals_a_draw_from_plain_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: str, cut: str, max_rows: int | None, at_once: int
) -> None:
    monkeypatch.setattr(scratch, "AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "SORTED_AT_ONCE", at_once)
    rows = some_rows(len(repeats) + len(cut), 400)
    source = {"kind": "files", "paths": [str(write_rows(tmp_path / "a.jsonl", rows))]}
    corpus = GeneralCorpus.model_validate(
        {
            "sources": source | {"document": "doc"},
            "cut": cut,
            "duplicates": repeats,
            "seed": 3,
            "held_out_rows": 20,
            "max_rows": max_rows,
        }
    )
    expected = Expected(rows, corpus)
    result = load_corpus(corpus, tmp_path / "cache")
    for data, wanted in ((result.train, expected.train), (result.held_out, expected.held_out)):
        begins = data["begins"][:] if cut == "sequences" else [True] * len(data)
        assert list(zip(data["text"][:], begins, strict=True)) == wanted
    (source_rows,) = read_summary(corpus, tmp_path / "cache").sources
    assert (source_rows.rows, source_rows.train) == (len(rows), len(expected.train))
    # No file of numbers is left.
    assert {path.name for path in next((tmp_path / "cache" / "corpora").iterdir()).iterdir()} == {
        "train.arrow",
        "held_out.arrow",
        "summary.json",
        "sealed.json",
    }


@pytest.mark.parametrize("at_once", [100_000, 11])
def test_near_duplicates_of_many_rows_do_not_depend_on_the_piece_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(scratch, "AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "SORTED_AT_ONCE", at_once)
    texts = [str(row["text"]) for row in some_rows(9, 500)]
    usable = np.random.default_rng(0).random(500) < 0.9
    kept = Sketches(tmp_path)
    kept.add(letters_of(texts), 0, np.array([bool(text.strip()) for text in texts]))
    expected = almost(texts, usable.tolist())
    assert sum(expected) > 30
    assert kept.almost_repeated(usable).tolist() == expected


@pytest.mark.parametrize("at_once", [1000, 40, 3, 1])
def test_row_is_compared_with_the_previous_and_the_first_for_any_piece_size(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(scratch, "AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "SORTED_AT_ONCE", at_once)
    draw = np.random.default_rng(1)
    # Multiples of 600 have one remainder, so that all seven hashes are sorted together.
    hashes, usable = 600 * draw.integers(0, 7, 300, np.uint64), draw.random(300) < 0.8
    expected = set()
    seen: dict[int, list[int]] = {}
    for index in np.flatnonzero(usable).tolist():
        before = seen.setdefault(int(hashes[index]), [])
        expected |= {(earlier, index) for earlier in before[:1] + before[-1:]}
        before.append(index)
    result: set[tuple[int, int]] = set()
    for indices, same in duplicates._by_hash(hashes, usable, None):
        for earlier, later in duplicates._pairs(indices, same):
            result |= set(zip(earlier.tolist(), later.tolist(), strict=True))
    assert result == expected


# Numbers in files


def test_shuffle_of_a_file_equals_a_permutation_in_memory(tmp_path: Path) -> None:
    for number in (0, 1, 2, 1000):
        numbers = counted(tmp_path / f"{number}", number)
        assert type(numbers) is np.ndarray  # elements of other types would be shuffled by Python
        np.random.Generator(np.random.PCG64(4)).shuffle(numbers)
        expected = np.random.Generator(np.random.PCG64(4)).permutation(number)
        assert numbers.tolist() == expected.tolist()
        if number:
            assert np.fromfile(tmp_path / f"{number}", np.int64).tolist() == expected.tolist()


def test_column_keeps_the_order_of_added_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "AT_ONCE", 4)
    column = Column(tmp_path / "a", np.int16)
    for some in slices(11):
        column.add(np.arange(some.start, some.stop))
    assert column.mapped().tolist() == list(range(11))
    assert [some.stop - some.start for some in slices(5, 2)] == [2, 2, 1]
    assert len(list(slices(5, 100))) == 5
    assert zeros(tmp_path / "b", 9, np.bool_).tolist() == [False] * 9
    with pytest.raises(FileExistsError):
        zeros(tmp_path / "b", 1, np.bool_)


@pytest.mark.parametrize("number", [0, 1, 60, 140, 2017])
def test_lengths_and_their_summary_equal_those_in_memory(tmp_path: Path, number: int) -> None:
    lengths = np.random.default_rng(number).integers(3, 41, number)
    template = template_of(Encoder(tiny_tokenizer()), is_pair=False)
    with _Writer(tmp_path, template, 40, has_types=True) as writer:
        for part in np.array_split(lengths - 2, 3):
            writer.write(iter([(np.ones(part.sum(), np.int32), [part])]))
        summary = writer.summary()
    np.save(tmp_path / "expected.npy", lengths.astype(np.int32))
    assert (tmp_path / "lengths.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert (summary.sequences, summary.tokens) == (number, lengths.sum())
    assert summary.full == (np.mean(lengths == 40) if number else 0)
    points = (0, 5, 25, 50, 75, 95, 100)
    expected = np.percentile(lengths, points, method="inverted_cdf") if number else []
    assert summary.length_percentiles == {str(at): value for at, value in zip(points, expected, strict=False)}


def test_percentiles_equal_those_of_numpy_despite_rounding() -> None:
    # 0.05 times 140 is 7.000000000000001, so that the eighth of 140 is taken and not the seventh.
    for number in range(1, 400):
        expected = np.percentile(np.arange(number), [5, 95], method="inverted_cdf").tolist()
        result = _percentiles(np.ones(number, np.int64))
        assert [result["5"], result["95"]] == expected


# Memory

CHILD = """
import sys
from pathlib import Path
from schemas.data.corpus import GeneralCorpus
from stages.data.corpus import duplicates
from stages.storage import mapped_columns as scratch
from stages.data.corpus.prepare import load_corpus

# Both sizes have many pieces.
scratch.AT_ONCE = duplicates.SORTED_AT_ONCE = 1 << 15
for path in sys.argv[2:]:
    source = {"kind": "files", "paths": [path], "document": "doc"}
    load_corpus(GeneralCorpus.model_validate({"sources": source, "cut": "sequences"}), Path(sys.argv[1]))
    print(path, flush=True)
"""


def anonymous(process: int) -> int:
    """Return the bytes of a process's memory without a file; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    result = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(result[1]) if result else 0


def peaks(*arguments: str) -> list[int]:
    """Return the peak memory of a process before each line that it printed."""
    result = [0]
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, cwd=ROOT) as child:

        def watch() -> None:
            while child.returncode is None:
                result[-1] = max(result[-1], anonymous(child.pid))
                time.sleep(0.002)

        watching = threading.Thread(target=watch)
        watching.start()
        assert child.stdout is not None
        for _ in child.stdout:
            result.append(0)
        child.wait()
        watching.join()
    assert child.returncode == 0
    return result[:-1]


def ten_words(path: Path, number: int) -> str:
    words = np.array([f"{word}{index}" for word in WORDS for index in range(50)])
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, number, 50_000):
            draw = np.random.default_rng(start)
            rows = words[draw.integers(0, len(words), (50_000, 10))].tolist()
            file.writelines(
                f'{{"text": "{" ".join(row)}", "doc": {(start + index) // 40}}}\n' for index, row in enumerate(rows)
            )
    return str(path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the memory")
def test_memory_does_not_grow_with_seven_hundred_thousand_more_rows(tmp_path: Path) -> None:
    sizes = (100_000, 800_000)
    paths = [ten_words(tmp_path / f"{number}.jsonl", number) for number in sizes]
    reading = Reading(("text", "doc"), named=frozenset(("text", "doc")))
    # Run here, because its allocations would hide later ones.
    for path in paths:
        read_file(Path(path), tmp_path / "cache", "general_corpus.sources", reading)
    few, many = peaks(str(tmp_path / "cache"), *paths)
    assert (many - few) / (sizes[1] - sizes[0]) < 4


def test_memory_does_not_grow_with_a_million_more_sequences(tmp_path: Path) -> None:
    template = template_of(Encoder(tiny_tokenizer()), is_pair=False)
    lengths = np.ones(10_000, np.int64)
    flat = np.ones(10_000, np.int32)
    result = []
    for number in (10, 110):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        tracemalloc.start()
        with _Writer(folder, template, 128, has_types=True) as writer:
            for _ in range(number):
                writer.write(iter([(flat, [lengths])]))
            assert writer.summary().sequences == 10_000 * number
        result.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert result[1] - result[0] < 100_000
