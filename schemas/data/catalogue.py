"""Tasks by name: where the hub has them, their columns and labels, and the scores that their benchmarks go by.

`Public.confirmed` says how an entry was checked: against the hub's own card and file list (columns, splits, order of
the labels), or by how others use it where a card says less. Repositories whose rows come from a script, which
`datasets` 4 and newer refuse, are read from the hub's own conversion to parquet, a revision of the same repository.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.core.kinds import KindName
from schemas.core.metrics import DEFAULT_METRIC, MetricName
from schemas.core.wording import suggestion

_CARD = "card and file list of the repository: parquet on main"
_CONVERTED = "card of the repository; its conversion to parquet by file list or by its use elsewhere"
_PARQUET = "refs/convert/parquet"


@dataclass(frozen=True, kw_only=True)
class Public:
    """A task that the hub publishes."""

    id: str
    """Repository."""
    confirmed: str
    """How this entry was checked."""
    config: str | None = None
    """Configuration of the repository."""
    revision: str | None = None
    """Where not on main."""
    problem: KindName = "classification"
    """What kind of answer is asked for."""
    text: str
    """Column of the text, the question, or the list of words."""
    text_pair: str | None = None
    """Column of the second text or the context."""
    label: str = "label"
    """Column of the label, the tags, or the answers."""
    labels: tuple[str, ...] | None = None
    """Names in the hub's order, checked against the data's; None where the task has none, or the rows hold numbers."""
    positive_label: str | None = None
    """The class that the benchmark's F1 is about."""
    metrics: tuple[MetricName, ...] = ("accuracy",)
    """What the benchmark goes by, the main score first."""
    validation_split: str = "validation"
    """Where its labels are public."""
    more_validation: dict[str, str] = field(default_factory=dict)
    """Further splits that the benchmark scores by themselves."""
    marks: tuple[tuple[str, str, str], ...] = ()
    """Columns of a span's text and of its place, and the two signs that it is put between."""
    choices: str | None = None
    """Column of the written answers to choose among."""
    blank: str | None = None
    """How a blank looks that one of them fills."""
    max_length: int | None = None
    """Usual length in tokens, where far from a sentence's."""

    def mapping(self) -> dict[str, Any]:
        """The task as a recipe would write it in full."""
        problem: str | dict[str, str] = self.problem
        if self.choices is not None:
            problem = {"kind": self.problem, "choices": self.choices}
            problem |= {} if self.blank is None else {"blank": self.blank}
        marks = [{"text": text, "start": start, "signs": list(signs)} for text, start, signs in self.marks]
        given = {
            "kind": "hub",
            "id": self.id,
            "config": self.config,
            "revision": self.revision,
            "validation_split": self.validation_split,
            "more_validation": dict(self.more_validation) or None,
            "problem": problem,
            "marks": marks or None,
            "text": self.text,
            "text_pair": self.text_pair,
            "label": self.label,
            "labels": list(self.labels) if self.labels else None,
            "metric": self.metrics[0] if self.metrics[0] != DEFAULT_METRIC[self.problem] else None,
            "positive_label": self.positive_label,
            "max_length": self.max_length,
        }
        return {key: value for key, value in given.items() if value is not None}


_NLI = ("entailment", "neutral", "contradiction")
_NLI_ZH = ("neutral", "entailment", "contradiction")
_F1_AND_ACCURACY: tuple[MetricName, ...] = ("f1", "accuracy")


def _glue(config: str, text: str, text_pair: str | None = None, **more: Any) -> Public:
    return Public(id="nyu-mll/glue", confirmed=_CARD, config=config, text=text, text_pair=text_pair, **more)


def _clue(config: str, text: str, text_pair: str | None = None, **more: Any) -> Public:
    return Public(id="clue/clue", confirmed=_CARD, config=config, text=text, text_pair=text_pair, **more)


def _tagged(repository: str, types: str, **more: Any) -> Public:
    tags = (f"{position}-{kind}" for kind in types.split() for position in "BI")
    return Public(
        id=repository,
        confirmed=_CONVERTED,
        revision=_PARQUET,
        problem="token_classification",
        text="tokens",
        label="ner_tags",
        labels=("O", *tags),
        metrics=("entity_f1",),
        **more,
    )


def _spans(repository: str, config: str, metrics: tuple[MetricName, ...], length: int) -> Public:
    return Public(
        id=repository,
        confirmed=_CARD,
        config=config,
        problem="question_answering",
        text="question",
        text_pair="context",
        label="answers",
        metrics=metrics,
        max_length=length,
    )


# Scores: Wang et al. 2019 (arXiv:1804.07461), table 1. GLUE's own score of a task with two is their mean; here the one
# that the papers of this family quote stands first.
_SENTENCES = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")
GLUE: dict[str, Public] = {
    "cola": _glue("cola", "sentence", labels=("unacceptable", "acceptable"), metrics=("matthews",)),
    "sst2": _glue("sst2", "sentence", labels=("negative", "positive")),
    # F1 is that of the class 1, as GLUE's own evaluation has it: of MRPC the more frequent class.
    "mrpc": _glue(
        "mrpc",
        *_SENTENCES,
        labels=("not_equivalent", "equivalent"),
        positive_label="equivalent",
        metrics=_F1_AND_ACCURACY,
    ),
    "stsb": _glue("stsb", *_SENTENCES, problem="regression", metrics=("pearson_spearman", "pearson", "spearman")),
    "qqp": _glue(
        "qqp",
        "question1",
        "question2",
        labels=("not_duplicate", "duplicate"),
        positive_label="duplicate",
        metrics=_F1_AND_ACCURACY,
    ),
    "mnli": _glue(
        "mnli",
        "premise",
        "hypothesis",
        labels=_NLI,
        validation_split="validation_matched",
        more_validation={"mnli_mismatched": "validation_mismatched"},
    ),
    "qnli": _glue("qnli", "question", "sentence", labels=_ENTAILED),
    "rte": _glue("rte", *_SENTENCES, labels=_ENTAILED),
    "wnli": _glue("wnli", *_SENTENCES, labels=("not_entailment", "entailment")),
}

