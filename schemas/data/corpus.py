"""A general corpus: running text without labels. Paths and ids only; nothing is opened here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.core.base import Frozen, parse_kind
from schemas.core.refs import HubId, Revision
from schemas.data.file_format import FileFormat
from schemas.data.tasks import MaxLength, TaskData


class _Source(Frozen):
    weight: float | None = Field(default=None, gt=0, le=1e6)
    """Share of the training tokens, relative to the other sources' weights; null for all: each text once an epoch."""


class DocstringText(_Source):
    """English paragraphs of the docstrings of everything installed in this Python environment."""

    kind: Literal["docstrings"] = "docstrings"
    validation_ratio: float = Field(default=0.15, ge=0, lt=0.9)
    """Leave out the modules that a docstring task with this ratio validates on; 0 keeps all."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """The docstring task's seed, which chooses those modules."""


class FileText(_Source):
    """Local text: files (plain, .gz, .bz2, .xz or .zst), folders of files, data sets that `datasets` has saved."""

    kind: Literal["files"] = "files"
    paths: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Each a .jsonl, .json, .csv, .tsv, .parquet or .txt file (a row a line), a folder or a pattern of such files, or a
    folder that `save_to_disk` has made; a relative path starts at the working directory."""
    column: str = "text"
    """Column that holds the text (a .txt file has none)."""
    document: str | None = None
    """Column whose value stays the same within a document; null: each row is one, in .txt files what stands between
    blank lines. Only the cuts `sequences` and `pairs` ask for documents."""
    format: FileFormat = FileFormat()
    """How the files are written, where that is not told from them."""


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
    """Which split."""
    column: str = "text"
    """Column that holds the text."""
    document: str | None = None
    """Column whose value stays the same within a document; null: each row is one."""
    streaming: bool = False
    """Fetch a sample instead of the whole data set: rows of up to 64 of its files, drawn with the corpus's seed."""
    max_rows: int | None = Field(default=None, ge=1)
    """With `streaming`: rows of the sample."""
    max_megabytes: float | None = Field(default=None, gt=0)
    """With `streaming`: megabytes of text of the sample."""

    @model_validator(mode="after")
    def _limited(self) -> HubText:
        is_limited = self.max_rows is not None or self.max_megabytes is not None
        if self.streaming and not is_limited:
            raise ValueError("streaming: a sample needs its size; give max_rows or max_megabytes")
        if is_limited and not self.streaming:
            raise ValueError(
                "max_rows and max_megabytes are the size of a sample; set streaming to true, or for a limit on the "
                "whole corpus give general_corpus.max_rows"
            )
        return self


AnySource = DocstringText | FileText | HubText


def _parse_source(value: Any) -> Any:
    """`docstrings`, a path (starts with `/`, `./`, `../` or `~`), or a hub id `owner/name`."""
    if not isinstance(value, str):
        return value
    if value == "docstrings":
        return {"kind": "docstrings"}
    if value.startswith(("/", "./", "../", "~")):
        return {"kind": "files", "paths": [value]}
    if "/" in value:
        return {"kind": "hub", "id": value}
    raise ValueError(
        f"{value!r} is no text; give docstrings, the path of a file or a folder (starting with / ./ ../ or ~), a hub "
        "id such as wikimedia/wikipedia, or a mapping with kind: files or kind: hub"
    )


