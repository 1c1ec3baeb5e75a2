"""Engines: settings that are refused, GPUs that are shared out, and answers of members."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipeline.engines.check import check_engine
from pipeline.engines.own_processes import OwnProcesses, shares_of
from pipeline.engines.request import Member, MemberAnswer, answer_of
from pipeline.recipes.shipped import read_recipe
from schemas.core.errors import ConfigError, Interrupted, ProcessLost, TeacherError
from schemas.recipe.parts import Engine, Execution, Launch


def test_ray_is_refused_without_a_server_or_its_packages() -> None:
    engine = Engine(kind="ray")
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match="kind: ray, but PREFECT_API_URL is not set"),
    ):
        check_engine(Execution(engine=engine))
    if importlib.util.find_spec("prefect_ray") is not None:
        pytest.skip("the extra ray is installed")
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConfigError, match=r"pip install 'distill-flow\[ray\]'"),
    ):
        check_engine(Execution(engine=engine))


def test_gpus_are_shared_out_and_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert shares_of(Engine(at_once=4)) == [("0",), ("1",), ("2",), ("3",)]
    assert shares_of(Engine(at_once=8, gpus_each=0)) == [()] * 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert shares_of(Engine(at_once=2, gpus_each=2)) == [("4", "5"), ("6", "7")]
    with pytest.raises(ConfigError, match="3 runs at once with 2 GPUs each, but this machine shows 4"):
        check_engine(Execution(engine=Engine(at_once=3, gpus_each=2)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert shares_of(Engine(at_once=2)) == [None, None]
    with pytest.raises(ConfigError, match="1 GPU each, but this machine shows 0"):
        check_engine(Execution(engine=Engine(at_once=2, gpus_each=1)))


def test_several_runs_do_not_wait_for_the_same_machines() -> None:
    launch = Launch(machines=2, rendezvous="127.0.0.1:29400")
    assert check_engine(Execution(launch=launch)) == []
    with pytest.raises(ConfigError, match=r"execution.launch.machines: 2, but execution.engine has several runs go on"):
        check_engine(Execution(launch=launch, engine=Engine(at_once=2)))


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"execution.engine.kind: 'dask' is not allowed"):
        read_recipe("quickstart", ["execution.engine.kind=dask"])
    with pytest.raises(ConfigError, match=r"execution.engine.at_once: 0 is not allowed; it must be at least 1"):
        read_recipe("quickstart", ["execution.engine.at_once=0"])


def test_an_error_of_a_member_keeps_its_kind_and_an_unexpected_one_is_worth_another_attempt() -> None:
    def again(error: BaseException) -> MemberAnswer:
        return MemberAnswer.model_validate_json(answer_of(error).model_dump_json())

    with pytest.raises(TeacherError, match="too weak"):
        again(TeacherError("too weak")).result()
    with pytest.raises(Interrupted, match="stopped"):
        again(Interrupted("stopped")).result()
    with pytest.raises(ConfigError) as error:
        again(ConfigError(["one", "two"])).result()
    assert error.value.problems == ("one", "two")
    with pytest.raises(ProcessLost, match="OSError: no space"):
        again(OSError("no space")).result()


def test_a_process_that_ends_without_an_answer_is_lost_with_its_last_words() -> None:
    told: list[str] = []
    workers = OwnProcesses(Engine(at_once=2), lambda: False, told.append)
    with pytest.raises(ProcessLost, match=r"the process of seed0 ended without a word \(exit code 1\)"):
        workers.run("seed0", "no JSON")
    assert any("MemberRequest" in line for line in told)


def test_titles_name_task_and_seed() -> None:
    def title(task: str | None, seed: int | None, *, is_shared: bool = False) -> str:
        return Member(name="run", task=task, seed=seed, run_above="r", is_shared=is_shared).title

    assert [title("mrpc", 3), title(None, 3), title("mrpc", None)] == ["mrpc-seed3", "seed3", "mrpc"]
    assert [title(None, 3, is_shared=True), title(None, None, is_shared=True)] == ["shared of seed3", "shared"]
