"""Published scores of named models on document benchmarks, as landmarks beside one's own.

One JSON file a benchmark in `published_scores`: where the numbers come from, and for each model its scores by group
and name of a table's rows. Numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict


class PublishedScores(BaseModel):
    """What was published of one benchmark; `scores` by model, group and name, in the table's unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    source: str
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]

    def of(self, group: str, name: str) -> dict[str, float]:
        """The models that have a score in a row of a table."""
        return {model: groups[group][name] for model, groups in self.scores.items() if name in groups.get(group, {})}


@cache
def published_scores(benchmark: str) -> PublishedScores | None:
    """The published scores of a benchmark; None where the package has none."""
    file = files("farspan.evals.documents").joinpath("published_scores", f"{benchmark}.json")
    return PublishedScores.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None
