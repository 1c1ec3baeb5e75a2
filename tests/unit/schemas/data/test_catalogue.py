"""Named tasks, and the averages quoted in papers, compared with their published rows."""

from __future__ import annotations

import pytest

from schemas.core.metrics import check_metrics
from schemas.data.averages import AVERAGES, averages
from schemas.data.catalogue import catalogue, did_you_mean, named_task
from schemas.data.tasks import HubTask

KNOWN = catalogue()
GLUE = "cola sst2 mrpc stsb qqp mnli qnli rte wnli".split()
CLUE = "afqmc tnews iflytek cmnli ocnli cluewsc2020 csl cmrc2018 drcd chid c3".split()
OTHERS = "squad squad_v2 conll2003 wnut17 msra_ner chnsenticorp lcqmc xnli_zh".split()


def task(name: str) -> HubTask:
    return HubTask.model_validate(named_task(name))


@pytest.mark.parametrize("name", KNOWN.tasks)
def test_every_entry_is_a_task_scored_by_its_benchmark_s_metrics(name: str) -> None:
    entry = KNOWN.tasks[name]
    assert task(name).main_metric == entry.metrics[0]
    assert entry.confirmed
    check_metrics(entry.metrics, task(name).problem.kind)


def test_groups_hold_the_tasks_of_their_benchmarks_and_every_name_is_unique() -> None:
    assert list(KNOWN.tasks) == [*GLUE, *CLUE, *OTHERS]
    assert KNOWN.groups == {"glue": (*GLUE, "ax"), "clue": (*CLUE, "diagnostics")}
    assert not set(KNOWN.tasks) & set(KNOWN.not_ready)
    assert set(KNOWN.aliases.values()) == {*KNOWN.tasks, *KNOWN.not_ready}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mnli", ("entailment", "neutral", "contradiction")),
        ("rte", ("entailment", "not_entailment")),
        ("qnli", ("entailment", "not_entailment")),
        ("wnli", ("not_entailment", "entailment")),
        ("mrpc", ("not_equivalent", "equivalent")),
        ("cmnli", ("neutral", "entailment", "contradiction")),
        ("ocnli", ("neutral", "entailment", "contradiction")),
        ("iflytek", tuple(str(number) for number in range(119))),
        ("conll2003", ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")),
        ("msra_ner", ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")),
        ("chnsenticorp", None),
    ],
)
def test_labels_are_in_the_order_of_the_hub_s_classes(name: str, labels: tuple[str, ...] | None) -> None:
    assert task(name).labels == labels


def test_mnli_is_scored_on_both_of_its_validation_splits() -> None:
    assert task("mnli").validation_split == "validation_matched"
    assert task("mnli").more_validation == {"mnli_mismatched": "validation_mismatched"}


def test_overrides_of_a_named_task_do_not_change_the_catalogue() -> None:
    mapping = named_task("mnli")
    assert mapping is not None
    mapping["more_validation"]["other"] = "test"
    assert task("mnli").more_validation == {"mnli_mismatched": "validation_mismatched"}


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("sst2", "sst2"),
        ("glue/sst2", "sst2"),
        ("SST-2", "sst2"),
        ("STS-B", "stsb"),
        ("clue/tnews", "tnews"),
        ("CLUE/CMNLI", "cmnli"),
        ("tnews", "tnews"),
        ("clue/c3", "c3"),
        ("CHID", "chid"),
        ("clue/CLUEWSC2020", "cluewsc2020"),
        ("cluewsc", "cluewsc2020"),
        ("csl", "csl"),
        ("ChnSentiCorp", "chnsenticorp"),
        ("lcqmc", "lcqmc"),
        ("xnli", "xnli_zh"),
        ("xnli-zh", "xnli_zh"),
        ("MSRA-NER", "msra_ner"),
        ("conll2003", "conll2003"),
        ("wnut-17", "wnut17"),
        ("squad", "squad"),
        ("squad-v2", "squad_v2"),
    ],
)
def test_names_are_recognised_in_any_spelling(short: str, name: str) -> None:
    assert named_task(short) == KNOWN.tasks[name].mapping


