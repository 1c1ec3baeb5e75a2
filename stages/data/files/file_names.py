"""Which file a path of a recipe means, and of what format it is by its name."""

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
"""Of words with tags, a word a line."""
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
# What validation rows are called in a folder; those for tests are taken where there are no others.
_ALSO_CALLED = {
    "train": (("train", "training"),),
    "validation": (("validation", "valid", "val", "dev", "devel", "eval"), ("test", "testing")),
}


def resolve_file(pattern: str, where: str) -> Path:
    """The one file that `pattern` (a path, with `*` or `~` perhaps) means; `where` is its field.

    Of a folder's `train.*` and `validation.*` every format is meant, and every name that such files commonly have.

    Raises:
        DataError: there is none, there are several, or it may not be read.
    """
    path = local_path(pattern, where)
    if path.is_dir():
        raise DataError(f"{where}: {path} is a folder; give a file in it{_listing(path)}")
    if not path.exists():
        path = _only_match(path, where)
    check_regular(path, where)
    file_format(path, where)
    if not os.access(path, os.R_OK):
        raise DataError(f"{where}: {path} may not be read; change its permissions")
    return path


def _only_match(path: Path, where: str) -> Path:
    # Only the last part is a pattern where the folder exists: its name may hold a bracket.
    given = os.path.join(glob.escape(str(path.parent)), path.name) if path.parent.is_dir() else path
    found = sorted(name for name in glob.glob(str(given)) if _is_there(Path(name)))
    split = path.name.removesuffix(".*")
    if path.name.endswith(".*") and split in _ALSO_CALLED and path.parent.is_dir():
        found = _files_of_split(path.parent, split)
    if not found and path.parent.is_file() and split in _ALSO_CALLED:
        raise DataError(
            f"{where}: {path.parent} is a file, not a folder with train and validation files; name two, such as task: "
            f"{{kind: files, train: {path.parent}, validation: FILE}}"
        )
    if not found:
        raise DataError(f"{where}: there is no file {path}{_other_names(path)}{_near(path)}{_listing(path.parent)}")
    if len(found) > 1:
        raise DataError(f"{where}: {path} means {len(found)} files, {', '.join(found)}; name the one to use")
    return Path(found[0])


def _files_of_split(folder: Path, split: str) -> list[str]:
    """A folder's files of a split; those of the first names that there are any of."""
    for names in _ALSO_CALLED[split]:
        pattern = re.compile(rf"(?:{'|'.join(names)})(?:-\d+-of-\d+)?\.", re.IGNORECASE)
        files = [entry for entry in sorted(folder.iterdir()) if _is_there(entry)]
        found = [str(file) for file in files if pattern.match(file.name) and _is_data(file)]
        if found:
            return found
    return []


def _is_there(path: Path) -> bool:
    """Whether there is a file, if only one that is refused for its kind."""
    return path.is_file() or special_kind(path) is not None


def is_test_split(pattern: str, path: Path) -> bool:
    """Whether a folder's validation rows are those of its test file, for want of others."""
    is_short = Path(pattern).name == "validation.*"
    return is_short and path.name.lower().startswith(_ALSO_CALLED["validation"][1])


def _other_names(path: Path) -> str:
    split = path.name.removesuffix(".*")
    if not path.name.endswith(".*") or split not in _ALSO_CALLED or not path.parent.is_dir():
        return ""
    names = [name for names in _ALSO_CALLED[split] for name in names if name != split]
    files = [entry for entry in path.parent.iterdir() if entry.is_file() and _is_data(entry)]
    one = (
        f", and a task needs two files: split {files[0].name} into train{files[0].suffix} and "
        f"validation{files[0].suffix}"
        if len(files) == 1
        else ""
    )
    return f" nor one called {', '.join(names)}{one}"


def _near(path: Path) -> str:
    """The file, or the folder, that lies a few letters away."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    return suggestion(path.name, sorted(entry.name for entry in folder.iterdir()))


def _is_data(path: Path) -> bool:
    return Path(without_packing(path.name)).suffix.lower() in (*FORMATS, *CONLL_FORMATS, *_SPREADSHEETS)


def file_format(path: Path, where: str) -> str:
    """What `path` is by its name, such as `.jsonl`, `.csv` or `.conll`.

    Raises:
        DataError: of no known format.
    """
    suffix = Path(without_packing(path.name)).suffix.lower()
    if suffix in _SPREADSHEETS:
        raise DataError(
            f"{where}: {path} is a spreadsheet, of which sheets and cells are no rows of text; save it as CSV (UTF-8)"
        )
    if (suffix not in FORMATS and suffix not in CONLL_FORMATS) or (suffix == ".parquet" and packing_of(path.name)):
        raise DataError(
            f"{where}: {path} is of no known format; give .jsonl, .json, .csv, .tsv, .txt or .conll "
            "(plain, .gz, .bz2, .xz or .zst) or .parquet"
        )
    return suffix


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f" (there is no folder {folder} either; relative paths start at {Path.cwd()})"
    names = sorted(entry.name for entry in folder.iterdir())
    return f"; {folder} holds {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else "; it is empty"
