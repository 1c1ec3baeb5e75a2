"""A general corpus: running text without labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.core.base import Frozen, parse_kind
from schemas.core.refs import HubId, Revision
from schemas.data.file_format import FileFormat
from schemas.data.tasks import MaxLength, TaskData


class _Source(Frozen):
    weight: float | None = Field(default=None, gt=0, le=1e6)
    """Share of the training tokens relative to the other sources; null for all: every text once per epoch."""


class DocstringText(_Source):
    """English paragraphs from the docstrings of all packages in this Python environment."""

    kind: Literal["docstrings"] = "docstrings"
    validation_ratio: float = Field(default=0.15, ge=0, lt=0.9)
    """Excludes the modules that a docstring task with this ratio validates on; 0 keeps all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of that docstring task, which draws the modules."""


class FileText(_Source):
    """Local text: files (plain, .gz, .bz2, .xz or .zst), folders of files, data sets saved by `datasets`."""

    kind: Literal["files"] = "files"
    paths: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """.jsonl, .json, .csv, .tsv, .parquet and .txt files (one row per line), folders and patterns of such files, and
    folders written by `save_to_disk`; relative paths start at the working directory."""
    column: str = "text"
    """Column of the text (.txt files have no columns)."""
    document: str | None = None
    """Column whose value identifies the document; null: each row is a document, and in .txt files the text between
    blank lines. Only the cuts `sequences` and `pairs` use documents."""
    format: FileFormat = FileFormat()
    """Format of the files, if they do not show it."""


class HubText(_Source):
    """A data set of the Hugging Face hub, or of its local cache."""

    kind: Literal["hub"] = "hub"
    id: HubId
    """Repository, such as `wikimedia/wikipedia`."""
    config: str | None = None
    """Configuration name, such as `20231101.en`."""
    revision: Revision = "main"
    """Branch, tag or commit."""
    split: str = "train"
    """Split."""
    column: str = "text"
    """Column of the text."""
    document: str | None = None
    """Column whose value identifies the document; null: each row is a document."""
    streaming: bool = False
    """True to fetch a sample instead of the whole data set: rows of up to 64 files, drawn with the corpus's seed."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows of the sample, with `streaming`."""
    max_megabytes: float | None = Field(default=None, gt=0)
    """Megabytes of text of the sample, with `streaming`."""

    @model_validator(mode="after")
    def _limited(self) -> HubText:
        is_limited = self.max_rows is not None or self.max_megabytes is not None
        if self.streaming and not is_limited:
            raise ValueError("streaming: a sample needs its size; give max_rows or max_megabytes")
        if is_limited and not self.streaming:
            raise ValueError(
                "max_rows and max_megabytes are the size of a sample; set streaming to true, or to limit the whole "
                "corpus, set general_corpus.max_rows"
            )
        return self


AnySource = DocstringText | FileText | HubText


def _parse_source(value: Any) -> Any:
    """Expand `docstrings`, a path (starts with `/`, `./`, `../` or `~`), or a hub id `owner/name`."""
    if not isinstance(value, str):
        return value
    if value == "docstrings":
        return {"kind": "docstrings"}
    if value.startswith(("/", "./", "../", "~")):
        return {"kind": "files", "paths": [value]}
    if "/" in value:
        return {"kind": "hub", "id": value}
    raise ValueError(
        f"{value!r} is no source of text; give docstrings, the path of a file or a folder (starting with / ./ ../ or "
        "~), a hub id such as wikimedia/wikipedia, or a mapping with kind: files or kind: hub"
    )


