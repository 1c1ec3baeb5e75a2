"""A complete distillation in miniature: a random four-layer teacher, a toy corpus and a learnable toy task."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, PretrainedConfig

from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from stages.build import initial_student, load_teachers
from stages.models.encoders import load_config, load_tokenizer, locate
from stages.models.heads import TaskHead
from stages.ports.protocols import Ports
from stages.run import make_objective
from stages.stage_data import load_data
from stages.training.trainer import Trainer
from tests.support.builders import WORDS, tiny_tokenizer

GOOD = ("good", "great", "warm", "fast")
BAD = ("bad", "dull", "slow", "old")


def toy_teacher(folder: Path, *, labels: tuple[str, ...] | None = None, layers: int = 4, heads: int = 2) -> Path:
    """Save a random BERT of 4 layers and width 16 with its tokenizer as a transformers folder."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return random_model(folder, config, labels)


def random_model(folder: Path, config: PretrainedConfig, labels: tuple[str, ...] | None) -> Path:
    """Save a random model with the tiny tokenizer as a transformers folder; a classifier if labels are given."""
    torch.manual_seed(0)
    if labels is None:
        model = AutoModel.from_config(config)
    else:
        TaskHead("classification").name_outputs(config, labels)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def toy_rows(number: int, seed: int) -> list[dict[str, str]]:
    """Sentences of the tiny vocabulary whose label follows from one word."""
    draw = random.Random(seed)
    filler = [word for word in WORDS if word not in GOOD + BAD]
    rows = []
    for index in range(number):
        label = ("bad", "good")[index % 2]
        words = draw.choices(filler, k=draw.randint(2, 12))
        words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if label == "good" else BAD))
        rows.append({"text_a": " ".join(words), "label": label})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def toy_parts(folder: Path) -> dict[str, Path]:
    """Write teacher, task and corpus of a toy run to `folder`."""
    corpus = [{"text": row["text_a"]} for row in toy_rows(160, seed=7)]
    return {
        "teacher": toy_teacher(folder / "teacher"),
        "train": write_rows(folder / "task" / "train.jsonl", toy_rows(160, seed=1)),
        "validation": write_rows(folder / "task" / "validation.jsonl", toy_rows(60, seed=2)),
        "corpus": write_rows(folder / "corpus.jsonl", corpus),
    }


