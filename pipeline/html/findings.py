"""Everything that the HTML report shows and the run did not keep: computed anew from its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.export.subject import Subject
from pipeline.export.writer import INT8
from pipeline.store.checkpoints import open_checkpoint
from schemas.core.kinds import Classification
from schemas.results.manifest import BEFORE
from schemas.results.score import Score
from stages.data.batching.tokens import Tokens
from stages.evaluation.similarity import layer_similarity, layer_states
from stages.export.onnx_file import OnnxModel
from stages.export.onnx_model import onnx_logits
from stages.kinds.base import Logits
from stages.kinds.registry import kind_of
from stages.losses import attention_scores
from stages.models.attention_capture import record_attention
from stages.models.encoders import load_encoder
from stages.models.read import read_rows
from stages.models.sentence_encoder import Model
from stages.scores.calibration import Calibration, calibration
from stages.start import starting_encoder

"""Name of the student before its first stage."""
TEACHER = "teacher"
"""Name of the fine-tuned teacher's row."""
_CKA_ROWS, _MOST_TOKENS, _SHOWN = 128, 24, 20


@dataclass(frozen=True)
class AttentionView:
    """Attention of the last blocks of teacher and student, averaged over heads, for one text."""

    pieces: tuple[str, ...]
    teacher: NDArray[np.float32]
    """(tokens, tokens) from each query to all keys."""
    student: NDArray[np.float32]


@dataclass(frozen=True)
class Disagreement:
    """A text to which student and teacher give different probabilities."""

    text: str
    label: str
    teacher: str
    """Its answer with the probability."""
    student: str
    distance: float
    """Largest difference of a class's probability."""


@dataclass(frozen=True)
class Findings:
    """Comparisons of a run's models; parts that a run does not have are empty."""

    minus_control: Score | None
    """Student's score minus that of the same student trained on labels alone, on the same rows; None without it."""
    similarity: dict[str, NDArray[np.float64]]
    """CKA of (student layers, teacher layers) before the first stage and after each."""
    attention: tuple[AttentionView, ...]
    disagreements: tuple[Disagreement, ...]
    calibrations: dict[str, Calibration]
    """By model; for one class a text alone."""


def find(
    subject: Subject,
    folders: dict[str, Path],
    stages: Sequence[str],
    export: Path | None,
    cache: Path,
) -> Findings:
    """Read a run's models again, and compare them on validation texts.

    Args:
        subject: the last student.
        folders: checkpoints by the names of the run's rows.
        stages: the student's stages among them, in order.
        export: an export of the student in 8-bit integers; None without one.
        cache: folder of tokenised data.

    Raises:
        DataError: a model cannot be read.
    """
    teacher, start = _teacher(folders, subject), _start(folders[stages[0]], cache)
    similar: dict[str, NDArray[np.float64]] = {}
    attention: tuple[AttentionView, ...] = ()
    if teacher is not None:
        rows = subject.sequences[:_CKA_ROWS]
        theirs = layer_states(teacher, subject.checked, rows)
        similar = {
            name: layer_similarity(layer_states(student, subject.checked, rows), theirs)
            for name, student in _students(folders, stages, start)
        }
        attention = tuple(attention_views(subject, teacher))
    answers = _answers(subject, folders, teacher, export)
    return Findings(
        minus_control=_minus_control(subject, answers),
        similarity=similar,
        attention=attention,
        disagreements=tuple(_disagreements(subject, answers)),
        calibrations=_calibrations(subject, answers),
    )


def _start(first_stage: Path, cache: Path) -> PreTrainedModel | None:
    """Return the student before its first stage; None where that continued from a checkpoint."""
    _, first = open_checkpoint(first_stage)
    return starting_encoder(first.config, cache) if first.parent_digest is None else None


