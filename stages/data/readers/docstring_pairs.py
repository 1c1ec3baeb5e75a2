"""Does this sentence describe this function? Pairs of a signature and a docstring's first sentence.

Half of the functions keep their own sentence, the others get one of another function of the same module, so that the
subject alone does not tell. Training and validation rows come from different modules.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa
from datasets import Dataset

from schemas.data.tasks import DocstringPairTask
from stages.data.readers.docstrings import (
    MAX_TRAIN_ROWS_PER_LIBRARY,
    MAX_VALIDATION_ROWS_PER_LIBRARY,
    check_enough,
    of_libraries,
    validation_modules,
)

LABELS = ("consistent", "inconsistent")
# Of so many other functions of a module, one has another name, unless all are overloads of one function.
_TRIES = 8


def docstring_pair_rows(task: DocstringPairTask, functions: Dataset) -> tuple[Dataset, Dataset]:
    """Return training and validation rows: `text` (signature), `text_pair` (sentence), `label`, an index into `LABELS`.

    Rows are in an order that depends only on each function and the seed. Modules with a single function are left out.

    Raises:
        DataError: a library is not installed, or has too few functions.
    """
    rows = of_libraries(task, functions).to_pylist()
    held_out = validation_modules([row["module"] for row in rows], task.validation_ratio, task.seed)
    modules: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        modules.setdefault(row["module"], []).append(row)
    drawn = sorted((_draw(row, task.seed), index) for index, row in enumerate(rows))
    parts: dict[str, list[dict[str, str | int]]] = {"train": [], "validation": []}
    limits = {"train": MAX_TRAIN_ROWS_PER_LIBRARY, "validation": MAX_VALIDATION_ROWS_PER_LIBRARY}
    counts = {(part, library): 0 for part in parts for library in task.libraries}
    for draw, index in drawn:
        row = rows[index]
        part = "validation" if row["module"] in held_out else "train"
        pair = _pair(row, modules[row["module"]], draw)
        if pair is not None and counts[part, row["library"]] < limits[part]:
            counts[part, row["library"]] += 1
            parts[part].append(pair)
    for library in task.libraries:
        check_enough(library, counts["train", library], counts["validation", library])
    train, validation = (Dataset(pa.Table.from_pylist(part)) for part in parts.values())
    return train, validation


def _pair(row: dict[str, str], module: list[dict[str, str]], draw: int) -> dict[str, str | int] | None:
    """Return a function's row, or None if its module has no other function whose sentence could replace its own."""
    if len(module) == 1:
        return None
    # One bit decides the label, others choose the replacement.
    if draw & 1:
        return {"text": row["signature"], "text_pair": row["sentence"], "label": LABELS.index("consistent")}
    for attempt in range(_TRIES):
        other = module[(draw >> (1 + 16 * attempt)) % len(module)]
        if _name(other) != _name(row):
            return {"text": row["signature"], "text_pair": other["sentence"], "label": LABELS.index("inconsistent")}
    return None


def _draw(row: dict[str, str], seed: int) -> int:
    """Return 256 bits that depend on a function and the seed."""
    name = f"{seed}:{row['module']}:{row['signature']}:{row['sentence']}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest())


def _name(row: dict[str, str]) -> str:
    return row["signature"].partition("(")[0].rpartition(".")[2].strip("_")
