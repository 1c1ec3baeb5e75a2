"""Terms of a latent objective: internal states of the teacher that are matched, and the distance.

A term's weight multiplies its mean, summed over the blocks at which it is computed; its `layer_map` replaces the map of
the objective. The formulas are in `stages/losses`, function by function.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.core.base import Frozen
from schemas.core.layer_map import LayerMap

Weight = Annotated[float, Field(gt=0, le=1e6)]


class _Term(Frozen):
    kind: str
    weight: Weight = 1.0
    """Multiplies the term, summed over the mapped layers."""

    @property
    def name(self) -> str:
        """Name of the term's curve."""
        # Relations of pairs and of triplets have curves of their own: `word_pair_relation`.
        of: str = getattr(self, "of", "")
        return self.kind.replace("relation", f"{of.removesuffix('s')}_relation") if of else self.kind


class _Layered(_Term):
    layer_map: LayerMap | None = None
    """Teacher blocks that each student block learns from in this term; null for the objective's map."""


class Attention(_Layered):
    """Attention, head by head (TinyBERT, eq. 7; MiniLM, eq. 4); needs equal head counts."""

    kind: Literal["attention"] = "attention"
    loss: Literal[
        "mse_scores", "mse_centred_scores", "mse_probabilities", "kl_probabilities", "cosine_probabilities"
    ] = "mse_scores"
    """Squared error of the scores before the softmax, or a distance of the probabilities after it; centred scores have
    each query's mean over its real keys subtracted, which the softmax does not see."""


class HiddenStates(_Layered):
    """Projected block outputs (TinyBERT, eq. 8)."""

    kind: Literal["hidden"] = "hidden"
    loss: Literal["mse", "cosine", "smooth_l1", "normalized_mse"] = "mse"
    """Distance of two states; `normalized_mse` compares directions only (PKD, eq. 7)."""
    tokens: Literal["all", "first", "mean"] = "all"
    """Every real token, the first one ([CLS]; PKD), or the mean over real tokens (RAIL-KD)."""

    @property
    def name(self) -> str:
        """Name of the term's curve."""
        return "hidden" if self.tokens == "all" else f"hidden_{self.tokens}"


class EmbeddingStates(_Term):
    """The projected embedding output (TinyBERT, eq. 9)."""

    kind: Literal["embedding"] = "embedding"
    loss: Literal["mse", "cosine", "smooth_l1", "normalized_mse"] = "mse"
    """Distance of two states."""


class Relation(_Layered):
    """Scaled dot products among a block's queries, keys or values (MiniLM's value relation; MiniLMv2, eq. 3 to 5)."""

    kind: Literal["relation"] = "relation"
    between: Literal["query", "key", "value"] = "value"
    """Projection of a block whose vectors are compared with one another."""
    num_heads: int | None = Field(default=None, ge=1, le=4096)
    """Relation heads, the same on both sides; null for the attention heads, whose number must then be equal."""
    across: Literal["tokens", "heads", "samples"] = "tokens"
    """Relations of a token to tokens, of a head to heads, or of a row to the step's rows (PP-MiniLM)."""

    @property
    def name(self) -> str:
        """Name of the term's curve."""
        infix = "" if self.across == "tokens" else f"_{self.across}"
        return f"{self.between}{infix}_relation"


class Contrastive(_Layered):
    """States close to the teacher's of the same row and far from those of other rows, by angle (LRC-BERT's COS-NCE)."""

    kind: Literal["contrastive"] = "contrastive"


class WordRelation(_Layered):
    """Relations among the tokens of a row by cosine, without a projection (CKD's word relation)."""

    kind: Literal["word_relation"] = "word_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of tokens, or angles among three."""
    window: int = Field(default=21, ge=3, le=1025)
    """Width in tokens of the window around the middle token of a triplet; odd."""

    @model_validator(mode="after")
    def _odd_window(self) -> WordRelation:
        if self.window % 2 == 0:
            raise ValueError(f"window: {self.window} has no middle token; give an odd number")
        return self


class LayerRelation(_Layered):
    """Relations among the states of a token in the mapped blocks (CKD's layer-transforming relation)."""

    kind: Literal["layer_relation"] = "layer_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of blocks, or angles among three."""


class TokenRelation(_Layered):
    """Relations among the tokens of a row by scaled dot products (MGSKD's token level)."""

    kind: Literal["token_relation"] = "token_relation"
    of: Literal["pairs", "triplets"] = "pairs"
    """Pairs of tokens, or angles at tokens that are salient to the teacher."""
    num_heads: int = Field(default=64, ge=1, le=4096)
    """Heads that a state is split into, the same on both sides; triplets split only the teacher's."""
    num_anchors: int = Field(default=20, ge=1, le=1024)
    """Most salient tokens of a row (triplets)."""
    num_neighbours: int = Field(default=20, ge=2, le=1024)
    """Most tokens between which the angles at an anchor are measured (triplets)."""


class SampleRelation(_Layered):
    """Angles among the mean states of the step's rows (MGSKD's sample level)."""

    kind: Literal["sample_relation"] = "sample_relation"
    num_heads: int = Field(default=64, ge=1, le=4096)
    """Heads that a state is split into, the same on both sides."""


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
