"""Schemes by which tags of words mark entities, told from the tags and turned into BIO (IOB2).

| scheme        | an entity of three words, and of one | what else                                                    |
|---------------|--------------------------------------|--------------------------------------------------------------|
| BIO, IOB2     | `B- I- I-`, `B-`                     | what entities are scored in                                  |
| IOB1          | `I- I- I-`, `I-`                     | `B-` only where an entity follows another of its type        |
| IO            | `I- I- I-`, `I-`, or `X X X`, `X`    | neighbours of one type are one entity                        |
| BIOES, IOBES  | `B- I- E-`, `S-`                     | BMES and BMEWO write `M-` for `I-`, the latter `W-` for `S-` |
| BILOU         | `B- I- L-`, `U-`                     |                                                              |
| IOE1, IOE2    | `I- I- E-`, `E-` or `I-`             | `E-` ends an entity                                          |

The letter may stand behind the type (`PER-B`), be small (`b-per`), be parted from it by `_`, `:`, `/` or `|` instead of
`-`, or stand alone where there is one type only. Where an entity begins is decided as conlleval decides it (Tjong Kim
Sang and Buchholz 2000; `startOfChunk`), so that a sequence that breaks its scheme has the entities it is scored by.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
_BEFORE = re.compile(rf"([{_LETTERS}])[{_SIGNS}](.+)", re.IGNORECASE | re.DOTALL)
_BEHIND = re.compile(rf"(.+)[{_SIGNS}]([{_LETTERS}])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(rf"()([{_LETTERS}])[{_SIGNS}]?", re.IGNORECASE)
# What a letter means: begin, inside, end, single.
_MEANING = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}


def are_bio(tags: Iterable[str]) -> bool:
    """Whether tags are those of BIO, of which entities are scored."""
    return {tag[:2] for tag in tags} <= {"B-", "I-", OUTSIDE}


class NoScheme(ValueError):
    """Tags are of no scheme, or could be of several; the message says why."""


@dataclass(frozen=True)
class Scheme:
    """What each tag says."""

    name: str
    parts: Mapping[str, tuple[str, str]]
    """Begin, inside, end, single or outside (`B`, `I`, `E`, `S`, `O`) and the type of each tag."""

    @property
    def is_bio(self) -> bool:
        """Whether every tag is written as BIO writes it."""
        return self.name == "BIO" and all(
            tag == OUTSIDE or (part in "BI" and tag == f"{part}-{kind}") for tag, (part, kind) in self.parts.items()
        )

    def bio_labels(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The names that tags have in BIO: `O`, and each type's B- and I-, in the order of their first mention."""
        kinds = dict.fromkeys(self.parts[label] for label in labels)
        if self.is_bio:
            return tuple(labels)
        types = dict.fromkeys(kind for part, kind in kinds if part != OUTSIDE)
        return (OUTSIDE, *(f"{part}-{kind}" for kind in types for part in "BI"))


def scheme_of(tags: Iterable[str]) -> Scheme:
    """The scheme that tags are of.

    Args:
        tags: all different ones, of all splits, and those that the task lists.

    Raises:
        NoScheme: they are of none, or could be of several.
    """
    tags = sorted(set(tags))
    outside = _outside(tags)
    inside = [tag for tag in tags if tag not in outside]
    parts = dict.fromkeys(outside, (OUTSIDE, ""))
    for pattern, letter, kind in ((_BEFORE, 1, 2), (_BEHIND, 2, 1), (_ALONE, 2, 1)):
        found = [pattern.fullmatch(tag) for tag in inside]
        if not all(found) or not inside:
            continue
        letters = {each[letter].upper() for each in found if each}
        name = _name_of(letters, inside)
        split = {each[0]: (_MEANING[each[letter].upper()], each[kind] or ONLY_TYPE) for each in found if each}
        if name != "IOE":
            _check_ends(split)
        return Scheme(name, parts | split)
    if not inside:
        return Scheme("BIO", parts)
    return _without_letters(inside, parts)


def _outside(tags: Sequence[str]) -> tuple[str, ...]:
    """How the tags write `O`: perhaps small, or as a zero among tags with letters."""
    found = tuple(tag for tag in tags if tag in (OUTSIDE, "o"))
    if not found and "0" in tags and any(_BEFORE.fullmatch(tag) for tag in tags):
        return ("0",)
    return found


def _name_of(letters: set[str], tags: Sequence[str]) -> str:
    """The scheme that writes these letters."""
    for several in ({"I", "M"}, {"E", "L"}, {"S", "U"}, {"S", "W"}, {"U", "W"}):
        if several <= letters:
            raise NoScheme(f"{_shown(tags)} have both {' and '.join(sorted(several))} in front, as no scheme has")
    if letters <= {"B", "I"}:
        return "BIO" if "B" in letters else "IO"
    if "B" not in letters:
        if letters == {"I", "E"}:
            return "IOE"
        raise NoScheme(f"{_shown(tags)} have no B, so their letters may belong to the types' names")
    if letters & {"L", "U"}:
        return "BILOU"
    if "W" in letters:
        return "BMEWO"
    return "BMES" if "M" in letters else "BIOES"


