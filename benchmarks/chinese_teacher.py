"""Pretraining of a small Chinese encoder, to test Chinese tasks where no published encoder is available.

    python -m benchmarks.chinese_teacher ../shared/data --to chinese-teacher --tokens 4M

A vocabulary of characters and common words is built from the text. A BERT with random weights then learns to predict
masked words, in the loop of every other stage but without a teacher. The result is a transformers folder with a
masked-language head. It has read megabytes where published models have read gigabytes: scores of its students show that
the pipeline works, not how good a Chinese student can be.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast

from schemas.core.refs import FolderModel
from schemas.core.training import Training
from schemas.data.corpus import FileText, GeneralCorpus
from schemas.recipe.objective import MaskedLanguageObjective
from schemas.recipe.stage import StageConfig
from schemas.recipe.student import ModelStart, StudentConfig, StudentShape
from stages.ports.plain import plain_ports
from stages.run import run_stage
from tests.support.builders import SPECIAL_TOKENS, bert_tokenizer

TRAINING = {"batch": "1024 tokens", "optimizer": {"learning_rate": 1e-3}, "dropout": 0}
SOURCES = ("fewclue_zh", "cmrc_wiki_zh", "cn_wiki_zh")


def texts(files: list[Path]) -> Iterator[str]:
    """Yield the texts of the corpora."""
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def make_tokenizer(files: list[Path], size: int) -> PreTrainedTokenizerFast:
    """Return BERT's WordPiece tokenizer, trained on the files: single Chinese characters, other words in pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL_TOKENS, min_frequency=3)
    tokenizer.train_from_iterator(texts(files), trainer)
    return bert_tokenizer(tokenizer)


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds the corpora.")],
    to: Annotated[Path, typer.Option(help="Folder for the model; must not exist.")],
    tokens: Annotated[str, typer.Option(help="Tokens to train on, such as 4M.")] = "4M",
    seed: Annotated[int, typer.Option(help="Seeds weights, order and masks.")] = 0,
) -> None:
    """Train a 4-layer, 256-wide BERT on masked words."""
    files = [data / name / "text.jsonl.gz" for name in SOURCES]
    tokenizer = make_tokenizer(files, size=8000)
    shape = StudentShape(num_layers=4, hidden_size=256, num_attention_heads=8, intermediate_size=1024)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=1024,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        torch.manual_seed(seed)
        AutoModelForMaskedLM.from_config(config).save_pretrained(start)
        tokenizer.save_pretrained(start)
        model = FolderModel(path=str(start))
        stage = StageConfig(
            name="general",
            teacher=None,
            student=StudentConfig(shape=shape, start=ModelStart(model=model)),
            pretrained=model,
            data=GeneralCorpus(sources=(FileText(paths=tuple(map(str, files))),), max_length=64, seed=seed),
            objective=MaskedLanguageObjective(soft_label=None),
            training=Training.model_validate({**TRAINING, "duration": f"{tokens} tokens", "seed": seed}),
        )
        result = run_stage(stage, None, plain_ports(Path(scratch) / "ports", log_every=50))
        shutil.copytree(Path(result.checkpoint.path) / "model", to)
    chosen = ("train/hard_label_loss", "eval/hard_label_loss", "train/tokens_per_second")
    for name in chosen:
        print(f"{name}: {result.metrics[name]:.4g}")
    print(f"{result.steps} steps, {result.tokens:,} tokens, {result.seconds:.0f} s: {to}")


if __name__ == "__main__":
    typer.run(main)
