"""Averages over tasks that papers on distillation report. All differ: compare numbers of the same name only.

The columns of each average are those that reproduce its source's published rows (see the tests). If a source does not
name the score of a task, it is the score that its other numbers match; for STS-B, it is the rank correlation, as in
BERT (Devlin et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.core.metrics import MetricName

Column = tuple[str, MetricName]
"""A task of the catalogue, or a further validation split of a task, and one of its scores."""

_MNLI: Column = ("mnli", "accuracy")
_MISMATCHED: Column = ("mnli_mismatched", "accuracy")
_QQP: Column = ("qqp", "accuracy")
_QQP_F1: Column = ("qqp", "f1")
_QNLI: Column = ("qnli", "accuracy")
_SST2: Column = ("sst2", "accuracy")
_COLA: Column = ("cola", "matthews")
_STSB: Column = ("stsb", "spearman")
_MRPC: Column = ("mrpc", "accuracy")
_MRPC_F1: Column = ("mrpc", "f1")
_RTE: Column = ("rte", "accuracy")

AVERAGES: dict[str, tuple[Column, ...]] = {
    # TinyBERT (Jiao et al. 2020), table 1, GLUE's test server.
    "glue_test_nine": (_MNLI, _MISMATCHED, _QQP_F1, _QNLI, _SST2, _COLA, _STSB, _MRPC_F1, _RTE),
    # MiniLM (Wang et al. 2020) and XtremeDistilTransformers (Mukherjee et al. 2021), development sets.
    "minilm_dev": (_MNLI, _QNLI, _QQP, _RTE, _SST2, _MRPC, ("squad_v2", "squad_f1")),
    # AutoDistil (Xu et al. 2022), table 2, development sets.
    "autodistil_seven": (_MNLI, _QNLI, _QQP, _SST2, _COLA, _MRPC, _RTE),
    # DistilBERT (Sanh et al. 2019), development sets, with WNLI.
    "distilbert_nine": (_COLA, _MNLI, _MRPC_F1, _QNLI, _QQP, _RTE, _SST2, _STSB, ("wnli", "accuracy")),
    # KroneckerBERT (Tahaei et al. 2022) and DynaBERT (Hou et al. 2020), development sets: TinyBERT's nine columns with
    # QQP's accuracy in place of its F1.
    "kronecker_nine": (_MNLI, _MISMATCHED, _SST2, _MRPC_F1, _COLA, _QQP, _QNLI, _RTE, _STSB),
}


POSITIVE_LABELS: dict[str, frozenset[str]] = {
    "mrpc": frozenset({"equivalent", "1"}),
    "qqp": frozenset({"duplicate", "1"}),
}
"""The class that the F1 of a column is about: GLUE's 1, by name or by number."""


@dataclass(frozen=True)
class Average:
    """An average, or the columns that it lacks."""

    value: float | None
    """In the unit of the scores; None if a column is missing."""
    missing: tuple[Column, ...]
    """Columns without a score."""


def averages(scores: Mapping[tuple[str, str], float]) -> dict[str, Average]:
    """Return every average, by name.

    Args:
        scores: scores by task and metric, all in the same unit.
    """
    by_name = {}
    for name, columns in AVERAGES.items():
        missing = tuple(column for column in columns if column not in scores)
        total = None if missing else sum(scores[column] for column in columns)
        by_name[name] = Average(None if total is None else total / len(columns), missing)
    return by_name
