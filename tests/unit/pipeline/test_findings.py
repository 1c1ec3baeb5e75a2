"""Attention of a page is the model's own, also where a family adds a position bias to its scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline.html.findings import last_attention
from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens
from stages.models.attention_capture import CAPTURE
from tests.support.families import CAPTURED, family_config


@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2"])
def test_it_is_the_models_own_attention(family: str) -> None:
    torch.manual_seed(0)
    implementation = {"attn_implementation": CAPTURE} if family in CAPTURED else {}
    model = AutoModel.from_config(family_config(family), **implementation).eval()
    ids = np.random.default_rng(0).integers(5, 100, 9).astype(np.int32)
    tokens = Tokens(ids, np.array([9], np.int32), None, Payload(), 0, "toy", np.array([0]))
    found = last_attention(model, tokens, 0)
    if family in CAPTURED:
        model.set_attn_implementation("eager")
    with torch.no_grad():
        own = model(**tokens.batch(np.array([0])).model_inputs(), output_attentions=True).attentions[-1]
    np.testing.assert_allclose(found, own[0].mean(0).numpy(), atol=1e-5)
