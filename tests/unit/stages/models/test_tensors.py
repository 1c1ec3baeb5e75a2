"""Tensors read from a safetensors file are copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from stages.models.attention_capture import CAPTURE
from stages.models.encoders import load_encoder
from stages.models.tensors import read_tensors

VECTOR_BYTES = 64
# Widths that are no multiple of a vector, so that most weights are unaligned in the file.
ODD = BertConfig(
    vocab_size=53,
    hidden_size=9,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=7,
    max_position_embeddings=32,
)


@pytest.fixture
def saved(tmp_path: Path) -> BertModel:
    model = BertModel(ODD).eval()
    model.save_pretrained(tmp_path)
    return model


def test_a_loaded_model_has_the_outputs_of_the_saved_model(saved: BertModel, tmp_path: Path) -> None:
    again = load_encoder(tmp_path)
    plain = BertModel._from_config(ODD, attn_implementation=CAPTURE).eval()
    plain.load_state_dict(saved.state_dict())
    ids = torch.randint(0, 53, (5, 11))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = plain(ids, mask).last_hidden_state
        assert torch.equal(again(ids, mask).last_hidden_state, expected)
    assert all(not parameter.data_ptr() % VECTOR_BYTES for parameter in again.parameters())
    for name, parameter in saved.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)


def test_emptying_the_file_later_does_not_change_the_weights(saved: BertModel, tmp_path: Path) -> None:
    model = load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name, parameter in saved.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)


def test_loaded_tensors_do_not_change_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    tensors = {"a": torch.randn(3), "b": torch.randn(5, 7), "c": torch.tensor(4)}
    save_file(tensors, file)
    read = read_tensors(file)
    file.write_bytes(b"")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert not read[name].data_ptr() % VECTOR_BYTES
