"""What an engine is made from, as data, and a fingerprint that tells any two apart.

Nothing is loaded here: a fingerprint reads small files whole and weight files at their ends.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from farspan.recipe import Lever, Recipe, lever_class

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SAMPLE = 2**20


class ModelSpec(BaseModel):
    """A model, how to load it, and the recipe that is on while it runs.

    path : folder, hub name, or `reference`
    dtype, device : as `farspan.load` takes them
    attn : attention implementation of transformers; its own choice where left out
    levers : a recipe's string form or its YAML file; a list is joined with commas
    chat_template : text or file that replaces the tokenizer's template
    max_model_len : window in tokens, where it should be other than the model's
    trust_remote_code : whether code that comes with the model may run
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    dtype: str = "auto"
    device: str = "auto"
    attn: str | None = None
    levers: str = ""
    chat_template: str | None = None
    max_model_len: int | None = Field(default=None, ge=1)
    trust_remote_code: bool = False

    @field_validator("levers", mode="before")
    @classmethod
    def _join(cls, value: object) -> object:
        # Command lines that read their values as YAML or as lists cut a recipe at its commas.
        if isinstance(value, list | tuple):
            return ",".join(str(part) for part in value)
        if isinstance(value, Recipe | Lever):
            return str(value)
        return "" if value is None else value

    @field_validator("path", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    def recipe(self) -> Recipe:
        """The recipe that `levers` names.

        Raises
        ------
        RecipeError, UnknownLever, LeverConflict : it cannot be read or built.
        """
        return Recipe.read(self.levers) if self.levers else Recipe()


def fingerprint(spec: ModelSpec) -> str:
    """16 hex digits that change with anything that can change an answer.

    Two specs agree if their models' files and their recipes' contents agree, wherever these lie: sha256 over
    canonical JSON, with configuration, tokenizer and learned lever weights by content. Weight files of the model
    count by size and by their first and last MiB.

    Raises
    ------
    RecipeError, UnknownLever, LeverConflict : the recipe cannot be read or built.
    """
    document = {
        **spec.model_dump(exclude={"path", "levers", "chat_template"}),
        "model": _model_identity(spec.path),
        "levers": _recipe_identity(spec.recipe()),
        "chat_template": _template_identity(spec.chat_template),
    }
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _model_identity(path: str) -> object:
    if path == "reference":
        from farspan.models import reference_path

        path = str(reference_path())
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path}
    return {file.name: _file_identity(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _recipe_identity(recipe: Recipe) -> list[dict[str, object]]:
    rows = recipe.to_list()
    for row in rows:
        for field in lever_class(str(row["lever"])).weights_fields:
            if row.get(field) is not None:
                row[field] = _path_identity(Path(str(row[field])))
    return rows


def _template_identity(template: str | None) -> str | None:
    if template is None or "{" in template or not Path(template).is_file():
        return template
    return Path(template).read_text(encoding="utf-8")


def _path_identity(path: Path) -> object:
    if path.is_dir():
        return {str(file.relative_to(path)): _file_identity(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return _file_identity(path) if path.is_file() else str(path)


def _file_identity(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        if file.suffix in _WEIGHTS and size > 2 * _SAMPLE:
            digest.update(stream.read(_SAMPLE))
            stream.seek(-_SAMPLE, 2)
            digest.update(stream.read(_SAMPLE))
        else:
            digest.update(stream.read())
    return digest.hexdigest()
