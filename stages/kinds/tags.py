"""Token classification: a tag for each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from typing_extensions import override

from schemas.core.errors import DataError
from schemas.core.kinds import TokenClassification
from schemas.core.wording import printable
from stages.data.batching.words import first_pieces, words_of_tokens
from stages.data.columns.tag_rows import read_tagged_words
from stages.data.columns.tag_schemes import OUTSIDE, are_bio
from stages.data.readers.files import first_row
from stages.kinds.base import Kind, Logits, labels_of
from stages.kinds.encode import Columns, Encode, ids_of, is_cut
from stages.kinds.label_codes import codes_of, rarest, unknown_label
from stages.kinds.rows import CheckedRows, ScoredRows, TaskRows, as_dataset

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import (
        PreTrainedTokenizerFast,
    )

    from schemas.core.metrics import MetricName
    from schemas.recipe.objective import SoftLabels
    from stages.data.batching.tokens import Batch, Tokens
    from stages.data.columns.text_columns import Task
    from stages.losses import Summed
    from stages.models.heads import Head
    from stages.models.read import Read

Tags = list[list[str]]
"""The tags of each row's words."""


class TagKind(Kind[TokenClassification, Tags, Tags]):
    """A tag a word; words that were cut off are answered by O, so that no row is left out of a score."""

    holds_words: ClassVar[bool] = True

    @override
    def check(self, task: Task, raw: Mapping[str, Dataset], where: Mapping[str, str]) -> CheckedRows:
        tagged = read_tagged_words(task, raw, where)
        splits = {}
        for split, tagged_rows in tagged.splits.items():
            words, tags = tagged_rows.words, tagged_rows.tags
            codes = codes_of(tags.flat, tagged.labels)
            if position := first_row(pc.is_null(codes)):
                name = tags.flat[position - 1].as_py()
                raise unknown_label(task, where[split], tags.row_of(position - 1), name, tagged.labels)
            rows = as_dataset({"words": words.array, "label": tags.with_values(codes)})
            # Published files often end with a sentence of no words.
            filled = np.flatnonzero(words.lengths)
            splits[split] = rows if len(filled) == len(rows) else rows.select(filled)
            if not len(filled):
                raise DataError(f"{where[split]}: column {task.text!r} is empty in every row")
        return CheckedRows(splits, tagged.labels, tagged.remarks)

    @override
    def classes(self, rows: Dataset) -> NDArray[np.int64]:
        tags = list(rows["label"][:])
        numbers = np.repeat(np.arange(len(tags)), [len(row) for row in tags])
        flat = np.fromiter((tag for row in tags for tag in row), np.int64)
        return rarest(numbers, flat, number=len(tags))

    @override
    def sequence_classes(self, tokens: Tokens) -> NDArray[np.int64]:
        from stages.data.batching.payloads import NO_WORD, WordTags

        sequences = np.arange(len(tokens))
        tags = tokens.payload_as(WordTags).tags[tokens.positions(sequences)]
        of_words = np.flatnonzero(tags != NO_WORD)
        sequence_of = np.repeat(sequences, tokens.lengths)[of_words]
        return rarest(sequence_of, tags[of_words].astype(np.int64), number=len(tokens))

    @override
    def only_answer(self, rows: Dataset, labels: tuple[str, ...]) -> str | None:
        tags = {tag for row in rows["label"][:] for tag in row}
        return None if len(tags) > 1 else f"the answer is {printable(labels[tags.pop()], 120)}"

    @override
    def balance(self, labels: tuple[str, ...], rows: Dataset) -> dict[str, float]:
        tags = np.concatenate([np.asarray(row, np.int64) for row in rows["label"][:]])
        return dict(zip(labels, np.bincount(tags, minlength=len(labels)).tolist(), strict=True))

    @override
    def encoder(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, is_pair: bool) -> Encode:
        """Return an encoder that joins words by spaces, as a text is tokenised when its words are not known."""
        from stages.data.batching.payloads import NO_WORD

        def encode(batch: Columns, _rows: list[int]) -> Columns:
            encoded = tokenizer(
                [" ".join(words) for words in batch["words"]],
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            tags, spans = [], []
            for row, (words, labels) in enumerate(zip(batch["words"], batch["label"], strict=True)):
                word_of = words_of_tokens(words, np.array(encoded["offset_mapping"][row]).reshape(-1, 2))
                is_tagged = word_of >= 0 if self.config.label_pieces == "all" else first_pieces(word_of)
                tag = np.full(len(word_of), NO_WORD)
                tag[is_tagged] = np.asarray(labels)[word_of[is_tagged]]
                tags.append(tag.tolist())
                spans.append(np.stack([word_of, word_of + (word_of >= 0)], axis=1).ravel().tolist())
            return ids_of(encoded) | {"cut": is_cut(encoded), "tags": tags, "spans": spans}

        return encode

    @property
    @override
    def head(self) -> Head:
        from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING, AutoModelForTokenClassification

        from stages.models.heads import TaskHead

        return TaskHead(
            self.config.kind,
            AutoModelForTokenClassification,
            MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
            "ForTokenClassification",
            naming_hint=" (with task.metric: token_accuracy tags are not turned into BIO)",
        )

    @override
    def answered(self, batch: Batch) -> Tensor:
        from stages.data.batching.payloads import NO_WORD

        return labels_of(batch) != NO_WORD

    @override
    def soft(
        self, config: SoftLabels, student: Tensor, teacher: Tensor, batch: Batch, row_weights: Tensor | None
    ) -> Summed:
        from stages.losses import soft_label_loss

        word = self.answered(batch)
        return soft_label_loss(student[word], teacher[word], temperature=config.temperature, kind=config.loss)

    @override
    def soft_count(self, batch: Batch) -> int:
        return int(self.answered(batch).sum())

    @override
    def hard(self, student: Tensor, batch: Batch) -> Summed:
        from stages.losses import hard_label_loss

        known = labels_of(batch) >= 0
        return hard_label_loss(student[known], labels_of(batch)[known])

    @override
    def hard_count(self, batch: Batch) -> int:
        return int((labels_of(batch) >= 0).sum())

    @override
    def labels(self, rows: ScoredRows[Tags]) -> Tags:
        names = rows.task.labels
        return [[names[index] for index in row] for row in rows.data["label"][:]]

    @override
    def answers(self, rows: ScoredRows[Tags], logits: Logits) -> Tags:
        from stages.data.batching.payloads import WordTags

        names, words_of = rows.task.labels, rows.tokens.payload_as(WordTags).word_of
        answers = []
        for row, (words, answer) in enumerate(zip(rows.data["words"][:], logits, strict=True)):
            tags = [OUTSIDE] * len(words)
            word_of = np.asarray(words_of[rows.tokens.positions(rows.chosen[[row]])])
            first = np.flatnonzero(first_pieces(word_of))
            for token, best in zip(first.tolist(), answer[first].argmax(-1).tolist(), strict=True):
                tags[word_of[token]] = names[best]
            answers.append(tags)
        return answers

    @override
    def constants(self, rows: ScoredRows[Tags]) -> list[Tags]:
        counts = Counter(tag for tags in self.labels(rows) for tag in tags)
        most = max(counts, key=lambda tag: counts[tag], default=OUTSIDE)
        words = rows.data["words"][:]
        return [[[tag] * len(row) for row in words] for tag in dict.fromkeys((OUTSIDE, most))]

    @override
    def agreement(self, first: Tags, second: Tags) -> float:
        """Return the share of equal tags among the words that either tags other than O; most words are O."""
        pairs = [
            pair
            for one_row, other_row in zip(first, second, strict=True)
            for pair in zip(one_row, other_row, strict=True)
            if pair != (OUTSIDE, OUTSIDE)
        ]
        return sum(tag == other for tag, other in pairs) / len(pairs) if pairs else 1.0

    @override
    def reported(self, rows: ScoredRows[Tags]) -> tuple[MetricName, ...]:
        return ("entity_f1", "token_accuracy") if are_bio(rows.task.labels) else ("token_accuracy",)

    @override
    def why_no_score(self, metric: MetricName, rows: TaskRows) -> str | None:
        if metric != "entity_f1" or are_bio(rows.labels):
            return None
        return (
            "entity_f1 scores entities, and the tags are kept as they are written because task.metric is "
            "token_accuracy; choose by token_accuracy, or set task.metric to entity_f1"
        )

    @override
    def why_meaningless(self, rows: ScoredRows[Tags], metric: MetricName, labels: Any) -> str | None:
        if metric != "entity_f1" or any(tag != OUTSIDE for tags in labels for tag in tags):
            return None
        return "no row has an entity, and no F1 of them means anything"

    @override
    def probe(
        self,
        model: nn.Module,
        train: Tokens,
        chosen: NDArray[np.int64],
        rows: ScoredRows[Tags],
        read: Read | None = None,
    ) -> Tags:
        from stages.data.batching.payloads import NO_WORD, WordTags
        from stages.kinds.linear_probe import fitted, logistic
        from stages.models.read import read_rows

        tags = train.payload_as(WordTags).tags

        def is_tagged(row: NDArray[np.int64]) -> NDArray[np.bool_]:
            return np.asarray(tags[train.positions(row)]) != NO_WORD

        def is_any(row: NDArray[np.int64]) -> NDArray[np.bool_]:
            return np.ones(int(rows.tokens.lengths[row].sum()), bool)

        learnt = np.concatenate(read_rows(model, train, chosen, is_tagged).features)
        classes = np.asarray(tags[train.positions(chosen)])
        probe = fitted(logistic(max_iter=300), learnt, classes[classes != NO_WORD])
        known = probe[-1].classes_
        answers = []
        for states in read_rows(model, rows.tokens, self.sequences(rows), is_any).features:
            logits = np.full((len(states), len(rows.task.labels)), -np.inf, np.float32)
            scores = probe.decision_function(states)
            logits[:, known] = scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
            answers.append(logits)
        return self.answers(rows, answers)

    @override
    def bag_of_words(self, rows: ScoredRows[Tags]) -> Tags:
        """Return the answers of a logistic regression that sees a word, its ends and its neighbours."""
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        train, data, names = rows.task.train, rows.data, rows.task.labels
        tags = [names[index] for row in train["label"] for index in row]
        if len(set(tags)) == 1:  # nothing to tell apart
            return [[tags[0]] * len(row) for row in data["words"]]
        model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=100))
        model.fit([word for row in train["words"] for word in _word_features(row)], tags)
        answers = iter(model.predict([word for row in data["words"] for word in _word_features(row)]))
        return [[str(next(answers)) for _ in row] for row in data["words"]]


def _word_features(words: Sequence[str]) -> list[dict[str, str | bool]]:
    around = ["", *(word.casefold() for word in words), ""]
    return [
        {
            "word": around[position + 1],
            "before": around[position],
            "after": around[position + 2],
            "begin": word[:2],
            "end": word[-3:],
            "title": word.istitle(),
            "upper": word.isupper(),
        }
        for position, word in enumerate(words)
    ]
