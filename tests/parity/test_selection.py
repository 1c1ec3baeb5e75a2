"""Selection of a stage's best weights: the selected step, early stopping, and resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy.stats import pearsonr

from pipeline.store.states import FolderStates
from schemas.core.errors import DataError, Interrupted
from schemas.core.training import Selection, Training
from schemas.recipe.expand import TaskTeachers, finished_teacher, stage_config, task_teachers, teacher_configs
from schemas.recipe.recipe import Recipe
from schemas.recipe.stage import StageConfig
from schemas.results.manifest import StageResult
from stages.data.batching.batches import Batches
from stages.data.batching.payloads import Labels
from stages.identity import stage_digest, stage_identity
from stages.ports.plain import MetricList, SilentProgress, plain_ports
from stages.ports.protocols import Ports
from stages.run import run_stage
from stages.stage_data import load_data
from stages.training.selection import Selector
from stages.training.value_scale import fold_units
from tests.support.builders import tiny_tokenizer
from tests.support.kinds import ROWS, kind_recipe_dict, kind_task
from tests.support.manifests import DIGEST
from tests.support.toys import make_trainer, toy_recipe_dict, toy_rows, write_rows

STEPS, EVERY, BEST = 12, 2, 8


def with_selection(config: StageConfig, training: dict[str, Any], **selection: Any) -> StageConfig:
    chosen = {"rows": "validation"} | selection  # so that the evaluation of a stage measures the same rows
    changed = config.training.model_dump(mode="json") | training | {"selection": chosen}
    return config.model_copy(update={"training": Training.model_validate(changed)})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StageConfig:
    """A fine-tuning that learns quickly, then gets worse, and ends before it recovers."""
    recipe = kind_recipe_dict(tmp_path_factory.mktemp("in"), "regression")
    return with_selection(
        teacher_configs(Recipe.model_validate(recipe))[0],
        {"duration": f"{STEPS} steps", "dropout": None, "optimizer": {"learning_rate": 0.01}, "seed": 8},
        every=f"{EVERY} steps",
        patience=None,
        metric="pearson",
    )


@dataclass(frozen=True)
class Whole:
    """A stage without interruption."""

    result: StageResult
    sink: MetricList
    progress: SilentProgress


@pytest.fixture(scope="module")
def whole(config: StageConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    sink, progress = MetricList(), SilentProgress()
    ports = plain_ports(tmp_path_factory.mktemp("whole"), sink=sink, progress=progress)
    return Whole(run_stage(config, None, ports), sink, progress)


def weights_of(result: StageResult) -> dict[str, torch.Tensor]:
    return load_file(Path(result.checkpoint.path) / "model" / "model.safetensors")


def test_the_weights_of_the_best_evaluated_step_are_kept(config: StageConfig, whole: Whole, tmp_path: Path) -> None:
    plain = config.model_copy(update={"training": config.training.model_copy(update={"selection": None})})
    ports = plain_ports(tmp_path)
    trainer = make_trainer(plain, ports)
    rows = load_data(plain.data, tiny_tokenizer(), ports.cache).held_out
    batch = rows.batch(np.arange(len(rows)))
    scores, kept = {}, {}
    for step in range(1, STEPS + 1):
        trainer.train_step()
        if step % EVERY == 0:
            with torch.no_grad():
                logits = trainer.student.eval()(**batch.model_inputs()).logits
            trainer.student.train()
            scores[step] = float(pearsonr(batch.targets_as(Labels).values, logits[:, 0]).statistic)
            kept[step] = {k: v.clone() for k, v in trainer.student.state_dict().items()}
    assert max(scores, key=lambda step: scores[step]) == BEST, scores
    assert scores[BEST] > scores[STEPS] + 0.05, "the toy should end with a lower score than its best"

    assert whole.sink.values("select/pearson") == pytest.approx(scores, abs=1e-5)
    trainer.student.load_state_dict(kept[BEST])
    fold_units(trainer.student)
    best = trainer.student.state_dict()
    for name, tensor in weights_of(whole.result).items():
        assert torch.equal(tensor, best[name]), name
    metrics = whole.result.metrics
    assert metrics["select/best_step"] == BEST
    # Rounded differently: scale and mean of the values are folded into the last layer in between.
    assert metrics["select/best_pearson"] == pytest.approx(metrics["eval/pearson"], abs=1e-4)
    assert metrics["select/pearson"] == pytest.approx(scores[STEPS], abs=1e-5)
    assert whole.result.steps == STEPS, "what was spent"
    assert f"kept the weights of step {BEST}" in whole.progress.notes[-1]


@pytest.mark.parametrize("stop_at", [1, BEST, STEPS - 1])
def test_an_interrupted_stage_keeps_the_same_weights(
    config: StageConfig, whole: Whole, tmp_path: Path, stop_at: int
) -> None:
    states = FolderStates(tmp_path / "states", "general", DIGEST)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == stop_at

    first = plain_ports(tmp_path, states=states, stop_requested=stop)
    with pytest.raises(Interrupted, match=f"step {stop_at} of {STEPS}"):
        run_stage(config, None, first)
    sink = MetricList()
    again = run_stage(config, None, plain_ports(tmp_path, states=states, sink=sink))
    for name, tensor in weights_of(whole.result).items():
        assert torch.equal(tensor, weights_of(again)[name]), name
    told = whole.sink.values("select/pearson")
    assert sink.values("select/pearson") == {at: told[at] for at in told if at > stop_at}
    chosen = {name for name in again.metrics if name.startswith(("select/", "eval/"))}
    assert {name: again.metrics[name] for name in chosen} == {name: whole.result.metrics[name] for name in chosen}


def frozen(config: StageConfig, **selection: Any) -> StageConfig:
    """A fine-tuning with constant weights, so that no evaluation after the first is better."""
    return with_selection(config, {"optimizer": {"learning_rate": 1e-30}}, **selection)


@pytest.mark.parametrize(("patience", "ends_at"), [(1, 4), (2, 6), (3, 8), (None, 12), (9, 12)])
def test_training_ends_after_the_configured_evaluations_without_gain(
    config: StageConfig, tmp_path: Path, patience: int | None, ends_at: int
) -> None:
    ports = plain_ports(tmp_path, log_every=5)
    stopped = frozen(config, every="2 steps", patience=patience)
    result = run_stage(stopped, None, ports)
    assert (result.steps, result.metrics["select/best_step"]) == (ends_at, 2)
    assert isinstance(ports.sink, MetricList)
    measured = ports.sink.values("select/pearson_spearman")
    assert list(measured) == list(range(2, ends_at + 1, 2))
    assert ends_at in ports.sink.values("train/loss"), "the last interval is logged"
    train = load_data(config.data, tiny_tokenizer(), ports.cache).train
    batches = Batches.of_stage(train, config.training, config.name, microbatch_tokens=8192)
    assert result.tokens == sum(batches.tokens_in_step(step) for step in range(ends_at))


def test_an_interruption_does_not_lengthen_patience(config: StageConfig, tmp_path: Path) -> None:
    stopped = frozen(config, every="2 steps", patience=2)
    states = FolderStates(tmp_path / "states", "general", DIGEST)
    seen = iter([False] * 4 + [True])  # after the first measurement without gain
    with pytest.raises(Interrupted, match="step 5 of 12"):
        run_stage(stopped, None, plain_ports(tmp_path / "one", states=states, stop_requested=lambda: next(seen)))
    result = run_stage(stopped, None, plain_ports(tmp_path / "two", states=states))
    assert (result.steps, result.metrics["select/best_step"]) == (6, 2)


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_ends_with_its_best_score(kind: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(kind_recipe_dict(tmp_path / "in", kind))
    stage = "teacher"
    (wanted, *_) = teacher_configs(recipe) or (None,)
    if wanted is None:  # vectors are learnt from a teacher's
        stage = "task_specific"
        wanted = stage_config(recipe, recipe.stages[-1], task_teachers(recipe, {}))
    assert wanted.name == stage
    chosen = with_selection(wanted, {"duration": "6 steps"}, every="2 steps", patience=None)
    result = run_stage(chosen, None, plain_ports(tmp_path / "run"))
    assert recipe.task is not None
    main = recipe.task.main_metric
    # Rounding may swap the ranks of two nearly equal answers (it does with AVX2), which moves the mean of Pearson's and
    # Spearman's correlation of 60 rows by 3e-5. From one step to the next the score moves by 8e-3.
    assert result.metrics[f"select/best_{main}"] == pytest.approx(result.metrics[f"eval/{main}"], abs=1e-4)
    assert result.metrics["select/best_step"] in (2, 4, 6)


@pytest.mark.parametrize("kind", ["pair", "question_answering"])
def test_held_out_rows_are_scored_and_not_trained_on(kind: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(kind_recipe_dict(tmp_path / "in", kind))
    config = with_selection(teacher_configs(recipe)[0], {"duration": "2 steps"}, rows="held_out", held_out_share=0.4)
    selection = config.training.selection
    assert selection is not None
    data = load_data(config.data, tiny_tokenizer(), tmp_path / "cache", selection)
    whole = load_data(config.data, tiny_tokenizer(), tmp_path / "cache")
    (part,) = data.parts.values()
    assert part.held_out is not None
    assert len(part.held_out) == 64  # 0.4 of 160
    row_of = whole.train.row_of
    sequences = [tuple(whole.train.batch(np.array([at])).input_ids[0].tolist()) for at in range(len(whole.train))]
    held = {sequences[at] for at in np.flatnonzero(np.isin(row_of, part.held_out))}
    learnt = [tuple(data.train.batch(np.array([at])).input_ids[0].tolist()) for at in range(len(data.train))]
    assert learnt == [sequence for at, sequence in enumerate(sequences) if row_of[at] not in part.held_out], (
        "the remaining rows, in order"
    )
    assert not held & set(learnt)
    (scorer,) = Selector(selection, [part], []).scorers
    assert scorer.rows.split == "train"
    assert {sequences[at] for at in scorer.sequences} == held
    assert make_trainer_rows(config, plain_ports(tmp_path)) == len(learnt)
    result = run_stage(config, None, plain_ports(tmp_path / "run"))
    assert recipe.task is not None
    assert f"select/best_{recipe.task.main_metric}" in result.metrics


def make_trainer_rows(config: StageConfig, ports: Ports) -> int:
    """Return the number of sequences in the stage's data."""
    return len(load_data(config.data, tiny_tokenizer(), ports.cache, config.training.selection).train)


