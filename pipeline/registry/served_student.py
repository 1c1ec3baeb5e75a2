"""A distilled student as MLflow serves it: texts in, answers out, by ONNX Runtime and tokenizers alone.

This file is copied into the models that `distill register` logs, and is run there by MLflow ("models from code"). It
imports nothing of distill-flow, torch or transformers. `student/` beside it holds the tokenizer, the ONNX file, and
`serving.json`, which says how outputs are read.

Input: a column `text`, and `text_pair` for pairs; for single texts a list of them, or one text, too, which MLflow makes
a frame of.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

_TOGETHER = 32
"""Texts of a batch; texts of similar length are put together, since a batch is as wide as its longest."""
_OUTSIDE = "O"
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class ServedStudent(PythonModel):
    """Answers texts by the head of its task."""

    def load_context(self, context: Any) -> None:
        """Open the files beside this one."""
        folder = Path(context.artifacts["student"])
        self.settings: dict[str, Any] = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        file = str(folder / self.settings["file"])
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each text; the columns are those of the model's signature.

        Args:
            context: unused.
            model_input: a frame with the columns; one of a single column without a name is of texts.
            params: unused.

        Raises:
            MlflowException: a column or a text is missing.
        """
        first, second = self._texts(model_input)
        kind = self.settings["kind"]
        if kind == "token_classification":
            positions = [_words(text) for text in first]
            encodings, logits = self._run([" ".join(word for word, *_ in words) for words in positions], None)
            return self._tagged(positions, encodings, logits)
        _, logits = self._run(first, second)
        outputs = np.stack(logits) if logits else np.empty((0, 1), np.float32)
        return pd.DataFrame(getattr(self, f"_{kind}")(outputs))

    def _texts(self, frame: pd.DataFrame) -> tuple[list[str], list[str] | None]:
        names = self.settings["columns"]
        if len(names) == len(frame.columns) == 1:  # a list of texts has a column without a name
            frame = frame.set_axis(names, axis=1)
        texts = []
        for name in names:
            if name not in frame.columns:
                columns = ", ".join(map(str, frame.columns))
                raise MlflowException.invalid_parameter_value(f"the column {name!r} is missing; there are: {columns}")
            column = frame[name].tolist()
            for row, text in enumerate(column):
                if not isinstance(text, str):
                    problem = f"row {row}, column {name!r}: {text!r} is no text"
                    raise MlflowException.invalid_parameter_value(problem)
            texts.append(column)
        return texts[0], texts[1] if len(texts) > 1 else None

    def _run(self, first: list[str], second: list[str] | None) -> tuple[list[Encoding], list[NDArray[np.float32]]]:
        """Return the tokens and outputs of each text, in the order of the texts."""
        order = np.argsort([len(text) for text in first], kind="stable").tolist()
        encodings: list[Any] = [None] * len(first)
        logits: list[Any] = [None] * len(first)
        for start in range(0, len(order), _TOGETHER):
            rows = order[start : start + _TOGETHER]
            texts = [first[row] if second is None else (first[row], second[row]) for row in rows]
            batch = self.tokenizer.encode_batch(texts)
            feed = {name: np.array([getattr(row, _FIELDS[name]) for row in batch], np.int64) for name in self.inputs}
            for row, encoding, output in zip(rows, batch, self.session.run(None, feed)[0], strict=True):
                encodings[row], logits[row] = encoding, output
        return encodings, logits

    # One method for each kind of task, whose name it has.

    def _classification(self, logits: NDArray[np.float32]) -> dict[str, list[Any]]:
        shares = _softmax(logits)
        best = shares.argmax(-1)
        return {
            "label": [self.settings["labels"][number] for number in best.tolist()],
            "score": shares[np.arange(len(best)), best].tolist(),
        }

    def _multi_label(self, logits: NDArray[np.float32]) -> dict[str, list[Any]]:
        names, threshold = self.settings["labels"], self.settings["threshold"]
        # The sigmoid of x is at least t where x is at least ln(t / (1 - t)), without its rounding.
        chosen = logits >= np.log(threshold / (1 - threshold))
        shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return {
            "labels": [
                [{"label": names[number], "score": float(row[number])} for number in np.flatnonzero(mask).tolist()]
                for row, mask in zip(shares, chosen, strict=True)
            ]
        }

    def _regression(self, logits: NDArray[np.float32]) -> dict[str, list[Any]]:
        return {"value": logits[:, 0].astype(np.float64).tolist()}

    def _embedding(self, logits: NDArray[np.float32]) -> dict[str, list[Any]]:
        return {"vector": logits.astype(np.float64).tolist()}

    def _tagged(
        self, positions: list[list[tuple[str, int, int]]], encodings: list[Encoding], logits: list[NDArray[np.float32]]
    ) -> pd.DataFrame:
        """Return a tag for each word, that of its first piece; words that were cut off are O."""
        names, rows = self.settings["labels"], []
        for words, encoding, output in zip(positions, encodings, logits, strict=True):
            tags = [
                {"word": word, "start": start, "end": end, "tag": _OUTSIDE, "score": 0.0} for word, start, end in words
            ]
            shares = _softmax(output)
            for token, word in _first_pieces([word for word, *_ in words], encoding.offsets):
                best = int(shares[token].argmax())
                tags[word] |= {"tag": names[best], "score": float(shares[token, best])}
            rows.append(tags)
        columns = {"tags": rows}
        if all(name == _OUTSIDE or name[:2] in ("B-", "I-") for name in names):
            columns["entities"] = [_entities(tags) for tags in rows]
        return pd.DataFrame(columns)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _words(text: str) -> list[tuple[str, int, int]]:
    """Return the words of a text, which blanks separate, with their first and past-the-last characters."""
    return [(match[0], match.start(), match.end()) for match in re.finditer(r"\S+", text)]


def _first_pieces(words: list[str], offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first token of each word that has one, with the word's number.

    Args:
        words: words that single blanks join to the text.
        offsets: characters that each token covers; some tokenizers include the blank before.
    """
    if not words:
        return []
    ends = np.cumsum([len(word) + 1 for word in words])  # after the blank that follows the word
    starts = ends - np.array([len(word) + 1 for word in words])
    pieces, newest = [], -1
    for token, (first, past) in enumerate(offsets):
        # A token that begins at the blank before a word is a piece of that word.
        begins = first + int(first + 1 in ends and past > first)
        word = min(int(np.searchsorted(ends, begins, side="right")), len(words) - 1)
        if past > first and past > starts[word] and word > newest:
            pieces.append((token, word))
            newest = word
    return pieces


def _entities(tags: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entities that tags in the form B-NAME, I-NAME and O describe."""
    entities: list[dict[str, Any]] = []
    is_open = False
    for tag in tags:
        prefix, _, name = tag["tag"].partition("-")
        if is_open and prefix == "I" and entities[-1]["label"] == name:
            last = entities[-1]
            last |= {
                "end": tag["end"],
                "text": f"{last['text']} {tag['word']}",
                "score": min(last["score"], tag["score"]),
            }
        elif name:
            fields = {"text": tag["word"], "start": tag["start"], "end": tag["end"], "score": tag["score"]}
            entities.append({"label": name, **fields})
        is_open = bool(name)
    return entities


set_model(ServedStudent())