def _parse_sources(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


TextSource = Annotated[
    AnySource, Field(discriminator="kind"), BeforeValidator(_parse_source, json_schema_input_type=AnySource | str)
]


class RowCut(Frozen):
    """One sequence per row; longer rows become several."""

    kind: Literal["rows"] = "rows"


class SentenceCut(Frozen):
    """One sequence per sentence; longer sentences become several."""

    kind: Literal["sentences"] = "sentences"


class SequenceCut(Frozen):
    """As many consecutive sentences of a document as fit; longer sentences are split."""

    kind: Literal["sequences"] = "sequences"
    across_documents: bool = False
    """True if sequences continue with the next document, so that all are full."""


class PairCut(Frozen):
    """Two segments of one or two documents, as in BERT's pretraining (Devlin et al. 2019)."""

    kind: Literal["pairs"] = "pairs"
    random_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that the second segment comes from another document."""
    short_probability: float = Field(default=0.1, ge=0, le=1)
    """Probability that the pairs of a document have a shorter length, drawn uniformly."""


AnyCut = RowCut | SentenceCut | SequenceCut | PairCut
Cut = Annotated[AnyCut, Field(discriminator="kind"), BeforeValidator(parse_kind, json_schema_input_type=AnyCut | str)]


class GeneralCorpus(Frozen):
    """Running text without labels."""

    kind: Literal["general_corpus"] = "general_corpus"
    sources: Annotated[tuple[TextSource, ...], BeforeValidator(_parse_sources)] = Field(min_length=1)
    """Sources of the text, shuffled together or mixed by their weights."""
    cut: Cut = RowCut()
    """Units that text is cut into: `rows`, `sentences`, `sequences` (full-length) or `pairs`."""
    max_length: MaxLength = 128
    """Longest sequence in tokens; longer text becomes several sequences."""
    duplicates: Literal["keep", "exact", "near"] = "exact"
    """Treatment of repeated rows: kept, left out if equal but for case, spaces and punctuation (`exact`), or also if
    four fifths of their five-letter pieces are equal (`near`)."""
    decontaminate: tuple[TaskData, ...] = ()
    """Tasks whose validation texts no row of the corpus may contain; list every task that the corpus will ever serve,
    since another list makes another corpus."""
    max_rows: int | None = Field(default=None, ge=1)
    """Most rows, drawn with the seed; null for all."""
    held_out_rows: int = Field(default=512, ge=1, le=100_000)
    """Rows held out from training, on which the latent loss is measured."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draw and the split of rows."""

    @property
    def needs_documents(self) -> bool:
        """True if the cut depends on documents."""
        return isinstance(self.cut, SequenceCut | PairCut)

    @model_validator(mode="after")
    def _all_weighted_or_none(self) -> GeneralCorpus:
        missing = [index for index, source in enumerate(self.sources) if source.weight is None]
        if missing and len(missing) < len(self.sources):
            raise ValueError(
                f"sources[{missing[0]}].weight: is missing, but other sources have one; give every source a weight, or "
                "none"
            )
        return self


class SourceSummary(Frozen):
    """Counts of a source's rows."""

    name: str
    """Short name of the source."""
    rows: int
    blank: int
    duplicates: int
    """Rows equal to an earlier row but for case, spaces and punctuation; emoji and operators make a difference."""
    near_duplicates: int
    """Rows almost equal to an earlier row."""
    leaks: int
    """Rows that contained a validation text of `decontaminate`."""
    train: int
    """Training rows."""
    held_out: int
    """Rows held out from training."""
    characters: int
    """Characters of the training rows."""


class Leak(Frozen):
    """A row of the corpus that contains a task's validation text."""

    task: str
    row: int
    """Number of the row in its file, from 1."""
    source: str
    """File or data set of the row."""
    text: str
    """Beginning of the row."""


class LeakCount(Frozen):
    """Count of a corpus's rows that contain validation texts of a task."""

    task: str
    texts: int
    """Validation texts that were searched for."""
    too_short: int
    """Validation texts with too few words to be searched for."""
    rows: int
    """Rows of the corpus that contain one."""
    share: float
    """Share of all rows of the corpus."""
    examples: tuple[str, ...]
    """Beginnings of the first few rows."""


class SequenceSummary(Frozen):
    """Counts of the training text's sequences."""

    sequences: int
    tokens: int
    """Tokens, special tokens included."""
    per_source: tuple[int, ...]
    """Sequences of each source, in order."""
    length_percentiles: dict[str, int]
    """Lengths in tokens: the shortest, the longest, and percentiles between them."""
    full: float
    """Share of sequences with the full length."""


class CorpusSummary(Frozen):
    """Counts of a corpus, for a data card."""

    digest: str
    cut: str
    duplicates: str
    sources: tuple[SourceSummary, ...]
    leaks: tuple[Leak, ...]
    """The first few leaks."""
    remarks: tuple[str, ...] = ()
    """Sentences on whatever in the files could have been read differently."""
    sequences: SequenceSummary | None = None
    """None without a tokenizer."""
