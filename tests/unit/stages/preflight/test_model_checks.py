"""`plan` refuses all models that a run would refuse: vocabularies, sizes of weights, starts, existing teachers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast, RobertaConfig

from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import Embedding
from schemas.data.tasks import FileTask
from schemas.recipe.recipe import Recipe
from stages.build import check_parent
from stages.data.tasks.load import load_task
from stages.data.tasks.tokenize import tokenize_task
from stages.models.encoders import check_same_vocabulary, load_config, load_encoder, load_tokenizer
from stages.models.masked_lm import load_word_model
from stages.models.sentence_encoder import check_dense, load_sentence_encoder, sentence_encoder
from stages.models.weights import check_weights
from stages.preflight.checks import preflight
from stages.preflight.model_checks import once_each
from tests.support.builders import WORDS, tiny_tokenizer
from tests.support.families import FAMILIES, family_config
from tests.support.kinds import kind_recipe_dict
from tests.support.toys import random_model, toy_recipe, toy_teacher, write_rows


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")


def refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        call(*arguments, **named)
    return str(caught.value)


# Vocabularies


def roberta(folder: Path, **changes: Any) -> Path:
    """A RoBERTa with BERT's tokenizer, whose pairs have two types."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(
        vocab_size=len(tiny_tokenizer()), pad_token_id=0, **{**sizes, "type_vocab_size": 1, **changes}
    )
    return random_model(folder, config, None)


def test_missing_token_types_are_omitted_from_pairs(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "model")
    tokenizer = load_tokenizer(folder, load_config(folder))
    assert "token_type_ids" not in tokenizer.model_input_names
    rows = [{"text_a": "good film", "text_b": word, "label": word} for word in ("a", "the")] * 4
    write_rows(tmp_path / "train.jsonl", rows)
    task = FileTask(train=f"{tmp_path}/train.jsonl", validation=f"{tmp_path}/train.jsonl", text_pair="auto")
    tokens, _ = tokenize_task(load_task(task, tmp_path / "cache"), tokenizer, max_length=16, cache=tmp_path / "cache")
    batch = tokens.batch(range(4))
    assert batch.token_type_ids is None
    with torch.no_grad():
        load_encoder(folder)(**batch.model_inputs())
    # So does the tokenizer saved with a student.
    tokenizer.save_pretrained(tmp_path / "saved")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert "token_type_ids" not in again("a", "the")


def test_supported_token_types_are_kept(tmp_path: Path) -> None:
    for name, number in (("two", 2), ("none", 0)):
        folder = toy_teacher(tmp_path / name)
        edit(folder / "config.json", type_vocab_size=number)
        tokenizer = load_tokenizer(folder, load_config(folder))
        assert "token_type_ids" in tokenizer.model_input_names


def test_models_with_too_few_token_types_are_refused(tmp_path: Path) -> None:
    teacher, smaller_model = toy_teacher(tmp_path / "teacher"), roberta(tmp_path / "other")
    message = refusal(check_same_vocabulary, smaller_model, teacher, key="student.start.model")
    assert "student.start.model: " in message
    assert "1 token types (type_vocab_size), but the teacher's tokenizer gives pairs 2" in message
    check_same_vocabulary(teacher, smaller_model, key="x")


def test_added_tokens_without_embeddings_are_named(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    size = len(tiny_tokenizer())
    for added, words in ((["<user>"], ""), (["<user>", "<url>"], " and 1 more")):
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(added)
        tokenizer.save_pretrained(folder)
        message = refusal(load_tokenizer, folder, load_config(folder))
        assert f"'<user>' (id {size}){words} was added to the tokenizer" in message
        assert f"resize_token_embeddings({size + len(added)})" in message
        assert "another model" not in message


def test_ids_beyond_the_embeddings_are_detected(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    size = len(content["model"]["vocab"])
    content["model"]["vocab"]["good"] = size + 7
    file.write_text(json.dumps(content), encoding="utf-8")
    message = refusal(load_tokenizer, folder, load_config(folder))
    assert f"the vocabulary has {size} tokens, but its ids have gaps: 'good' (id {size + 7})" in message
    assert f"the model's {size} embeddings" in message


def test_template_ids_beyond_the_embeddings_are_detected(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 500)]
    )
    inner.save(str(folder / "tokenizer.json"))
    assert "(id 500)" in refusal(load_tokenizer, folder, load_config(folder))


