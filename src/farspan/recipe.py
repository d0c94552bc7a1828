"""Levers, recipes, and the one table of levers.

A lever is one reversible, serialisable change to a model: a frozen pydantic model of its settings that is also a
context manager factory. `with lever(model): ...` switches it on and leaves the model bit for bit as it was found.
A recipe is an ordered list of levers, is itself such a factory, and is data: a YAML file or a short string.

This module stands at the bottom of the house: it imports neither torch nor any room. The table maps names to import
paths that are resolved when asked for; other packages add theirs through the entry-point group `farspan.levers`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.errors import FarspanError, LeverConflict, LeverNotApplicable, RecipeError, UnknownLever

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Tune tries levers in this order, so what usually helps most stands first.
LEVERS: dict[str, str] = {
    "yarn": "farspan.positions.yarn:Yarn",
    "ntk": "farspan.positions.ntk_aware:NTKAware",
    "truncated-basis": "farspan.positions.truncated_basis:TruncatedBasis",
    "linear": "farspan.positions.linear:LinearInterpolation",
    "dynamic-ntk": "farspan.positions.dynamic_ntk:DynamicNTK",
    "power-basis": "farspan.positions.power_basis:PowerBasis",
    "llama3": "farspan.positions.llama3:Llama3",
    "ntk-critical": "farspan.positions.ntk_critical:NTKCritical",
    "longrope": "farspan.positions.longrope:LongRope",
    "theta": "farspan.positions.theta:ThetaRebase",
    "dprope": "farspan.positions.dprope:DPRoPE",
    "randomized": "farspan.positions.randomized:Randomized",
    "clex": "farspan.positions.clex:Clex",
    "e2": "farspan.positions.e2llm:E2LLM",
    "hope": "farspan.positions.hope:Hope",
    "pbs": "farspan.attention.permuted_block_sparse:PermutedBlockSparse",
    "sink-window": "farspan.attention.sink_window:SinkWindow",
    "mean-pool": "farspan.attention.mean_pool:MeanPool",
    "minference": "farspan.attention.patterned_heads:MInference",
    "flexprefill": "farspan.attention.query_aware:FlexPrefill",
    "xattention": "farspan.attention.antidiagonal:XAttention",
    "spargeattn": "farspan.attention.self_similarity:SpargeAttn",
    "a-shape": "farspan.attention.triangle:AShape",
    "tri-shape": "farspan.attention.triangle:TriShape",
    "snapkv": "farspan.memory.snapkv:SnapKV",
    "expected-attention": "farspan.memory.expected_attention:ExpectedAttention",
    "streaming-llm": "farspan.memory.streaming:StreamingLLM",
    "knorm": "farspan.memory.knorm:KeyNorm",
    "tova": "farspan.memory.tova:Tova",
    "keydiff": "farspan.memory.keydiff:KeyDiff",
    "random-eviction": "farspan.memory.random_eviction:RandomEviction",
    "blockrank": "farspan.attention.blockrank:BlockRank",
    "squeezed": "farspan.attention.squeezed:Squeezed",
    "lightning": "farspan.attention.lightning:Lightning",
    "linearize": "farspan.attention.linearize:Linearize",
    "fine-tune": "farspan.training.fine_tune:FineTune",
}

ENTRY_POINT_GROUP = "farspan.levers"

# Texts that need no quotes in a recipe's string form.
_PLAIN = re.compile(r"[\w./+-]+")


class Lever(BaseModel):
    """One reversible change to a model. Subclasses hold the settings as fields and implement `switch_on`.

    Class attributes say what the rest of the house must know without loading the method:

    name : the lever's name in the table, as typed by a user
    slot : levers with the same slot exclude each other (`positions`, `attention`), empty for none
    needs : what must be learned before it works: `nothing`, `calibration` or `training`
    weights_fields : names of fields that hold paths of learned weights, kept relative to the recipe's file
    trials : settings with which a tune run tries the lever, cheapest guess first, `factor` added for positions; none:
        only where it is named
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    slot: ClassVar[str] = ""
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "nothing"
    weights_fields: ClassVar[tuple[str, ...]] = ()
    trials: ClassVar[tuple[dict[str, object], ...]] = ()

    def check(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if a model of this configuration cannot take the lever."""

    def check_model(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if such a model cannot take the lever even once what it needs is learned."""
        self.check(config)

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        """Change the model, yield, and restore it exactly, whatever happens in between."""
        raise NotImplementedError(f"{type(self).__name__} does not implement switch_on")
        yield

    def bake(self, model: PreTrainedModel) -> None:
        """Write the change into config and weights for good, so that plain transformers loads the result.

        Raises `LeverNotApplicable` where the change needs Farspan at run time.
        """
        raise LeverNotApplicable(f"lever '{self.name}' works at run time only and cannot be baked into a checkpoint")

    @property
    def bakeable(self) -> bool:
        """Whether `bake` is implemented."""
        return type(self).bake is not Lever.bake

    def __call__(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        self.check(model.config)
        return self.switch_on(model)

    def __str__(self) -> str:
        settings = self.model_dump(mode="json", exclude_defaults=True)
        return self.name + (":" if settings else "") + ",".join(f"{k}={_to_text(v)}" for k, v in settings.items())


LeverLike = Lever | Callable[["PreTrainedModel"], AbstractContextManager[object]]


@cache
def lever_table() -> dict[str, str]:
    """All lever names and their import paths: the built-in table and the entry points of other packages."""
    table = dict(LEVERS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        table.setdefault(point.name, point.value)
    return table


def lever_class(name: str) -> type[Lever]:
    """Resolve a lever's name to its class; `UnknownLever` names the closest ones."""
    table = lever_table()
    if name not in table:
        close = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(table))}"
        raise UnknownLever(f"unknown lever {name!r}; {hint}")
    try:
        found = EntryPoint(name, table[name], ENTRY_POINT_GROUP).load()
    except (ImportError, AttributeError) as error:
        if name in LEVERS:
            raise
        raise RecipeError(f"lever '{name}' of another package, {table[name]}, cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Lever)):
        raise RecipeError(f"lever '{name}' at {table[name]} is not a subclass of farspan.recipe.Lever")
    if getattr(found, "name", None) != name:
        raise RecipeError(f"lever '{name}' at {table[name]} must carry this name in its class attribute 'name'")
    return found


def build_lever(name: str, settings: dict[str, object]) -> Lever:
    """Build a lever from its name and settings; wrong settings give one line naming field and limits."""
    cls = lever_class(name)
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        parts = []
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                parts.append(f"no setting '{field}', it has: {', '.join(cls.model_fields) or 'none'}")
                continue
            message = problem["msg"].removeprefix("Value error, ")
            given = f" (given {problem['input']!r})" if field and problem["type"] != "missing" else ""
            parts.append(f"{field + ': ' if field else ''}{message}{given}")
        raise RecipeError(" ".join(f"lever '{name}': {'; '.join(parts)}".split())) from error


def _to_text(value: object) -> str:
    """A setting's value as YAML on one line that `_split` does not cut."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) is not None and yaml.safe_load(value) == value
        return value if plain else yaml.safe_dump(value, default_style='"', width=math.inf).strip()
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def _split(text: str) -> list[str]:
    """Cut at commas outside quotes and brackets; both count only where a YAML value can begin."""
    parts = [""]
    depth, quote, before = 0, "", ""
    skip = False
    for char, after in zip(text, text[1:] + " ", strict=False):
        opens_value = before in "=,[{:"
        if skip:
            skip = False
        elif quote:
            skip = (quote == '"' and char == "\\") or (quote == char == "'" == after)
            quote = "" if char == quote and not skip else quote
        elif char in "\"'" and opens_value:
            quote = char
        elif char in "[{" and (depth or opens_value):
            depth += 1
        elif char in "]}" and depth:
            depth -= 1
        elif char == "," and not depth:
            parts.append("")
            before = ","
            continue
        parts[-1] += char
        before = before if char.isspace() else char
    return [part.strip() for part in parts if part.strip()]


class Recipe:
    """An ordered list of levers; switched on in order, off in reverse.

    Parameters
    ----------
    levers : levers, or any factories `f(model) -> context manager` (a kvpress press is one); a recipe among them is
        replaced by its levers

    Raises
    ------
    LeverConflict : two levers share a slot.
    """

    def __init__(self, levers: Sequence[LeverLike] = ()) -> None:
        flat = (inner for lever in levers for inner in (lever if isinstance(lever, Recipe) else (lever,)))
        self.levers: tuple[LeverLike, ...] = tuple(flat)
        taken: dict[str, Lever] = {}
        for lever in self.levers:
            if not isinstance(lever, Lever):
                if not callable(lever) or (isinstance(lever, type) and issubclass(lever, Lever)):
                    raise RecipeError(f"a recipe takes lever objects or context manager factories, not {lever!r}")
                continue
            if lever.slot and lever.slot in taken:
                first = taken[lever.slot].name
                raise LeverConflict(
                    f"levers '{first}' and '{lever.name}' both change {lever.slot}; keep one of the two"
                )
            taken[lever.slot] = lever

    def __call__(self, model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        return self._switch_on(model)

    @contextmanager
    def _switch_on(self, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
        with ExitStack() as stack:
            for lever in self.levers:
                stack.enter_context(lever(model))
            yield model

    def check(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if any lever cannot work on a model of this configuration."""
        for lever in self.levers:
            if isinstance(lever, Lever):
                lever.check(config)

    def bake(self, model: PreTrainedModel) -> None:
        """Write every lever into the model for good; nothing is changed if one of them cannot."""
        for lever in self.levers:
            if not isinstance(lever, Lever) or not lever.bakeable:
                raise LeverNotApplicable(f"lever '{lever}' works at run time only and cannot be baked")
        self.check(model.config)
        for lever in self.levers:
            assert isinstance(lever, Lever)
            lever.bake(model)

    def to_list(self) -> list[dict[str, object]]:
        """The recipe as plain data, one mapping a lever, defaults left out."""
        rows: list[dict[str, object]] = []
        for lever in self.levers:
            if not isinstance(lever, Lever):
                raise RecipeError(f"{lever!r} is not a Farspan lever and cannot be written to a file")
            rows.append({"lever": lever.name, **lever.model_dump(mode="json", exclude_defaults=True)})
        return rows

    @classmethod
    def from_list(cls, rows: Sequence[dict[str, object]], folder: Path | None = None) -> Recipe:
        """The inverse of `to_list`; relative weight paths are resolved against `folder`."""
        levers = []
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("lever"), str):
                raise RecipeError(f"a recipe's entries are mappings with a 'lever' name, not {row!r}")
            settings = {key: value for key, value in row.items() if key != "lever"}
            name = str(row["lever"])
            for field in lever_class(name).weights_fields:
                value = settings.get(field)
                if folder is not None and isinstance(value, str) and not Path(value).is_absolute():
                    settings[field] = str(folder / value)
            levers.append(build_lever(name, settings))
        return cls(levers)

    def to_yaml(self, path: str | Path) -> Path:
        """Write the recipe; paths of learned weights become relative to the file's folder if inside, else absolute."""
        path = Path(path)
        folder = path.parent.resolve()
        rows = self.to_list()
        for row in rows:
            for field in lever_class(str(row["lever"])).weights_fields:
                if isinstance(row.get(field), str):
                    weights = Path(str(row[field])).resolve()
                    inside = weights.is_relative_to(folder)
                    row[field] = weights.relative_to(folder).as_posix() if inside else str(weights)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"levers": rows}, sort_keys=False), encoding="utf-8")
        return path

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Read a recipe file; `RecipeError` says in one line what is wrong with it."""
        path = Path(path)
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"cannot read recipe {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
        rows = document.get("levers") if isinstance(document, dict) else document
        if not isinstance(rows, list):
            raise RecipeError(f"recipe {path} must hold a list under 'levers'")
        return cls.from_list(rows, folder=path.parent)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read the string form, `truncated-basis:factor=8,pbs:threshold=0.9`.

        A part with a colon before any equals sign, or with neither, starts a lever; `key=value` alone goes on with
        the last one. Values are read as YAML: numbers, texts (quoted where they hold commas), lists in brackets.
        """
        rows: list[dict[str, object]] = []
        for part in _split(text):
            head, _, tail = part.partition(":")
            if "=" in head:
                if not rows:
                    raise RecipeError(f"recipe {text!r} starts with a setting; write lever:{part}")
                setting = part
            else:
                rows.append({"lever": head.strip()})
                setting = tail
            if not setting:
                continue
            key, equals, value = setting.partition("=")
            key = key.strip()
            if not equals or not key:
                raise RecipeError(f"recipe {text!r}: {part!r} is not lever:key=value")
            if key in rows[-1]:
                raise RecipeError(f"recipe {text!r}: {key!r} is given twice for lever {rows[-1]['lever']!r}")
            try:
                rows[-1][key] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise RecipeError(f"recipe {text!r}: the value of {part!r} cannot be read") from error
        return cls.from_list(rows)

    @classmethod
    def read(cls, text: str) -> Recipe:
        """A YAML file if `text` names one, else the string form."""
        try:
            names_file = text.endswith((".yaml", ".yml")) or Path(text).is_file()
        except OSError:
            # A string form can be longer than a file name may be.
            names_file = False
        return cls.from_yaml(text) if names_file else cls.parse(text)

    def __str__(self) -> str:
        return ",".join(str(lever) for lever in self.levers)

    def __repr__(self) -> str:
        return f"Recipe([{', '.join(repr(lever) for lever in self.levers)}])"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.levers == other.levers

    def __hash__(self) -> int:
        return hash(self.levers)

    def __len__(self) -> int:
        return len(self.levers)

    def __iter__(self) -> Iterator[LeverLike]:
        return iter(self.levers)


__all__ = [
    "ENTRY_POINT_GROUP",
    "LEVERS",
    "FarspanError",
    "Lever",
    "LeverLike",
    "Recipe",
    "build_lever",
    "lever_class",
    "lever_table",
]
