"""The terms of a latent objective: what of the teacher's inside is matched, and by which distance.

Every term has a weight that multiplies its mean, summed over the blocks it is computed at; `layer_map` gives a term a
map of its own. The formulas stand in `stages/losses`, function by function.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.core.base import Frozen
from schemas.core.layer_map import LayerMap

Weight = Annotated[float, Field(gt=0, le=1e6)]


class _Term(Frozen):
    weight: Weight = 1.0
    """Multiplies the term, summed over the mapped layers."""


class _Layered(_Term):
    layer_map: LayerMap | None = None
    """Which teacher blocks each student block learns from in this term; null for the objective's map."""


class Attention(_Layered):
    """Attention, head by head (TinyBERT, eq. 7; MiniLM, eq. 4); needs equal head counts."""

    kind: Literal["attention"] = "attention"
    loss: Literal["mse_scores", "mse_probabilities", "kl_probabilities", "cosine_probabilities"] = "mse_scores"
    """Squared error of the dot products before the softmax, or a distance of the probabilities after it."""

    @property
    def name(self) -> str:
        """Its curve."""
        return "attention"


class HiddenStates(_Layered):
    """Projected block outputs (TinyBERT, eq. 8)."""

    kind: Literal["hidden"] = "hidden"
    loss: Literal["mse", "cosine", "smooth_l1", "normalized_mse"] = "mse"
    """Distance of two states; `normalized_mse` compares directions only (PKD, eq. 7)."""
    tokens: Literal["all", "first", "mean"] = "all"
    """Every real token, the first one ([CLS]; PKD), or the mean over real tokens (RAIL-KD)."""

    @property
    def name(self) -> str:
        """Its curve."""
        return "hidden" if self.tokens == "all" else f"hidden_{self.tokens}"


class EmbeddingStates(_Term):
    """The projected embedding output (TinyBERT, eq. 9)."""

    kind: Literal["embedding"] = "embedding"
    loss: Literal["mse", "cosine", "smooth_l1", "normalized_mse"] = "mse"
    """Distance of two states."""

    @property
    def name(self) -> str:
        """Its curve."""
        return "embedding"


class Relation(_Layered):
    """Scaled dot products among a block's queries, keys or values (MiniLM's value relation; MiniLMv2, eq. 3 to 5)."""

    kind: Literal["relation"] = "relation"
    between: Literal["query", "key", "value"] = "value"
    """Which of a block's three projections is compared with itself."""
    num_heads: int | None = Field(default=None, ge=1, le=4096)
    """Relation heads, the same on both sides whatever the models' own; null keeps the models' (then equal) heads."""
    across: Literal["tokens", "heads", "samples"] = "tokens"
    """Relations of a token to tokens, of a head to heads, or of a row to the step's rows (PP-MiniLM)."""

    @property
    def name(self) -> str:
        """Its curve."""
        infix = "" if self.across == "tokens" else f"_{self.across}"
        return f"{self.between}{infix}_relation"


class Contrastive(_Layered):
    """Own teacher states close, those of the step's other rows far, by angle (LRC-BERT's COS-NCE)."""

    kind: Literal["contrastive"] = "contrastive"

    @property
    def name(self) -> str:
        """Its curve."""
        return "contrastive"


class WordRelation(_Layered):
    """How the tokens of a row stand to each other, by cosine and without a projection (CKD's word relation)."""

    kind: Literal["word_relation"] = "word_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of tokens, or angles among three."""
    window: int = Field(default=21, ge=3, le=1025)
    """Tokens around the middle one of a triplet, itself included; odd."""

    @property
    def name(self) -> str:
        """Its curve."""
        return f"word_{self.of.removesuffix('s')}_relation"

    @model_validator(mode="after")
    def _odd_window(self) -> WordRelation:
        if self.window % 2 == 0:
            raise ValueError(f"window: {self.window} has no middle token; give an odd number")
        return self


class LayerRelation(_Layered):
    """How a token's states in the mapped blocks stand to each other (CKD's layer-transforming relation)."""

    kind: Literal["layer_relation"] = "layer_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of blocks, or angles among three."""

    @property
    def name(self) -> str:
        """Its curve."""
        return f"layer_{self.of.removesuffix('s')}_relation"


class TokenRelation(_Layered):
    """How the tokens of a row stand to each other, by scaled dot products (MGSKD's token level)."""

    kind: Literal["token_relation"] = "token_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of tokens, or angles at the tokens that the teacher finds salient."""
    num_heads: int = Field(default=64, ge=1, le=4096)
    """Parts that a state is split into, the same on both sides; triplets split only the teacher's."""
    num_anchors: int = Field(default=20, ge=1, le=1024)
    """Salient tokens of a row at most (triplets)."""
    num_neighbours: int = Field(default=20, ge=2, le=1024)
    """Tokens that an anchor's angles are between, at most (triplets)."""

    @property
    def name(self) -> str:
        """Its curve."""
        return f"token_{self.of.removesuffix('s')}_relation"


class SampleRelation(_Layered):
    """Angles among the mean states of the step's rows (MGSKD's sample level)."""

    kind: Literal["sample_relation"] = "sample_relation"
    num_heads: int = Field(default=64, ge=1, le=4096)
    """Parts that a state is split into, the same on both sides."""

    @property
    def name(self) -> str:
        """Its curve."""
        return "sample_relation"


LatentTerm = Annotated[
    Attention
    | HiddenStates
    | EmbeddingStates
    | Relation
    | Contrastive
    | WordRelation
    | LayerRelation
    | TokenRelation
    | SampleRelation,
    Field(discriminator="kind"),
]
