"""A student's head before training: its teacher's tensors, or their least-squares fit on the student's states."""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from schemas.core.errors import ConfigError
from schemas.core.kinds import (
    Classification,
    Embedding,
    MultiLabel,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    TaskKind,
    TokenClassification,
)
from stages import head_start
from stages.data.batching.payloads import NO_WORD, Payload, WordTags
from stages.data.batching.tokens import Batch, Tokens
from stages.head_start import start_head
from stages.kinds.registry import KINDS, kind_of
from stages.models import read
from stages.models.encoders import attention_of
from stages.models.read import head_answer
from stages.models.sentence_encoder import Model, SentenceEncoder, sentence_encoder
from stages.training.value_scale import Units, fold_units, fresh_in_units, trained_in_units
from tests.support.families import FAMILIES, family_config

LABELS: dict[type[TaskKind], tuple[str, ...]] = {
    Classification: ("bad", "fair", "good"),
    MultiLabel: ("red", "green", "blue"),
    Regression: ("value",),
    TokenClassification: ("O", "B-X", "I-X"),
    QuestionAnswering: ("start", "end"),
    MultipleChoice: ("score",),
    Embedding: (),
}
PROBLEMS = [problem() for problem in LABELS]


def name_of(problem: TaskKind) -> str:
    return problem.kind


