"""File names: the file that a path of a recipe means, and the format that its ending tells."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from schemas.core.errors import DataError
from schemas.core.paths import local_path
from schemas.core.regular_files import check_regular, special_kind
from schemas.core.wording import suggestion
from stages.data.files.compression import packing_of, without_packing

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}
CONLL_FORMATS = (".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2", ".bioes", ".bilou", ".ner")
"""Files of tagged words, one word per line."""
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
# Common names of each split's files in a folder; those of later groups count only if there is none of the first.
_NAMES_OF_SPLIT = {
    "train": (("train", "training"),),
    "validation": (("validation", "valid", "val", "dev", "devel", "eval"), ("test", "testing")),
}


def resolve_file(pattern: str, where: str) -> Path:
    """Return the one file that a path means, which may hold `*` or `~`.

    `FOLDER/train.*` and `FOLDER/validation.*` stand for every format and every common name of such a file.

    Args:
        pattern: the path.
        where: the field that names it, for messages.

    Raises:
        DataError: no file matches, several do, or the file is not readable.
    """
    path = local_path(pattern, where)
    if path.is_dir():
        raise DataError(f"{where}: {path} is a folder; give a file in it{_listing(path)}")
    if not path.exists():
        path = _only_match(path, where)
    check_regular(path, where)
    file_format(path, where)
    if not os.access(path, os.R_OK):
        raise DataError(f"{where}: {path} is not readable; change its permissions")
    return path


def _only_match(path: Path, where: str) -> Path:
    split, parent = _split_of(path), path.parent
    if split and parent.is_dir():
        matches = _files_of_split(parent, split)
    else:
        # Only the last part is a pattern if the folder exists, whose name may hold a bracket.
        pattern = os.path.join(glob.escape(str(parent)), path.name) if parent.is_dir() else str(path)
        matches = sorted(name for name in glob.glob(pattern) if is_file(Path(name)))
    if not matches and parent.is_file() and path.name.removesuffix(".*") in _NAMES_OF_SPLIT:
        raise DataError(
            f"{where}: {parent} is a file, not a folder with train and validation files; name two files, or a share of "
            f"the first, such as task: {{kind: files, train: {parent}, validation: 10 %}}"
        )
    if not matches:
        raise DataError(f"{where}: there is no file {path}{_other_names(path)}{_near(path)}{_listing(parent)}")
    if len(matches) > 1:
        raise DataError(f"{where}: {path} matches {len(matches)} files, {', '.join(matches)}; name the one to use")
    return Path(matches[0])


def _split_of(path: Path) -> str | None:
    """Return the split that `train.*` or `validation.*` stands for; None for other patterns."""
    split = path.name.removesuffix(".*")
    return split if path.name.endswith(".*") and split in _NAMES_OF_SPLIT else None


def _files_of_split(folder: Path, split: str) -> list[str]:
    """Return the files of a split in a folder, under the first group of names that any file has."""
    files = [str(entry) for entry in sorted(folder.iterdir()) if is_file(entry) and _is_data(entry)]
    for names in _NAMES_OF_SPLIT[split]:
        pattern = re.compile(rf"(?:{'|'.join(names)})(?:-\d+-of-\d+)?\.", re.IGNORECASE)
        if matches := [file for file in files if pattern.match(Path(file).name)]:
            return matches
    return []


def is_file(path: Path) -> bool:
    """Return whether a path leads to a file, including one that will be refused for its kind (a FIFO, a device)."""
    return path.is_file() or special_kind(path) is not None


def is_test_split(pattern: str, path: Path) -> bool:
    """Return whether a folder's validation rows are those of its test file, for want of a validation file."""
    is_short = Path(pattern).name == "validation.*"
    return is_short and path.name.lower().startswith(_NAMES_OF_SPLIT["validation"][1])


def _other_names(path: Path) -> str:
    """Return the other names that were looked for, and advice if the folder has one data file only."""
    split = _split_of(path)
    if split is None or not path.parent.is_dir():
        return ""
    names = [name for group in _NAMES_OF_SPLIT[split] for name in group if name != split]
    files = [entry for entry in path.parent.iterdir() if entry.is_file() and _is_data(entry)]
    advice = ""
    if len(files) == 1:
        file = files[0]
        advice = (
            f", and a task needs two files: split {file.name} into train{file.suffix} and validation{file.suffix}, or "
            f"give task: {{kind: files, train: {file}, validation: 10 %}}"
        )
    return f" nor one named {', '.join(names)}{advice}"


def _near(path: Path) -> str:
    """Return a suggestion for a misspelt file or folder."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    return suggestion(path.name, sorted(entry.name for entry in folder.iterdir()))


def _is_data(path: Path) -> bool:
    return suffix_of(path) in (*FORMATS, *CONLL_FORMATS, *_SPREADSHEETS)


def suffix_of(path: Path) -> str:
    """Return a file's ending in lower case, before that of its compression: `.csv` of `a.CSV.gz`."""
    return Path(without_packing(path.name)).suffix.lower()


def file_format(path: Path, where: str) -> str:
    """Return a file's format by its name, such as `.jsonl`, `.csv` or `.conll`.

    Raises:
        DataError: the format is unknown.
    """
    suffix = suffix_of(path)
    if suffix in _SPREADSHEETS:
        raise DataError(f"{where}: {path} is a spreadsheet, which has no plain rows of text; save it as CSV (UTF-8)")
    if (suffix not in FORMATS and suffix not in CONLL_FORMATS) or (suffix == ".parquet" and packing_of(path.name)):
        raise DataError(
            f"{where}: {path} has no known format; give .jsonl, .json, .csv, .tsv, .txt or .conll (plain, .gz, .bz2, "
            ".xz or .zst) or .parquet"
        )
    return suffix


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f" (there is no folder {folder} either; relative paths start at {Path.cwd()})"
    names = sorted(entry.name for entry in folder.iterdir())
    return f"; {folder} holds {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else "; it is empty"
