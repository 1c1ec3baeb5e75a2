"""Careful distillation without this project: transformers' models, eager attention, all attention maps returned.

It uses fp32, batches of 32 rows padded to their longest, and plain AdamW. Each ingredient of this project can be
enabled on its own to measure its effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.speed.workload import Objective, Workload
from stages.data.batching.batches import Batches
from stages.data.batching.payloads import Labels
from stages.data.batching.tokens import Batch
from stages.models.attention_capture import CAPTURE, record_attention


@dataclass(frozen=True)
class Ingredients:
    """Techniques of this project to enable."""

    grouped: bool = False
    """Batches group rows of similar length."""
    captured: bool = False
    """Fused attention; queries and keys are recorded for mapped blocks only, instead of all maps."""
    bf16: bool = False
    """bf16 autocast."""
    fused: bool = False
    """Fused optimizer."""


class Yardstick:
    """The plain training step."""

    def __init__(self, workload: Workload, objective: Objective, ingredients: Ingredients | None = None) -> None:
        self.workload, self.objective = workload, objective
        self.ingredients = ingredients or Ingredients()
        attention = CAPTURE if self.ingredients.captured else "eager"
        torch.manual_seed(0)
        self.teacher = self._model(workload.teacher, attention).eval().requires_grad_(False)
        self.student = self._model(workload.student, attention).train()
        self.projections = nn.ModuleList(
            nn.Linear(workload.student.hidden_size, workload.teacher.hidden_size)
            for _ in range(workload.student.num_hidden_layers + 1)
        ).to(workload.device)
        self.optimizer = torch.optim.AdamW(
            [*self.student.parameters(), *self.projections.parameters()], lr=1e-4, fused=self.ingredients.fused or None
        )
        self.rows = self._rows()

    def _model(self, config: BertConfig, attention: str) -> nn.Module:
        model = BertForSequenceClassification._from_config(deepcopy(config), attn_implementation=attention)
        return model.to(self.workload.device)

    def _rows(self) -> Iterator[np.ndarray]:
        tokens = self.workload.tokens
        if self.ingredients.grouped:
            batches = Batches(tokens.lengths, self.workload.batch, 1 << 30, seed=0)
            step = 0
            while True:
                yield batches.step(step)[0]
                step += 1
        random, size = np.random.default_rng(0), self.workload.rows_per_batch
        while True:
            order = random.permutation(len(tokens))
            yield from np.split(order, range(size, len(order), size))

    def step(self) -> int:
        """Take one optimizer step; return the number of real tokens."""
        batch = self.workload.tokens.batch(next(self.rows)).to(self.workload.device)
        with torch.autocast(self.workload.device.type, dtype=torch.bfloat16, enabled=self.ingredients.bf16):
            loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        loss.item()
        return batch.num_tokens

    def _loss(self, batch: Batch) -> Tensor:
        match self.objective:
            case "latent":
                return self._latent(batch)
            case "labels":
                return self._labels(batch)
            case "relations":
                return self._relations(batch)

    def _latent(self, batch: Batch) -> Tensor:
        """Loss of attention, hidden states and embeddings with the uniform map."""
        teacher_states, teacher_maps = self._run(self.teacher, batch, self.workload.mapped)
        student_states, student_maps = self._run(self.student, batch, range(self.workload.student.num_hidden_layers))
        mask = batch.attention_mask.bool()
        pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(student_maps[0])
        loss = torch.zeros((), device=self.workload.device)
        for attention, target in zip(student_maps, teacher_maps, strict=True):
            loss = loss + functional.mse_loss(attention[pairs].float(), target[pairs].float())
        layers = [0, *(layer + 1 for layer in self.workload.mapped)]
        for state, target, projection in zip(
            student_states, (teacher_states[layer] for layer in layers), self.projections, strict=True
        ):
            projected = projection(state)
            loss = loss + functional.mse_loss(projected[mask].float(), target[mask].float())
        return loss

    def _run(
        self, model: nn.Module, batch: Batch, layers: range | tuple[int, ...]
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return hidden states, and attention maps (or raw scores) of `layers`."""
        with torch.set_grad_enabled(model is self.student):
            if not self.ingredients.captured:
                output = model(**batch.model_inputs(), output_attentions=True, output_hidden_states=True)
                return output.hidden_states, [output.attentions[layer] for layer in layers]
            with record_attention(layers) as recording:
                output = model(**batch.model_inputs(), output_hidden_states=True)
            noted = [recording.attention[layer] for layer in layers]
            return output.hidden_states, [each.query @ each.key.transpose(-1, -2) * each.scaling for each in noted]

    def _labels(self, batch: Batch) -> Tensor:
        """Loss of soft and hard labels."""
        with torch.no_grad():
            wanted = self.teacher(**batch.model_inputs()).logits.float()
        given = self.student(**batch.model_inputs()).logits.float()
        soft = functional.kl_div(given.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean")
        return soft + functional.cross_entropy(given, batch.targets_as(Labels).values)

    def _relations(self, batch: Batch) -> Tensor:
        """Loss of query, key and value relations of the last blocks, read by hooks on their linear layers."""
        wanted = self._last_states(self.teacher, batch)
        given = self._last_states(self.student, batch)
        keys = batch.attention_mask.bool()
        loss = torch.zeros((), device=self.workload.device)
        for own, theirs in zip(given, wanted, strict=True):
            loss = loss + functional.kl_div(
                self._relation(own, keys), self._relation(theirs, keys), log_target=True, reduction="sum"
            ) / (batch.num_tokens * self.workload.student.num_attention_heads)
        return loss

    def _relation(self, states: Tensor, keys: Tensor) -> Tensor:
        heads = self.workload.student.num_attention_heads
        split = states.unflatten(-1, (heads, -1)).transpose(1, 2).float()
        scores = split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5
        hidden = ~keys[:, None, None, :]
        logs = scores.masked_fill(hidden, float("-inf")).log_softmax(-1).masked_fill(hidden, 0.0)
        return logs * keys[:, None, :, None]

    def _last_states(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        noted: list[Tensor] = []
        attention = model.bert.encoder.layer[-1].attention.self
        handles = [
            linear.register_forward_hook(lambda _module, _inputs, output: noted.append(output))
            for linear in (attention.query, attention.key, attention.value)
        ]
        try:
            with torch.set_grad_enabled(model is self.student):
                model(**batch.model_inputs(), output_attentions=not self.ingredients.captured)
        finally:
            for handle in handles:
                handle.remove()
        return noted
