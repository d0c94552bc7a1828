"""The tasks of LongBioBench as data: what each asks, how many persons it needs, and which knobs it sets.

A new variant is a new row. Tasks are ordered so that each adds one difficulty to an easier one.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, field_validator, model_validator

from farspan.evals.tasks.bio_persons import bio_languages
from farspan.evals.tasks.bio_text import Style
from farspan.evals.tasks.family import Knobs

Kind = Literal["value", "rank", "calculation", "twodiff", "multihop", "citation", "idk", "icl"]
Category = Literal["understanding", "reasoning", "trustworthy", "extra"]
Attribute = Literal["birthdate", "birthplace", "hobby", "university", "major", "work_city"]

AGE_KINDS = ("rank", "calculation", "twodiff")
"""Kinds that ask about ages."""

REASONING_KINDS = (*AGE_KINDS, "multihop")
"""Kinds whose answers are worked out on the way."""

PAIR_KINDS = ("calculation", "twodiff")


class LongBioKnobs(Knobs):
    """Knobs of the biographies.

    n_retrieval : persons a question is about
    style : one frame an attribute, many frames, or many frames in the first person
    attribute : what is asked; None draws it for each context
    density : share of the other biographies that mention what is asked
    position : part of the context, from 0 to 1, in which the persons asked for stand
    fewshot : solved examples about other persons of the same context
    random_attr : share of the attributes that biographies leave out
    haystack : other biographies, or prose that has nothing to do with them
    near_names : for each person asked for, others whose name differs from theirs in the middle
    official_order : persons asked for stand before those of the examples, as published
    language : of everything
    """

    n_retrieval: int = Field(default=1, ge=1)
    style: Style = "standard"
    attribute: Attribute | None = None
    density: float = Field(default=1.0, ge=0, le=1)
    position: tuple[float, float] = (0.0, 1.0)
    fewshot: int = Field(default=0, ge=0)
    random_attr: float = Field(default=0.0, ge=0, lt=1)
    haystack: Literal["bios", "prose"] = "bios"
    near_names: int = Field(default=0, ge=0)
    official_order: bool = False
    language: str = "en"

    @field_validator("position")
    @classmethod
    def _in_order(cls, position: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= position[0] <= position[1] <= 1:
            raise ValueError("position is two ascending numbers from 0 to 1")
        return position

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language not in bio_languages():
            raise ValueError(f"language is one of {', '.join(bio_languages())}")
        return language

    @model_validator(mode="after")
    def _shown(self) -> LongBioKnobs:
        if self.official_order and self.depth is not None:
            raise ValueError("official_order decides where persons stand, so depth cannot be given")
        return self


@dataclass(frozen=True)
class BioTask:
    """One task: what kind of question, in which category, with which knobs set."""

    kind: Kind
    category: Category
    preset: Mapping[str, object] = field(default_factory=dict)


def _task(kind: Kind, category: Category, **preset: object) -> BioTask:
    return BioTask(kind, category, preset)


TASKS: dict[str, BioTask] = {
    "standard": _task("value", "understanding"),
    "multi_standard_2": _task("value", "understanding", n_retrieval=2),
    "multi_standard_5": _task("value", "understanding", n_retrieval=5),
    "multi_standard_10": _task("value", "understanding", n_retrieval=10),
    "paraphrase": _task("value", "understanding", style="paraphrase"),
    "pronoun": _task("value", "understanding", style="pronoun"),
    "rank_2": _task("rank", "reasoning", n_retrieval=2, fewshot=2),
    "rank_5": _task("rank", "reasoning", n_retrieval=5, fewshot=2),
    "calculation": _task("calculation", "reasoning", n_retrieval=2, fewshot=2),
    "twodiff": _task("twodiff", "reasoning", n_retrieval=2, fewshot=2),
    "multihop_2": _task("multihop", "reasoning", n_retrieval=2, fewshot=2),
    "multihop_5": _task("multihop", "reasoning", n_retrieval=5, fewshot=2),
    "citation_1": _task("citation", "trustworthy", n_retrieval=1, fewshot=2),
    "citation_2": _task("citation", "trustworthy", n_retrieval=2, fewshot=2),
    "idk": _task("idk", "trustworthy"),
    "rnidk": _task("idk", "extra", random_attr=0.2),
    "icl": _task("icl", "extra", attribute="university"),
}

SUITE = tuple(name for name, task in TASKS.items() if task.category != "extra")
"""The fifteen tasks that make up the overall score."""

UNDERSTANDING = tuple(name for name, task in TASKS.items() if task.category == "understanding")
