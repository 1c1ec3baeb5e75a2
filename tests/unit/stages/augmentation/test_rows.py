"""Augmented rows: the draw of copies, their storage, and a killed run that ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from pydantic import ValidationError

from schemas.core.errors import ConfigError, DataError, Interrupted
from schemas.data.augmentation import Augmentation
from stages.augmentation import rows as augmentation
from stages.augmentation.candidates import CandidateFinder, Replaceable
from stages.augmentation.rows import augmentation_digest, augmented_rows, part_bounds, variants
from stages.augmentation.stop_words import ENGLISH
from stages.ports.plain import SilentProgress
from tests.support.augmenting import PlainAugmentor, word_teacher
from tests.support.builders import tiny_tokenizer
from tests.support.processes import running
from tests.support.toys import toy_rows, toy_teacher

TEXTS = [row["text_a"] for row in toy_rows(40, seed=3)]
# A word of two pieces, one of many, numbers, signs, and more tokens than the model has positions for.
ODD = ["Filmz  were GREAT,\tred!", "3 x2 films", "the qzj", "good (bad) scene", "film blue " * 20]
SETTINGS = Augmentation(copies=6, candidates=5, passes=None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_teacher(tmp_path_factory.mktemp("words"))


def augment(
    rows: Dataset,
    teacher: Path,
    cache: Path,
    config: Augmentation = SETTINGS,
    progress: SilentProgress | None = None,
    **more: Any,
) -> Dataset:
    digest = augmentation_digest(config, teacher, "rows")
    return augmented_rows(
        rows,
        config,
        teacher,
        digest=digest,
        cache=cache,
        progress=progress or SilentProgress(),
        precision="fp32",
        **more,
    )


def rows_of(texts: list[str], pairs: list[str] | None = None) -> Dataset:
    return Dataset.from_dict({"text": texts} | ({"text_pair": pairs} if pairs else {}))


def bytes_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".tmp-" not in str(path)
    }


def test_candidates_equal_those_of_a_plain_implementation(teacher: Path) -> None:
    texts = [*TEXTS, *ODD]
    result = CandidateFinder(SETTINGS, teacher, precision="fp32").find(texts)
    plain = PlainAugmentor(teacher, ENGLISH, SETTINGS.candidates)
    for text, targets in zip(texts, result, strict=True):
        got = {(target.start, target.end): [word.lower() for word in target.candidates] for target in targets}
        assert got == plain.candidates(text.lower())
    assert sum(map(len, result)) > 150


def test_row_precedes_its_copies_and_all_copies_differ(teacher: Path, tmp_path: Path) -> None:
    texts = [*TEXTS, *ODD, TEXTS[0]]
    result = augment(rows_of(texts), teacher, tmp_path)
    assert result.column_names == ["text", "row", "variant"]
    for row, text in enumerate(texts):
        of_row = result.filter(lambda entry, row=row: entry["row"] == row)
        assert of_row[0]["text"] == text
        assert of_row[0]["variant"] == 0
        assert len(set(of_row["text"])) == len(of_row) <= SETTINGS.copies + 1
        numbers = list(of_row["variant"])
        assert numbers == sorted(set(numbers))
        assert numbers[-1] <= SETTINGS.copies
    first, again = (result.filter(lambda entry, row=row: entry["row"] == row)["text"][:] for row in (0, len(texts) - 1))
    assert first != again  # the same text in another row has a separate draw


def test_replacement_keeps_context_and_case(teacher: Path, tmp_path: Path) -> None:
    config = SETTINGS.model_copy(update={"replace_probability": 1.0, "copies": 50})
    result = augment(rows_of(ODD[:4]), teacher, tmp_path, config)
    copies = {row: result.filter(lambda entry, row=row: entry["row"] == row) for row in range(4)}
    for copy in copies[0]["text"][1:]:
        first, were, great, red = copy.replace("\t", " ").split()
        assert copy == f"{first}  were {great}\t{red}"
        assert first[0].isupper()
        assert great.endswith(",")
        assert great.isupper()
        assert red.endswith("!")
        assert red.islower()
        assert were == "were"  # a stop-word
    assert all(copy.startswith("3 x2 ") for copy in copies[1]["text"])
    assert all(copy.startswith("the ") for copy in copies[2]["text"])
    assert all("(" in copy and ")" in copy for copy in copies[3]["text"])


def test_each_text_of_a_pair_is_augmented_independently(teacher: Path, tmp_path: Path) -> None:
    rows = rows_of(TEXTS[:20], TEXTS[20:])
    config = SETTINGS.model_copy(update={"copies": 40, "replace_probability": 0.3})
    pairs = augment(rows, teacher, tmp_path, config)
    targets = dict(zip(TEXTS, CandidateFinder(config, teacher, precision="fp32").find(TEXTS), strict=True))
    seen = Counter[str]()
    for entry in pairs:
        for name in ("text", "text_pair"):
            assert is_copy_of(rows[entry["row"]][name], entry[name], targets)
            seen[name] += entry[name] != rows[entry["row"]][name]
    assert seen["text"] > 300
    assert seen["text_pair"] > 300
    # Of one pair, each text often stays while the other changes: they are drawn independently.
    alone = [entry["text"] != rows[entry["row"]]["text"] for entry in pairs]
    changed = [entry["text_pair"] != rows[entry["row"]]["text_pair"] for entry in pairs]
    assert {(True, False), (False, True), (True, True)} <= set(zip(alone, changed, strict=True))
    twice = augment(rows_of(TEXTS[:3], TEXTS[:3]), teacher, tmp_path / "twice", config)
    assert sum(entry["text"] != entry["text_pair"] for entry in twice) > 30


def is_copy_of(text: str, copy: str, targets: dict[str, list[Replaceable]]) -> bool:
    """Return whether the copy differs from the text only by candidates of each word."""
    words, changed = text.split(" "), copy.split(" ")
    allowed = {target.start: target.candidates for target in targets[text]}
    starts = [len(" ".join(words[:number])) + (number > 0) for number in range(len(words))]
    return len(words) == len(changed) and all(
        new == old or new in allowed[start] for old, new, start in zip(words, changed, starts, strict=True)
    )


def test_replacement_probability_and_uniform_draw_of_candidates() -> None:
    targets = [Replaceable(0, 1, list("abcde")), Replaceable(2, 3, list("xyz"))]
    config = Augmentation(copies=1000, replace_probability=0.4)
    copies = [
        copy.split()
        for seed in range(20)
        for copy in variants("1 2", targets, config, np.random.Generator(np.random.PCG64(seed)))
    ]
    total = len(copies)
    for target, entry in enumerate(targets):
        drawn = Counter(copy[target] for copy in copies)
        # Four standard deviations of a binomial count.
        for word in entry.candidates:
            share = 0.4 / len(entry.candidates)
            assert abs(drawn[word] - share * total) < 4 * (total * share * (1 - share)) ** 0.5
    both = sum(copy[0] != "1" and copy[1] != "2" for copy in copies)
    assert abs(both - 0.16 * total) < 4 * (total * 0.16 * 0.84) ** 0.5


def test_copy_depends_only_on_seed_row_and_copy_number(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = augment(rows_of(TEXTS), teacher, tmp_path / "whole")
    monkeypatch.setattr(augmentation, "PART_ROWS", 7)
    parts = augment(rows_of(TEXTS), teacher, tmp_path / "parts")
    assert parts.to_dict() == whole.to_dict()
    more = augment(rows_of(TEXTS[:11]), teacher, tmp_path / "more", SETTINGS.model_copy(update={"copies": 9}))
    few = [entry for entry in more if entry["variant"] <= SETTINGS.copies]
    assert few == [entry for entry in whole if entry["row"] < 11]
    reseeded = SETTINGS.model_copy(update={"seed": 1})
    assert augment(rows_of(TEXTS), teacher, tmp_path / "seed", reseeded).to_dict() != whole.to_dict()


def test_parts_are_bounded_in_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "PART_ROWS", 4)
    monkeypatch.setattr(augmentation, "PART_BYTES", 10)
    rows = rows_of(["aa"] * 6 + ["a" * 30, "ééé", "bb"], ["b"] * 9)
    assert part_bounds(rows) == [(0, 3), (3, 6), (6, 7), (7, 9)]
    assert part_bounds(rows.select([8, 0, 1, 2])) == [(0, 3), (3, 4)]
    assert part_bounds(rows.select([])) == []


KILLED = """
import json, os, signal, sys
from pathlib import Path
from datasets import Dataset
from schemas.data.augmentation import Augmentation
from stages.augmentation import rows as augmentation

