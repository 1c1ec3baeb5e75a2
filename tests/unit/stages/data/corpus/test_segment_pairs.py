"""Pairs of segments equal those of BERT's procedure, draw for draw; the procedure is reimplemented here."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.data.corpus import PairCut
from stages.data.corpus.segment_pairs import Pairs

Token = tuple[int, int, int]


def published(
    documents: list[list[list[Token]]], room: int, short: float, seed: int
) -> list[tuple[list[Token], list[Token]]]:
    """create_instances_from_document of google-research/bert, on lists of tokens."""
    rng = random.Random(seed)
    instances = []
    for index, document in enumerate(documents):
        target = room
        if rng.random() < short:
            target = rng.randint(2, room)
        chunk: list[list[Token]] = []
        length, i = 0, 0
        while i < len(document):
            chunk.append(document[i])
            length += len(document[i])
            if i == len(document) - 1 or length >= target:
                a_end = 1 if len(chunk) < 2 else rng.randint(1, len(chunk) - 1)
                tokens_a = [token for segment in chunk[:a_end] for token in segment]
                tokens_b: list[Token] = []
                if len(chunk) == 1 or rng.random() < 0.5:
                    for _ in range(10):
                        random_document = rng.randint(0, len(documents) - 1)
                        if random_document != index:
                            break
                    wanted = target - len(tokens_a)
                    start = rng.randint(0, len(documents[random_document]) - 1)
                    for segment in documents[random_document][start:]:
                        tokens_b.extend(segment)
                        if len(tokens_b) >= wanted:
                            break
                    i -= len(chunk) - a_end
                else:
                    tokens_b = [token for segment in chunk[a_end:] for token in segment]
                truncate(tokens_a, tokens_b, room, rng)
                instances.append((tokens_a, tokens_b))
                chunk, length = [], 0
            i += 1
    return instances


def truncate(a: list[Token], b: list[Token], room: int, rng: random.Random) -> None:
    """truncate_seq_pair of the same file."""
    while len(a) + len(b) > room:
        longer = a if len(a) > len(b) else b
        del longer[0 if rng.random() < 0.5 else -1]


@given(
    documents=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=5),
    room=st.integers(9, 30),
    short=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_pairs_equal_those_of_the_published_procedure(
    documents: list[list[int]], room: int, short: float, seed: int
) -> None:
    tokens = [
        [[(d, s, t) for t in range(length)] for s, length in enumerate(sentences)]
        for d, sentences in enumerate(documents)
    ]
    flat = [token for document in tokens for sentence in document for token in sentence]
    pairs = Pairs(
        np.array([length for sentences in documents for length in sentences]),
        np.repeat(np.arange(len(documents)), [len(sentences) for sentences in documents]),
        room,
        PairCut(short_probability=short),
        seed,
    )
    result = [(flat[a:a_end], flat[b:b_end]) for a, a_end, b, b_end in pairs]
    assert result == published(tokens, room, short, seed)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_second_segments_come_from_other_documents_in_the_published_share(probability: float) -> None:
    cut = PairCut(random_probability=probability, short_probability=0)
    # Five sentences fill a pair, and each document has four times five.
    pairs = list(Pairs(np.full(600, 5), np.repeat(np.arange(30), 20), 25, cut, seed=0))
    # A document has a hundred tokens.
    assert [a // 100 == b // 100 for a, _, b, _ in pairs] == [probability == 0] * len(pairs)
    assert all(a_end == b for _, a_end, b, _ in pairs) or probability
    assert len(pairs) == 120 or probability
    assert all(a_end - a + b_end - b == 25 for a, a_end, b, b_end in pairs) or probability
