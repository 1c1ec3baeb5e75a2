"""Exact and near duplicates, and leaks of validation texts, compared with plain Python sets."""

from __future__ import annotations

import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.corpus import duplicates
from stages.data.corpus.duplicates import NEAR, Sketches, repeated
from stages.data.corpus.leaks import HeldOut
from stages.text.fingerprints import letters_of, piece_hashes, text_hashes, word_hashes

WORDS = "the old river ran on between two grey hills and nobody of the village ever crossed it".split()


# Significant characters: a letter, digit or sign; punctuation in or before a number; a dash between two; a face.
COUNTED = re.compile(
    r"[^\W_]|[+%]|(?<=\d)[.,)(:-](?=\d)|(?<![^\W_])[-.](?=\d)|(?<=\d )-(?= \d)|:(?=-?[()])|(?<=:)-(?=[()])"
    r"|(?<=:)[()]|(?<=:-)[()]|(?<![^\W_])[()](?=:)|(?<=\W[()]):|(?<=^[()]):"
)


def plain(text: str) -> str:
    kept, end = "", -1
    for match in COUNTED.finditer(unicodedata.normalize("NFKC", text.casefold())):
        if kept[-1:].isdigit() and match.group().isdigit() and match.start() > end:
            kept += "|"
        kept += match.group()
        end = match.end()
    return kept


def hashes_of(texts: list[str]) -> list[int]:
    return text_hashes(texts, letters_of(texts)).tolist()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("aAbB 12.,-+%:()ßé\u4f60\u597d", max_size=6), min_size=1, max_size=20))
def test_texts_with_equal_letters_and_signs_have_equal_hashes(texts: list[str]) -> None:
    result = hashes_of(texts)
    for text, hash_of_text in zip(texts, result, strict=True):
        for other_text, hash_of_other in zip(texts, result, strict=True):
            same = (
                plain(text) == plain(other_text)
                if plain(text) or plain(other_text)
                else text.strip() == other_text.strip()
            )
            assert (hash_of_text == hash_of_other) == same


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Straße, 5!", "STRASSE 5"),
        ("ﬁne", "f-i-n-e"),
        ("Ａｂ１", "ab1"),
        ("cafe\u0301", "CAFÉ"),
        ("你好。", "你 好"),
        ("❤\ufe0f it", "❤ it"),
        ("2\u22122", "2-2"),
        ("covid-19", "COVID 19"),
        ("x²", "x^2"),
        ("(see below): a", "see below a"),
        ("in 1999.", "in 1999"),
        ("`code`", "code"),
        ("It's – well — great?", "its well great"),
    ],
)
def test_case_form_spaces_and_punctuation_make_no_difference(first: str, second: str) -> None:
    assert len(set(hashes_of([first, second]))) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("great 😀", "great 😡"),
        ("great 😀", "great?"),
        ("❤\ufe0f", "☹\ufe0f"),
        ("2+2", "2-2"),
        ("1.5", "15"),
        ("1 5", "15"),
        ("-5", "5"),
        ("x=-5", "x=5"),
        ("10²", "102"),
        ("5 - 3", "5 3"),
        ("50%", "50"),
        ("$5", "€5"),
        ("C++", "C#"),
        ("C#", "C"),
        ("a<b", "a>b"),
        ("a → b", "a ← b"),
        ("x = y", "x ≠ y"),
        ("great :)", "great :("),
        ("great :-)", "great :-("),
        ("(: great", "): great"),
        ("🤷\u200d♂\ufe0f", "🤷\u200d♀\ufe0f"),
        ("👍\U0001f3fb", "👍\U0001f3ff"),
        ("@you", "#you"),
    ],
)
def test_texts_that_differ_by_a_sign_are_different(first: str, second: str) -> None:
    assert len(set(hashes_of([first, second]))) == 2


def test_adjacent_signs_are_one_word_and_numbers_stay_whole() -> None:
    letters = letters_of(["C++ is -1.5 or 2-2 😀😀!"])
    words = "".join(map(chr, letters.codes.tolist()))
    firsts = np.flatnonzero(letters.begins_word).tolist()
    result = [words[a:b] for a, b in zip(firsts, [*firsts[1:], len(words)], strict=True)]
    assert result == ["c", "++", "is", "-1.5", "or", "2-2", "😀😀"]


def test_hash_does_not_depend_on_other_texts_of_the_batch() -> None:
    texts = ["one", "", "two words", "…", "one two"]
    assert hashes_of(texts) == [hashes_of([text])[0] for text in texts]


def test_first_of_equal_rows_stays() -> None:
    hashes = np.array([5, 7, 5, 5, 7, 9], np.uint64)
    usable = np.array([False, True, True, True, True, True])
    assert repeated(hashes, usable).tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("at_once", [1, 3, 50, 10_000])
