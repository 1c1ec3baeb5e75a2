"""Kinds of tasks, by their answers: a class, several labels, a value, a tag per word, a span, a choice, or a vector."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from schemas.core.base import Frozen, parse_kind

_ANSWERS_ARE_POSITIONS = "positions in the text, which shift in copies"


class _Kind(Frozen):
    has_label_names: ClassVar[bool] = True
    """False where labels have no names that a task could list."""
    why_not_copied: ClassVar[str | None] = None
    """The reason why rows are not augmented: what answers are; None where they are augmented."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that the kind names, besides those of every task."""
        return ()


class Classification(_Kind):
    """One class for each text, or for each pair of texts."""

    kind: Literal["classification"] = "classification"


class MultiLabel(_Kind):
    """Any number of labels for each text: a list of names or numbers, a 0 or 1 for each label, or names in one text."""

    kind: Literal["multi_label"] = "multi_label"
    separator: str | None = Field(default=None, min_length=1, max_length=8)
    """Separates the names in rows that have them in one text; null for a comma, or for the only other sign in use (such
    as ; or |)."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Least probability at which a label is predicted."""


class Regression(_Kind):
    """One number for each text or pair, such as STS-B's similarity from 0 to 5."""

    has_label_names: ClassVar[bool] = False
    kind: Literal["regression"] = "regression"


class TokenClassification(_Kind):
    """A tag for each word; the text column holds a list of words, the label column a tag for each."""

    why_not_copied: ClassVar[str | None] = _ANSWERS_ARE_POSITIONS
    kind: Literal["token_classification"] = "token_classification"
    label_pieces: Literal["first", "all"] = "first"
    """Word pieces that carry the tag of their word: the first (Devlin et al. 2019, section 5.3), or all."""


class QuestionAnswering(_Kind):
    """The span of a context that answers a question, in the layout of SQuAD.

    `text` is the question, `text_pair` the context, and the label column `{"text": [...], "answer_start": [...]}`;
    empty lists mean that the context does not answer the question (SQuAD 2.0).
    """

    has_label_names: ClassVar[bool] = False
    why_not_copied: ClassVar[str | None] = _ANSWERS_ARE_POSITIONS
    kind: Literal["question_answering"] = "question_answering"
    stride: int = Field(default=128, ge=0, le=8192)
    """Tokens of the context that two neighbouring windows share."""
    max_question_tokens: int = Field(default=64, ge=1, le=8192)
    """Longest question in tokens; longer questions are truncated."""
    max_answer_tokens: int = Field(default=30, ge=1, le=8192)
    """Longest answer in tokens; longer spans are never predicted."""
    no_answer: Literal["auto", "allowed", "never"] = "auto"
    """True if "no answer" may be predicted; auto: if a training row has no answer."""


Column = Annotated[str, Field(min_length=1)]


class MultipleChoice(_Kind):
    """One of a few answers in words, which differ from row to row: RACE, SWAG, C3, ChID.

    `text` is the passage, `text_pair` the question or the beginning of the answer, if there is one. The label column
    holds the right choice: its text, its number, its letter from A, or its name in the row or the file.
    """

    has_label_names: ClassVar[bool] = False
    why_not_copied: ClassVar[str | None] = "texts themselves, and only passage and question are copied"
    kind: Literal["multiple_choice"] = "multiple_choice"
    choices: Column | Annotated[tuple[Column, ...], Field(min_length=2, max_length=26)] = "choices"
    """Column of a list of choices or of an object with their texts and labels (ARC), or one column for each choice."""
    answers: Literal["auto", "text", "number", "letter", "key"] = "auto"
    """Content of the label column; key is the choice's label or column. auto: the form that fits every row."""
    first: Literal[0, 1] | None = None
    """Number of the first choice if answers are numbers; null: 0, or 1 if only that fits every row."""
    blank: str | None = Field(default=None, min_length=1, max_length=64)
    """Pattern of the passage's blanks that choices fill, such as `#idiom{number}#`; every blank is then a row, and the
    label column a list of right choices in the order of the blanks. Null if a row is one question."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of choices, or the columns."""
        return (self.choices,) if isinstance(self.choices, str) else self.choices


class Embedding(_Kind):
    """A vector for each text, as near as possible to the teacher's; training rows have no labels.

    Validation rows may be pairs with a similarity score (STS), which the cosines of their vectors are compared with.
    """

    has_label_names: ClassVar[bool] = False
    kind: Literal["embedding"] = "embedding"
    pooling: Literal["mean", "first"] = "mean"
    """The vector of a text: the mean of its tokens' last states, or the first token's."""


TaskKind = (
    Classification | MultiLabel | Regression | TokenClassification | QuestionAnswering | MultipleChoice | Embedding
)
ParsedKind = Annotated[TaskKind, Field(discriminator="kind"), BeforeValidator(parse_kind)]
KindName = Literal[
    "classification",
    "multi_label",
    "regression",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "embedding",
]
