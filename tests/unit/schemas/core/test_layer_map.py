"""Teacher blocks of each student block, compared with maps written by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.core.layer_map import (
    BottomMap,
    ExplicitMap,
    LastMap,
    LayerMap,
    MeanMap,
    RandomMap,
    TopMap,
    TransportMap,
    UniformMap,
    layer_targets,
    teacher_layers,
)


def targets(layer_map: LayerMap, student: int, teacher: int, epoch: int = 0) -> list[list[int]]:
    mapped = layer_targets(layer_map, num_student_layers=student, num_teacher_layers=teacher, epoch=epoch)
    return [list(blocks) for blocks in mapped]


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "expected"),
    [
        (UniformMap(), 4, 12, [[2], [5], [8], [11]]),
        (UniformMap(), 5, 12, [[1], [3], [6], [8], [11]]),
        (TopMap(), 3, 6, [[3], [4], [5]]),
        (BottomMap(), 3, 6, [[0], [1], [2]]),
        (LastMap(), 3, 6, [[], [], [5]]),
        (LastMap(teacher_layer=3), 2, 6, [[], [3]]),
        (MeanMap(), 3, 6, [[0, 1], [2, 3], [4, 5]]),
        (MeanMap(), 2, 5, [[0, 1], [2, 3, 4]]),
        # PKD's skip for 6 layers, counted from 0, its last block left alone.
        (ExplicitMap(layers=(1, 3, 5, 7, 9, None)), 6, 12, [[1], [3], [5], [7], [9], []]),
        (TransportMap(), 2, 3, [[0, 1, 2], [0, 1, 2]]),
    ],
)
def test_layer_maps_select_the_expected_blocks(
    layer_map: LayerMap, student: int, teacher: int, expected: list[list[int]]
) -> None:
    assert targets(layer_map, student, teacher) == expected


@given(depth=st.tuples(st.integers(1, 12), st.integers(0, 12)), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_drawn_blocks_are_distinct_and_in_order(depth: tuple[int, int], seed: int) -> None:
    student, teacher = depth[0], depth[0] + depth[1]
    drawn = [block for (block,) in targets(RandomMap(seed=seed), student, teacher)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == student
    assert set(drawn) <= set(range(teacher))
    assert targets(RandomMap(seed=seed), student, teacher) == [[block] for block in drawn]


def test_blocks_are_drawn_equally_often() -> None:
    seen = Counter(block for epoch in range(600) for (block,) in targets(RandomMap(seed=1), 2, 6, epoch))
    assert sorted(seen) == list(range(6))
    assert min(seen.values()) > 150  # 200 each are expected, with a standard deviation of 11.5


def test_a_fixed_draw_is_the_same_in_every_epoch() -> None:
    fixed = RandomMap(redraw="never", seed=4)
    assert len({str(targets(fixed, 3, 12, epoch)) for epoch in range(5)}) == 1
    assert len({str(targets(RandomMap(seed=4), 3, 12, epoch)) for epoch in range(5)}) > 1


def test_excluding_the_last_block_excludes_it_on_both_sides() -> None:
    for epoch in range(50):
        drawn = targets(RandomMap(include_last=False), 4, 6, epoch)
        assert drawn[3] == []
        assert all(blocks != [5] for blocks in drawn)


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "message"),
    [
        (UniformMap(), 7, 6, "the student has 7 layers and the teacher 6"),
        (MeanMap(), 7, 6, "a mean map needs a teacher at least as deep"),
        (RandomMap(), 7, 6, "a random map needs a teacher at least as deep"),
        (LastMap(teacher_layer=6), 2, 6, "teacher layer 6 does not exist; .* numbered 0 to 5"),
        (ExplicitMap(layers=(0, 6)), 2, 6, "teacher layer 6 does not exist"),
        (ExplicitMap(layers=(0,)), 2, 6, "2 student layers but 1 teacher layers listed"),
    ],
)
def test_an_invalid_map_is_refused_with_the_wrong_number(
    layer_map: LayerMap, student: int, teacher: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        targets(layer_map, student, teacher)


def test_a_start_requires_a_teacher_block_for_every_student_block() -> None:
    with pytest.raises(ValueError, match="student layer 1 has no teacher layer"):
        teacher_layers(ExplicitMap(layers=(0, None)), num_student_layers=2, num_teacher_layers=6)
