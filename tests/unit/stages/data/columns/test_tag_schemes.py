"""Tags of every scheme have the entities that conlleval reads, and are converted to BIO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.core.errors import DataError
from schemas.data.tasks import FileTask
from stages.data.columns.list_columns import Lists
from stages.data.columns.tag_schemes import NoScheme, as_bio, scheme_of
from stages.data.tasks.rows import checked_rows
from stages.kinds.rows import CheckedRows
from stages.scores.metrics import entity_counts, score

WHERE = {"train": "task.train: t.jsonl", "validation": "task.validation: v.jsonl"}
Entity = tuple[str, int, int]


def read(
    sentences: Sequence[str | Sequence[int]], validation: Sequence[str] | None = None, **fields: Any
) -> CheckedRows:
    """Check rows of these tag sequences."""

    def rows(tag_rows: Sequence[str | Sequence[int]]) -> Dataset:
        tags = [row.split() if isinstance(row, str) else list(row) for row in tag_rows]
        return Dataset.from_dict({"tokens": [["w"] * len(row_tags) for row_tags in tags], "tags": tags})

    task = FileTask.model_validate(
        {
            "train": "t.jsonl",
            "validation": "v.jsonl",
            "problem": "token_classification",
            "text": "tokens",
            "label": "tags",
            **fields,
        }
    )
    raw = {"train": rows(sentences), "validation": rows(validation or sentences)}
    return checked_rows(task, raw, WHERE)


def tags(result: CheckedRows, split: str = "train") -> list[str]:
    return [" ".join(result.labels[tag] for tag in row) for row in result.splits[split]["label"]]


def refusal(sentences: Sequence[str | Sequence[int]], **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(sentences, **fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "bio", "reason"),
    [
        ("B-PER L-PER U-LOC O", "B-PER I-PER B-LOC O", "tags such as L-PER (BILOU) are read as I-PER"),
        ("B-PER I-PER E-PER S-LOC O", "B-PER I-PER I-PER B-LOC O", "tags such as E-PER (BIOES)"),
        ("B-PER M-PER E-PER S-LOC O", "B-PER I-PER I-PER B-LOC O", "(BMES) are read as I-PER"),
        ("B-PER E-PER W-LOC O", "B-PER I-PER B-LOC O", "(BMEWO)"),
        ("I-PER I-PER B-PER O I-LOC", "B-PER I-PER B-PER O B-LOC", "begin with I- (IOB1)"),
        ("I-PER E-PER I-PER E-PER E-LOC O", "B-PER I-PER B-PER I-PER B-LOC O", "(IOE)"),
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC", "I-LOC (IO) do not mark where an entity begins"),
        ("PER PER O LOC creative-work", "B-PER I-PER O B-LOC B-creative-work", "tags such as LOC (IO)"),
        ("B_PER I_PER O", "B-PER I-PER O", "tags such as B_PER are read as B-PER"),
        ("PER-B PER-I O", "B-PER I-PER O", "tags such as PER-B are read as B-PER"),
        ("PER_S PER_B PER_E O", "B-PER B-PER I-PER O", "(BIOES)"),
        ("b-per i-per o", "B-per I-per O", "tags such as b-per are read as B-per"),
        ("B:PER I:PER O", "B-PER I-PER O", "tags such as B:PER"),
        ("B- I- O B-", "B-ENTITY I-ENTITY O B-ENTITY", "tags such as B- are read as B-ENTITY"),
        ("B I O B", "B-ENTITY I-ENTITY O B-ENTITY", "tags such as B are read as B-ENTITY"),
        ("B M E S B E", *("B-ENTITY I-ENTITY I-ENTITY B-ENTITY B-ENTITY I-ENTITY", "(BMES)")),
        ("B-PER I-PER 0", "B-PER I-PER O", "tags such as 0 are read as O"),
        ("B-S I-S O B-E-MAIL", "B-S I-S O B-E-MAIL", ""),
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", ""),
    ],
)
def test_every_scheme_is_converted_to_bio_and_reported(text: str, bio: str, reason: str) -> None:
    result = read([text])
    assert tags(result) == [bio]
    assert set(result.labels) >= set(bio.split())
    assert len(result.remarks) == bool(reason)
    assert reason in "".join(result.remarks)
    assert ("task.metric to token_accuracy" in "".join(result.remarks)) == bool(reason)


def test_every_type_has_both_tags() -> None:
    result = read(["S-LOC O", "B-PER E-PER"], ["B-LOC I-LOC E-LOC"])
    assert result.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert tags(result, "validation") == ["B-LOC I-LOC I-LOC"]


def test_the_scheme_is_determined_from_all_splits() -> None:
    result = read(["B-PER I-PER O", "B-PER O"], ["B-PER E-PER", "S-PER O"])
    assert tags(result) == ["B-PER I-PER O", "B-PER O"]
    assert tags(result, "validation") == ["B-PER I-PER", "B-PER O"]
    assert len(result.remarks) == 1, "a split in BIO stays unchanged"
    # Neighbours in one split alone: without them the tags would be those of IO.
    result = read(["I-PER I-PER O"], ["I-PER B-PER O"])
    assert tags(result, "validation") == ["B-PER B-PER O"]


def test_broken_sequences_are_counted_and_read_like_conlleval() -> None:
    result = read(["B-PER O", "O I-PER I-PER", "B-LOC I-PER"])
    assert tags(result) == ["B-PER O", "O B-PER I-PER", "B-LOC B-PER"]
    reason = "2 of 4 entities do not begin or end as BIO requires, the first in row 2; they are read as conlleval"
    assert result.remarks[0] == f"task.train: t.jsonl: column 'tags': {reason} reads them"
    result = read(["B-PER E-PER S-LOC", "B-PER O E-PER", "E-PER I-PER S-PER E-PER"])
    assert tags(result)[1:] == ["B-PER O B-PER", "B-PER B-PER B-PER B-PER"]
    assert "5 of 8 entities do not begin or end as BIOES requires, the first in row 2" in result.remarks[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NOUN VERB DET", "mark no entities: there is no O"),
        ("B-PER PER O", "B-PER mark where an entity begins or continues, PER do not"),
        ("S-LOC O", "have no B, so their letters may belong to the names of types"),
        ("B-PER L-PER E-PER O", "use both E and L"),
        ("B-PER I-PER E-MAIL O", "E-MAIL would end entities of a type that no tag begins"),
        ("0 3 7", "are numbers; list their names in task.labels"),
    ],
)
def test_tags_of_no_scheme_or_of_several_are_refused(text: str, reason: str) -> None:
    message = refusal([text])
    assert reason in message
    assert "write the tags as B-TYPE, I-TYPE and O, or set task.metric to token_accuracy" in message
    as_they_are = read([text], metric="token_accuracy")
    assert tags(as_they_are) == [text]
    assert not as_they_are.remarks


def test_listed_tags_resolve_an_open_scheme() -> None:
    assert tags(read(["S-LOC O"], labels=["O", "S-LOC", "B-LOC", "E-LOC"])) == ["B-LOC O"]


def test_listed_tags_are_converted_in_order() -> None:
    listed = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    result = read(["B-PER E-PER S-LOC O"], labels=listed)
    assert result.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert tags(result) == ["B-PER I-PER B-LOC O"]
    bio = ("I-PER", "B-PER", "O")
    assert read(["B-PER E-PER O"], labels=list(bio)).labels == bio


def test_tags_by_number_index_the_listed_names() -> None:
    listed = ["O", "B-PER", "I-PER", "B-ORG"]
    result = read([[3, 0], [1, 2]], labels=listed)
    assert tags(result) == ["B-ORG O", "B-PER I-PER"]
    assert result.labels == tuple(listed)
    assert "0 is read as O and 3 as B-ORG, by their position in task.labels" in result.remarks[0]
    assert "counted from 0" in refusal([[1, 4], [2, 3]], labels=listed)
    assert "its numbers go up to 4" in refusal([[0, 4]], labels=listed)
    bilou = ["O", "B-PER", "L-PER", "U-LOC"]
    assert tags(read([[1, 2, 3, 0]], labels=bilou)) == ["B-PER I-PER B-LOC O"]


def test_declared_tags_are_converted_too() -> None:
    names = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "E-PER", "S-PER"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": names})
    rows = Dataset.from_dict({"tokens": [["a", "b", "c"]], "tags": [[1, 2, 3]]}, features=features)
    task = FileTask.model_validate(
        {"train": "t", "validation": "v", "problem": "token_classification", "text": "tokens", "label": "tags"}
    )
    result = checked_rows(task, {"train": rows, "validation": rows}, WHERE)
    assert (result.labels, tags(result)) == (("O", "B-PER", "I-PER"), ["B-PER I-PER B-PER"])


def test_types_that_differ_only_by_case_are_refused() -> None:
    assert "row 2: column 'tags': the labels 'B-PER' (2), 'B-per' (2)" in refusal(["B-PER O", "B-per O"])


# Against entities, written in each scheme by its definition, and read back by conlleval's own rules.

LETTERS = {"IOB2": "BIIB", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
"""First, middle, last and single letter of each scheme."""


def written(entities: Sequence[Entity], words: int, letters: str) -> list[str]:
    result = ["O"] * words
    for kind, start, end in entities:
        inside = [letters[1]] * (end - start)
        inside[0], inside[-1] = (letters[0], letters[2]) if end - start > 1 else (letters[3],) * 2
        result[start:end] = [f"{letter}-{kind}" for letter in inside]
    return result


def iob1(entities: Sequence[Entity], words: int) -> list[str]:
    result = ["O"] * words
    for kind, start, end in entities:
        result[start:end] = [f"I-{kind}"] * (end - start)
        if (kind, start) in {(kind_before, stop) for kind_before, _, stop in entities}:
            result[start] = f"B-{kind}"
    return result


@st.composite
def sentence(draw: st.DrawFn) -> tuple[list[Entity], int]:
    position, entities = 0, []
    for _ in range(draw(st.integers(0, 4))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 3))
        entities.append((draw(st.sampled_from(("PER", "LOC"))), start, position))
    return entities, position + draw(st.integers(0, 2))


def in_bio(tag_rows: Mapping[int, list[str]]) -> list[list[str]]:
    scheme = scheme_of({tag for row_tags in tag_rows.values() for tag in row_tags})
    flat = [tag for row_tags in tag_rows.values() for tag in row_tags]
    lengths = np.array([len(row_tags) for row_tags in tag_rows.values()], np.int64)
    column = pa.chunked_array([pa.array(flat, pa.string())])
    return [*Lists(as_bio(scheme, Lists(column, lengths)).tags, lengths).by_row()]


FULL = [("PER", 0, 3), ("PER", 3, 4), ("LOC", 4, 7), ("LOC", 8, 9)]
"""Entities that need every letter of a scheme."""


@settings(max_examples=60)
@given(st.lists(sentence(), max_size=4), st.sampled_from([*LETTERS, "IOB1"]))
def test_entities_are_equal_in_every_scheme(sentences: list[tuple[list[Entity], int]], name: str) -> None:
    sentences = [(FULL, 10), *sentences]
    bio = [written(*entry, LETTERS["IOB2"]) for entry in sentences]
    converted = [iob1(*entry) if name == "IOB1" else written(*entry, LETTERS[name]) for entry in sentences]
    assert in_bio(dict(enumerate(converted))) == bio
    counts = entity_counts(bio, bio)
    assert counts[:, 1].tolist() == [len(entities) for entities, _ in sentences]
    assert score("entity_f1", bio, in_bio(dict(enumerate(converted)))) == 1.0


def conlleval_starts(tags: Sequence[str]) -> list[bool]:
    """`startOfChunk` of conlleval.py (sighsmile/conlleval), word by word."""
    starts, before, before_type = [], "O", ""
    for tag in tags:
        letter, _, kind = tag.partition("-")
        start = letter in ("B", "S")
        start |= before in ("E", "S", "O") and letter in ("E", "I")
        start |= letter not in ("O", ".") and before_type != kind
        starts.append(start)
        before, before_type = letter, kind
    return starts


@given(st.lists(st.sampled_from([f"{a}-{b}" for a in "BIES" for b in "XY"] + ["O"]), max_size=9))
def test_entities_begin_where_conlleval_begins_them(tags: list[str]) -> None:
    everything = [f"{a}-{b}" for a in "BIES" for b in "XY"]
    _, result = in_bio({0: everything, 1: tags})
    assert [tag[0] == "B" for tag in result] == conlleval_starts(tags)
    assert [tag[2:] for tag in result] == [tag[2:] for tag in tags]


def test_outside_tags_alone_are_bio() -> None:
    assert scheme_of(["O"]).is_bio
    with pytest.raises(NoScheme):
        scheme_of(["NOUN"])


@pytest.mark.parametrize(
    ("tokens", "text", "how"),
    [
        ("['EU', \"isn't\", '[', 'Bonn']", "['B-ORG', 'O', 'O', 'S-LOC']", "as printed lists"),
        ("['EU' 'rejects' 'in' 'Bonn']", "['B-ORG' 'O' 'O' 'S-LOC']", "as printed lists"),
        ('["EU", "rejects", "in", "Bonn"]', '["B-ORG", "O", "O", "S-LOC"]', "as printed lists"),
        ("[ EU in Bonn", "B-ORG O O S-LOC", "with blanks between words and between tags"),
        ("['EU', 'a', 'b', 'Bonn']", "[1, 0, 0, 2]", "as printed lists"),
    ],
)
def test_tag_lists_as_text_are_parsed_and_reported(tokens: str, text: str, how: str) -> None:
    task = FileTask.model_validate(
        {
            "train": "t",
            "validation": "v",
            "problem": "token_classification",
            "text": "tokens",
            "label": "tags",
            "labels": ["O", "B-ORG", "S-LOC"],
        }
    )
    rows = Dataset.from_dict({"tokens": [tokens], "tags": [text]})
    result = checked_rows(task, {"train": rows, "validation": rows}, WHERE)
    assert tags(result) == ["B-ORG O O B-LOC"]
    assert f"the text of columns 'tokens' and 'tags' is read {how}" in result.remarks[0]
    torn = Dataset.from_dict({"tokens": [tokens, "[a b"], "tags": [text, text]})
    with pytest.raises(DataError, match="row 2: "):
        checked_rows(task, {"train": torn, "validation": rows}, WHERE)


def test_long_and_unprintable_tags_are_shortened_in_messages() -> None:
    tags = [f"B-{'x' * 5000}", "a\x1b[31mb", "9" * 5000]
    task = FileTask.model_validate(
        {"train": "t", "validation": "v", "problem": "token_classification", "text": "tokens", "label": "tags"}
    )
    for labels in (None, ("O", "B-PER")):
        rows = Dataset.from_dict({"tokens": [["w"] * 3], "tags": [tags]})
        with pytest.raises(DataError) as caught:
            checked_rows(task.model_copy(update={"labels": labels}), {"train": rows, "validation": rows}, WHERE)
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()
