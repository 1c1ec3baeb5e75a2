"""The losses, as pure functions that return a sum and a count.

The loop divides each term once, by its count over the whole optimizer step, so padding, accumulation and the number of
processes cannot change a gradient. Everything is computed in float32 (float64 where it is given), and padding is
removed before the arithmetic: a NaN in a padded place reaches neither the loss nor a gradient.

Each loss has one definition, a mean over real tokens (rows, pairs, …), and is named in its docstring with what others
publish under that name. `reduction="published"` and the like compute what published code computes, whose scale depends
on padding or on the number of classes. They are there to compare numbers, not to train with.

Losses that relate the rows of a batch (`sample_angle_loss`, `relation_loss` across samples) say so: they alone depend
on how rows are put together. `angular_contrastive_loss` avoids it by taking all rows of the optimizer step.

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
from stages.losses.base import Reduction, Summed, at_least_float32
from stages.losses.contrastive import angular_contrastive_loss, gather_rows
from stages.losses.labels import confidence_weights, hard_label_loss, soft_label_loss
from stages.losses.relations import relation_loss
from stages.losses.states import hidden_state_loss, pool_states
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
    "Reduction",
    "Summed",
    "angular_contrastive_loss",
    "at_least_float32",
    "attention_probability_loss",
    "attention_score_loss",
    "attention_scores",
    "choice_loss",
    "confidence_weights",
    "gather_rows",
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
