"""The accelerator's benchmark chooses its tokens by the time that is left, and reads the recipe's files elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer

from benchmarks.gpu import _RECIPE, _paths, main, rate_of, tokens_of
from pipeline.recipes.shipped import read_recipe
from schemas.data.tasks import FileTask


def line(variant: str, shape: str, rate: float, seconds: float) -> dict[str, object]:
    return {"variant": variant, "shape": shape, "rate": rate, "seconds": [2 * seconds, 2 * seconds], "steps": 2}


def test_the_rate_at_a_batch_size_lies_between_the_two_that_were_measured() -> None:
    lines = [
        line("ours, bf16", "base", 1.0, 1.0),
        line("ours, TF32", "small", 2.0, 1.0),
        line("ours, bf16", "small", 100_000, 0.01),  # 1,000 tokens in 10 ms
        line("ours, bf16", "small", 400_000, 0.04),  # 16,000 in 40 ms
    ]
    assert rate_of(lines, 1000) == pytest.approx(100_000)
    assert rate_of(lines, 16_000) == pytest.approx(400_000)
    assert rate_of(lines, 8500) == pytest.approx(8500 / 0.025)


def test_tokens_fit_the_time_that_is_left() -> None:
    assert tokens_of(100, 100_000, 30e6) == 30e6
    tokens = tokens_of(5, 10_000, 30e6)
    assert tokens / 10_000 * 1.5 == pytest.approx(0.7 * 300)  # the control takes half of the four stages' time


def test_the_recipe_reads_its_files_in_another_folder(tmp_path: Path) -> None:
    recipe = read_recipe(str(_RECIPE), _paths(tmp_path))
    assert isinstance(recipe.task, FileTask)
    assert recipe.task.train == str(tmp_path / "sst2/train.jsonl.gz")
    text = recipe.model_dump_json()
    assert text.count(str(tmp_path)) == 7
    assert "../shared" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with an accelerator runs it")
def test_without_an_accelerator_nothing_is_measured() -> None:
    with pytest.raises(typer.BadParameter, match="no accelerator"):
        main()
