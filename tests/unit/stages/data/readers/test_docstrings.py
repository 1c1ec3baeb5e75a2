"""The built-in docstrings: reproducible prose, and a task without leaks of its labels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.corpus import DocstringText
from schemas.data.tasks import DocstringTask
from stages.data.readers import docstrings
from stages.data.readers.docstring_scan import Root, find_sources, prose, read_docstrings
from stages.data.readers.docstrings import (
    corpus_paragraphs,
    docstring_digest,
    docstring_task_rows,
    mask_names,
    paragraphs_of,
    validation_modules,
)

PROSE = "This function returns the number of things that are in the {} and it may be called twice."


def write_module(folder: Path, name: str, docstring: str, *, code: str = "") -> None:
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'"""{docstring}"""\n{code}', encoding="utf-8")


def packages(folder: Path) -> Root:
    write_module(folder, "alpha/__init__", PROSE.format("box"))
    write_module(folder, "alpha/tests/helper", PROSE.format("test"))
    write_module(folder, "beta/inner/deep", PROSE.format("well"))
    write_module(folder, "beta/copy", PROSE.format("box"))
    write_module(folder, "stages/own", PROSE.format("project"))
    write_module(folder, "beta-1.0.dist-info/odd", PROSE.format("metadata"))
    code = f'class A:\n    def f(self):\n        """{PROSE.format("method")}"""\n1 / 0\n'
    write_module(folder, "beta/code", "Short.", code=code)
    (folder / "beta/broken.py").write_text('"""' + PROSE + '"""\ndef (:\n')
    write_module(folder, "beta/escape", PROSE.format("\\d escape"))
    return Root(folder, excluded=frozenset({"stages"}))


def test_scan_reads_modules_classes_and_functions_without_running_them(tmp_path: Path) -> None:
    result = read_docstrings(find_sources([packages(tmp_path)])).paragraphs
    assert [(row.library, row.module) for row in result] == [
        ("alpha", "alpha"),
        ("beta", "beta.code"),
        ("beta", "beta.escape"),
        ("beta", "beta.inner.deep"),
    ]
    assert not {"alpha", "beta"} & set(sys.modules)


def test_result_does_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(250):
        write_module(tmp_path, f"pack/m{number}", PROSE.format(f"box of {number} apples"))
    sources = find_sources([Root(tmp_path)])
    alone = read_docstrings(sources, processes=1)
    monkeypatch.setattr("stages.data.readers.docstring_scan.FILES_PER_PROCESS", 50)
    assert read_docstrings(sources, processes=2) == alone
    assert len(alone.paragraphs) == 250


INTERRUPTED = """
import multiprocessing, os, signal, sys, sysconfig
from pathlib import Path
from stages.data.readers.docstring_scan import Root, find_sources, read_docstrings

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        read_docstrings(find_sources([Root(Path(sysconfig.get_path("purelib")))]), processes=2)
    except KeyboardInterrupt:
        sys.exit(f"interrupted, {len(multiprocessing.active_children())} processes left")
"""


def test_a_key_press_ends_the_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert "interrupted, 0 processes left" in done.stderr


def test_prose_leaves_out_code_tables_and_parameter_lists() -> None:
    kept = "The value of each of the items is added to the sum that was there before."
    docstring = f"""{kept}

    >>> add(1, 2) is the way to call it when you have two of them and want one

    Parameters
    ----------
    x : int
        The first of the numbers that are to be added to the other one of the two.

    :param x: the first of the numbers that are to be added to the other one of them

    | name of the thing | value of the thing that is meant | and what it is for |

    https://example.org/a/very/long/address/that/is/not/a/sentence/at/all/of/english

    Notes
    -----
    A heading is not a part
    of what :func:`~package.other` says, but this is a sentence of it.

    Too short to be of use.
    """
    assert prose(docstring) == [
        kept,
        "A heading is not a part of what package.other says, but this is a sentence of it.",
    ]


def test_second_call_opens_the_cached_paragraphs(tmp_path: Path) -> None:
    root = packages(tmp_path / "site")
    first = paragraphs_of([root], tmp_path / "cache", digest="a" * 64)
    write_module(tmp_path / "site", "gamma", PROSE.format("later"))
    again = paragraphs_of([root], tmp_path / "cache", digest="a" * 64)
    changed = paragraphs_of([root], tmp_path / "cache", digest="b" * 64)
    assert first.to_list() == again.to_list()
    assert len(changed) == len(first) + 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damaged_cache_file_is_replaced(tmp_path: Path) -> None:
    root = packages(tmp_path / "site")
    first = paragraphs_of([root], tmp_path / "cache", digest="a" * 64).to_list()
    next((tmp_path / "cache").rglob("paragraphs.arrow")).write_bytes(b"no arrow file")
    assert paragraphs_of([root], tmp_path / "cache", digest="a" * 64).to_list() == first


def test_folder_without_docstrings_is_refused_with_an_alternative(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give text files instead"):
        paragraphs_of([Root(tmp_path)], tmp_path / "cache", digest="a" * 64)


def test_digest_is_reproducible() -> None:
    assert docstring_digest() == docstring_digest()
    assert len(docstring_digest()) == 64


def test_digest_changes_with_the_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_purelib", lambda: str(tmp_path))
    monkeypatch.setattr(docstrings, "_platlib", lambda: str(tmp_path))

    def install(name: str, version: str) -> str:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
        return later()

    def later() -> str:
        """Return the digest some seconds later: two changes within one tick of the file system's clock look alike."""
        nonlocal seconds
        seconds += 1
        os.utime(tmp_path, (seconds, seconds))
        return docstring_digest()

    seconds = 1_000_000

    seen = [later(), install("one", "1.0"), install("two", "1.0")]
    assert len(set(seen)) == 3
    shutil.rmtree(tmp_path / "two-1.0.dist-info")
    assert later() == seen[1]
    assert install("distill_flow", "0.1") == seen[1]