def test_duplicates_do_not_depend_on_the_rows_sorted_at_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 60, np.uint64)[draw.integers(0, 60, 200)]
    usable = draw.random(200) < 0.8
    seen: set[int] = set()
    expected = []
    for value, counts in zip(hashes.tolist(), usable.tolist(), strict=True):
        expected.append(counts and value in seen)
        seen |= {value} if counts else set()
    monkeypatch.setattr(duplicates, "SORTED_AT_ONCE", at_once)
    assert repeated(hashes, usable).tolist() == expected


def similarity(first: str, second: str) -> float:
    pieces = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (plain(first), plain(second))]
    return len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])


def changed(text: str, number: int, draw: random.Random) -> str:
    words = text.split()
    for _ in range(number):
        words[draw.randrange(len(words))] = "".join(draw.choices("qxzwvk", k=5))
    return " ".join(words)


def almost(texts: list[str], folder: Path) -> list[bool]:
    folder.mkdir()
    sketches = Sketches(folder)
    sketches.add(letters_of(texts[:7]), 0, np.ones(len(texts[:7]), bool))
    sketches.add(letters_of(texts[7:]), 7, np.ones(len(texts[7:]), bool))
    return sketches.almost_repeated(np.ones(len(texts), bool)).tolist()


def test_near_duplicates_are_found_and_different_texts_are_not(tmp_path: Path) -> None:
    draw = random.Random(5)
    # Each of 300 distinct texts, and a copy with some words replaced.
    texts = ["".join(draw.choices("abcdefghijklmnop ", k=400)) for _ in range(300)]
    copies = [changed(text, draw.randint(0, 8), draw) for text in texts]
    result = almost([*texts, *copies], tmp_path / "sketches")
    assert not any(result[:300])
    likeness = np.array([similarity(*pair) for pair in zip(texts, copies, strict=True)])
    near = np.array(result[300:])
    assert ((likeness > NEAR + 0.1).sum(), (likeness < NEAR - 0.1).sum()) > (50, 20)
    assert near[likeness > NEAR + 0.1].all()
    assert not near[likeness < NEAR - 0.1].any()


def test_short_texts_are_no_near_duplicates(tmp_path: Path) -> None:
    texts = ["a short text of forty letters or less"] * 9
    assert not any(almost(texts, tmp_path / "sketches"))


def test_pieces_are_all_stretches_of_five_letters() -> None:
    texts = ["Abc, defg", "abcd", "", "xabcdey"]
    hashes, rows = piece_hashes(letters_of(texts), 5)
    pieces = [plain(text)[i : i + 5] for text in texts for i in range(len(plain(text)) - 4)]
    assert rows.tolist() == [0, 0, 0, 3, 3, 3]
    by_hash = dict(zip(hashes.tolist(), pieces, strict=True))
    assert len(by_hash) == len(set(pieces)) == 5  # abcde stands twice


# Leaks


def words_of(text: str) -> list[str]:
    return re.findall(r"[一-龥]|[a-z0-9]+", text.casefold())


def holds(text: str, held: str) -> bool:
    words, wanted = words_of(text), words_of(held)
    size = min(len(wanted), 13)
    if size < 8:
        return False
    runs = {tuple(wanted[i : i + size]) for i in range(len(wanted) - size + 1)}
    return any(tuple(words[i : i + size]) in runs for i in range(len(words) - size + 1))


@settings(deadline=None, max_examples=60)
@given(
    held=st.lists(st.lists(st.sampled_from(WORDS[:3]), max_size=16), max_size=4),
    texts=st.lists(st.lists(st.sampled_from([*WORDS[:3], "你好"]), max_size=30), min_size=1, max_size=6),
)
def test_row_with_thirteen_words_or_all_of_eight_is_a_leak(held: list[list[str]], texts: list[list[str]]) -> None:
    validation = [" ".join(words) for words in held]
    rows = [", ".join(words).upper() for words in texts]
    result = HeldOut([("task", validation)])
    assert result.too_short == sum(len(words) < 8 for words in held)
    expected = [0 if any(holds(row, text) for text in validation) else -1 for row in rows]
    assert result.tasks_of(letters_of(rows)).tolist() == expected


def test_leaks_are_found_in_chinese_and_named_by_task() -> None:
    held = HeldOut([("a", ["这家酒店的房间很大"]), ("b", [" ".join(WORDS)])])
    rows = ["我觉得，这家酒店的房间很大！", "这家酒店的房间很小", "X " + " ".join(WORDS[2:]).upper(), ""]
    assert [held.tasks[task] if task >= 0 else None for task in held.tasks_of(letters_of(rows))] == [
        "a",
        None,
        "b",
        None,
    ]


def test_word_hash_depends_on_the_order_of_letters() -> None:
    letters = letters_of(["no on, No", "ON"])
    hashes, rows = word_hashes(letters)
    assert rows.tolist() == [0, 0, 0, 1]
    assert hashes[0] == hashes[2] != hashes[1] == hashes[3]