def toy_recipe_dict(folder: Path, *, steps: int = 4) -> dict[str, Any]:
    """The four stages on toy parts, as parsed from YAML."""
    parts = toy_parts(folder)
    training = {
        "duration": f"{steps} steps",
        "batch": "8 sequences",
        "optimizer": {"learning_rate": 1e-3},
        "precision": "fp32",
    }
    return {
        "name": "toy",
        "description": "four stages in seconds",
        "teacher": {
            "model": str(parts["teacher"]),
            "task_model": {
                "kind": "fine_tune",
                "training": training
                | {
                    "duration": "200 steps",
                    "batch": "16 sequences",
                    "optimizer": {"learning_rate": 5e-3},
                    "dropout": 0,
                },
            },
        },
        "student": {"shape": {"num_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}},
        "task": {
            "kind": "files",
            "train": str(parts["train"]),
            "validation": str(parts["validation"]),
            "max_length": 24,
        },
        "general_corpus": {
            "sources": [{"kind": "files", "paths": [str(parts["corpus"])]}],
            "max_length": 24,
            "held_out_rows": 20,
        },
        "stages": [
            {"name": name, "training": training}
            for name in ("general", "general_enhanced", "task_adaptive", "task_specific")
        ],
        "evaluation": {"probe_train_rows": 80, "max_rows": 60, "latent_rows": 20},
        "execution": {"log_every": 1},
    }


def toy_recipe(folder: Path, *, steps: int = 4, **changes: Any) -> Recipe:
    """`toy_recipe_dict` as a recipe, top-level parts replaced by `changes`."""
    return Recipe.model_validate(toy_recipe_dict(folder, steps=steps) | changes)


def make_trainer(config: StageConfig, ports: Ports) -> Trainer:
    """Return the trainer of `run_stage` before its first step."""
    folder = locate(config.pretrained)
    tokenizer = load_tokenizer(folder, load_config(folder))
    data = load_data(config.data, tokenizer, ports.cache)
    teachers = load_teachers(config, data.labels, data.problem, data.units)
    initial = initial_student(
        config, None, data.train, data.labels, data.problem, tokenizer, data.units, teachers, cache=ports.cache
    )
    objective = make_objective(config, initial, teachers, data, tokenizer)
    return Trainer(initial.model, teachers, data.train, objective, config.training, ports, config.name)


LATENTS: dict[str, dict[str, Any]] = {
    "tinybert": {},
    "tinybert_v1": {"projection": "shared"},
    "scores_centred": {"terms": [{"kind": "attention", "loss": "mse_centred_scores"}]},
    "probabilities_mse": {"terms": [{"kind": "attention", "loss": "mse_probabilities"}]},
    "probabilities_kl": {"terms": [{"kind": "attention", "loss": "kl_probabilities"}]},
    "probabilities_cosine": {"terms": [{"kind": "attention", "loss": "cosine_probabilities"}]},
    "hidden_cosine": {"terms": [{"kind": "hidden", "loss": "cosine"}]},
    "hidden_smooth_l1": {"terms": [{"kind": "hidden", "loss": "smooth_l1"}]},
    "pkd": {
        "terms": [{"kind": "hidden", "loss": "normalized_mse", "tokens": "first"}],
        "layer_map": {"kind": "explicit", "layers": [2, None]},
    },
    "rail": {
        "terms": [{"kind": "hidden", "loss": "normalized_mse", "tokens": "mean"}],
        "layer_map": {"kind": "random", "include_last": False},
        "common_width": 12,
    },
    "random_map": {"layer_map": {"kind": "random"}},
    "mean_map": {"layer_map": {"kind": "mean"}},
    "emd": {"terms": [{"kind": "attention"}, {"kind": "hidden"}], "layer_map": {"kind": "optimal_transport"}},
    "minilm": {
        "terms": [{"kind": "attention", "loss": "kl_probabilities"}, {"kind": "relation", "between": "value"}],
        "layer_map": {"kind": "last"},
    },
    "minilm_v2": {
        "terms": [{"kind": "relation", "between": between, "num_heads": 4} for between in ("query", "key", "value")],
        "layer_map": {"kind": "last", "teacher_layer": 2},
    },
    "pp_minilm": {
        "terms": [
            {"kind": "relation", "between": "key", "num_heads": 4, "across": across}
            for across in ("tokens", "heads", "samples")
        ],
        "layer_map": {"kind": "last"},
    },
    "lrc": {"terms": [{"kind": "contrastive"}]},
    "ckd": {
        "terms": [
            {"kind": kind, "of": of, **({"window": 5} if kind == "word_relation" else {})}
            for kind in ("word_relation", "layer_relation")
            for of in ("pairs", "triplets")
            if (kind, of) != ("layer_relation", "triplets")  # a toy student has two blocks
        ]
    },
    "mgskd": {
        "terms": [
            {"kind": "token_relation", "of": "pairs", "num_heads": 4},
            {"kind": "token_relation", "of": "triplets", "num_heads": 4, "num_anchors": 3, "num_neighbours": 4},
            {"kind": "sample_relation", "num_heads": 4},
        ]
    },
    "normalized": {"normalize": "first_step"},
    "balanced": {"normalize": "gradient_share"},
    "bottom_up": {"unlock": "bottom_up"},
    "map_per_term": {
        "terms": [
            {"kind": "attention", "layer_map": {"kind": "top"}},
            {"kind": "hidden", "layer_map": {"kind": "bottom"}},
        ]
    },
}
"""A latent objective for every term, distance, map and option there is, for a toy student and teacher."""


def used_for(output: Tensor, model: nn.Module) -> set[int]:
    """The `id` of each trained parameter that an output depends on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
    return {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