def test_copies_of_a_held_out_text_are_held_out_too(tmp_path: Path) -> None:
    rows = toy_rows(100, seed=1)
    content = toy_recipe_dict(tmp_path / "in")
    write_rows(tmp_path / "in" / "task" / "train.jsonl", rows + rows)
    config = teacher_configs(Recipe.model_validate(content))[0]
    selection = Selection(rows="held_out")
    data = load_data(config.data, tiny_tokenizer(), tmp_path / "cache", selection)
    (part,) = data.parts.values()
    assert part.held_out is not None
    assert len(part.held_out) == 50, "a tenth would be too few"
    texts = [row["text_a"] for row in rows + rows]
    held = {texts[row] for row in part.held_out}
    assert len(data.train) == sum(text not in held for text in texts)
    again = load_data(config.data, tiny_tokenizer(), tmp_path / "cache", selection).parts[""]
    assert (again.held_out == part.held_out).all()


def test_too_few_rows_to_hold_out_are_refused(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in")
    content["task"]["max_train_rows"] = 90
    config = teacher_configs(Recipe.model_validate(content))[0]
    with pytest.raises(DataError, match=r"needs 50 training rows .* has only 90; set it to"):
        load_data(config.data, tiny_tokenizer(), tmp_path / "cache", Selection(rows="held_out"))


def test_weights_for_several_tasks_are_selected_by_their_mean_score(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in")
    tasks = {"one": content["task"], "likeness": kind_task(tmp_path / "in", "regression")}
    training = content["stages"][0]["training"] | {"duration": "4 steps"}
    content["teacher"]["multi_task"] = {"tasks": tasks, "training": training}
    config = teacher_configs(Recipe.model_validate(content))[-1]
    # Fast enough that predictions differ by more than rounding.
    chosen = with_selection(config, {"optimizer": {"learning_rate": 0.01}}, every="2 steps")
    result = run_stage(chosen, None, plain_ports(tmp_path))
    assert result.metrics["select/best_mean_score"] == pytest.approx(result.metrics["eval/mean_score"], abs=1e-5)
    held = load_data(config.data, tiny_tokenizer(), tmp_path / "cache", Selection(rows="held_out", max_rows=50))
    assert len(held.train) <= 2 * (160 - 50)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("4 steps", [4, 8, 12, 16, 20, 22]),
        ("0.5 epochs", [5, 10, 15, 20, 22]),
        ("0.1 epochs", list(range(1, 23))),
        ("0.01 epochs", list(range(1, 23))),
        ("320 tokens", [4, 8, 12, 16, 20, 22]),
        ("9 epochs", [22]),
    ],
)
def test_scores_are_evaluated_at_the_configured_steps(every: str, expected: list[int]) -> None:
    lengths = np.full(80, 10, np.int32)
    training = Training.model_validate({"duration": "22 steps", "batch": "8 sequences"})
    batches = Batches(lengths, training.batch, 8192, seed=0)
    selector = object.__new__(Selector)
    selector.selection = Selection.model_validate({"every": every})
    selector._round = selector._due = 0
    assert [step for step in range(1, 23) if selector.is_due(step, batches, 22)] == expected
    selector._round = selector._due = 0  # a process that goes on from step 13
    late = [step for step in range(14, 23) if selector.is_due(step, batches, 22)]
    assert late == [step for step in expected if step >= 14]


