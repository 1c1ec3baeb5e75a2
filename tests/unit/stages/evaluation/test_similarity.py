"""Linear CKA against its definition by kernels, and layer by layer between models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from stages.data.batching.payloads import Payload
from stages.data.batching.tokens import Tokens
from stages.evaluation.similarity import layer_similarity, layer_states, linear_cka
from tests.support.families import family_config


def test_it_equals_the_definition_by_centred_kernels() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(40, 7).numpy().astype(np.float64), torch.randn(40, 5).numpy().astype(np.float64)
    centre = np.eye(40) - np.full((40, 40), 1 / 40)

    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.trace(one @ one.T @ centre @ other @ other.T @ centre))

    expected = hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
    assert linear_cka(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected)


def test_rotation_scale_and_shift_do_not_change_it() -> None:
    torch.manual_seed(0)
    states = torch.randn(50, 6)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    assert linear_cka(states, 3 * states @ rotation + 2) == pytest.approx(1, abs=1e-5)
    assert linear_cka(states, torch.zeros(50, 3)) == 0


def test_a_model_is_nearest_to_itself_at_the_same_layer() -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(family_config("bert"))
    lengths = np.array([9, 4, 12, 7], np.int32)
    ids = np.random.default_rng(0).integers(5, 100, lengths.sum()).astype(np.int32)
    tokens = Tokens(ids, lengths, None, Payload(), 0, "toy", np.concatenate([[0], np.cumsum(lengths[:-1])]))
    model.train()
    states = layer_states(model, tokens, np.arange(4))
    found = layer_similarity(states, states)
    assert model.training
    assert found.shape == (4, 4)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-9)
    assert (found <= 1 + 1e-9).all()
    np.testing.assert_allclose(found, found.T, atol=1e-9)