def some_text(seed: int, rows: int = 160) -> Tokens:
    """Sequences of five words, so that models of any width tell them apart; every third piece continues a word."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(4, 14, rows).astype(np.int32)
    number = int(lengths.sum())
    tags = np.where(np.arange(number) % 3 == 0, NO_WORD, 0).astype(np.int16)
    payload: Payload = WordTags(tags, np.zeros(number, np.int32))
    ids = draw.integers(5, 10, number).astype(np.int32)
    return Tokens(ids, lengths, None, payload, 0, f"text {seed}", np.cumsum(lengths) - lengths)


def some_encoder(family: str, width: int, *, layers: int = 2, seed: int) -> PreTrainedModel:
    config = family_config(family, width=width, layers=layers)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModel.from_config(config, **attention_of(config))
    return model


def headed(problem: TaskKind, encoder: PreTrainedModel, *, seed: int, width: int | None = None) -> Model:
    """An encoder under a random head, whose answers differ from row to row."""
    if isinstance(problem, Embedding):
        model: Model = sentence_encoder(encoder, problem, width=width, seed=seed)
    else:
        model = kind_of(problem).head.on(encoder, LABELS[type(problem)], seed=seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, tensor in head_start._head_tensors(model).items():
            if tensor.ndim == 2:
                tensor.normal_(0, 0.5)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.2)
    return model.eval()


def start(
    student: Model, teacher: Model, problem: TaskKind, text: Tokens | None = None, *, copies: bool = True
) -> None:
    start_head(student, teacher, text or some_text(1), kind_of(problem).answered, seed=0, copies=copies)


@torch.no_grad()
def answers(model: Model, text: Tokens | None = None) -> Tensor:
    """Answers to held-out text, for rows or for the tokens that an answer is about."""
    batch = whole(text or some_text(2))
    answer = head_answer(model.eval()(**batch.model_inputs()))
    assert answer is not None
    return answer[batch.attention_mask.bool()] if answer.ndim == 3 else answer


def whole(text: Tokens) -> Batch:
    return text.batch(np.arange(len(text)))


def correlation(one: Tensor, other: Tensor) -> float:
    return float(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1])


def test_every_kind_is_tested() -> None:
    assert set(LABELS) == set(KINDS)


# Copied


@pytest.mark.parametrize("problem", PROBLEMS, ids=name_of)
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_a_student_of_equal_width_answers_as_the_teacher_s_head_would_from_its_states(
    problem: TaskKind, family: str
) -> None:
    encoder = some_encoder(family, 16, seed=3)
    if not kind_of(problem).head.exists_for(encoder.config):
        pytest.skip(f"{family} has no such head")
    teacher = headed(problem, some_encoder(family, 16, layers=3, seed=1), seed=2, width=12)
    student = headed(problem, encoder, seed=4, width=12)
    expected = copy.deepcopy(teacher)
    body = student.base_model.state_dict()
    expected.base_model.load_state_dict(
        {
            name: body[name] if not name.startswith("pooler.") and name in body else tensor
            for name, tensor in expected.base_model.state_dict().items()
        }
    )
    blocks = [module for module in expected.base_model.modules() if isinstance(module, nn.ModuleList)]
    for layers in blocks:
        if len(layers) == 3:
            del layers[2]
    before = answers(student)
    start(student, teacher, problem)
    assert torch.equal(answers(student), answers(expected))
    assert not torch.equal(answers(student), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_any_family_is_copied_tensor_for_tensor(family: str) -> None:
    problem = Classification()
    encoder = some_encoder(family, 16, seed=3)
    if not kind_of(problem).head.exists_for(encoder.config):
        pytest.skip(f"{family} has no such head")
    student = headed(problem, encoder, seed=4)
    teacher = headed(problem, some_encoder(family, 16, layers=3, seed=1), seed=2)
    body = {name: tensor.clone() for name, tensor in student.base_model.state_dict().items() if "pooler" not in name}
    start(student, teacher, problem)
    tensors = head_start._head_tensors(teacher)
    assert len(tensors) >= 2
    for name, tensor in head_start._head_tensors(student).items():
        assert torch.equal(tensor, tensors[name]), name
    after = student.base_model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in body.items())


# Fitted


def mapped(student: Model, teacher: Model, problem: TaskKind, train: Tokens, held_out: Tokens) -> Tensor:
    """Answers of the teacher's head to the student's states, mapped by an ordinary least-squares fit in float64.

    The fit is on the states that the head reads: the first token's, every answered token's, or their means.
    """

    @torch.no_grad()
    def states(model: Model, batch: Batch) -> NDArray[np.float64]:
        h = model.base_model(**batch.model_inputs()).last_hidden_state.double().numpy()
        rows = []
        for row, mask, answered in zip(h, batch.attention_mask.bool(), kind_of(problem).answered(batch), strict=True):
            if isinstance(problem, TokenClassification | QuestionAnswering):
                rows += list(row[(mask & answered).numpy()])
            else:
                rows.append(row[mask.numpy()].mean(0) if isinstance(problem, Embedding) else row[0])
        return np.stack(rows)

    x, y = states(student, whole(train)), states(teacher, whole(train))
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    new = states(student, whole(held_out))
    z = torch.from_numpy(np.c_[new, np.ones(len(new))] @ weights).float()
    with torch.no_grad():
        if isinstance(teacher, SentenceEncoder):
            return cast(Tensor, teacher.dense(z)) if teacher.dense is not None else z
        last = teacher.qa_outputs if hasattr(teacher, "qa_outputs") else teacher.classifier
        pooler = getattr(teacher.base_model, "pooler", None)
        return cast(Tensor, last(z if pooler is None else torch.tanh(pooler.dense(z))))


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("problem", PROBLEMS, ids=name_of)
def test_a_fitted_head_answers_like_the_teacher_s_head_on_mapped_states(problem: TaskKind, width: int) -> None:
    train, held_out = some_text(1, rows=600), some_text(2)
    teacher = headed(problem, some_encoder("bert", 16, layers=3, seed=1), seed=2, width=12)
    student = headed(problem, some_encoder("bert", width, seed=3), seed=4, width=12)
    before = answers(student, held_out)
    start(student, teacher, problem, train, copies=False)
    wanted = mapped(student, teacher, problem, train, held_out)
    batch = whole(held_out)
    got = head_answer(student(**batch.model_inputs()))
    assert got is not None
    got = got.detach()
    got = got[batch.attention_mask.bool() & kind_of(problem).answered(batch)] if got.ndim == 3 else got
    assert correlation(got, wanted) > 0.9
    if isinstance(problem, TokenClassification | QuestionAnswering | Embedding):
        assert float((got - wanted).var() / wanted.var()) < 1e-3  # one linear layer: the same fit but for the penalty
    truth = answers(teacher, held_out)
    assert correlation(answers(student, held_out), truth) > max(0.5, correlation(before, truth) + 0.1)


@pytest.mark.parametrize("problem", [Classification(), TokenClassification(), QuestionAnswering()], ids=name_of)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_any_family_learns_its_first_head_from_a_bert(family: str, problem: TaskKind) -> None:
    encoder = some_encoder(family, 8, seed=3)
    if not kind_of(problem).head.exists_for(encoder.config):
        pytest.skip(f"{family} has no such head")
    student = headed(problem, encoder, seed=4)
    teacher = headed(problem, some_encoder("bert", 16, seed=1), seed=2)
    train = some_text(1)
    drawn, truth = answers(student, train), answers(teacher, train)
    start(student, teacher, problem, train)
    fitted = answers(student, train)
    # In units of the answers' variance; the answers about tokens that no label counts for are not fitted.
    assert float((fitted - truth).var() / truth.var()) < min(1.0, float((drawn - truth).var() / truth.var()))
    assert correlation(fitted, truth) > 0.3


def test_a_wider_student_takes_every_unit_of_the_teacher() -> None:
    problem = Classification()
    teacher = headed(problem, some_encoder("bert", 8, seed=1), seed=2)
    student = headed(problem, some_encoder("bert", 16, seed=3), seed=4)
    drawn = student.base_model.pooler.dense.weight.detach().clone()
    start(student, teacher, problem)
    after = student.base_model.pooler.dense.weight
    assert torch.equal(after[8:], drawn[8:])
    assert not torch.isclose(after[:8], drawn[:8]).any(dim=-1).all()
    assert correlation(answers(student), answers(teacher)) > 0.3


def fitted(problem: TaskKind) -> dict[str, Tensor]:
    teacher = headed(problem, some_encoder("bert", 16, seed=1), seed=2)
    student = headed(problem, some_encoder("bert", 8, seed=3), seed=4)
    start(student, teacher, problem)
    return head_start._head_tensors(student)


@pytest.mark.parametrize("problem", [Classification(), TokenClassification()], ids=name_of)
def test_only_rounding_depends_on_batches_and_padding(problem: TaskKind, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = fitted(problem), fitted(problem)
    monkeypatch.setattr(read, "_MICROBATCH_TOKENS", 64)
    other = fitted(problem)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.allclose(tensor, other[name], rtol=1e-3, atol=1e-3), name


def test_neither_models_modes_nor_random_numbers_are_disturbed() -> None:
    problem = Classification()
    teacher = headed(problem, some_encoder("bert", 16, seed=1), seed=2)
    student = headed(problem, some_encoder("bert", 8, seed=3), seed=4).train()
    expected = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    state = torch.get_rng_state()
    start(student, teacher, problem)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert not teacher.training
    assert all(torch.equal(tensor, expected[name]) for name, tensor in teacher.state_dict().items())
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("width", [16, 8])
def test_values_are_predicted_in_the_task_s_units(width: int) -> None:
    problem, units = Regression(), Units((60.0,), (25.0,))
    teacher = headed(problem, some_encoder("bert", 16, layers=3, seed=1), seed=2)
    with torch.no_grad():
        teacher.classifier.weight.mul_(25)
        teacher.classifier.bias.add_(60)
    plain = copy.deepcopy(teacher)
    trained_in_units(teacher, units)
    student, other = (headed(problem, some_encoder("bert", width, seed=3), seed=4) for _ in range(2))
    fresh_in_units(student, units)
    start(student, teacher, problem)
    start(other, plain, problem)
    predicted = answers(student)
    assert torch.allclose(predicted, answers(other), atol=2e-2)  # as without units
    if width == 8:
        assert correlation(predicted, answers(teacher)) > 0.5
        assert float((predicted - answers(teacher)).abs().mean()) < 25
    z = student.classifier.weight.detach().clone()
    fold_units(student)
    assert torch.allclose(answers(student), predicted, atol=1e-3)
    assert torch.allclose(student.classifier.weight, 25 * z)


def test_vectors_as_wide_as_the_states_need_no_layer_and_a_map_that_fits_none_is_refused() -> None:
    problem = Embedding()
    plain = headed(problem, some_encoder("distilbert", 16, seed=1), seed=2)
    student = headed(problem, some_encoder("bert", 16, seed=3), seed=4)
    before = answers(student)
    start(student, plain, problem)
    assert torch.equal(answers(student), before)
    narrow = headed(problem, some_encoder("bert", 8, seed=3), seed=4, width=8)
    with pytest.raises(ConfigError, match=r"objective\.head: the head of .*, SentenceEncoder, has no linear layer"):
        start(narrow, headed(problem, some_encoder("bert", 16, seed=1), seed=2, width=8), problem)


def test_answers_about_rows_and_tokens_are_aligned() -> None:
    tokens, rows = torch.arange(12.0).view(2, 3, 2), torch.tensor([[1.0], [2.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x, y = head_start._aligned(tokens, rows, mask)
    assert x.tolist() == [[0, 1], [2, 3], [6, 7]]
    assert y.tolist() == [[1], [1], [2]]
    x, y = head_start._aligned(rows, tokens, mask)
    assert x.tolist() == rows.tolist()
    assert y.tolist() == [[1, 2], [6, 7]]
