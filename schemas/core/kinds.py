"""What kind of answer a task asks for: a class, several, a value, a tag per word, a span, a choice, or a vector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from schemas.core.base import Frozen, parse_kind


class Classification(Frozen):
    """One class for each text, or for each pair of texts."""

    kind: Literal["classification"] = "classification"


class MultiLabel(Frozen):
    """Any number of labels for each text: a list of names or numbers, a 0 or 1 for each label, or names in one text."""

    kind: Literal["multi_label"] = "multi_label"
    separator: str | None = Field(default=None, min_length=1, max_length=8)
    """Stands between the names where a row has them in one text; null for a comma, or for the only other sign in use
    (; | and their likes)."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a label is given."""


class Regression(Frozen):
    """One number for each text or pair, such as STS-B's likeness from 0 to 5."""

    kind: Literal["regression"] = "regression"


class TokenClassification(Frozen):
    """A tag for each word; the text column holds a list of words, the label column a tag for each."""

    kind: Literal["token_classification"] = "token_classification"
    label_pieces: Literal["first", "all"] = "first"
    """Which of a word's pieces carry its tag: the first (Devlin et al. 2019, section 5.3), or all of them."""


class QuestionAnswering(Frozen):
    """The span of a context that answers a question, in the layout of SQuAD.

    `text` is the question, `text_pair` the context, and the label column `{"text": [...], "answer_start": [...]}`;
    empty lists say that the context holds no answer (SQuAD 2.0).
    """

    kind: Literal["question_answering"] = "question_answering"
    stride: int = Field(default=128, ge=0, le=8192)
    """Tokens of the context that a window shares with the one before it."""
    max_question_tokens: int = Field(default=64, ge=1, le=8192)
    """A longer question is cut."""
    max_answer_tokens: int = Field(default=30, ge=1, le=8192)
    """Longer spans are never given as an answer."""
    no_answer: Literal["auto", "allowed", "never"] = "auto"
    """Whether "no answer" may be given; auto: where a training row has none."""


Column = Annotated[str, Field(min_length=1)]


class MultipleChoice(Frozen):
    """One of a few written answers, which are not the same for every row: RACE, SWAG, C3, ChID.

    `text` is the passage, `text_pair` the question, or how an answer begins, where there is one. The label column holds
    the right choice: its text, its number, its letter from A, or the name that the row or the file gives the choice.
    """

    kind: Literal["multiple_choice"] = "multiple_choice"
    choices: Column | Annotated[tuple[Column, ...], Field(min_length=2, max_length=26)] = "choices"
    """Column of the list of choices, of an object with their texts and labels (ARC), or the columns of one choice
    each."""
    answers: Literal["auto", "text", "number", "letter", "key"] = "auto"
    """What the label column holds; key is the choice's own label or column. auto: what gives a choice in every row."""
    first: Literal[0, 1] | None = None
    """The number of the first choice where answers are numbers; null: 0, or 1 where only that fits every row."""
    blank: str | None = Field(default=None, min_length=1, max_length=64)
    """How a blank of the passage looks that one of the choices fills, such as `#idiom{number}#`; every blank is then a
    row, and the label column a list of right choices in the order of the blanks. Null where a row is one question."""


class Embedding(Frozen):
    """A vector for each text, as near as possible to the teacher's: nobody labels anything.

    Validation rows may be pairs with a score of their likeness (STS); the vectors' cosines are then compared with it.
    """

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
