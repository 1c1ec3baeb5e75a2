"""The look at a recipe's data before anything heavy is imported and before a server starts.

A misspelt column is told of within a second or two. What is read here is read for the run too: inside
`stages.data.readers.first_reading.first_reading` nothing is read twice.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.planning.each_task import of_each_task
from pipeline.process.settings import read_settings
from pipeline.store.checkpoints import store_for_look
from pipeline.store.files import disk_errors
from schemas.recipe.recipe import Recipe


def look_first(recipe: Recipe, store: str | Path | None) -> None:
    """Read the labelled rows that a recipe names, and see that the files of its general corpus are there.

    Raises:
        ConfigError: something that is no folder is where the store should be.
        DataError: a file, a row or a data set cannot be used, with its place and what to do.
    """
    with store_for_look(read_settings(store).store) as looked, disk_errors(looked.cache):
        of_each_task(recipe, lambda one: _look_at_data(one, looked.cache))


def _look_at_data(recipe: Recipe, cache: Path) -> None:
    from schemas.data.corpus import FileText
    from stages.data.corpus.sources import paths_of
    from stages.data.tasks.load import load_task

    several = recipe.teacher.multi_task.tasks.values() if recipe.teacher.multi_task else ()
    for task in (recipe.task, *several):
        if task is not None:
            load_task(task, cache, droppable=recipe.limits.dropped)
    for source in recipe.general_corpus.sources if recipe.general_corpus else ():
        if isinstance(source, FileText):
            paths_of(source)
