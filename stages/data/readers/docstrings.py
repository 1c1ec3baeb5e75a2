"""Docstrings of the installed packages: text that every machine with this project has.

Paragraphs and functions are read once per set of installed packages and kept as Arrow files. One task is to name the
library that a paragraph documents. Names of libraries are masked, and training and validation rows come from different
modules, so that only the content can tell. The other task, of pairs, is in `docstring_pairs.py`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.data.corpus import DocstringText
from schemas.data.tasks import BaseDocstringTask
from stages.data.readers.docstring_scan import Docstrings, Function, Paragraph, Root, find_sources, read_docstrings
from stages.storage.format_versions import EXTRACTION_VERSION, TASK_VERSION
from stages.storage.sealed_folder import is_whole, make_whole

_PARAGRAPHS, _FUNCTIONS = "paragraphs.arrow", "functions.arrow"

# This project's docstrings would change every stage's digest with every commit.
OWN_DISTRIBUTION = "distill-flow"
OWN_PACKAGES = frozenset({"schemas", "stages", "pipeline"})

# Without a cap, torch alone would have a sixth of the rows of twelve libraries; with it no class has more than a tenth.
MAX_TRAIN_ROWS_PER_LIBRARY = 4000
MAX_VALIDATION_ROWS_PER_LIBRARY = 700
MIN_TRAIN_ROWS, MIN_VALIDATION_ROWS = 50, 10

MASK = "library"
ALIASES = {
    "matplotlib": ("mpl", "plt", "pyplot", "pylab"),
    "numpy": ("np",),
    "pandas": ("pd",),
    "sklearn": ("scikit-learn", "scikit learn", "scikit"),
    "sqlalchemy": ("sa",),
    "stdlib": ("cpython", "python"),
    "torch": ("pytorch",),
    "transformers": ("hugging face", "huggingface"),
}
# Longer names are also masked inside words (MlflowClient, PyTorchModel), shorter ones only as words.
MIN_LETTERS_INSIDE_WORDS = 5


def docstring_digest() -> str:
    """Return a SHA-256, cheap to compute, that changes with the result of `load_paragraphs`."""
    folders = sorted({_purelib(), _platlib()})
    # Installing or removing a package changes the time of its folder, so a run lists the packages once.
    return _digest_of_packages(tuple((folder, os.stat(folder).st_mtime_ns) for folder in folders))


@lru_cache(maxsize=8)
def _digest_of_packages(folders: tuple[tuple[str, int], ...]) -> str:
    # Each access to a distribution's name or version reads and parses its metadata anew.
    described = (found.metadata for found in importlib.metadata.distributions(path=[folder for folder, _ in folders]))
    installed = {
        f"{name}=={metadata['Version']}"
        for metadata in described
        if (name := metadata["Name"]) and name.lower().replace("_", "-") != OWN_DISTRIBUTION
    }
    return digest_of(
        {"extraction": EXTRACTION_VERSION, "installed": sorted(installed), "python": platform.python_version()}
    )


def _purelib() -> str:
    return sysconfig.get_path("purelib")


def _platlib() -> str:
    return sysconfig.get_path("platlib")


def installed_roots() -> list[Root]:
    """Return the folders of the standard library and of the installed packages."""
    folders = sorted({_purelib(), _platlib()})
    return [
        Root(Path(sysconfig.get_path("stdlib")), is_stdlib=True),
        *(Root(Path(folder), excluded=OWN_PACKAGES) for folder in folders),
    ]


def load_paragraphs(cache: Path) -> Dataset:
    """Return the paragraphs of all installed packages: columns `text`, `library`, `module`, memory-mapped.

    The first call for a set of installed packages reads their source (tens of seconds) and writes files to `cache`,
    which later calls open.

    Raises:
        DataError: no installed package has docstrings.
    """
    return paragraphs_of(installed_roots(), cache, digest=docstring_digest())


def load_functions(cache: Path) -> Dataset:
    """Return the functions of all installed packages: columns `signature`, `sentence`, `library`, `module`.

    Raises:
        DataError: no installed package has docstrings.
    """
    folder = _docstring_folder(installed_roots(), cache, digest=docstring_digest())
    return Dataset.from_file(str(folder / _FUNCTIONS))


def paragraphs_of(roots: Sequence[Root], cache: Path, *, digest: str) -> Dataset:
    """Return the paragraphs of the Python files under `roots`, kept in `cache` under `digest`."""
    return Dataset.from_file(str(_docstring_folder(roots, cache, digest=digest) / _PARAGRAPHS))


def _docstring_folder(roots: Sequence[Root], cache: Path, *, digest: str) -> Path:
    folder = cache / f"docstrings-{digest[:16]}"
    if not is_whole(folder):
        read = read_docstrings(find_sources(roots))
        if not read.paragraphs:
            folders = ", ".join(str(root.folder) for root in roots)
            raise DataError(
                f"no English docstrings under {folders} (packages may be installed without source); give text files "
                "instead, such as sources: [{kind: files, paths: [./text.jsonl]}]"
            )
        make_whole(folder, lambda beside: _write_all(read, beside))
    return folder


def _write_all(read: Docstrings, folder: Path) -> None:
    _write(read.paragraphs, Paragraph._fields, folder / _PARAGRAPHS)
    _write(read.functions, Function._fields, folder / _FUNCTIONS)


def _write(rows: Sequence[Paragraph] | Sequence[Function], fields: tuple[str, ...], path: Path) -> None:
    columns = {field: pa.array([getattr(row, field) for row in rows], pa.string()) for field in fields}
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)


def docstring_task_digest(task: BaseDocstringTask) -> str:
    """Return the SHA-256 of all that decides the rows of a task, without reading them."""
    return digest_of({"paragraphs": docstring_digest(), "task": task.model_dump(mode="json"), "version": TASK_VERSION})


def docstring_task_rows(task: BaseDocstringTask, paragraphs: Dataset) -> tuple[Dataset, Dataset]:
    """Return training and validation rows: masked `text`, and `label`, an index into `task.libraries`.

    No module has rows in both, and no text occurs twice.

    Raises:
        DataError: a library is not installed, or has too few docstrings.
    """
    table = of_libraries(task, paragraphs)
    frame = pd.DataFrame({name: table[name].to_pylist() for name in ("library", "module")})
    frame = frame.assign(text=mask_names(table["text"], task.libraries)).drop_duplicates("text")
    order = np.random.Generator(np.random.PCG64(task.seed)).permutation(len(frame))
    frame = frame.iloc[order]
    parts: dict[str, list[pd.DataFrame]] = {"train": [], "validation": []}
    for library in task.libraries:
        rows = frame[frame["library"] == library]
        held_out = rows["module"].isin(validation_modules(rows["module"], task.validation_ratio, task.seed))
        train, validation = rows[~held_out], rows[held_out]
        check_enough(library, len(train), len(validation))
        parts["train"].append(train.head(MAX_TRAIN_ROWS_PER_LIBRARY))
        parts["validation"].append(validation.head(MAX_VALIDATION_ROWS_PER_LIBRARY))
    train, validation = (_as_rows(frames, task.libraries) for frames in parts.values())
    return train, validation


def mask_names(texts: pa.ChunkedArray, libraries: Sequence[str]) -> list[str]:
    """Return texts with the names and aliases of `libraries`, in any case, replaced by `library`.

    Names of five letters and more are also replaced inside words.
    """
    names = {name for library in libraries for name in (library, *ALIASES.get(library, ()))}
    # Longest first, so that scikit-learn is not masked as scikit followed by -learn.
    ordered = sorted(names, key=lambda name: (-len(name), name))
    # RE2 finds the affected rows quickly, but only Python's engine has lookarounds.
    anywhere = "|".join(_pattern_of(name, "(?:^|[^A-Za-z0-9])", "(?:[^A-Za-z0-9]|$)") for name in ordered)
    exact = re.compile("|".join(_pattern_of(name, "(?<![A-Za-z0-9])", "(?![A-Za-z0-9])") for name in ordered), re.I)
    named = pc.match_substring_regex(texts, anywhere, ignore_case=True)
    return [
        exact.sub(MASK, text) if is_named else text
        for text, is_named in zip(texts.to_pylist(), named.to_pylist(), strict=True)
    ]


def _pattern_of(name: str, before: str, after: str) -> str:
    if len(name) >= MIN_LETTERS_INSIDE_WORDS:
        return re.escape(name)
    # Underscores separate words here: np in use_np is a name, in input it is not.
    return before + re.escape(name) + after


def validation_modules(modules: Sequence[str], ratio: float, seed: int) -> set[str]:
    """Draw about a share `ratio` of the distinct modules; each draw depends only on the module's name and the seed."""
    return {module for module in set(modules) if _draw(module, seed) < ratio}


