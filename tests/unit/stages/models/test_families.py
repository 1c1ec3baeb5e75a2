"""Students of every family take the student's shape, the teacher's vocabulary and its layers, or are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from schemas.core.errors import ConfigError, DataError
from schemas.core.kinds import Classification
from schemas.recipe.student import StudentConfig, StudentShape, TeacherLayersStart
from stages.kinds.registry import kind_of
from stages.models.encoders import capturable, check_same_vocabulary, load_encoder, shape_of
from stages.models.heads import body_parameters
from stages.models.student import count_parameters, dropout, fresh_student, student_config
from tests.support.builders import WORDS, tiny_tokenizer
from tests.support.families import FAMILIES, READABLE, SHAPE, VOCABULARY, family_config, family_folder
from tests.support.toys import used_for


def sizes_of(config: PretrainedConfig, auto: Any = AutoModel) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = auto.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def told(config: PretrainedConfig) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("architectures", "transformers_version", "dtype")
    }


def last_states(model: PreTrainedModel) -> Tensor:
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states: Tensor = model(input_ids=ids).last_hidden_state
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reshaped_student_equals_the_familys_own_model(family: str) -> None:
    config = student_config(family_config(family), SHAPE)
    expected = family_config(family, layers=2, width=8, heads=2, inner=16)
    assert told(config) == told(expected)
    assert sizes_of(config) == sizes_of(expected)
    assert sizes_of(config, AutoModelForMaskedLM) == sizes_of(expected, AutoModelForMaskedLM)
    shape = shape_of(config)
    assert {name: getattr(shape, name) for name in StudentShape.model_fields} == SHAPE.model_dump()
    assert capturable(config) is (family in READABLE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_the_teachers_shape_has_the_teachers_config(family: str) -> None:
    teacher = family_config(family)
    shape = StudentShape(num_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    before = told(teacher)
    assert told(student_config(teacher, shape)) == before
    assert told(teacher) == before


def test_published_students_keep_their_published_sizes() -> None:
    teacher = AutoConfig.for_model("bert")
    for sizes, parameters in (((4, 312, 12, 1200), 14_350_248), ((6, 768, 12, 3072), 66_955_008)):
        shape = StudentShape(**dict(zip(StudentShape.model_fields, sizes, strict=True)))
        assert count_parameters(student_config(teacher, shape)) == parameters


def test_the_bottleneck_of_mobilebert_shrinks_in_proportion_to_a_multiple_of_the_heads() -> None:
    teacher = AutoConfig.for_model("mobilebert")  # 512 wide, 128 inside, 4 heads
    for width, heads, inside in ((512, 4, 128), (256, 4, 64), (300, 12, 72), (32, 16, 16)):
        shape = StudentShape(num_layers=2, hidden_size=width, num_attention_heads=heads, intermediate_size=width)
        config = student_config(teacher, shape)
        assert (config.intra_bottleneck_size, config.true_hidden_size) == (inside, inside)
        assert sizes_of(config)["encoder.layer.1.attention.self.query.weight"] == (inside, inside)


@pytest.mark.parametrize(
    ("heads", "key_heads", "student_heads", "expected"), [(18, 6, 12, 4), (12, 12, 6, 6), (18, 6, 4, 2), (18, 6, 5, 5)]
)
def test_query_heads_share_key_heads_as_in_the_teacher_or_by_the_next_divisor(
    heads: int, key_heads: int, student_heads: int, expected: int
) -> None:
    teacher = family_config("eurobert", width=heads * 4, heads=heads, num_key_value_heads=key_heads, head_dim=4)
    shape = StudentShape(
        num_layers=2, hidden_size=student_heads * 2, num_attention_heads=student_heads, intermediate_size=16
    )
    config = student_config(teacher, shape)
    assert (config.num_key_value_heads, config.head_dim) == (expected, 2)
    assert capturable(config)


@pytest.mark.parametrize("depth", [1, 4, 9])
def test_kinds_of_attention_continue_the_teachers_pattern(depth: int) -> None:
    teacher = family_config("modernbert", layers=7)
    assert teacher.layer_types[:4] == ["full_attention", *["sliding_attention"] * 2, "full_attention"]
    config = student_config(teacher, SHAPE.model_copy(update={"num_layers": depth}))
    assert config.layer_types == ["sliding_attention" if layer % 3 else "full_attention" for layer in range(depth)]


def test_copied_blocks_keep_their_kind_of_attention() -> None:
    teacher = family_config("modernbert", layers=6)
    config = student_config(teacher, SHAPE, layers=(0, 3))
    assert config.layer_types == ["full_attention", "full_attention"]


def test_embeddings_follow_the_width_unless_factorised() -> None:
    for width, expected in ((16, 8), (12, 12)):
        teacher = family_config("electra", embedding_size=width)
        assert student_config(teacher, SHAPE).embedding_size == expected


def test_embeddings_of_mobilebert_fit_under_its_masked_language_head() -> None:
    teacher = family_config("mobilebert", embedding_size=12)
    assert student_config(teacher, SHAPE).embedding_size == 8


def test_albert_never_has_more_groups_than_layers() -> None:
    teacher = family_config("albert", layers=6, num_hidden_groups=3)
    assert student_config(teacher, SHAPE).num_hidden_groups == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_copying_every_layer_reproduces_the_teacher(family: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path, family)
    shape = StudentShape(num_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    student = fresh_student(StudentConfig(shape=shape, start=TeacherLayersStart()), folder)
    assert torch.equal(last_states(student), last_states(load_encoder(folder)))


def test_the_shared_layer_of_albert_is_copied_for_every_layer_map(tmp_path: Path) -> None:
    folder = family_folder(tmp_path, "albert")
    shape = StudentShape(num_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    student = fresh_student(StudentConfig(shape=shape, start=TeacherLayersStart()), folder)
    ids = torch.arange(5, 14)[None]
    with torch.no_grad():
        expected = load_encoder(folder)(input_ids=ids, output_hidden_states=True).hidden_states[2]
        assert torch.equal(student(input_ids=ids).last_hidden_state, expected)


def test_a_copy_that_would_lose_a_norm_is_refused(tmp_path: Path) -> None:
    folder = family_folder(tmp_path, "modernbert")
    shape = StudentShape(num_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    explicit = {"layer_map": {"kind": "explicit", "layers": [1, 2]}}
    start = TeacherLayersStart.model_validate(explicit)
    with pytest.raises(ConfigError, match=r"layer_map: student block 0 .* has no attn_norm\.weight"):
        fresh_student(StudentConfig(shape=shape, start=start), folder)


def test_a_student_of_a_half_precision_teacher_is_in_full_precision(tmp_path: Path) -> None:
    folder = family_folder(tmp_path, "modernbert")
    AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).dtype == torch.float16
    student = fresh_student(StudentConfig(shape=SHAPE), folder)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    headed = kind_of(Classification()).head.on(student, ("bad", "good"), seed=0)
    assert {parameter.dtype for parameter in headed.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_adding_a_head_does_not_change_the_encoder(family: str) -> None:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(family_config(family)).eval()
    headed = kind_of(Classification()).head.on(encoder, ("bad", "neutral", "good"), seed=3).eval()
    assert torch.equal(last_states(headed.base_model), last_states(encoder))
    ids = torch.randint(5, 60, (2, 9))
    logits = headed(input_ids=ids).logits
    assert logits.shape == (2, 3)
    again = kind_of(Classification()).head.on(encoder, ("bad", "neutral", "good"), seed=3).eval()
    assert torch.equal(again(input_ids=ids).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_is_what_the_last_states_are_computed_from(family: str) -> None:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(family_config(family)).eval()
    headed = kind_of(Classification()).head.on(encoder, ("bad", "good"), seed=0).eval()
    ids = torch.randint(5, 60, (2, 9))
    states = used_for(headed.base_model(input_ids=ids).last_hidden_state, headed)
    logits = used_for(headed(input_ids=ids).logits, headed)
    body = set(map(id, body_parameters(headed)))
    assert states <= body, "all of it is frozen"
    assert body & logits == states & logits, "and nothing above it"
    assert logits - body, "a head is left to learn"


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_every_family_can_be_switched_off(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(family_config(family)).train()
    with dropout(model, 0.0):
        assert torch.equal(last_states(model), last_states(model))
    with dropout(model, 0.5):
        assert not torch.equal(last_states(model), last_states(model))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("bert", "mpnet")])
def test_a_student_of_any_family_reads_the_teachers_tokens(family: str) -> None:
    teacher = family_config("bert", max_position_embeddings=40, type_vocab_size=3)
    config = student_config(teacher, SHAPE, family)
    assert config.model_type == family
    assert config.vocab_size == VOCABULARY
    tokens = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")]
    assert tokens == ([0, None, None] if family == "mobilebert" else [0, 2, 3])
    assert getattr(config, "type_vocab_size", 3) == 3
    shape = shape_of(config)
    assert shape.max_positions == 40
    assert {name: getattr(shape, name) for name in StudentShape.model_fields} == SHAPE.model_dump()
    model = AutoModel.from_config(config).eval()
    ids = torch.arange(60, 100)[None]
    states = model(input_ids=ids, token_type_ids=torch.full_like(ids, 2)).last_hidden_state
    assert states.shape == (1, 40, 8)


def test_a_student_has_two_token_types_if_the_teacher_reads_none() -> None:
    for teacher in (family_config("deberta-v2", type_vocab_size=0), family_config("distilbert")):
        assert student_config(teacher, SHAPE, "bert").type_vocab_size == 2
        assert student_config(teacher, SHAPE, "gte").type_vocab_size == 2


def test_rows_of_the_position_table_before_the_first_token_are_added() -> None:
    published = {"vocab_size": 200, "pad_token_id": 1, "max_position_embeddings": 514}
    teacher = AutoConfig.for_model("roberta", **published)
    assert shape_of(teacher).max_positions == 512
    assert student_config(teacher, SHAPE, "bert").max_position_embeddings == 512
    assert student_config(teacher, SHAPE, "mpnet").max_position_embeddings == 514
    assert student_config(teacher, SHAPE, "camembert").max_position_embeddings == 514
    padded_by_0 = family_config("bert", max_position_embeddings=40)
    assert student_config(padded_by_0, SHAPE, "roberta").max_position_embeddings == 41


def test_missing_special_tokens_do_not_get_the_familys_defaults() -> None:
    teacher = AutoConfig.for_model("bert", vocab_size=300)
    modern = student_config(teacher, SHAPE, "modernbert")
    assert (modern.cls_token_id, modern.sep_token_id, modern.bos_token_id) == (None, None, None)
    assert student_config(teacher, SHAPE, "eurobert").mask_token_id == 0


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("brt", r"^student\.model_type: transformers has no encoder named brt; did you mean .*bert"),
        ("gpt2", r"^student\.model_type: transformers has no encoder named gpt2"),
        ("t5", r"^student\.model_type: transformers has no encoder named t5"),
        ("zzzz", r"^student\.model_type: transformers has no encoder named zzzz; .*such as bert"),
        ("bart", r"^student\.model_type: bart is not a pure text encoder"),
        ("fnet", r"a fnet config has no num_attention_heads"),
        ("funnel", r"funnel"),
        ("mpnet", r"^student\.model_type: mpnet models treat token 1 as padding, .* token 0"),
        ("xmod", r"^student\.model_type: a xmod model .*does not run on tokens alone"),
    ],
)
def test_a_family_that_cannot_be_the_student_is_refused_by_name(model_type: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student_config(family_config("bert"), SHAPE, model_type)


def test_a_shape_unsupported_by_a_family_is_refused_with_the_reason() -> None:
    odd = StudentShape(num_layers=2, hidden_size=6, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ConfigError, match=r"^student\.shape: a modernbert model .* 6 wide"):
        student_config(family_config("modernbert"), odd)
    flaubert = AutoConfig.for_model("flaubert", emb_dim=16, n_layers=3, n_heads=2, vocab_size=50)
    with pytest.raises(ConfigError, match=r"intermediate_size: 16, .*always 4 x .* give 32"):
        student_config(flaubert, SHAPE)


def test_layers_of_one_family_are_not_copied_into_another(tmp_path: Path) -> None:
    folder = family_folder(tmp_path, "bert")
    student = StudentConfig(shape=SHAPE, model_type="roberta", start=TeacherLayersStart())
    with pytest.raises(ConfigError, match=r"blocks of a bert teacher cannot .* roberta student"):
        fresh_student(student, folder)


def test_the_shape_of_a_model_that_is_not_a_transformer_encoder_is_refused() -> None:
    with pytest.raises(DataError, match="a fnet model has no num_attention_heads in its config"):
        shape_of(AutoConfig.for_model("fnet"))


def test_an_existing_student_must_share_the_teachers_vocabulary(tmp_path: Path) -> None:
    teacher = family_folder(tmp_path / "teacher", "bert")
    same = family_folder(tmp_path / "same", "electra")
    check_same_vocabulary(same, teacher, key="student.start.model")
    longer = shutil.copytree(teacher, tmp_path / "longer")
    tiny_tokenizer([*WORDS, "extra"]).save_pretrained(longer)
    number = len(tiny_tokenizer())
    with pytest.raises(DataError, match=rf"it has {number + 1} tokens, the teacher's has {number}"):
        check_same_vocabulary(longer, teacher, key="student.start.model")
    copy = shutil.copytree(teacher, tmp_path / "other")
    tiny_tokenizer([WORDS[0], WORDS[2], WORDS[1], *WORDS[3:]]).save_pretrained(copy)
    first = tiny_tokenizer().get_vocab()[WORDS[1]]
    expected = rf"token {first} is '{WORDS[2]}', the teacher's is '{WORDS[1]}'"
    with pytest.raises(DataError, match=expected):
        check_same_vocabulary(copy, teacher, key="student.start.model")
