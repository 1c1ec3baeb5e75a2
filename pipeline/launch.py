"""Start of the flow from the command line: Prefect's environment, the flow, and its errors in plain words."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pipeline.engines.check import check_engine
from pipeline.planning.options import RunOptions, check_options
from pipeline.planning.per_task import check_data, per_recipe
from pipeline.pools.registered import check_pools
from pipeline.process.console import waiting_for
from pipeline.process.prefect_api import check_server, prefect_errors, prepare_environment
from pipeline.process.prefect_server import TemporaryServer
from pipeline.process.programs import program
from pipeline.process.settings import read_settings
from pipeline.process.stopping import stop_signals
from pipeline.recipes.shipped import read_recipes
from pipeline.store.checkpoints import look_into_store, store_for_look
from pipeline.store.files import disk_errors
from schemas.core.credentials import refuse_credentials
from schemas.core.errors import ConfigError, DistillError, Interrupted
from schemas.core.wording import shown_value
from schemas.recipe.recipe import Recipe
from schemas.results.report import AnyReport
from stages.data.readers.first_reading import first_reading

log = logging.getLogger(__name__)
# Prefect's senders of events and logs; at the end of a short run they complain about what is still unsent.
_CHATTY = ("EventsWorker", "APILogWorker")


def run_recipes(recipes: Sequence[str], overrides: Sequence[str], options: Mapping[str, str | None]) -> AnyReport:
    """Run the flow in this process, once for each recipe.

    Args:
        recipes: shipped names or YAML files.
        overrides: `--set` changes of each.
        options: fields of `RunOptions`.

    Raises:
        ConfigError: a recipe or an option is wrong; raised, like DataError, before a server is started.
        DataError: data cannot be used.
        ServiceError: Prefect's server does not start, or stops answering.
        RunsFailed: some of several runs failed; the others are finished and reported.
    """
    _check_arguments(recipes, overrides, options)
    resolved = read_recipes(recipes, overrides)
    check_options(resolved, options["from_stage"], options["until_stage"], options["resume_from"])
    # The terminal shows our bars, table and message on failure; Prefect's own lines are in its UI.
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(name, "CRITICAL")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    prepare_environment()
    again = _command(recipes, overrides, options)
    with stop_signals(again, _tell) as stop, first_reading():
        try:
            with waiting_for("checking the data"):
                per_recipe(resolved, lambda recipe: check_data(recipe, options["store"]))
                check_server()
                per_recipe(resolved, lambda recipe: check_pools(recipe.execution.pools))
                per_recipe(resolved, lambda recipe: check_engine(recipe.execution))
            return _run_flows(resolved, recipes, overrides, RunOptions.model_validate(options), again)
        except Interrupted as error:
            raise Interrupted(f"{error}; continue with: {again}") from None
        except BaseException as error:
            # Our own errors are reported even after a stop; any other error then is a consequence of it.
            if not stop() or isinstance(error, DistillError):
                raise
            log.debug("after a stop", exc_info=error)
            raise Interrupted(stop.last_words()) from None


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _run_flows(
    resolved: Mapping[str, Recipe],
    sources: Sequence[str],
    overrides: Sequence[str],
    options: RunOptions,
    again: str,
) -> AnyReport:
    """Run the flows on the named server, or on a temporary one; runs that train nothing are no flow runs."""
    with waiting_for("loading torch, Prefect and MLflow"):
        server, trains_nothing = _loaded(resolved, options)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from pipeline.flow import distill_flow, execute
    from pipeline.several_recipes import run_each

    if trains_nothing:
        return run_each(resolved, options, execute)
    source_of = dict(zip(resolved, sources, strict=True))

    def run(recipe: Recipe, chosen: RunOptions) -> AnyReport:
        return distill_flow(recipe=source_of[recipe.name], overrides=list(overrides), options=chosen)

    with ExitStack() as stack:
        if server is not None:
            stack.enter_context(temporary_settings({PREFECT_API_URL: server.api_url}))
        stack.enter_context(prefect_errors(again))
        return run_each(resolved, options, run)


def _loaded(resolved: Mapping[str, Recipe], options: RunOptions) -> tuple[TemporaryServer | None, bool]:
    """Import the libraries, while a temporary server starts if one is needed.

    Returns:
        The server, ready; None where one is named or nothing is trained. Then whether nothing is trained: without a
        named server, such runs are no flow runs, because their server would cost more than the runs.
    """
    from prefect.settings import PREFECT_API_URL

    is_named = bool(os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value())  # a profile of Prefect's may name one
    may_find_all = all(_has_run_of(recipe, options) for recipe in resolved.values())
    server = None if is_named or may_find_all else TemporaryServer()
    gc.disable()  # collecting among imported objects, all of which stay, is a quarter of these seconds
    try:
        import pipeline.flow
        import pipeline.several_recipes  # noqa: F401
        from pipeline.planning.work import is_trained
    finally:
        gc.enable()
    if not is_named and server is None:
        with store_for_look(read_settings(options.store).store) as store, disk_errors(store.cache):
            if all(is_trained(recipe, options, store) for recipe in resolved.values()):
                return None, True
        server = TemporaryServer()
    if server is not None:
        server.wait()
    return server, False


def _has_run_of(recipe: Recipe, options: RunOptions) -> bool:
    """Return whether the store has a run of a recipe of that name, so that this one may find everything."""
    names = look_into_store(read_settings(options.store).store).list_reports()
    return any(name.startswith(f"{recipe.name}-") for name in names)


def _check_arguments(recipes: Sequence[str], overrides: Sequence[str], options: Mapping[str, str | None]) -> None:
    """Refuse credentials and text that is not UTF-8: Prefect keeps a flow run's parameters in its database."""
    refuse_credentials({f"--{name.replace('_', '-')}": value for name, value in options.items()})
    for value in (*recipes, *overrides, *options.values()):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{shown_value(value)}: Prefect takes UTF-8 only; rename the file or folder") from None


def _command(recipes: Sequence[str], overrides: Sequence[str], options: Mapping[str, str | None]) -> str:
    """The command line that continues these runs."""
    flags = {"from_stage": "--from", "until_stage": "--until", "resume_from": "--resume-from", "store": "--store"}
    words = [program("distill"), "run", *recipes]
    words += [word for change in overrides for word in ("--set", change)]
    words += [word for name, flag in flags.items() if (value := options.get(name)) for word in (flag, value)]
    return shlex.join(words)
