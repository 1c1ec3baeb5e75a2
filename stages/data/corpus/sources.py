"""Text of a corpus's sources, a few thousand rows at a time.

Files are converted once to Arrow files in the cache (`stages.data.readers.files`). These are read from start to end and
never mapped, so that their pages do not stay in memory.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from schemas.core.base import digest_of
from schemas.core.errors import DataError
from schemas.core.paths import local_path
from schemas.data.corpus import AnySource, DocstringText, FileText, HubText
from stages.data.files.compression import packing_of
from stages.data.files.file_names import FORMATS, file_format, is_file, resolve_file, suffix_of
from stages.data.files.limits import MAX_ROW_BYTES, allowed_bytes, row_too_long, unpacks_too_far
from stages.data.files.read_request import Reading
from stages.data.readers.docstrings import corpus_paragraphs, docstring_digest, load_paragraphs
from stages.data.readers.files import check_column, file_identity, is_text, read_file, text_column
from stages.data.readers.hub import hub_commit, load_hub
from stages.data.readers.hub_sample import load_sample
from stages.data.readers.saved_datasets import is_saved, saved_batches, saved_files, saved_split
from stages.storage.sealed_folder import file_digest
from stages.text.pieces import pieces_of

FIELD = "general_corpus.sources"
# Formats in which a folder may hold a note or a description beside its data.
_BESIDE = {".json", ".txt"}
_PIECE_BYTES = 1 << 20
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class TextRows:
    """Some rows of a source."""

    text: pa.StringArray
    blank: NDArray[np.bool_]
    """(rows,) True for white space alone."""
    begins: NDArray[np.bool_]
    """(rows,) True where a document begins."""


@dataclass(frozen=True)
class Part:
    """Part of a source: a file, a saved data set, a split of the hub, or the docstrings."""

    source: int
    """Index of its source in the corpus."""
    where: str
    """Beginning of error messages."""
    column: str
    batches: Callable[[], Iterator[pa.RecordBatch]]
    """Reads the text, and the document as a second column if there is one."""
    blank_line_ends: bool = False
    """True if a document ends at a blank row."""
    remarks: tuple[str, ...] = ()
    """Choices made in reading its file."""

    def read(self) -> Iterator[TextRows]:
        """Yield all rows in order, about a megabyte at a time.

        Raises:
            DataError: a row has no text, or too much of it.
        """
        before = 0
        # Equal to no document, so that the first row begins one.
        last: object = object()
        for batch in self._sized():
            text = self._checked(batch.column(0), before)
            blank = pc.equal(pc.utf8_trim_whitespace(text), "").to_numpy(zero_copy_only=False)
            begins = np.ones(len(text), bool)
            if self.blank_line_ends:
                begins[1:], begins[:1] = blank[:-1], last is not False
                last = bool(blank[-1]) if len(blank) else last
            elif batch.num_columns > 1:
                documents = batch.column(1).to_pylist()
                for row, document in enumerate(documents):
                    begins[row], last = document != last, document
            for rows in pieces_of(pc.binary_length(text).to_numpy(zero_copy_only=False), _PIECE_BYTES):
                yield TextRows(text[rows], blank[rows], begins[rows])
            before += len(text)

    def _sized(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches, split where many rows are views of the same bytes, of which decoding makes copies."""
        for batch in self.batches():
            views = [column for column in batch.columns if pa.types.is_string_view(column.type)]
            for column in batch.columns[1:]:
                if pa.types.is_dictionary(column.type) or _is_view(column.type):
                    raise DataError(
                        f"{self.where}: the column of the document holds {column.type}; give one of texts or numbers"
                    )
            if not views:
                yield batch
                continue
            lengths = np.sum([_view_lengths(view) for view in views], axis=0)
            if lengths.sum(dtype=np.int64) > (allowed := allowed_bytes(batch.nbytes)):
                raise unpacks_too_far(self.where, allowed)
            for rows in pieces_of(lengths, _PIECE_BYTES):
                yield batch.slice(rows.start, rows.stop - rows.start)

    def _checked(self, text: pa.Array, before: int) -> pa.StringArray:
        if not _is_text(text.type):
            raise DataError(
                f"{self.where}: column {self.column!r} holds {text.type}, not text; name the column of text"
            )
        text = text.cast(pa.string())
        if text.null_count:
            row = before + pc.index(pc.is_null(text), pa.scalar(True)).as_py() + 1
            raise DataError(f"{self.where}: row {row}: column {self.column!r} is missing or null; give text or drop it")
        row = pc.index(pc.greater(pc.binary_length(text), MAX_ROW_BYTES), pa.scalar(True)).as_py()
        if row >= 0:
            raise row_too_long(self.where, self.column, before + row + 1)
        return text


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_view(kind: pa.DataType) -> bool:
    """Return whether several rows may share bytes, as runs and overlapping lists do."""
    return bool(pa.types.is_run_end_encoded(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _view_lengths(views: pa.Array) -> NDArray[np.int32]:
    """Return the bytes of each text, (rows,); pyarrow has no function for it, but a view begins with its length."""
    lengths = np.frombuffer(views.buffers()[1], np.int32)[::4]
    lengths = lengths[views.offset : views.offset + len(views)].copy()
    lengths[views.is_null().to_numpy(zero_copy_only=False)] = 0
    return lengths


def source_name(source: AnySource) -> str:
    """Return a short name of a source: `docstrings`, its first path, or its hub id."""
    match source:
        case DocstringText():
            return "docstrings"
        case FileText():
            more = f" and {len(source.paths) - 1} more" if len(source.paths) > 1 else ""
            return source.paths[0] + more
        case HubText():
            return f"{source.id}/{source.config}" if source.config else source.id
        case _:
            assert_never(source)


def source_identity(source: AnySource, *, seed: int) -> dict[str, object]:
    """Return all that decides the rows of a source: the bytes of files, the hub's commit, the columns that are read."""
    match source:
        case DocstringText():
            left_out = source.model_dump(mode="json", include={"validation_ratio", "seed"})
            return {"docstrings": docstring_digest(), **left_out}
        case FileText():
            files = [_path_identity(path) for path in paths_of(source)]
            settings = source.format.model_dump(mode="json", exclude_none=True)
            return {"files": files, "column": source.column, "format": settings, **_document(source)}
        case HubText():
            commit = hub_commit(source.id, source.revision) or source.revision
            named = source.model_dump(mode="json", exclude={"revision", "weight", "document"}, exclude_defaults=True)
            sample = {"seed": seed} if source.streaming else {}
            return {"id": source.id, "commit": commit, **named, **_document(source), **sample}
        case _:
            assert_never(source)


def _document(source: FileText | HubText) -> dict[str, str]:
    return {"document": source.document} if source.document is not None else {}


def _path_identity(path: Path) -> dict[str, str]:
    if path.is_dir():
        digests = [file_digest(file) for file in saved_files(path, FIELD)]
        return {"format": "saved", "sha256": digest_of(digests)}
    return file_identity(path, FIELD)


def parts_of(source: AnySource, number: int, cache: Path, *, seed: int, documents: bool) -> Iterator[Part]:
    """Yield the parts of a source, in order.

    Args:
        source: the source.
        number: its index in the corpus.
        cache: folder that keeps what was read.
        seed: of a sample from the hub.
        documents: whether to read documents.

    Raises:
        DataError: a file or a data set is not usable.
    """
    match source:
        case DocstringText():
            rows = corpus_paragraphs(source, load_paragraphs(cache))
            columns = ["text", "module"] if documents else ["text"]
            yield _of_dataset(rows, columns, number, f"{FIELD}: docstrings", stored=False)
        case FileText():
            for path in paths_of(source):
                yield _of_path(path, source, number, cache, documents)
        case HubText():
            where = f"{FIELD}: {source.id}, split {source.split}"
            columns = _columns(source.column, source.document, documents)
            if source.streaming:
                rows = load_sample(source, columns, cache, where, seed=seed)
            else:
                rows = load_hub(source, source.split, where)
            # A part of a split, such as train[:1%], is less than its files hold.
            yield _of_dataset(rows, columns, number, where, stored="[" not in source.split)
        case _:
            assert_never(source)


def _columns(text: str, document: str | None, documents: bool) -> list[str]:
    return [text, document] if documents and document is not None else [text]


def _of_path(path: Path, source: FileText, number: int, cache: Path, documents: bool) -> Part:
    where = f"{FIELD}: {path}"
    columns = _columns(source.column, source.document, documents)
    if path.is_dir():
        files = saved_files(path, FIELD)
        return Part(
            number,
            where,
            source.column,
            lambda: (batch for file in files for batch in saved_batches(file, columns, where)),
        )
    reading = Reading(tuple(columns), format=source.format, named=frozenset(columns))
    file_rows = read_file(path, cache, FIELD, reading)
    is_text_file = file_format(path, FIELD) == ".txt"
    part = _of_dataset(file_rows.rows, ["text"] if is_text_file else columns, number, where, stored=True)
    return replace(part, remarks=file_rows.remarks, blank_line_ends=documents and is_text_file)


def _of_dataset(rows: Dataset, columns: list[str], number: int, where: str, *, stored: bool) -> Part:
    """Return the rows of a data set as a part.

    Args:
        rows: the data set.
        columns: that of the text, and possibly that of the document.
        number: the source's index.
        where: begins error messages.
        stored: whether the rows are all that its files hold, so that these can be read instead of mapped.
    """
    for column in columns:
        check_column(rows.column_names, column, where)
    if not is_text(rows.features[columns[0]]):
        text = text_column(rows, columns[0], where, blank_allowed=True)
        rows, stored = (Dataset(pa.table({columns[0]: text, **{c: rows.data[c] for c in columns[1:]}})), False)
    files = [file["filename"] for file in rows.cache_files] if stored else []
    if files:  # not the data set, which would keep them mapped
        return Part(number, where, columns[0], lambda: _stored_batches(files, columns))
    return Part(number, where, columns[0], lambda: _mapped_batches(rows, columns))


def batches_of(rows: Dataset, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a data set that consists of whole files, from start to end."""
    files = [file["filename"] for file in rows.cache_files]
    return _stored_batches(files, columns) if files else _mapped_batches(rows, columns)


def _mapped_batches(rows: Dataset, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for table in rows.with_format("arrow").select_columns(columns).iter(batch_size=_ROWS_AT_ONCE):
        yield from table.select(columns).to_batches()


def _stored_batches(files: Sequence[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    for name in files:
        with pa.OSFile(name) as file:
            names = pa.ipc.open_stream(file).schema.names
            file.seek(0)
            options = pa.ipc.IpcReadOptions(included_fields=[names.index(c) for c in columns])
            for batch in pa.ipc.open_stream(file, options=options):
                yield batch.select(columns)


def paths_of(source: FileText) -> list[Path]:
    """Return the files, and the folders of saved data sets, that a source's paths match; those of a path by name.

    Raises:
        DataError: a path matches nothing that can be read.
    """
    return [path for pattern in source.paths for path in _paths_of(pattern)]


def _paths_of(pattern: str) -> list[Path]:
    path = local_path(pattern, FIELD)
    if path.is_dir():
        if is_saved(path):
            return [path]
        split = saved_split(path, FIELD)
        return [split] if split is not None else _files_in(path)
    if path.exists():
        return [resolve_file(pattern, FIELD)]
    matches = sorted(name for name in glob.glob(str(path), recursive=True) if is_file(Path(name)))
    if len(matches) < 2:
        return [resolve_file(pattern, FIELD)]  # whose message lists the files
    return [resolve_file(name, FIELD) for name in matches]


def _files_in(folder: Path) -> list[Path]:
    by_kind: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        kind = suffix_of(path)
        is_data = kind in FORMATS and not (kind == ".parquet" and packing_of(path.name))
        if is_data and not hidden and is_file(path):
            by_kind.setdefault(kind, []).append(path)
    kinds = sorted(set(by_kind) - _BESIDE) or sorted(by_kind)
    if len(kinds) > 1:
        raise DataError(
            f"{FIELD}: {folder} holds files of several formats ({', '.join(kinds)}); name those to read with a "
            f"pattern, such as {folder}/*{kinds[0]}"
        )
    if not kinds:
        known = ", ".join(sorted(FORMATS))
        raise DataError(f"{FIELD}: {folder} holds no text; give a folder with files of {known}")
    return [resolve_file(str(path), FIELD) for path in by_kind[kinds[0]]]
