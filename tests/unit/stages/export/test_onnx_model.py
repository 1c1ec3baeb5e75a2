"""ONNX files answer as torch does, for every family and head, whatever the batch."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification

from schemas.core.errors import ConfigError, DistillError
from schemas.core.kinds import Embedding
from stages.data.batching.payloads import Targets
from stages.data.batching.tokens import Batch
from stages.export.half_precision import write_fp16
from stages.export.int8 import Variant, quantize, variants
from stages.export.onnx_file import OnnxModel
from stages.export.onnx_model import Answering, export_onnx, outputs_of
from stages.models.attention_capture import CAPTURE
from stages.models.heads import TaskHead
from stages.models.sentence_encoder import Model, sentence_encoder
from tests.support.families import CAPTURED, family_config

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
SIZES = [(1, 2), (1, 7), (4, 20), (3, 9)]


def encoder(family: str, **more: Any) -> Any:
    torch.manual_seed(0)
    implementation = {"attn_implementation": CAPTURE} if family in CAPTURED else {}
    return AutoModel.from_config(family_config(family, **more), **implementation).eval()


def batch_of(rows: int, length: int, *, types: bool = False, padded: bool = True) -> Batch:
    torch.manual_seed(rows * length)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded and rows > 1:
        mask[1, length // 2 :] = 0
    ids = torch.randint(5, 100, (rows, length)) * mask
    token_types = (torch.arange(length) >= length // 2).long() * mask if types else None
    return Batch(ids, mask, token_types, Targets(), int(mask.sum()))


def largest_difference(model: Model, file: Path, *, types: bool = False) -> float:
    """Return the largest difference at real tokens, relative to outputs beyond 1, over batches of several sizes."""
    read, largest = OnnxModel(file, threads=1), 0.0
    for rows, length in SIZES:
        batch = batch_of(rows, length, types=types)
        with torch.no_grad():
            expected = Answering(model)(*batch.model_inputs().values())
        if isinstance(expected, tuple):
            expected = torch.stack(expected, dim=-1)
        outputs = read.run({name: value.numpy() for name, value in batch.model_inputs().items()})
        assert outputs.shape == tuple(expected.shape)
        error = np.abs(outputs - expected.numpy()) / np.maximum(np.abs(expected.numpy()), 1)
        if error.ndim == 3:
            error = error[batch.attention_mask.bool().numpy()]
        largest = max(largest, float(error.max()))
    return largest


# Each is another way to attend: absolute, rotated, shared and relative positions, and a bias. An export takes seconds.
EXPORTED = "bert modernbert albert mpnet deberta-v2".split()


@pytest.mark.parametrize("family", EXPORTED)
def test_families_are_exported(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = encoder(family)
    before = logging.root.manager.disable
    export_onnx(model, batch_of(3, 9), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", ""), "the exporter's own words are kept from the terminal"
    assert logging.root.manager.disable == before
    assert outputs_of(model) == ("last_hidden_state",)
    assert largest_difference(model, tmp_path / "model.onnx") < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"], "weights belong into the file"


HEADS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "text": (lambda: TaskHead("text").on(encoder("bert"), ["a", "b", "c"], seed=0), ("logits",)),
    "tokens": (lambda: AutoModelForTokenClassification.from_config(family_config("bert")), ("logits",)),
    "span": (
        lambda: AutoModelForQuestionAnswering.from_config(family_config("bert")),
        ("start_logits", "end_logits"),
    ),
    "vector": (lambda: sentence_encoder(encoder("bert"), Embedding(), width=12, seed=0), ("sentence_embedding",)),
    "first token's vector": (
        lambda: sentence_encoder(encoder("bert"), Embedding(pooling="first"), width=None, seed=0),
        ("sentence_embedding",),
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_exported_with_token_types(head: str, tmp_path: Path) -> None:
    make, names = HEADS[head]
    model = make().eval()
    export_onnx(model, batch_of(3, 9, types=True), tmp_path / "model.onnx")
    read = OnnxModel(tmp_path / "model.onnx")
    assert read.outputs == list(names)
    assert [node.shape[:2] for node in read.session.get_inputs()] == [["batch", "sequence"]] * 3
    assert largest_difference(model, tmp_path / "model.onnx", types=True) < 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    torch.manual_seed(0)
    narrow = encoder("bert", width=64, inner=128, initializer_range=0.05)
    model = TaskHead("text").on(narrow, ["a", "b"], seed=0).eval()
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, batch_of(3, 9), file)
    return model, file


@pytest.mark.parametrize("variant", [*variants("dynamic"), variants("static")[0]], ids=lambda variant: variant.name)
def test_eight_bits_answer_nearly_the_same_in_a_smaller_file(
    variant: Variant, exported: tuple[Model, Path], tmp_path: Path
) -> None:
    model, file = exported
    texts = ({name: value.numpy() for name, value in batch_of(4, 12).model_inputs().items()} for _ in range(4))
    quantize(file, tmp_path / "int8.onnx", variant, texts)
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * file.stat().st_size
    assert 0 < largest_difference(model, tmp_path / "int8.onnx") < 0.2


def test_half_precision_answers_nearly_the_same(exported: tuple[Model, Path], tmp_path: Path) -> None:
    model, file = exported
    write_fp16(file, tmp_path / "fp16.onnx")
    assert 0 < largest_difference(model, tmp_path / "fp16.onnx") < 0.02


def test_a_model_that_torch_cannot_export_is_refused_by_its_family(tmp_path: Path) -> None:
    model = encoder("bert")
    model.forward = lambda **_: torch.zeros(int(torch.rand(()).item()))
    with pytest.raises(DistillError, match=r"torch cannot export a bert model to ONNX: .*; use the checkpoint in"):
        export_onnx(model, batch_of(3, 9), tmp_path / "model.onnx")


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    model = encoder("bert")

    def use() -> None:
        export_onnx(model, batch_of(3, 9), tmp_path / "model.onnx")
        OnnxModel(tmp_path / "model.onnx")

    with pytest.raises(ConfigError, match=r"pip install 'distill-flow\[onnx\]'"):
        use()
