"""Question answering: the span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import regex
from typing_extensions import override

from schemas.core.kinds import QuestionAnswering
from stages.data.columns.text_columns import Task, read_answers
from stages.data.readers.squad import is_squad, read_squad
from stages.kinds.base import Kind, Logits, is_labelled, labels_of
from stages.kinds.encode import Columns, Encode, ids_of
from stages.kinds.rows import CheckedRows, ScoredRows, as_dataset

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import (
        PreTrainedTokenizerFast,
    )

    from schemas.core.metrics import MetricName
    from schemas.data.tasks import FileTask
    from schemas.recipe.objective import SoftLabels
    from schemas.results.manifest import LabelOrder
    from stages.data.batching.tokens import Batch, Tokens
    from stages.kinds.linear_probe import SpanHead
    from stages.losses import Summed
    from stages.models.heads import Head
    from stages.models.read import Read

_OTHER_TOKENS = 8
"""Tokens of a window, neither start nor end of its answer, that the probe learns from."""
_SENTENCE = regex.compile(r"[^.!?。！？]+[.!?。！？]*")

Texts = list[str]
"""An answer per question, "" for no answer."""


class SpanKind(Kind[QuestionAnswering, Texts, list[list[str]]]):
    """A span a question, the best of all windows of its context; labels are the right answers of each question."""

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        answers = read_answers(task, raw, where)
        splits = {split: as_dataset(columns) for split, columns in answers.splits.items()}
        return CheckedRows(splits, ("start", "end"))

    @override
    def read_file(self, path: Path, task: FileTask, where: str) -> Dataset | None:
        return read_squad(path, task, where) if is_squad(path) else None

    @override
    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        return None if any(rows["answers"][:]) else "there is no answer"

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        answered = sum(bool(answers) for answers in rows["answers"][:])
        return {"answered": answered, "without an answer": len(rows) - answered}

    @override
    def encoder(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
        """Return an encoder that cuts contexts into windows sharing `stride` tokens, each after the whole question.

        Devlin et al. 2019 (section 4.2): the answer of a window that does not hold all of it is token 0.
        """

        def encode(batch: Columns, rows: list[int]) -> Columns:
            questions = _cut_questions(batch["text"], tokenizer, self.config.max_question_tokens)
            encoded = tokenizer(
                questions,
                batch["text_pair"],
                truncation="only_second",
                max_length=max_length,
                stride=self.config.stride,
                padding=False,
                return_attention_mask=False,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                verbose=False,
            )
            labels, spans, examples, cut = [], [], [], []
            for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
                span = np.array(encoded["offset_mapping"][window])
                in_context = np.array([part == 1 for part in encoded.sequence_ids(window)])
                span[~in_context] = -1
                answers, starts = batch["answers"][row], batch["starts"][row]
                answer = (starts[0], starts[0] + len(answers[0])) if answers else None
                labels.append(answer_tokens(span, answer, batch["text_pair"][row]))
                spans.append(span.ravel().tolist())
                examples.append(rows[row])
                cut.append(len(questions[row]) < len(batch["text"][row]))
            return ids_of(encoded) | {"label": labels, "spans": spans, "example": examples, "cut": cut}

        return encode

    @property
    @override
    def head(self) -> Head:
        from transformers import MODEL_FOR_QUESTION_ANSWERING_MAPPING, AutoModelForQuestionAnswering

        from stages.models.heads import TaskHead

        return TaskHead(
            self.config.kind,
            AutoModelForQuestionAnswering,
            MODEL_FOR_QUESTION_ANSWERING_MAPPING,
            "ForQuestionAnswering",
            layer="qa_outputs",
            has_names=False,
        )

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import soft_span_loss

        return soft_span_loss(student, teacher, batch.attention_mask, temperature=config.temperature, kind=config.loss)

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        from stages.losses import span_loss

        known = is_labelled(batch)
        return span_loss(student[known], labels_of(batch)[known], batch.attention_mask[known])

    @override
    def labels(self, rows: ScoredRows[Texts]) -> list[list[str]]:
        return list(rows.data["answers"][:])

    @override
    def sequences(self, rows: ScoredRows[Texts]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(rows.tokens.row_of, rows.chosen))

    @override
    def answers(self, rows: ScoredRows[Texts], logits: Logits) -> Texts:
        from stages.data.batching.payloads import Windows
        from stages.data.batching.spans import decode_answers

        windows, tokens = self.sequences(rows), rows.tokens
        spans = tokens.payload_as(Windows).spans
        return decode_answers(
            logits,
            [np.asarray(spans[tokens.positions(windows[[position]])]) for position in range(len(logits))],
            np.searchsorted(rows.chosen, tokens.row_of[windows]),
            rows.data["text_pair"],
            max_tokens=self.config.max_answer_tokens,
            no_answer=may_be_silent(self.config, rows.task.train),
        )

    @override
    def constants(self, rows: ScoredRows[Texts]) -> list[Texts]:
        return [[""] * len(rows.data)]

    @override
    def reported(self, rows: ScoredRows[Texts]) -> tuple[MetricName, ...]:
        return ("squad_f1", "exact_match")

    @override
    def probe(
        self,
        model: nn.Module,
        train: Tokens,
        chosen: NDArray[np.int64],
        rows: ScoredRows[Texts],
        read: Read | None = None,
    ) -> Texts:
        """Return the answers of two logistic regressions on tokens: start of the answer, and end."""
        from stages.models.read import read_rows

        head = _fitted_head(model, train, chosen)
        logits = read_rows(head, rows.tokens, self.sequences(rows)).logits
        assert logits is not None
        return self.answers(rows, logits)

    @override
    def bag_of_words(self, rows: ScoredRows[Texts]) -> Texts:
        """Return the sentence of each context that shares most with the question, rare words counting most."""
        from stages.text.bag_of_words import nearest

        answers = []
        for question, context in zip(rows.data["text"], rows.data["text_pair"], strict=True):
            sentences = [part.strip() for part in _SENTENCE.findall(context) if part.strip()] or [context]
            answers.append(sentences[nearest(question, sentences)])
        return answers

    @override
    def output_order(self, names: Sequence[str], labels: Sequence[str]) -> LabelOrder | None:
        return None


def may_be_silent(config: QuestionAnswering, train: Dataset) -> bool:
    """Return True where "no answer" is a possible answer."""
    if config.no_answer != "auto":
        return config.no_answer == "allowed"
    return any(not answers for answers in train["answers"][:])


def _cut_questions(questions: list[str], tokenizer: PreTrainedTokenizerFast, most: int) -> list[str]:
    encoded = tokenizer(
        questions,
        add_special_tokens=False,
        truncation=True,
        max_length=most,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ends = [offsets[-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return [
        question[:end] if length == most else question
        for question, end, length in zip(questions, ends, lengths, strict=True)
    ]


def answer_tokens(span: NDArray[np.int64], answer: tuple[int, int] | None, context_text: str) -> list[int]:
    """Return first and last token of an answer; twice 0 where a window does not hold all of it or there is none.

    Args:
        span: (tokens, 2) characters of the context, -1 outside it.
        answer: first character and the character after the last.
        context_text: the context. A tokenizer may cover neither blanks nor combining accents: a window that ends
            before those at an answer's end holds the answer all the same.
    """
    from stages.data.batching.spans import covered_part

    context = np.flatnonzero(span[:, 1] > span[:, 0])
    if answer is None or not len(context):
        return [0, 0]
    start, end = answer
    first_needed, past_needed = covered_part(context_text, start, end)
    if span[context[0], 0] > first_needed or span[context[-1], 1] < past_needed:
        return [0, 0]
    first = context[np.searchsorted(span[context, 1], start, side="right")]
    last = context[np.searchsorted(span[context, 0], end, side="left") - 1]
    return [int(first), int(last)]


def _fitted_head(model: nn.Module, train: Tokens, chosen: NDArray[np.int64]) -> SpanHead:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from stages.data.batching.payloads import Windows
    from stages.kinds.linear_probe import SpanHead
    from stages.models.read import read_rows

    payload = train.payload_as(Windows)
    labels, spans = payload.labels, payload.spans
    is_end: dict[int, NDArray[np.bool_]] = {}

    def picked(row: NDArray[np.int64]) -> NDArray[np.bool_]:
        context = np.flatnonzero(spans[train.positions(row), 1] > 0)
        number = int(row[0])
        others = np.random.default_rng(number).permutation(context)[:_OTHER_TOKENS]
        tokens = np.unique([*others, *labels[number]]).astype(np.int64)
        mask = np.zeros(int(train.lengths[number]), bool)
        mask[tokens] = True
        is_end[number] = np.stack([tokens == labels[number][end] for end in (0, 1)], axis=1)
        return mask

    features = np.concatenate(read_rows(model, train, chosen, picked).features)
    right = np.concatenate([is_end[row] for row in chosen.tolist()])
    scaler = StandardScaler().fit(features)
    weights, biases = [], []
    for end in (0, 1):
        if right[:, end].all():  # windows of a single token, so that no token is another's start or end
            weights.append(np.zeros(features.shape[1]))
            biases.append(0.0)
            continue
        probe = LogisticRegression(max_iter=300, C=0.1, class_weight="balanced")
        probe.fit(scaler.transform(features), right[:, end])
        weight = probe.coef_[0] / scaler.scale_
        weights.append(weight)
        biases.append(probe.intercept_[0] - weight @ scaler.mean_)
    return SpanHead(
        getattr(model, "base_model", model), np.stack(weights).astype(np.float32), np.array(biases, np.float32)
    )
