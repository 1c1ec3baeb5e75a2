"""English docstrings under some folders; files are parsed, never imported or run.

Only the standard library is imported, so that worker processes start quickly.
"""

from __future__ import annotations

import ast
import gc
import inspect
import multiprocessing
import os
import re
import signal
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_FILE_BYTES = 1_000_000
MIN_WORDS, MIN_CHARACTERS, MAX_CHARACTERS = 8, 40, 2000
MIN_LETTER_RATIO = 0.82
# Two of these make English prose likely; lists of names and shapes have none.
MIN_FUNCTION_WORDS = 2
FUNCTION_WORDS = frozenset(
    "a an and are as at be been but by can do does each for from has have if in into is it its may more must no not of "
    "on one only or other same should so such than that the their then there these they this to use used using was we "
    "when where which will with without you your".split()
)
SKIPPED_FOLDERS = frozenset({"__pycache__", "test", "tests", "idle_test", "_vendor", "_vendored", "node_modules"})
# Fewer files are read in less time than a process takes to start.
FILES_PER_PROCESS = 400
CHUNK_FILES = 100
# More would take the tokens from the sentence that is compared with them.
MAX_PARAMETERS = 8

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_WORD = re.compile(r"[A-Za-z][a-z]+|\b[aA]\b")
_ROLE = re.compile(r":[a-z][\w:+-]*:`~?([^`<]*)(?:<[^>]*>)?`")
_UNDERLINE = re.compile(r"^\s*([-=~^*#])\1{2,}\s*$")
_NOT_PROSE_LINE = re.compile(
    r"^\s*(>>>|\.\.\. |\.\. |:\w[^:]*:(\s|$)|@\w|\||\+[-=]|```|#!|\$ "
    r"|(import|from|def|class|return|print) ?[\w(].*[\w)]$"
    r"|(for|if|with|while|elif|else|try)\b.*:$)"
)
_ASSIGNMENT = re.compile(r"^\s*[\w.\[\]'\", ]+ [-+*/|]?= \S", re.MULTILINE)
_PARAMETER = re.compile(r"^\s*[-*]?\s*[`*]*\w[\w.]*[`*]*(, [`*]*\w+[`*]*)*\s*(\([^)]*\))?\s*:(\s|$)|^\s*\w+( --? )")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
_SECTION = re.compile(r"^\s*[A-Z][\w ]{2,30}:\s*$")


class Source(NamedTuple):
    """A Python file, its top-level import name (`stdlib` for Python itself) and dotted module."""

    library: str
    module: str
    path: str


class Paragraph(NamedTuple):
    """One paragraph of prose, with its library and module."""

    text: str
    library: str
    module: str


class Function(NamedTuple):
    """A function's signature, such as `Path.open(mode, buffering)`, and the first sentence of its docstring."""

    signature: str
    sentence: str
    library: str
    module: str


class Docstrings(NamedTuple):
    """Content of docstrings; a paragraph's text, or a function's sentence, occurs once."""

    paragraphs: list[Paragraph]
    functions: list[Function]


@dataclass(frozen=True)
class Root:
    """A folder that Python imports from."""

    folder: Path
    is_stdlib: bool = False
    excluded: frozenset[str] = frozenset()
    """Top-level names to skip."""


def find_sources(roots: Iterable[Root]) -> list[Source]:
    """Return the Python files to read under `roots`, sorted by library and module."""
    return sorted({source for root in roots for source in _sources_of(root)})


def _sources_of(root: Root) -> Iterator[Source]:
    for folder, subfolders, files in os.walk(root.folder):
        parts = Path(folder).relative_to(root.folder).parts
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name not in SKIPPED_FOLDERS]
        for name in files:
            stem, suffix = os.path.splitext(name)
            module = (*parts, stem) if stem != "__init__" else parts
            if suffix != ".py" or not module or not stem.isidentifier() or module[0] in root.excluded:
                continue
            yield Source("stdlib" if root.is_stdlib else module[0], ".".join(module), os.path.join(folder, name))