def test_vocabularies_of_other_models_are_recognised(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    tiny_tokenizer([*WORDS, "more", "words"]).save_pretrained(folder)
    message = refusal(load_tokenizer, folder, load_config(folder))
    assert "put both files of the same model into the folder" in message


# Sizes of weights


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_all_families_match_their_configs(tmp_path: Path, family: str) -> None:
    config = family_config(family)
    for auto in (AutoModel, AutoModelForMaskedLM):
        folder = tmp_path / auto.__name__
        auto.from_config(config).save_pretrained(folder)
        check_weights(AutoModel, folder, load_config(folder))
    check_weights(AutoModelForMaskedLM, folder, load_config(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vocab_size": 500},
            "word_embeddings.weight is 92 x 16 in model.safetensors, but 500 x 16 by config.json (vocab_size: 500)",
        ),
        ({"type_vocab_size": 5}, "is 2 x 16 in model.safetensors, but 5 x 16 by config.json (type_vocab_size: 5)"),
        ({"max_position_embeddings": 48}, "but 48 x 16 by config.json (max_position_embeddings: 48)"),
        ({"intermediate_size": 64}, "(intermediate_size: 64)"),
        ({"hidden_size": 8}, "(hidden_size: 8)"),
        ({"num_hidden_layers": 6}, "names 6 blocks (num_hidden_layers), and its .safetensors has no weights of 2 of"),
        ({"num_hidden_layers": 3}, "names 3 blocks (num_hidden_layers), and its .safetensors has weights of 4"),
        ({"pad_token_id": 1000}, "cannot be loaded as a model: "),
    ],
)
def test_weights_of_wrong_sizes_are_named(tmp_path: Path, changes: dict[str, int], words: str) -> None:
    recipe = toy_recipe(tmp_path)
    edit(tmp_path / "teacher" / "config.json", **changes)
    message = refusal(preflight, recipe, tmp_path / "cache")
    assert words in message
    assert str(tmp_path / "teacher") in message
    assert message.count("\n") == 0


def test_loading_names_wrong_sizes(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    edit(folder / "config.json", vocab_size=500)
    assert "weight is 92 x 16 in model.safetensors" in refusal(load_encoder, folder)


def test_the_shard_of_a_weight_is_named(tmp_path: Path) -> None:
    folder = toy_teacher(tmp_path / "model")
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    edit(folder / "config.json", vocab_size=500)
    assert "in model-00001-of-000" in refusal(check_weights, AutoModel, folder, load_config(folder))


def test_masked_language_heads_of_other_vocabularies_are_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=92, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.bias"] = torch.zeros(91)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    message = refusal(load_word_model, tmp_path)
    assert "cls.predictions.bias is 91 in model.safetensors, but 92 by config.json" in message


# Given teachers


def given_teacher(tmp_path: Path, labels: tuple[str, ...] = ("bad", "good")) -> dict[str, Any]:
    """Return the part of a recipe that names an existing teacher."""
    folder = toy_teacher(tmp_path / "given", labels=labels)
    return {"task_model": {"kind": "given", "model": str(folder)}, "model": str(tmp_path / "teacher")}


def test_heads_with_wrong_outputs_are_reported_once(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, teacher=given_teacher(tmp_path, ("a", "b", "c")))
    edit(tmp_path / "given" / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    message = refusal(preflight, recipe, tmp_path / "cache")
    assert "classifier.bias is 3 in model.safetensors, but 2 by config.json (id2label names 2 outputs)" in message
    assert message.count("\n") == 0


def test_given_teachers_with_too_few_positions_are_refused(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, teacher=given_teacher(tmp_path))
    preflight(recipe, tmp_path / "cache")
    config = load_config(tmp_path / "given")
    config.max_position_embeddings = 16
    random_model(tmp_path / "given", config, ("bad", "good"))
    message = refusal(preflight, recipe, tmp_path / "cache")
    assert "teacher.task_model.model: " in message
    assert "reads at most 16 tokens, but task.max_length is 24" in message


def test_given_teachers_with_unmatched_blocks_are_refused(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, teacher=given_teacher(tmp_path))
    toy_teacher(tmp_path / "given", labels=("bad", "good"), layers=4, heads=4)
    message = refusal(preflight, recipe, tmp_path / "cache")
    assert "teacher.task_model.model: stages[2].objective.terms[" in message
    assert "the student has 2 heads and the teacher 4" in message


@pytest.mark.parametrize(
    ("width", "head", "refuses"), [(8, "teacher", True), (8, "fresh", False), (12, "teacher", False)]
)
def test_heads_without_a_layer_for_the_teachers_map_of_vectors_are_refused(
    tmp_path: Path, width: int, head: str, refuses: bool
) -> None:
    content = kind_recipe_dict(tmp_path, "embedding")
    folder = Path(content["teacher"]["task_model"]["model"])
    sentence_encoder(load_encoder(folder), Embedding(), width=width, seed=0).save_pretrained(folder)
    content["stages"][3]["objective"]["head"] = head
    recipe = Recipe.model_validate(content)
    if refuses:
        message = refusal(preflight, recipe, tmp_path / "cache")
        assert "stages[3].objective.head: teacher, but the student's states are its vectors, 8 wide" in message
        assert "the teacher's map of 16 to 8; set it to fresh" in message
    else:
        preflight(recipe, tmp_path / "cache")


# Starts


def test_existing_students_are_checked_directly(tmp_path: Path) -> None:
    shape = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path / "start"
    start = {"kind": "model", "model": str(folder)}
    recipe = toy_recipe(tmp_path, student={"shape": shape, "start": start})
    for config, words in (
        (family_config("convbert", layers=2), "from a convbert model (student)"),
        (family_config("bert", layers=2, max_position_embeddings=20), "student.start.model: "),
        (family_config("bert", layers=2), ""),
    ):
        config.vocab_size = len(tiny_tokenizer())
        random_model(folder, config, None)
        if words:
            assert words in refusal(preflight, recipe, tmp_path / "cache")
        else:
            preflight(recipe, tmp_path / "cache")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"kind": "teacher_layers", "layer_map": {"kind": "explicit", "layers": [0, 2]}}, ""),
        (
            {"kind": "teacher_layers", "layer_map": {"kind": "explicit", "layers": [1, 2]}},
            "student block 0 is to be a copy of teacher block 1",
        ),
        (
            {"kind": "teacher_layers", "layer_map": {"kind": "explicit", "layers": [0, 0]}},
            "student block 1 is to be a copy of teacher block 0",
        ),
        (
            {"kind": "extract", "units": "random", "layer_map": {"kind": "explicit", "layers": [1, 2]}},
            "student block 0 is to be made of teacher block 1",
        ),
    ],
)
def test_blocks_that_cannot_be_copied_are_refused(tmp_path: Path, start: dict[str, Any], words: str) -> None:
    shape = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    recipe = toy_recipe(tmp_path, student={"shape": shape, "start": start})
    config = family_config("modernbert", layers=3)
    config.vocab_size = len(tiny_tokenizer())
    random_model(tmp_path / "teacher", config, None)
    if words:
        assert words in refusal(preflight, recipe, tmp_path / "cache")
    else:
        preflight(recipe, tmp_path / "cache")