def test_a_stage_without_selection_keeps_its_digest(config: StageConfig) -> None:
    plain = config.training.model_copy(update={"selection": None})
    stage = config.model_copy(update={"training": plain})
    assert "selection" not in stage_identity(stage, None)["training"]
    assert stage_digest(stage, None) != stage_digest(config, None)
    assert stage_identity(config, None)["training"]["selection"]["every"]["amount"] == EVERY


@pytest.mark.parametrize(
    ("path", "selection", "message"),
    [
        (("stages", 0), {}, "stage general predicts no answers that could be scored"),
        (("stages", 2), {}, "stage task_adaptive predicts no answers"),
        (("stages", 3), {"metric": "pearson"}, "pearson does not score classification tasks"),
        (("teacher", "task_model"), {"metric": "squad_f1"}, "for classification tasks there are"),
        (("teacher", "multi_task"), {"metric": "accuracy"}, "mean of their main scores"),
        (("stages", 3), {"every": "often"}, "expected an amount and a unit"),
        (("stages", 3), {"patience": 0}, "greater than or equal to 1"),
    ],
)
def test_an_unusable_selection_is_refused(
    tmp_path: Path, path: tuple[Any, ...], selection: dict[str, Any], message: str
) -> None:
    content = toy_recipe_dict(tmp_path)
    training = content["stages"][0]["training"]
    content["teacher"]["multi_task"] = {
        "tasks": {"a": content["task"], "b": content["task"]},
        "training": dict(training),
    }
    content["stages"] = [{**stage, "training": dict(training)} for stage in content["stages"]]
    at: Any = content
    for part in path:
        at = at[part]
    at["training"]["selection"] = selection
    with pytest.raises(ValidationError, match=message) as refused:
        Recipe.model_validate(content)
    assert refused.value.errors()[0]["loc"][: len(path)] == path


def test_a_students_weights_are_selected_too(tmp_path: Path) -> None:
    content = toy_recipe_dict(tmp_path / "in", steps=4)
    content["teacher"]["task_model"]["training"]["duration"] = "4 steps"
    recipe = Recipe.model_validate(content)
    teacher = run_stage(teacher_configs(recipe)[0], None, plain_ports(tmp_path / "teacher"))
    teachers = task_teachers(
        recipe, {"teacher": finished_teacher(f"{teacher.checkpoint.path}/model", teacher.checkpoint.digest)}
    )
    assert isinstance(teachers, TaskTeachers)
    config = with_selection(stage_config(recipe, recipe.stages[3], teachers), {}, every="1 steps", patience=None)
    ports = plain_ports(tmp_path / "student")
    result = run_stage(config, None, ports)
    assert result.metrics["select/best_accuracy"] == result.metrics["eval/accuracy"]
    assert (Path(result.checkpoint.path) / "projections.safetensors").is_file()