def _draw(module: str, seed: int) -> float:
    """Return a number from 0 to 1 that depends on a module's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{module}".encode()).digest()[:8], "big") / 2**64


def corpus_paragraphs(source: DocstringText, paragraphs: Dataset) -> Dataset:
    """Return the paragraphs for a general corpus: all except those of the docstring task's validation modules."""
    table = paragraphs.data.table
    held_out = validation_modules(table["module"].unique().to_pylist(), source.validation_ratio, source.seed)
    outside = pc.invert(pc.is_in(table["module"], pa.array(sorted(held_out), pa.string())))
    return Dataset(table.filter(outside).select(["text", "module"]))


def of_libraries(task: BaseDocstringTask, read: Dataset) -> pa.Table:
    """Return the rows of the task's libraries.

    Raises:
        DataError: a library is not installed.
    """
    table = read.data.table
    table = table.filter(pc.is_in(table["library"], pa.array(task.libraries)))
    installed = set(table["library"].unique().to_pylist())
    missing = sorted(set(task.libraries) - installed)
    present = [library for library in task.libraries if library in installed]
    if missing:
        raise DataError(
            f"task.libraries: no docstrings of {', '.join(missing)} in this Python environment; install the package "
            "(names are import names, such as sklearn) or remove it from the list, for example "
            f"task.libraries=[{', '.join(present)}]"
        )
    return table


def check_enough(library: str, train: int, validation: int) -> None:
    """Raise a DataError if a library has too few rows."""
    if train < MIN_TRAIN_ROWS or validation < MIN_VALIDATION_ROWS:
        raise DataError(
            f"task.libraries: {library} has {train} rows to train on and {validation} to validate on, and needs "
            f"at least {MIN_TRAIN_ROWS} and {MIN_VALIDATION_ROWS}; remove it from the list or change "
            "task.validation_ratio"
        )


def _as_rows(frames: list[pd.DataFrame], libraries: Sequence[str]) -> Dataset:
    rows = pd.concat(frames)
    labels = pd.Categorical(rows["library"], categories=list(libraries)).codes
    table = pa.table({"text": pa.array(rows["text"], pa.string()), "label": pa.array(labels, pa.int64())})
    return Dataset(table)
