"""Saved data sets whose rows share their bytes: each row counts by itself."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from schemas.core.errors import DataError
from schemas.data.corpus import GeneralCorpus
from stages.data.corpus.prepare import load_corpus
from tests.torture.bombs import save_columns, views_of_one_text


def loaded(folder: Path, **fields: str) -> list[str]:
    source = {"kind": "files", "paths": [str(folder)], **fields}
    corpus = GeneralCorpus.model_validate(
        {"sources": [source], "held_out_rows": 1, "cut": "pairs" if "document" in fields else "rows"}
    )
    rows = load_corpus(corpus, folder.parent / "cache")
    return sorted([*rows.train["text"][:], *rows.held_out["text"][:]])


def test_views_are_read_as_texts(tmp_path: Path) -> None:
    views = pa.array(["one", "", "a text of more than twelve bytes", "two"], pa.string_view())
    save_columns(tmp_path / "saved", {"text": views, "document": views})
    result = loaded(tmp_path / "saved", document="document")
    assert result == ["a text of more than twelve bytes", "one", "two"]


def test_views_of_one_long_text_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    views = views_of_one_text(2000, b"x" * 1_000_000)
    save_columns(tmp_path / "saved", {"text": views})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="saved unpacks to more than"):
        loaded(tmp_path / "saved")
    save_columns(tmp_path / "documents", {"text": pa.array(["a"] * 2000), "of": views})
    with pytest.raises(DataError, match="documents unpacks to more than"):
        loaded(tmp_path / "documents", document="of")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80 << 10


def test_run_end_and_dictionary_encoded_documents_are_refused(tmp_path: Path) -> None:
    text = pa.array(["a", "b"])
    documents = {
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"])),
        "dictionary": pa.array(["x", "x"]).dictionary_encode(),
    }
    for name, column in documents.items():
        save_columns(tmp_path / name, {"text": text, "of": column})
        with pytest.raises(DataError, match=r"the document holds .*; give one of texts or numbers"):
            loaded(tmp_path / name, document="of")
    save_columns(tmp_path / "text", {"text": documents["runs"]})
    with pytest.raises(DataError, match=r"holds run_end_encoded.*, not text"):
        loaded(tmp_path / "text")


def test_error_names_the_row_of_a_long_view(tmp_path: Path) -> None:
    views = pa.array(["short", "x" * 3_000_000, *np.repeat("y", 5)], pa.string_view())
    save_columns(tmp_path / "saved", {"text": views})
    with pytest.raises(DataError, match="row 2: column 'text' holds more than 2 MB"):
        loaded(tmp_path / "saved")