# Scores: Xu et al. 2020 (arXiv:2004.05986); CMRC 2018's and DRCD's by CMRC's script.
_CMRC: tuple[MetricName, ...] = ("cmrc_f1", "cmrc_exact_match")
_TNEWS = "100 101 102 103 104 106 107 108 109 110 112 113 114 115 116"
CLUE: dict[str, Public] = {
    "afqmc": _clue("afqmc", *_SENTENCES, labels=("0", "1")),
    "tnews": _clue("tnews", "sentence", labels=tuple(_TNEWS.split())),
    "iflytek": _clue("iflytek", "sentence", labels=tuple(str(number) for number in range(119))),
    "cmnli": _clue("cmnli", *_SENTENCES, labels=_NLI_ZH),
    "ocnli": _clue("ocnli", *_SENTENCES, labels=_NLI_ZH),
    # Span 2 is a pronoun, span 1 what it may stand for; the signs are those of CLUE's own script.
    "cluewsc2020": _clue(
        "cluewsc2020",
        "text",
        labels=("true", "false"),
        marks=(("target.span1_text", "target.span1_index", "__"), ("target.span2_text", "target.span2_index", "[]")),
    ),
    "csl": _clue("csl", "keyword", "abst", labels=("0", "1"), max_length=256),
    "cmrc2018": _spans("clue/clue", "cmrc2018", _CMRC, 512),
    "drcd": _spans("clue/clue", "drcd", _CMRC, 512),
    "chid": _clue(
        "chid",
        "content",
        problem="multiple_choice",
        choices="candidates",
        blank="#idiom{number}#",
        label="answers.text",
        max_length=256,
    ),
    "c3": _clue(
        "c3", "context", "question", problem="multiple_choice", choices="choice", label="answer", max_length=512
    ),
}

_SQUAD: tuple[MetricName, ...] = ("squad_f1", "exact_match")
OTHERS: dict[str, Public] = {
    "squad": _spans("rajpurkar/squad", "plain_text", _SQUAD, 384),
    "squad_v2": _spans("rajpurkar/squad_v2", "squad_v2", _SQUAD, 384),
    "conll2003": _tagged("eriktks/conll2003", "PER ORG LOC MISC"),
    "wnut17": _tagged("leondz/wnut_17", "corporation creative-work group location person product"),
    # Its train and test split are all there is, and each ends with a row without words.
    "msra_ner": _tagged("levow/msra_ner", "PER ORG LOC", validation_split="test"),
    # The card names the labels (negative, positive), the rows hold 0 and 1.
    "chnsenticorp": Public(id="lansinuote/ChnSentiCorp", confirmed=_CARD, text="text"),
    # The card of this repository shows no column; others who read it name these three.
    "lcqmc": Public(
        id="C-MTEB/LCQMC",
        confirmed="file list of the repository: parquet on main; columns by their use elsewhere",
        text="sentence1",
        text_pair="sentence2",
        label="score",
        labels=("0", "1"),
    ),
    "xnli_zh": Public(
        id="facebook/xnli", confirmed=_CARD, config="zh", text="premise", text_pair="hypothesis", labels=_NLI
    ),
}

CATALOGUE: dict[str, Public] = {**GLUE, **CLUE, **OTHERS}

# Known by name, and why that is not enough.
NOT_READY: dict[str, str] = {
    "ax": "GLUE's diagnostic set has no training rows, and its labels are not public; evaluate on mnli",
    "diagnostics": "CLUE's diagnostic set has no training rows; evaluate on cmnli",
    "dbqa": "no public copy on the hub is known; give NLPCC's rows as files (kind: files, a pair of question and "
    "sentence, labels 0 and 1, metric: f1, positive_label: 1)",
}
_GROUPS = {"glue": {*GLUE, "ax"}, "clue": {*CLUE, "diagnostics"}}
_OTHER_NAMES = {"nlpccdbqa": "dbqa", "cluewsc": "cluewsc2020", "wnut2017": "wnut17", "xnli": "xnli_zh"}


def named_task(short: str) -> dict[str, Any] | None:
    """The mapping of a task known by name, or None.

    Args:
        short: `sst2`, `glue/sst2`, `clue/tnews`, `squad_v2`; case, hyphens and underscores make no difference.

    Raises:
        ValueError: the name is known, but its data cannot be read by name alone; with the remedy.
    """
    group, slash, name = short.rpartition("/")
    known = _squeezed_names().get(_squeezed(name))
    if known is None or (slash and known not in _GROUPS.get(group.lower(), ())):
        return None
    if known in NOT_READY:
        raise ValueError(f"{short!r} cannot be used by its name alone: {NOT_READY[known]}")
    return CATALOGUE[known].mapping()


def did_you_mean(short: str) -> str:
    """` (did you mean X?)` when a name of the catalogue is close, otherwise nothing."""
    grouped = (f"{group}/{name}" for group, names in _GROUPS.items() for name in names)
    return suggestion(short, [*CATALOGUE, *sorted(grouped)])


def _squeezed_names() -> dict[str, str]:
    return {_squeezed(name): name for name in (*CATALOGUE, *NOT_READY)} | _OTHER_NAMES


def _squeezed(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
