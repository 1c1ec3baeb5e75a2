"""Words with the nearest embeddings, from a GloVe file or a model's table, and errors in a file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.core.errors import DataError
from schemas.data.augmentation import Augmentation
from stages.augmentation import nearest_words as neighbours
from stages.augmentation.candidates import CandidateFinder
from stages.augmentation.nearest_words import GloveNeighbours, read_glove
from stages.augmentation.words import Word
from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens
from tests.support.augmenting import word_teacher

GLOVE = """\
the 0.1 0.2 0.3
, 0.1 0.2 0.3
film 1 0 0
movie 0.9 0.1 0
Film 0.8 0.2 0.1
scene 0.5 0.5 0
. . . 0.5 0.5 0.5
sky -1 0 0.2
nothing 0 0 0
电影 0.9 0.05 0
戏 0.7 0.1 0
"""


def write(path: Path, text: str) -> Path:
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def near(table: GloveNeighbours, *words: str, number: int = 3) -> list[list[str]]:
    tokens = Tokens(*(np.empty(0, np.int32),) * 2, None, Payload(), 0, "", np.empty(0, np.int64))
    asked = [Word(0, 0, len(word), 0, 2, word) for word in words]
    return table.of(asked, tokens, number)


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz", "vectors.vec"])
def test_neighbours_are_nearest_by_cosine_among_words_of_letters(tmp_path: Path, name: str) -> None:
    heading = "11 3\n" if name.endswith(".vec") else ""
    table = GloveNeighbours(str(write(tmp_path / name, heading + GLOVE)))
    film, capital, unknown, chinese = near(table, "film", "SKY", "unheard", "电影")
    # Cosines to film: movie 0.994, Film 0.963 (the word itself), scene 0.707, the 0.267, sky -0.98.
    assert film == ["movie", "scene", "the"]
    assert capital == ["the", "scene", "Film"]
    assert unknown == []
    assert chinese == ["戏"]


def test_glove_file_is_read_up_to_the_word_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MOST_WORDS", 4)
    words, vectors = read_glove(write(tmp_path / "glove.txt", GLOVE + "broken line\n"))
    assert words == ["the", "film", "movie"]
    assert vectors.shape == (3, 3)
    headed, _ = read_glove(write(tmp_path / "a.vec", "11 3\n" + GLOVE + "broken line\n"))
    assert headed == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("film 1 2 3\nscene 1 2\n", "line 2 has 2 numbers after its word where the first line has 3"),
        ("film 1 2\nscene 1 2 3\n", "line 2 has 3 numbers after its word where the first line has 2"),
        ("film 1 2\nscene 1 two\n", "line 2 has 'two' where a number should be"),
        ("film 1 2\nscene 1 nan\n", "line 2 has a number that is not finite"),
        ("film 1 2\n\nscene 1 2\n", "line 2 has -1 numbers"),
        ("film\nscene\n", "line 1 has 0 numbers after its word"),
        ("film 1\n", "line 1 has 1 numbers after its word"),
        ("film 1 2\n", "holds 1 words of letters; give a GloVe file"),
        ("", "holds 0 words of letters"),
    ],
)
def test_error_names_the_line_of_a_glove_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_glove(write(tmp_path / "glove.txt", text))
    shown = str(caught.value)
    assert shown.startswith(f"augmentation.embeddings: {tmp_path / 'glove.txt'}")
    assert message in shown
    assert "; " in shown


def test_damaged_glove_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "glove.txt.gz", GLOVE * 100)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"glove.txt.gz is cut short .*; fetch it again"):
        read_glove(path)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"film 1 2\nf\xfcr 1 2\n")
    with pytest.raises(DataError, match=r"latin.txt: line 2 is not UTF-8; .*fix the line"):
        read_glove(path)
    with pytest.raises(DataError, match="is a folder; give a GloVe file"):
        GloveNeighbours(str(tmp_path))


def test_glove_serves_words_of_several_pieces_and_the_model_all_others(tmp_path: Path) -> None:
    teacher = word_teacher(tmp_path / "words")
    glove = write(tmp_path / "glove.txt", GLOVE)
    text = "sky film unheard"  # film is one token, the others are several
    config = Augmentation(embeddings=str(glove), candidates=2, passes=None)
    (targets,) = CandidateFinder(config, teacher, precision="fp32").find([text])
    settings = Augmentation(candidates=2, passes=None)
    expected = CandidateFinder(settings, teacher, precision="fp32").find([text])[0]
    assert [text[target.start : target.end] for target in targets] == ["sky", "film"]
    assert targets[0].candidates == ["the", "scene"]
    assert targets[1] == expected[1]
    never = config.model_copy(update={"masked_language": "never"})
    (targets,) = CandidateFinder(never, teacher).find([text])
    assert [list(target.candidates) for target in targets] == [["the", "scene"], ["movie", "scene"]]


def test_word_with_an_unknown_piece_has_no_neighbours_in_the_model(tmp_path: Path) -> None:
    teacher = word_teacher(tmp_path / "words")
    never = Augmentation(masked_language="never", candidates=2)
    (targets,) = CandidateFinder(never, teacher).find(["film 猫 слово filmz"])
    assert [(target.start, target.end) for target in targets] == [(0, 4), (13, 18)]


def test_neighbours_do_not_depend_on_the_number_of_words_per_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = GloveNeighbours(str(write(tmp_path / "glove.txt", GLOVE)))
    words = ["film", "sky", "戏", "scene", "the", "电影"]
    whole = near(table, *words)
    monkeypatch.setattr(neighbours, "_SCORES", 1)
    assert near(table, *words) == whole
    assert torch.allclose(table.table.vectors.norm(dim=-1), torch.ones(len(table.rows)))
