"""Schemes by which tags of words mark entities, and their conversion to BIO (IOB2).

| scheme        | an entity of three words, and of one | notes                                                        |
|---------------|--------------------------------------|--------------------------------------------------------------|
| BIO, IOB2     | `B- I- I-`, `B-`                     | the scheme in which entities are scored                      |
| IOB1          | `I- I- I-`, `I-`                     | `B-` only where an entity follows another of its type        |
| IO            | `I- I- I-`, `I-`, or `X X X`, `X`    | adjacent words of one type are one entity                    |
| BIOES, IOBES  | `B- I- E-`, `S-`                     | BMES and BMEWO write `M-` for `I-`, BMEWO `W-` for `S-`      |
| BILOU         | `B- I- L-`, `U-`                     |                                                              |
| IOE1, IOE2    | `I- I- E-`, `E-` or `I-`             | `E-` ends an entity                                          |

The letter may follow the type (`PER-B`), be in lower case (`b-per`), be separated from it by `_`, `:`, `/` or `|`
instead of `-`, or be alone if there is only one type. Entities begin where conlleval begins them (Tjong Kim Sang and
Buchholz 2000; `startOfChunk`), so that a sequence that breaks its scheme has the entities for which it is scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.core.wording import printable
from stages.data.columns.list_columns import Lists

OUTSIDE = "O"
ONLY_TYPE = "ENTITY"
"""Type of tags that are a letter alone."""

_LETTERS, _SIGNS = "BIELSUMW", "-_:/|"
_BEFORE = re.compile(rf"(?P<letter>[{_LETTERS}])[{_SIGNS}](?P<type>.+)", re.IGNORECASE | re.DOTALL)
_AFTER = re.compile(rf"(?P<type>.+)[{_SIGNS}](?P<letter>[{_LETTERS}])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(rf"(?P<type>)(?P<letter>[{_LETTERS}])[{_SIGNS}]?", re.IGNORECASE)
# Begin, inside, end, single.
_PART_OF_LETTER = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
Words = NDArray[Any]
"""(words,) one value for each word of a split, sentences concatenated."""


def are_bio(tags: Iterable[str]) -> bool:
    """Return whether tags are those of BIO, in which entities are scored."""
    return {tag[:2] for tag in tags} <= {"B-", "I-", OUTSIDE}


class NoScheme(ValueError):
    """Raised when tags follow no scheme, or could follow several; the message gives the reason."""


@dataclass(frozen=True)
class Scheme:
    """A scheme, with the meaning of each tag."""

    name: str
    parts: Mapping[str, tuple[str, str]]
    """Begin, inside, end, single or outside (`B`, `I`, `E`, `S`, `O`) and the type of each tag."""

    @property
    def is_bio(self) -> bool:
        """True if every tag is spelled as in BIO."""
        return self.name == "BIO" and all(
            tag == OUTSIDE or (part in "BI" and tag == f"{part}-{kind}") for tag, (part, kind) in self.parts.items()
        )

    def bio_labels(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return the tags in BIO: `O`, and B- and I- of each type, in the order of first occurrence."""
        if self.is_bio:
            return tuple(labels)
        types = dict.fromkeys(kind for part, kind in map(self.parts.__getitem__, labels) if part != OUTSIDE)
        return (OUTSIDE, *(f"{part}-{kind}" for kind in types for part in "BI"))


def scheme_of(tags: Iterable[str]) -> Scheme:
    """Return the scheme of all different tags of all splits.

    Raises:
        NoScheme: the tags follow none, or could follow several.
    """
    tags = sorted(set(tags))
    outside = [tag for tag in tags if tag in (OUTSIDE, "o")]
    if not outside and "0" in tags and any(map(_BEFORE.fullmatch, tags)):
        outside = ["0"]  # a zero among tags with letters
    inside = [tag for tag in tags if tag not in outside]
    parts = dict.fromkeys(outside, (OUTSIDE, ""))
    if not inside:
        return Scheme("BIO", parts)
    for pattern in (_BEFORE, _AFTER, _ALONE):
        matches = [match for tag in inside if (match := pattern.fullmatch(tag))]
        if len(matches) < len(inside):
            continue
        name = _name_of({match["letter"].upper() for match in matches}, inside)
        split = {match[0]: (_PART_OF_LETTER[match["letter"].upper()], match["type"] or ONLY_TYPE) for match in matches}
        if name != "IOE":
            _check_ends(split)
        return Scheme(name, parts | split)
    return _without_letters(inside, parts)


def _name_of(letters: set[str], tags: Sequence[str]) -> str:
    """Return the name of the scheme that uses these letters."""
    for pair in ("IM", "EL", "SU", "SW", "UW"):
        if set(pair) <= letters:
            raise NoScheme(f"{_examples(tags)} use both {' and '.join(pair)}, which no scheme does")
    if letters <= {"B", "I"}:
        return "BIO" if "B" in letters else "IO"
    if "B" not in letters:
        if letters == {"I", "E"}:
            return "IOE"
        raise NoScheme(f"{_examples(tags)} have no B, so their letters may belong to the names of types")
    if letters & {"L", "U"}:
        return "BILOU"
    if "W" in letters:
        return "BMEWO"
    return "BMES" if "M" in letters else "BIOES"