@pytest.mark.parametrize(
    "short", ["sst3", "glue/tnews", "clue/sst2", "glue/squad", "./sst2", "/sst2", "a/glue/sst2", ""]
)
def test_other_names_are_not_in_the_catalogue(short: str) -> None:
    assert named_task(short) is None


def test_a_misspelt_name_is_suggested_in_the_same_form() -> None:
    assert did_you_mean("sts2") in (" (did you mean sst2?)", " (did you mean stsb?)")
    assert did_you_mean("glue/sst3") == " (did you mean glue/sst2?)"
    assert did_you_mean("chnsenticrop") == " (did you mean chnsenticorp?)"
    assert did_you_mean("holiday-photos") == ""


@pytest.mark.parametrize(
    ("short", "why"),
    [
        ("glue/ax", "no training rows"),
        ("clue/diagnostics", "no training rows"),
        ("NLPCC-DBQA", "no public copy on the hub is known"),
    ],
)
def test_a_known_name_without_public_data_is_refused_with_the_reason(short: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{short}' cannot be used by its name alone: .*{why}"):
        named_task(short)


def in_order(average: str, *values: float) -> dict[tuple[str, str], float]:
    return dict(zip(AVERAGES[average], values, strict=True))


# The published rows, with GLUE's columns in the order of `AVERAGES`.
@pytest.mark.parametrize(
    ("average", "published", "row"),
    [
        ("glue_test_nine", 77.04, (82.5, 81.8, 71.3, 87.7, 92.6, 44.1, 80.4, 86.4, 66.6)),  # TinyBERT4
        ("glue_test_nine", 79.47, (83.9, 83.4, 71.1, 90.9, 93.4, 52.8, 85.2, 87.5, 67.0)),  # BERT-base
        ("minilm_dev", 84.8, (84.5, 91.7, 91.3, 68.6, 93.2, 87.3, 76.8)),  # BERT
        ("minilm_dev", 85.6, (83.9, 89.5, 90.6, 80.1, 91.2, 90.0, 74.1)),  # XtremeDistil 6x256
        ("autodistil_seven", 82.2, (84.5, 91.7, 91.3, 93.2, 58.9, 87.3, 68.6)),  # BERT-base
        ("autodistil_seven", 79.9, (83.5, 90.5, 90.6, 91.6, 42.8, 88.4, 72.2)),  # TinyBERT6
        ("distilbert_nine", 79.5, (56.3, 84.7, 88.6, 91.8, 89.6, 69.3, 92.7, 89.0, 53.5)),  # BERT-base
        ("distilbert_nine", 77.0, (51.3, 82.1, 87.5, 89.2, 88.5, 59.9, 91.3, 86.9, 56.3)),  # DistilBERT
        ("kronecker_nine", 80.9, (82.8, 83.5, 91.1, 87.5, 43.6, 90.9, 90.7, 69.66, 88.0)),  # KB8
    ],
)
def test_averages_reproduce_the_published_rows(average: str, published: float, row: tuple[float, ...]) -> None:
    value = averages(in_order(average, *row))[average]
    assert value.missing == ()
    assert value.value == pytest.approx(published, abs=0.05 if published * 10 % 1 < 0.01 else 0.005)


def test_an_incomplete_average_lists_its_missing_columns() -> None:
    scores = {
        column: 0.9
        for column in AVERAGES["kronecker_nine"]
        if column not in {("stsb", "spearman"), ("mnli_mismatched", "accuracy")}
    }
    published = averages(scores)
    assert published["kronecker_nine"].value is None
    assert published["kronecker_nine"].missing == (("mnli_mismatched", "accuracy"), ("stsb", "spearman"))
    # QQP was scored by accuracy alone.
    assert ("qqp", "f1") in published["glue_test_nine"].missing


def test_averages_have_different_columns() -> None:
    counted = [frozenset(columns) for columns in AVERAGES.values()]
    assert len(set(counted)) == len(counted) == 5
    for columns in AVERAGES.values():
        assert len(set(columns)) == len(columns)
        for task, metric in columns:
            assert metric in KNOWN.tasks[task.removesuffix("_mismatched")].metrics
