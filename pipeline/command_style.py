"""The form of help texts: words of the field instead of Python's types, and switches without values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters in the form in which help shows them."""
        return _plain(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage: `[OPTIONS] RECIPE`."""
        return [piece.strip("{}").replace("}...", "...") for piece in super().collect_usage_pieces(ctx)]


class Group(TyperGroup):
    """The program with its commands."""

    def get_params(self, ctx: Any) -> Any:
        """The options in the form in which help shows them."""
        return _plain(super().get_params(ctx))


def _plain(params: Sequence[Any]) -> Sequence[Any]:
    for param in params:
        if isinstance(param, TyperArgument):
            # Its metavar is its name; a type beside it, `<str>`, says nothing more.
            param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        elif getattr(param, "is_flag", False):
            param.metavar = ""
    return params