def _check_ends(parts: Mapping[str, tuple[str, str]]) -> None:
    """Refuse a letter that ends entities of a type that nothing begins: it may belong to the type's name."""
    begun = {kind for part, kind in parts.values() if part in "BI"}
    for tag, (part, kind) in parts.items():
        if part == "E" and kind not in begun:
            raise NoScheme(f"{_examples([tag])} would end entities of a type that no tag begins")


def _without_letters(inside: Sequence[str], parts: Mapping[str, tuple[str, str]]) -> Scheme:
    some = [tag for tag in inside if _BEFORE.fullmatch(tag)]
    others = [tag for tag in inside if tag not in some]
    if any(tag[0].upper() in "BI" for tag in some):
        raise NoScheme(f"{_examples(some)} mark where an entity begins or continues, {_examples(others)} do not")
    if all(re.fullmatch(r"-?\d+", tag) for tag in inside):
        raise NoScheme(f"{_examples(inside)} are numbers; list their names in task.labels, in order from 0")
    if not parts:
        raise NoScheme(f"{_examples(inside)} mark no entities: there is no {OUTSIDE}, and no B-TYPE")
    return Scheme("IO", {**parts, **{tag: ("I", tag) for tag in inside}})


def _examples(tags: Sequence[str]) -> str:
    return ", ".join(printable(tag, 40) for tag in tags[:4]) + (", …" if len(tags) > 4 else "")


@dataclass(frozen=True)
class BioTags:
    """Tags of a split in BIO, with counts of entities that break their scheme."""

    tags: pa.ChunkedArray
    """Tags of all words, sentences concatenated."""
    entities: int
    broken: int
    """Entities that do not begin, or end, as their scheme requires."""
    first_broken: int | None
    """Row of the first of them, counted from 1."""
    begun_by_inside: int
    """Entities that begin with I-, as in IOB1."""
    begun_by_begin: int
    """Entities that begin with B- where IOB1 would write I-."""


def as_bio(scheme: Scheme, tags: Lists) -> BioTags:
    """Return the tags of a split in BIO; entities begin where conlleval begins them.

    Args:
        scheme: of the tags.
        tags: one list for each sentence.
    """
    types = sorted({kind for part, kind in scheme.parts.values() if part != OUTSIDE})
    type_numbers = {kind: number for number, kind in enumerate(types)}
    codes = pc.index_in(tags.flat, value_set=pa.array(scheme.parts, pa.string())).to_numpy()
    parts = np.array([part for part, _ in scheme.parts.values()])[codes]
    kinds = np.array([type_numbers.get(kind, -1) for _, kind in scheme.parts.values()])[codes]
    ends = np.cumsum(tags.lengths)[tags.lengths > 0]
    first, last = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
    first[ends - tags.lengths[tags.lengths > 0]] = last[ends - 1] = True
    continues = ~first & (_shift(kinds, -1) == kinds)
    # conlleval's startOfChunk.
    is_closed = ~continues | np.isin(_shift(parts, OUTSIDE), ["E", "S", OUTSIDE])
    starts = (kinds >= 0) & (np.isin(parts, ["B", "S"]) | is_closed)
    names = np.array([OUTSIDE, *(f"{part}-{kind}" for kind in types for part in "BI")], dtype=object)
    bio = names[np.where(kinds >= 0, 1 + 2 * kinds + ~starts, 0)]
    broken = np.flatnonzero(_broken(scheme, parts, starts, kinds >= 0, last))
    return BioTags(
        tags=pa.chunked_array([pa.array(bio, pa.string())]),
        entities=int(starts.sum()),
        broken=len(np.unique(np.cumsum(starts)[broken])),
        first_broken=tags.row_of(int(broken[0])) if len(broken) else None,
        begun_by_inside=int((starts & (parts == "I")).sum()),
        begun_by_begin=int((starts & (parts == "B") & ~continues).sum()),
    )


def _shift(values: Words, fill: Any) -> Words:
    """Return the value of the previous word."""
    return np.concatenate([[fill], values])[:-1]


def _broken(scheme: Scheme, parts: Words, starts: Words, inside: Words, last: Words) -> Words:
    """Return (words,) words that begin or end their entity with a tag that the scheme does not use there."""
    if scheme.name in ("IO", "IOE"):
        return np.zeros(len(parts), bool)
    broken: Words = starts & np.isin(parts, ["I", "E"])
    if np.isin(parts, ["E", "S"]).any():  # otherwise this split is in BIO and another one is not
        closes = last | np.append(starts | ~inside, True)[1:]
        broken = broken | (inside & closes & np.isin(parts, ["B", "I"]))
    return broken