def read_docstrings(sources: list[Source], processes: int | None = None) -> Docstrings:
    """Return paragraphs and functions of `sources` in order, the same for any number of processes."""
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
    processes = min(processes, max(1, len(sources) // FILES_PER_PROCESS))
    paragraphs: dict[str, Paragraph] = {}
    functions: dict[str, Function] = {}
    for part in _read_all(sources, processes):
        for paragraph in part.paragraphs:
            paragraphs.setdefault(paragraph.text, paragraph)
        for function in part.functions:
            functions.setdefault(function.sentence, function)
    return Docstrings(list(paragraphs.values()), list(functions.values()))


def _read_all(sources: list[Source], processes: int) -> list[Docstrings]:
    chunks = [sources[start : start + CHUNK_FILES] for start in range(0, len(sources), CHUNK_FILES)]
    if processes > 1:
        try:
            return _read_apart(chunks, processes)
        except (BrokenProcessPool, OSError, AssertionError):
            # A daemonic process may not start others, and a script from standard input cannot be run again.
            pass
    return [_read_chunk(chunk) for chunk in chunks]


def _read_apart(chunks: list[list[Source]], processes: int) -> list[Docstrings]:
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_keys_to_the_parent) as pool:
        parts = [pool.submit(_read_chunk, chunk) for chunk in chunks]
        try:
            return [part.result() for part in parts]
        except BaseException:
            # A second one while the pool waits for its workers would leave both waiting for ever.
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise


def _leave_keys_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_chunk(sources: list[Source]) -> Docstrings:
    # Syntax trees have no cycles, and the collector takes half of the time in which they grow.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _read_files(sources)
    finally:
        if was_enabled:
            gc.enable()


def _read_files(sources: list[Source]) -> Docstrings:
    read = Docstrings([], [])
    for source in sources:
        for node, owner, docstring in _documented(source.path):
            read.paragraphs.extend(Paragraph(text, source.library, source.module) for text in prose(docstring))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                first = prose(docstring.split("\n\n", 1)[0])
                if first:
                    sentence = _SENTENCE_END.split(first[0], 1)[0]
                    read.functions.append(Function(_signature(node, owner), sentence, source.library, source.module))
    return read


def _documented(path: str) -> list[tuple[_Documented, str, str]]:
    """Return the module, classes and functions of a file that have a docstring, with their class's name, or ""."""
    try:
        if os.path.getsize(path) > MAX_FILE_BYTES:
            return []
        source = Path(path).read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        # Templates, files of other Python versions and wrong encodings have no text, but are no failure.
        return []
    return list(_documented_in(tree))


def _documented_in(tree: ast.Module) -> Iterator[tuple[_Documented, str, str]]:
    pending: list[tuple[_Documented, str]] = [(tree, "")]
    while pending:
        node, owner = pending.pop()
        if node.body and isinstance(first := node.body[0], ast.Expr):
            match first.value:
                case ast.Constant(value=str(docstring)):
                    yield node, owner, inspect.cleandoc(docstring)
        inner = [part for part in node.body if isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        name = node.name if isinstance(node, ast.ClassDef) else ""
        pending.extend((part, name) for part in reversed(inner))


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> str:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
    return f"{f'{owner}.' if owner else ''}{node.name}({', '.join(names[:MAX_PARAMETERS])})"


def prose(docstring: str) -> list[str]:
    """Return the paragraphs of a docstring that are English prose, each on one line."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.splitlines()
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):
            lines = lines[2:]
        if lines and not _looks_like_code(lines):
            text = " ".join(_ROLE.sub(r"\1", " ".join(lines)).replace("``", "").split())
            if _reads_as_english(text):
                paragraphs.append(text)
    return paragraphs


def _looks_like_code(lines: list[str]) -> bool:
    return bool(
        _PARAMETER.match(lines[0])
        or _SECTION.match(lines[0])
        or any(_NOT_PROSE_LINE.match(line) or _UNDERLINE.match(line) for line in lines)
        or any(_ASSIGNMENT.match(line) for line in lines)
    )


def _reads_as_english(text: str) -> bool:
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS or not text.isprintable():
        return False
    letters = sum(character.isascii() and character.isalpha() for character in text)
    if letters < MIN_LETTER_RATIO * (len(text) - text.count(" ")):
        return False
    words = _WORD.findall(text)
    return len(words) >= MIN_WORDS and sum(word.lower() in FUNCTION_WORDS for word in words) >= MIN_FUNCTION_WORDS
