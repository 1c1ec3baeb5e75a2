"""The losses: pure functions that return a sum and a count.

The training loop divides each term once, by the mean count of the epoch's optimizer steps, so that neither padding nor
gradient accumulation can change a gradient, and no row of an epoch weighs more than another. Losses are computed in
float32 (float64 for float64 inputs). Padding is removed before the arithmetic: a NaN at a padded position reaches
neither the loss nor a gradient.

Each loss has one definition, a mean over real tokens (rows, pairs, …). Its docstring names the paper and how the
authors' code differs; tests/parity/published.py reproduces published code on top of these functions.

Only `sample_angle_loss` and `relation_loss` across samples relate the rows of a batch to each other and therefore
depend on how a step is cut into forward passes. `angular_contrastive_loss` takes all rows of the step instead.

Shapes: B batch, S sequence, H hidden width, A attention heads, D head width, C classes; a module names any others.
"""

from __future__ import annotations

from stages.losses.answers import (
    choice_loss,
    multi_label_loss,
    soft_choice_loss,
    soft_multi_label_loss,
    soft_span_loss,
    span_loss,
    value_loss,
    vector_loss,
)
from stages.losses.attention import attention_probability_loss, attention_score_loss, attention_scores
from stages.losses.base import Summed, at_least_float32
from stages.losses.contrastive import angular_contrastive_loss
from stages.losses.labels import confidence_weights, hard_label_loss, soft_label_loss
from stages.losses.relations import relation_loss
from stages.losses.states import Pooling, hidden_state_loss, pool_states
from stages.losses.structure import (
    layer_angle_loss,
    layer_pair_loss,
    sample_angle_loss,
    token_angle_loss,
    token_pair_loss,
    word_angle_loss,
    word_pair_loss,
)
from stages.losses.transport import transport_plan

__all__ = [
    "Pooling",
    "Summed",
    "angular_contrastive_loss",
    "at_least_float32",
    "attention_probability_loss",
    "attention_score_loss",
    "attention_scores",
    "choice_loss",
    "confidence_weights",
    "hard_label_loss",
    "hidden_state_loss",
    "layer_angle_loss",
    "layer_pair_loss",
    "multi_label_loss",
    "pool_states",
    "relation_loss",
    "sample_angle_loss",
    "soft_choice_loss",
    "soft_label_loss",
    "soft_multi_label_loss",
    "soft_span_loss",
    "span_loss",
    "token_angle_loss",
    "token_pair_loss",
    "transport_plan",
    "value_loss",
    "vector_loss",
    "word_angle_loss",
    "word_pair_loss",
]
