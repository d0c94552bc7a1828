"""Knobs of HoloBench."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from farspan.evals.tasks.family import Knobs
from farspan.evals.tasks.holo_context import Strategy
from farspan.evals.tasks.holo_schemas import SCHEMAS, holo_languages
from farspan.evals.tasks.holo_sql import Engine

DEFAULT_INFO = 2048

_INFO = re.compile(r"\d+(\.\d+)?\s*[kKmM]?|\d+(\.\d+)?%")


class HoloKnobs(Knobs):
    """Knobs of the databases.

    info : tokens of rows that matter (`2k`), or their share of the length (`50%`); None takes 2048, at most half
    position : where they stand among the others
    hard_aux : the others look like them: rows of former entries, which do not count
    database : one of the schemas; None draws it for each context
    answer_format : answers as JSON, or as the model likes
    reasoning : chat models are told to reason before they answer
    new_tokens : tokens a reply may have; None takes what the answer needs (1024 at least for chat models)
    empty_share : share of the questions that are made to have no answer, where their kind allows it
    engine : what runs the queries of questions
    language : of everything
    """

    info: str | None = None
    position: Strategy = "uniform"
    hard_aux: bool = False
    database: str | None = None
    answer_format: Literal["json", "free"] = "json"
    reasoning: bool = True
    new_tokens: int | None = Field(default=None, ge=1)
    empty_share: float = Field(default=0.05, ge=0, le=1)
    engine: Engine = "duckdb"
    language: str = "en"

    @field_validator("info", mode="before")
    @classmethod
    def _amount(cls, info: object) -> object:
        text = str(info) if isinstance(info, int | str) else info
        if isinstance(text, str) and (
            not _INFO.fullmatch(text.strip()) or (text.endswith("%") and float(text[:-1]) > 100)
        ):
            raise ValueError("info is a number of tokens such as 2k, or a share such as 50%")
        return text

    @field_validator("database")
    @classmethod
    def _known(cls, database: str | None) -> str | None:
        if database is not None and database not in SCHEMAS:
            raise ValueError(f"database is one of {', '.join(SCHEMAS)}")
        return database

    @field_validator("language")
    @classmethod
    def _written(cls, language: str) -> str:
        if language not in holo_languages():
            raise ValueError(f"language is one of {', '.join(holo_languages())}")
        return language
