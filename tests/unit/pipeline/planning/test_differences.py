"""Differences between a stage and the stored checkpoints are described in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.planning.differences import difference_from_store
from pipeline.planning.outline import OutlinedStage, outline
from pipeline.store.checkpoints import CheckpointStore, open_store
from schemas.recipe.recipe import Recipe
from stages import identity
from stages.identity import stage_identity
from tests.support.manifests import manifest_of, write_model
from tests.support.toys import toy_recipe_dict, write_rows


@pytest.fixture
def content(tmp_path: Path) -> dict:  # type: ignore[type-arg]
    return toy_recipe_dict(tmp_path / "in")


def outlined(content: dict, store: CheckpointStore) -> dict[str, OutlinedStage]:  # type: ignore[type-arg]
    recipe = Recipe.model_validate(content)
    return {stage.config.name: stage for stage in outline(recipe, recipe.stages, store)}


@pytest.fixture
def store(content: dict, tmp_path: Path) -> CheckpointStore:  # type: ignore[type-arg]
    """A store in which the recipe has been run, with manifests only."""
    store = open_store(tmp_path / "store")
    for stage in outlined(content, store).values():
        manifest = manifest_of(
            stage.digest, stage=stage.config.name, identity=stage_identity(stage.config, stage.parent)
        )
        store.writer(stage.config.name, stage.digest).commit(manifest, write_model)
    return store


def reasons(content: dict, store: CheckpointStore) -> dict[str, str | None]:  # type: ignore[type-arg]
    return {name: difference_from_store(stage, store) for name, stage in outlined(content, store).items()}


def test_a_stored_stage_has_no_difference(content, store: CheckpointStore) -> None:  # type: ignore[no-untyped-def]
    assert set(reasons(content, store).values()) == {None}


def test_a_stage_without_any_checkpoint_has_no_difference(content, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert set(reasons(content, open_store(tmp_path / "empty")).values()) == {None}


def test_a_change_is_reported_with_path_and_both_values_and_for_later_stages(
    content,  # type: ignore[no-untyped-def]
    store: CheckpointStore,
) -> None:
    training = content["stages"][2]["training"]
    content["stages"][2]["training"] = training | {"optimizer": {"learning_rate": 0.002}}
    lines = reasons(content, store)
    assert {name for name, reason in lines.items() if reason} == {"task_adaptive", "task_specific"}
    assert lines["task_adaptive"] is not None
    assert lines["task_adaptive"].startswith("unlike task_adaptive-")
    assert lines["task_adaptive"].endswith(": training.optimizer.learning_rate is 0.002 instead of 0.001")
    assert str(lines["task_specific"]).endswith(": the stage before it changed")


def test_changed_rows_in_the_same_file_are_changed_data(content, store, tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_rows(Path(content["task"]["train"]), [{"text_a": "good", "label": "good"}, {"text_a": "bad", "label": "bad"}])
    lines = reasons(content, store)
    assert lines["general"] is None
    assert "the data changed" in str(lines["teacher"])
    assert "its teacher changed; the stage before it" not in str(lines["general_enhanced"])
    assert "its teacher changed" in str(lines["general_enhanced"])


def test_a_stage_of_another_recipe_explains_nothing(content, store) -> None:  # type: ignore[no-untyped-def]
    write_rows(Path(content["task"]["train"]), [{"text_a": "good", "label": "good"}, {"text_a": "bad", "label": "bad"}])
    for stage in content["stages"]:
        stage["training"] |= {"optimizer": {"learning_rate": 0.002, "weight_decay": 0.02}, "dropout": 0.2, "seed": 9}
    lines = reasons(content, store)
    assert lines["task_specific"] is None
    assert str(lines["general"]).startswith("unlike general-")


def test_changed_numerics_are_named(content, store, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    was = identity.NUMERICS_VERSION
    monkeypatch.setattr(identity, "NUMERICS_VERSION", 7)
    assert all(f"numerics is 7 instead of {was}" in str(reason) for reason in reasons(content, store).values())


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"identity": 3}', "[" * 100_000])
def test_manifests_without_identity_are_skipped(broken: str, content, store) -> None:  # type: ignore[no-untyped-def]
    for path in store.root.glob("checkpoints/*/manifest.json"):
        path.write_text(broken, encoding="utf-8")
    content["stages"][0]["training"] = content["stages"][0]["training"] | {"seed": 5}
    assert set(reasons(content, store).values()) == {None}
