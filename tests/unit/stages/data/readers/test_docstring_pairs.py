"""The built-in task of pairs: signatures with sentences of their own or of a neighbour, without leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from schemas.core.errors import DataError
from schemas.data.tasks import DocstringPairTask
from stages.data.readers.docstring_pairs import docstring_pair_rows
from stages.data.readers.docstring_scan import Function, Root, find_sources, read_docstrings

CODE = '''
class Shelf:
    """A shelf holds the books that were put there, in the order in which they came."""

    @property
    def books(self):
        """Return the books of this shelf, from left to right, as they stand there. More is said here."""

    async def lend(self, book, /, reader, *args, days=14, **options):
        """
        Lend a book to a reader, who has to bring it back in so many days.

        Parameters
        ----------
        book : the one that is lent
        """
        def inner(step):
            """Do what is to be done in each of the steps, and then go to the next."""

    def __len__(self):
        """Return how many books there are on this shelf, with those that are lent."""

    def undocumented(self):
        return None

def many(a, b, c, d, e, f, g, h, i):
    """Take more parameters than there is room for in a row of the task for pairs."""
'''


def test_functions_have_their_signature_and_first_sentence(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "shelf.py").write_text(CODE, encoding="utf-8")
    functions = read_docstrings(find_sources([Root(tmp_path)])).functions
    assert [(row.signature, row.sentence) for row in functions] == [
        ("Shelf.books()", "Return the books of this shelf, from left to right, as they stand there."),
        ("Shelf.lend(book, reader, days)", "Lend a book to a reader, who has to bring it back in so many days."),
        ("inner(step)", "Do what is to be done in each of the steps, and then go to the next."),
        (
            "many(a, b, c, d, e, f, g, h)",
            "Take more parameters than there is room for in a row of the task for pairs.",
        ),
    ]
    assert {(row.library, row.module) for row in functions} == {("library", "library.shelf")}


def functions(modules: int = 60, size: int = 6, *, same_name: bool = False) -> Dataset:
    return Dataset.from_list(
        [
            Function(
                f"{'set' if same_name else f'make_{index}'}({library})",
                f"Sentence {index} of {library}.m{number}.",
                library,
                f"{library}.m{number}",
            )._asdict()
            for library in ("numpy", "torch", "other")
            for number in range(modules)
            for index in range(size)
        ]
    )


def test_half_of_the_sentences_belong_to_another_function_of_the_same_module() -> None:
    task = DocstringPairTask(libraries=("torch", "numpy"))
    source = functions()
    train, validation = docstring_pair_rows(task, source)
    own = {row["sentence"]: (row["signature"], row["module"]) for row in source}
    labels = []
    for row in [*train, *validation]:
        signature, _ = own[row["text_pair"]]
        assert (signature == row["text"]) == (row["label"] == 0)
        labels.append(row["label"])
    assert 0.42 < sum(labels) / len(labels) < 0.58
    assert len(labels) > 0.95 * 2 * 60 * 6
    modules = [{own[sentence][1] for sentence in part["text_pair"]} for part in (train, validation)]
    assert all(modules)
    assert not modules[0] & modules[1]
    assert not any("other" in module for part in modules for module in part)


def test_rows_are_reproducible_and_depend_on_the_seed() -> None:
    task = DocstringPairTask(libraries=("torch", "numpy"))
    train, _ = docstring_pair_rows(task, functions())
    again, _ = docstring_pair_rows(task, functions())
    other, _ = docstring_pair_rows(task.model_copy(update={"seed": 1}), functions())
    assert train.to_list() == again.to_list() != other.to_list()


def test_a_sentence_of_an_overload_is_no_contradiction() -> None:
    task = DocstringPairTask(libraries=("torch", "numpy"))
    train, validation = docstring_pair_rows(task, functions(size=12, same_name=True))
    assert set(train["label"]) == set(validation["label"]) == {0}


def test_error_names_a_library_that_is_not_installed() -> None:
    with pytest.raises(DataError, match=r"no docstrings of missing_one in .* task.libraries=\[numpy, torch\]"):
        docstring_pair_rows(DocstringPairTask(libraries=("numpy", "torch", "missing_one")), functions())