def test_settings_that_need_a_missing_mask_token_are_refused(tmp_path: Path) -> None:
    shape = {"num_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    recipe = toy_recipe(tmp_path, student={"shape": shape, "start": {"kind": "extract"}})
    preflight(recipe, tmp_path / "cache")
    file = tmp_path / "teacher" / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["mask_token"]
    file.write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "teacher" / "special_tokens_map.json").unlink(missing_ok=True)
    message = refusal(preflight, recipe, tmp_path / "cache")
    assert "student.start.units: importance is measured on masked words" in message


def test_checkpoints_of_other_students_are_refused(tmp_path: Path) -> None:
    shape = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    recipe = toy_recipe(tmp_path, student={"shape": shape})
    teacher, folder = tmp_path / "teacher", toy_teacher(tmp_path / "parent", layers=2)
    check_parent(folder, recipe.student, teacher)
    edit(folder / "config.json", vocab_size=500)
    assert "500 x 16 by config.json" in refusal(check_parent, folder, recipe.student, teacher)
    toy_teacher(folder, layers=3)
    assert "num_layers: 2, but" in refusal(check_parent, folder, recipe.student, teacher)
    config = family_config("roberta", layers=2)
    config.vocab_size = len(tiny_tokenizer())
    random_model(folder, config, None)
    message = refusal(check_parent, folder, recipe.student, teacher)
    assert "holds a roberta model" in message
    toy_teacher(folder, layers=2)
    tiny_tokenizer([*WORDS[:-1], "other"]).save_pretrained(folder)
    message = refusal(check_parent, folder, recipe.student, teacher)
    assert "--resume-from: " in message
    assert "has another vocabulary than the teacher" in message


# Maps of sentence encoders


def sentence_model(folder: Path, width: int = 12) -> Path:
    encoder = load_encoder(toy_teacher(folder.parent / "encoder"))
    sentence_encoder(encoder, Embedding(), width=width, seed=0).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out_features": 7}, "linear.weight is 12 x 16, but 7 x 16 by"),
        ({"out_features": "many"}, "2_Dense cannot be read (ValueError"),
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, "only a linear map is supported"),
    ],
)
def test_layer_maps_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = sentence_model(tmp_path / "model")
    config = load_config(folder)
    check_dense(folder, config)
    edit(folder / "2_Dense" / "config.json", **changes)
    assert words in refusal(check_dense, folder, config)
    assert words in refusal(load_sentence_encoder, folder, Embedding())


def test_shared_problems_are_reported_once_with_all_stages() -> None:
    reason = ".objective.terms: attention cannot be read from a funnel model"
    problems = [f"stages[{index}]{reason}" for index in (0, 2, 2)]
    merged = once_each([*problems, "task.problem: no head", "task.problem: no head"])
    assert merged == [f"stages[0], stages[2]{reason}", "task.problem: no head"]