def test_names_and_aliases_are_masked() -> None:
    texts = [
        "NumPy's np.array is input to scikit-learn and sklearn.",
        "A PyTorchModel of __torch_function__, by Hugging Face.",
        "Nothing is named here, and the same stays as it is.",
    ]
    masked = mask_names(pa.chunked_array([texts]), ("numpy", "sklearn", "sqlalchemy", "torch", "transformers"))
    assert masked == [
        "library's library.array is input to library and library.",
        "A libraryModel of __library_function__, by library.",
        "Nothing is named here, and the same stays as it is.",
    ]


def task_paragraphs(modules: int = 30, rows: int = 4) -> Dataset:
    return Dataset.from_list(
        [
            {
                "text": PROSE.format(f"{library} {'one shared thing' if row == 0 else (index, number, row)}"),
                "library": library,
                "module": f"{library}.m{number}",
            }
            for index, library in enumerate(("numpy", "torch", "other"))
            for number in range(modules)
            for row in range(rows)
        ]
    )


def test_training_has_no_text_of_a_validation_module() -> None:
    task = DocstringTask(libraries=("torch", "numpy"))
    train, validation = docstring_task_rows(task, task_paragraphs(rows=9))
    assert not set(train["text"]) & set(validation["text"])
    assert set(train["label"]) == set(validation["label"]) == {0, 1}
    assert not any("numpy" in text or "torch" in text for text in train["text"])
    again, _ = docstring_task_rows(task, task_paragraphs(rows=9))
    assert again.to_list() == train.to_list()


def test_validation_modules_are_a_share_drawn_by_the_seed() -> None:
    modules = [f"m{number}" for number in range(1000)]
    drawn = validation_modules(modules, 0.15, seed=0)
    assert 115 < len(drawn) < 185
    assert drawn == validation_modules(modules[::-1], 0.15, seed=0) != validation_modules(modules, 0.15, seed=1)
    # The split of a module does not depend on other installed packages.
    assert validation_modules(modules[:50], 0.15, seed=0) == drawn & set(modules[:50])
    assert validation_modules(modules, 0.0, seed=0) == set()


def test_general_corpus_has_no_text_of_validation_modules() -> None:
    rows = [
        {"text": f"text {index} of {module}", "library": "torch", "module": module}
        for module in (f"torch.part{number}" for number in range(60))
        for index in range(3)
    ]
    held_out = validation_modules([row["module"] for row in rows], 0.15, seed=0)
    texts = corpus_paragraphs(DocstringText(), Dataset.from_list(rows))["text"][:]
    assert held_out
    assert sorted(texts) == sorted(row["text"] for row in rows if row["module"] not in held_out)
    assert len(corpus_paragraphs(DocstringText(validation_ratio=0), Dataset.from_list(rows))) == 180


def test_classes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.readers.docstrings.MAX_TRAIN_ROWS_PER_LIBRARY", 60)
    train, _ = docstring_task_rows(DocstringTask(libraries=("numpy", "torch")), task_paragraphs(rows=9))
    assert [list(train["label"]).count(label) for label in (0, 1)] == [60, 60]


def test_error_names_a_library_that_is_not_installed() -> None:
    with pytest.raises(DataError, match=r"no docstrings of missing_one in .* task.libraries=\[numpy, torch\]"):
        docstring_task_rows(DocstringTask(libraries=("numpy", "torch", "missing_one")), task_paragraphs())


def test_error_names_a_library_with_too_little_text() -> None:
    with pytest.raises(DataError, match=r"torch has .* rows to train on"):
        docstring_task_rows(DocstringTask(libraries=("torch", "numpy")), task_paragraphs(modules=3, rows=5))