class Silent:
    def start(self, description, total, done=0):
        pass

    def advance(self, done, metrics):
        pass

write, written = augmentation._write, []

def write_half_of_the_fourth(file, names, rows):
    write(file, names, rows)
    written.append(file)
    if len(written) == 4:
        os.truncate(file, file.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

augmentation._write = write_half_of_the_fourth
texts, config, teacher, digest, cache = sys.argv[1:]
augmentation.PART_ROWS = 7
augmentation.augmented_rows(
    Dataset.from_dict({"text": json.loads(texts)}), Augmentation.model_validate_json(config), Path(teacher),
    digest=digest, cache=Path(cache), progress=Silent(), precision="fp32",
)
"""


def test_killed_run_continues_at_the_first_missing_part_and_ends_in_the_same_bytes(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = augmentation_digest(SETTINGS, teacher, "rows")
    arguments = json.dumps(TEXTS), SETTINGS.model_dump_json(), str(teacher), digest
    killed = str(tmp_path / "killed")
    with running(sys.executable, "-c", KILLED, *arguments, killed) as process:
        assert process.wait() == -signal.SIGKILL, process.output
    kept = bytes_below(tmp_path / "killed")
    assert len(kept) == 6  # three parts: rows and seal
    assert list((tmp_path / "killed").rglob(".tmp-*"))
    monkeypatch.setattr(augmentation, "PART_ROWS", 7)
    progress = SilentProgress()
    augment(rows_of(TEXTS), teacher, tmp_path / "killed", progress=progress)
    assert progress.started == [("augmentation", 6, 3)]
    augment(rows_of(TEXTS), teacher, tmp_path / "whole")
    ended = bytes_below(tmp_path / "killed")
    assert ended == bytes_below(tmp_path / "whole")
    assert kept.items() < ended.items()


def test_stopped_run_keeps_its_parts_and_replaces_a_damaged_one(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "PART_ROWS", 10)
    progress = SilentProgress()
    with pytest.raises(Interrupted, match="finished parts kept"):
        augment(rows_of(TEXTS), teacher, tmp_path, progress=progress, stop_requested=lambda: progress.done == 2)
    whole = augment(rows_of(TEXTS), teacher, tmp_path, progress=progress).to_dict()
    assert progress.started == [("augmentation", 4, 0), ("augmentation", 4, 2)]
    augment(rows_of(TEXTS), teacher, tmp_path, progress=progress)
    assert len(progress.started) == 2  # nothing is missing: no model is loaded
    part = next((tmp_path / "augmented").glob("*/000002/rows.arrow"))
    harmed = bytearray(part.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    part.write_bytes(harmed)
    assert augment(rows_of(TEXTS), teacher, tmp_path, progress=progress).to_dict() == whole
    assert progress.started[2:] == [("augmentation", 4, 3)]


def test_without_a_head_nearest_embeddings_are_used_with_a_note(tmp_path: Path) -> None:
    bare = toy_teacher(tmp_path / "bare")
    progress = SilentProgress()
    result = augment(rows_of(TEXTS), bare, tmp_path, progress=progress)
    assert len(result) > 4 * len(TEXTS)
    (note,) = progress.notes
    assert "has no masked-language head" in note
    assert "nearest embeddings" in note
    silent = SilentProgress()
    never = SETTINGS.model_copy(update={"masked_language": "never"})
    assert augment(rows_of(TEXTS), bare, tmp_path, never, silent).to_dict() == result.to_dict()
    assert silent.notes == []
    required = SETTINGS.model_copy(update={"masked_language": "required"})
    with pytest.raises(ConfigError, match=r"augmentation.masked_language: required, but .*bare"):
        augmentation_digest(required, bare, "rows")


def test_texts_without_replaceable_words_are_kept_with_a_note(teacher: Path, tmp_path: Path) -> None:
    progress = SilentProgress()
    result = augment(rows_of(["the 3", "it is 2,000 …", "", "🙂"]), teacher, tmp_path, progress=progress)
    assert result["text"][:] == ["the 3", "it is 2,000 …", "", "🙂"]
    (note,) = progress.notes
    assert "no copy differs from its row: no word of the 4 rows" in note


def test_words_beyond_the_models_positions_are_not_replaced(teacher: Path, tmp_path: Path) -> None:
    config = SETTINGS.model_copy(update={"replace_probability": 1.0})
    result = augment(rows_of([ODD[4]]), teacher, tmp_path, config)
    for copy in result["text"][1:]:
        words = copy.split()
        assert "film" not in words[:22:2]
        assert words[22:] == ["film", "blue"] * 9


def test_digest_covers_exactly_the_settings_that_affect_the_rows(teacher: Path, tmp_path: Path) -> None:
    def digest(folder: Path = teacher, rows: str = "rows", **changes: Any) -> str:
        return augmentation_digest(SETTINGS.model_copy(update=changes), folder, rows)

    glove, moved = tmp_path / "glove.txt", tmp_path / "moved.txt"
    for path in (glove, moved):
        path.write_text("film 1 2\nscene 2 1\n")
    words = tmp_path / "words.txt"
    words.write_text("der\n\ndie \n")
    bare = toy_teacher(tmp_path / "bare")
    different = [
        digest(),
        digest(seed=1),
        digest(copies=7),
        digest(candidates=6),
        digest(passes=2),
        digest(passes=3),
        digest(replace_probability=0.5),
        digest(masked_language="never"),
        digest(rows="others"),
        digest(embeddings=str(glove)),
        digest(stop_words=("der", "die")),
        digest(bare),
    ]
    assert len(set(different)) == len(different)
    assert digest(masked_language="required") == digest()
    assert digest(embeddings=str(moved)) == digest(embeddings=str(glove))
    assert digest(stop_words=str(words)) == digest(stop_words=("Die", "der"))
    assert digest(bare, passes=2) == digest(bare, masked_language="never")
    # The digest of this version of the copies; if it changes, raise AUGMENTATION_VERSION.
    numbers = {"masked_language": "never", "copies": 20, "candidates": 15}
    folder = toy_teacher(tmp_path / "again")
    assert digest(folder, **numbers) == digest(bare, **numbers)


def test_settings_out_of_bounds_are_refused() -> None:
    for wrong in (
        {"replace_probability": 0},
        {"copies": 0},
        {"candidates": 0},
        {"copies": 1.5},
        {"passes": 1},
        {"masked_language": "no"},
        {"stop_words": ("",)},
    ):
        with pytest.raises(ValidationError):
            Augmentation.model_validate(wrong)
    assert Augmentation().model_dump() == {
        "replace_probability": 0.4,
        "copies": 20,
        "candidates": 15,
        "masked_language": "auto",
        "passes": 2,
        "embeddings": None,
        "stop_words": "english",
        "seed": 0,
    }


def test_tokenizer_without_mask_token_is_refused_for_prediction(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    folder = word_teacher(tmp_path / "words", tokenizer)
    with pytest.raises(ConfigError, match="has no mask token, so no word can be predicted; set never"):
        augment(rows_of(TEXTS), folder, tmp_path)
    never = SETTINGS.model_copy(update={"masked_language": "never"})
    assert len(augment(rows_of(TEXTS), folder, tmp_path, never)) > 100


def test_missing_glove_file_is_refused_by_the_digest(teacher: Path, tmp_path: Path) -> None:
    config = SETTINGS.model_copy(update={"embeddings": str(tmp_path / "glove.txt")})
    with pytest.raises(DataError, match=r"augmentation.embeddings: .*glove.txt does not exist; give"):
        augmentation_digest(config, teacher, "rows")