def _parse_sources(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


TextSource = Annotated[
    AnySource, Field(discriminator="kind"), BeforeValidator(_parse_source, json_schema_input_type=AnySource | str)
]


class RowCut(Frozen):
    """Each row a sequence; a longer one becomes several."""

    kind: Literal["rows"] = "rows"


class SentenceCut(Frozen):
    """Each sentence a sequence; a longer one becomes several."""

    kind: Literal["sentences"] = "sentences"


class SequenceCut(Frozen):
    """As many whole sentences of a document as fit, one after the other; a longer sentence is cut."""

    kind: Literal["sequences"] = "sequences"
    across_documents: bool = False
    """Go on with the next document where one ends, so that all sequences are full."""


class PairCut(Frozen):
    """Two segments of a document, or of two documents, as BERT was pretrained on (Devlin et al. 2019)."""

    kind: Literal["pairs"] = "pairs"
    random_probability: float = Field(default=0.5, ge=0, le=1)
    """How often the second segment comes from another document."""
    short_probability: float = Field(default=0.1, ge=0, le=1)
    """How often a document's pairs are made for a shorter length, drawn evenly."""


AnyCut = RowCut | SentenceCut | SequenceCut | PairCut
Cut = Annotated[AnyCut, Field(discriminator="kind"), BeforeValidator(parse_kind, json_schema_input_type=AnyCut | str)]


class GeneralCorpus(Frozen):
    """Running text without labels."""

    kind: Literal["general_corpus"] = "general_corpus"
    sources: Annotated[tuple[TextSource, ...], BeforeValidator(_parse_sources)] = Field(min_length=1)
    """Where the text comes from; all sources together are shuffled, or mixed by their weights."""
    cut: Cut = RowCut()
    """How text becomes sequences: `rows`, `sentences`, `sequences` (full-length) or `pairs`."""
    max_length: MaxLength = 128
    """Longest sequence in tokens; longer text is cut into several."""
    duplicates: Literal["keep", "exact", "near"] = "exact"
    """What happens to rows that were there before: kept, or left out where they are the same but for case, spaces and
    punctuation (`exact`), or also where four fifths of their five-letter pieces are the same (`near`)."""
    decontaminate: tuple[TaskData, ...] = ()
    """Tasks whose validation texts no row of the corpus may hold; name every task that the corpus will ever serve,
    since another list is another corpus."""
    max_rows: int | None = Field(default=None, ge=1)
    """Use at most so many rows, drawn with the seed; null for all."""
    held_out_rows: int = Field(default=512, ge=1, le=100_000)
    """Rows kept out of training, to measure the latent loss on."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the draw of rows and the split."""

    @property
    def needs_documents(self) -> bool:
        """Whether text is cut along its documents."""
        return isinstance(self.cut, SequenceCut | PairCut)

    @model_validator(mode="after")
    def _all_weighted_or_none(self) -> GeneralCorpus:
        missing = [place for place, source in enumerate(self.sources) if source.weight is None]
        if missing and len(missing) < len(self.sources):
            raise ValueError(
                f"sources[{missing[0]}].weight: is missing, but other sources have one; give every source a weight, or "
                "none"
            )
        return self


class SourceSummary(Frozen):
    """What became of one source's rows."""

    name: str
    """The source in short."""
    rows: int
    blank: int
    duplicates: int
    """The same as an earlier row but for case, spaces and punctuation; signs such as emoji and operators count."""
    near_duplicates: int
    """Almost the same as an earlier row."""
    leaks: int
    """Rows that held a validation text of `decontaminate`."""
    train: int
    """Rows that are trained on."""
    held_out: int
    """Rows kept out of training."""
    characters: int
    """Of the rows that are trained on."""


class Leak(Frozen):
    """A row of the corpus that holds a task's validation text."""

    task: str
    row: int
    """Counted from 1 in its file."""
    source: str
    """Its file, or another name of where it is."""
    text: str
    """Its beginning."""


class LeakCount(Frozen):
    """Rows of a corpus that hold validation texts of a task."""

    task: str
    texts: int
    """Validation texts that were looked for."""
    too_short: int
    """Validation texts of so few words that they were not."""
    rows: int
    """Rows of the corpus that hold one."""
    share: float
    """Of all rows of the corpus."""
    examples: tuple[str, ...]
    """Beginnings of the first few."""


class SequenceSummary(Frozen):
    """What became of the text that is trained on, as tokens."""

    sequences: int
    tokens: int
    """Special tokens included."""
    per_source: tuple[int, ...]
    """Sequences of each source, in order."""
    length_percentiles: dict[str, int]
    """Tokens of a sequence: the shortest, the longest, and the percentiles between."""
    full: float
    """Share of the sequences that have the full length."""


class CorpusSummary(Frozen):
    """What became of a corpus, for a data card."""

    digest: str
    cut: str
    duplicates: str
    sources: tuple[SourceSummary, ...]
    leaks: tuple[Leak, ...]
    """The first few."""
    remarks: tuple[str, ...] = ()
    """A sentence for each thing in a file that could have been read in another way."""
    sequences: SequenceSummary | None = None
    """None until a tokenizer is named."""