def _check_ends(parts: Mapping[str, tuple[str, str]]) -> None:
    """Refuse a letter that ends entities of a type which nothing begins: it may belong to the type's name."""
    begun = {kind for part, kind in parts.values() if part in "BI"}
    for tag, (part, kind) in parts.items():
        if part == "E" and kind not in begun:
            raise NoScheme(f"{_shown([tag])} would end entities of a type that no tag begins")


def _without_letters(inside: Sequence[str], parts: Mapping[str, tuple[str, str]]) -> Scheme:
    some = [tag for tag in inside if _BEFORE.fullmatch(tag)]
    others = [tag for tag in inside if tag not in some]
    if any(tag[0].upper() in "BI" for tag in some):
        raise NoScheme(f"{_shown(some)} say where an entity begins or goes on, {_shown(others)} not")
    if all(re.fullmatch(r"-?\d+", tag) for tag in inside):
        raise NoScheme(f"{_shown(inside)} are numbers; list their names in task.labels, in their order from 0")
    if not parts:
        raise NoScheme(f"{_shown(inside)} name no entities: there is no {OUTSIDE}, and no B-TYPE")
    return Scheme("IO", {**parts, **{tag: ("I", tag) for tag in inside}})


def _shown(tags: Sequence[str]) -> str:
    return ", ".join(printable(tag, 40) for tag in tags[:4]) + (", …" if len(tags) > 4 else "")


@dataclass(frozen=True)
class BioTags:
    """Tags of a split in BIO, and how its entities keep to their scheme."""

    tags: pa.ChunkedArray
    """The words' tags, all sentences one after the other."""
    entities: int
    broken: int
    """Entities that do not begin, or end, as their scheme has it."""
    first_broken: int | None
    """The row of the first of them, counted from 1."""
    begun_by_inside: int
    """Entities that begin with I-, as in IOB1."""
    begun_by_begin: int
    """Entities that begin with B- where IOB1 would write I-."""


def as_bio(scheme: Scheme, given: Lists) -> BioTags:
    """Every tag as BIO writes it, where entities begin as conlleval has it.

    Args:
        scheme: of the tags.
        given: the tags of a split, a list for each sentence.
    """
    distinct = [*scheme.parts]
    types = sorted({kind for part, kind in scheme.parts.values() if part != OUTSIDE})
    part_of = np.array([scheme.parts[tag][0] for tag in distinct])
    type_of = np.array([types.index(kind) if part != OUTSIDE else -1 for part, kind in scheme.parts.values()])
    codes = pc.index_in(given.flat, value_set=pa.array(distinct, pa.string())).to_numpy()
    parts, kinds = part_of[codes], type_of[codes]
    first, last = _ends_of_sentences(given.lengths, len(codes))
    starts = _starts(parts, kinds, first)
    inside = kinds >= 0
    names = np.array([OUTSIDE, *(f"{part}-{kind}" for kind in types for part in "BI")], dtype=object)
    bio = np.where(inside, 1 + 2 * kinds + ~starts, 0)
    broken = _broken(scheme, parts, starts, inside, last)
    entities = np.cumsum(starts)
    places = np.flatnonzero(broken)
    follows = np.concatenate([[-1], kinds[:-1]])[: len(kinds)]
    goes_on = ~first & (follows == kinds)
    return BioTags(
        tags=pa.chunked_array([pa.array(names[bio], pa.string())]),
        entities=int(starts.sum()),
        broken=len(np.unique(entities[places])),
        first_broken=given.row_of(int(places[0])) if len(places) else None,
        begun_by_inside=int((starts & (parts == "I")).sum()),
        begun_by_begin=int((starts & (parts == "B") & ~goes_on).sum()),
    )


def _ends_of_sentences(lengths: NDArray[np.int64], words: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(words,) whether a word is the first, and the last, of its sentence."""
    first, last = np.zeros(words, bool), np.zeros(words, bool)
    ends = np.cumsum(lengths)[lengths > 0]
    last[ends - 1] = True
    first[(ends - lengths[lengths > 0])] = True
    return first, last


def _starts(parts: NDArray[np.str_], kinds: NDArray[np.int64], first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(words,) whether an entity begins: conlleval's `startOfChunk`."""
    before_parts = np.concatenate([[OUTSIDE], parts[:-1]])[: len(parts)]
    before_kinds = np.concatenate([[-1], kinds[:-1]])[: len(kinds)]
    closed = first | np.isin(before_parts, ["E", "S", OUTSIDE]) | (before_kinds != kinds)
    starts: NDArray[np.bool_] = (kinds >= 0) & (np.isin(parts, ["B", "S"]) | closed)
    return starts


def _broken(
    scheme: Scheme,
    parts: NDArray[np.str_],
    starts: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    last: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """(words,) whether a word begins or ends its entity with a tag that its scheme would not write there."""
    if scheme.name in ("IO", "IOE"):
        return np.zeros(len(parts), bool)
    broken: NDArray[np.bool_] = starts & np.isin(parts, ["I", "E"])
    if np.isin(parts, ["E", "S"]).any():  # else the split is one of BIO beside others of another scheme
        begins_next = np.concatenate([starts[1:], [True]])[: len(parts)]
        outside_next = np.concatenate([~inside[1:], [True]])[: len(parts)]
        ends = inside & (last | begins_next | outside_next)
        broken = broken | (ends & np.isin(parts, ["B", "I"]))
    return broken