def _students(
    folders: dict[str, Path], stages: Sequence[str], start: PreTrainedModel | None
) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield the student before the first stage and after each."""
    if start is not None:
        yield BEFORE, start
    for name in stages:
        yield name, load_encoder(folders[name] / "model")


def _teacher(folders: dict[str, Path], subject: Subject) -> Model | None:
    """Return the fine-tuned teacher with its head; None without one."""
    if TEACHER not in folders or subject.scorer is None:
        return None
    return kind_of(subject.scorer.rows.task.problem).head.load(folders[TEACHER] / "model")


def _answers(
    subject: Subject, folders: dict[str, Path], teacher: Model | None, export: Path | None
) -> dict[str, Logits]:
    """Return the outputs of student, export, teacher and control for the validation rows, if they have a head."""
    if subject.scorer is None:
        return {}
    tokens, rows = subject.checked, subject.sequences
    answers: dict[str, Logits] = {"student": subject.expected}
    if export is not None:
        answers["student, int8"] = onnx_logits(OnnxModel(export / INT8), tokens, rows)
    if teacher is not None and (logits := read_rows(teacher, tokens, rows).logits) is not None:
        answers["teacher"] = logits
    if (control := folders.get("hard_label_baseline")) is not None:
        model = kind_of(subject.scorer.rows.task.problem).head.load(control / "model")
        if (logits := read_rows(model, tokens, rows).logits) is not None:
            answers["labels alone"] = logits
    return answers


def _minus_control(subject: Subject, answers: dict[str, Logits]) -> Score | None:
    scorer, metric = subject.scorer, subject.metric
    if scorer is None or metric is None or "labels alone" not in answers or not scorer.can_score:
        return None
    return scorer.difference(metric, scorer.answers(answers["student"]), scorer.answers(answers["labels alone"]))


def attention_views(subject: Subject, teacher: Model, number: int = 3) -> list[AttentionView]:
    """Return the attention of the last blocks for some texts of medium length; [] where it cannot be read."""
    lengths = subject.checked.lengths[subject.sequences]
    fitting = subject.sequences[(lengths >= 6) & (lengths <= _MOST_TOKENS)][:number]
    views = []
    for row in fitting:
        maps = [last_attention(model, subject.checked, row) for model in (teacher, subject.model)]
        if maps[0] is None or maps[1] is None:
            return []
        views.append(AttentionView(_pieces(subject.tokenizer, subject.checked, row), maps[0], maps[1]))
    return views


@torch.no_grad()
def last_attention(model: Model, tokens: Tokens, row: int) -> NDArray[np.float32] | None:
    """Return (tokens, tokens) the last block's attention to a sequence, mean over heads; None where it is not read."""
    batch = tokens.batch(np.array([row]))
    encoder: Any = model.base_model
    last = int(encoder.config.num_hidden_layers) - 1
    with record_attention([last], encoder) as recording:
        encoder(**batch.model_inputs())
    noted = recording.attention.get(last)
    if noted is None:
        return None
    scores = attention_scores(
        noted.query, noted.key, batch.attention_mask, scaling=noted.scaling, bias_BASS=noted.score_bias()
    )
    return np.asarray(scores.softmax(-1).mean(1)[0].numpy(), np.float32)


def _pieces(tokenizer: PreTrainedTokenizerFast, tokens: Tokens, row: int) -> tuple[str, ...]:
    ids = tokens.ids[tokens.starts[row] : tokens.starts[row] + tokens.lengths[row]]
    return tuple(tokenizer.convert_ids_to_tokens(ids.tolist()))


def _has_classes(subject: Subject) -> bool:
    return subject.scorer is not None and isinstance(subject.scorer.kind.config, Classification)


def _disagreements(subject: Subject, answers: dict[str, Logits]) -> list[Disagreement]:
    """Return the texts whose probabilities differ most; for one class a text alone."""
    if subject.scorer is None or not _has_classes(subject) or "teacher" not in answers:
        return []
    student, teacher = (softmax(np.stack(answers[name]).astype(np.float64), axis=-1) for name in ("student", "teacher"))
    distances = np.abs(student - teacher).max(-1)
    rows, labels = subject.scorer.rows.data, subject.scorer.rows.task.labels
    found = []
    for index in np.argsort(-distances)[:_SHOWN]:
        row = rows[int(index)]
        text = " / ".join(str(row[name]) for name in ("text", "text_pair") if row.get(name))
        found.append(
            Disagreement(
                text=text,
                label=labels[int(row["label"])],
                teacher=_answer(teacher[index], labels),
                student=_answer(student[index], labels),
                distance=float(distances[index]),
            )
        )
    return found


def _answer(probabilities: NDArray[np.float64], labels: Sequence[str]) -> str:
    best = int(probabilities.argmax())
    return f"{labels[best]} ({100 * probabilities[best]:.0f} %)"


def _calibrations(subject: Subject, answers: dict[str, Logits]) -> dict[str, Calibration]:
    if subject.scorer is None or not _has_classes(subject):
        return {}
    labels = np.asarray(subject.scorer.rows.data["label"][:])
    return {
        name: calibration(np.stack(logits), labels)
        for name, logits in answers.items()
        if name in ("student", "student, int8", "teacher")
    }
