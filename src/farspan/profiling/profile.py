"""What a profile is: data, its files, and nothing that measures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError
from farspan.profiling.shape import Cliff, Complexity, detect_cliffs, fit_complexity

Status = Literal["ok", "oom", "unsupported"]


class ProfileError(FarspanError):
    """A profile that cannot be measured as asked for."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Data):
    """Median and 5th and 95th percentile of `n` measurements, in seconds."""

    median: float
    p05: float
    p95: float
    n: int = Field(ge=1)

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        low, middle, high = np.percentile(np.asarray(values, dtype=float), [5, 50, 95])
        return cls(median=float(middle), p05=float(low), p95=float(high), n=len(values))


class MemorySplit(_Data):
    """Where the memory goes at one length, bytes.

    weights : parameters and buffers, shared ones once
    kv_cache : keys, values and recurrent states after the prompt
    logits : of the positions asked for, as the model returns them
    activations_peak : what the worst moment of prompt and first tokens held beyond these three
    allocated_peak : all of the above together
    reserved_peak : what the allocator of a GPU held; None on a CPU
    resident_peak : memory of the whole process in the eyes of the system, sampled; other work in it counts too
    """

    weights: int
    kv_cache: int
    logits: int
    activations_peak: int
    allocated_peak: int
    reserved_peak: int | None = None
    resident_peak: int | None = None


class ProfilePoint(_Data):
    """Costs at one length.

    length : prompt tokens a row
    batch : rows
    ttft : time to first token, its choice included
    tpot : time per token after the first, a mean within each generation
    itl_s : for each token after the first, the median over generations of the time since the one before, seconds
    throughput : prompt and new tokens a second, all rows
    decode_throughput : new tokens after the first a second, all rows
    status : `oom` if memory did not suffice, `unsupported` if the model cannot read so much
    """

    length: int = Field(ge=1)
    batch: int = Field(ge=1)
    status: Status = "ok"
    ttft: Spread | None = None
    tpot: Spread | None = None
    itl_s: tuple[float, ...] = ()
    throughput: float | None = None
    decode_throughput: float | None = None
    memory: MemorySplit | None = None
    note: str = ""


class Profile(_Data):
    """Costs of one model with one recipe over lengths, and how they were measured.

    logits : `last` if the prompt's last position alone went through the head, else `all`
    """

    model: str
    architecture: str
    parameters: int
    dtype: str
    device: str
    attention: str
    recipe: str = ""
    new_tokens: int
    repeats: int
    warmup: int
    logits: Literal["last", "all"]
    seed: int
    threads: int
    versions: dict[str, str]
    points: tuple[ProfilePoint, ...]

    def ttft_curve(self) -> list[tuple[int, float]]:
        """Length and median time to first token of the points measured."""
        return [(point.length, point.ttft.median) for point in self.points if point.ttft is not None]

    def tpot_curve(self) -> list[tuple[int, float]]:
        """Length and median time per token of the points measured."""
        return [(point.length, point.tpot.median) for point in self.points if point.tpot is not None]

    def ttft_complexity(self) -> Complexity | None:
        """Time to first token as a curve over length; None with fewer than three lengths."""
        curve = self.ttft_curve()
        return fit_complexity(curve) if len({length for length, _ in curve}) >= 3 else None

    def ttft_cliffs(self, factor: float = 1.5) -> list[Cliff]:
        """Jumps of the time to first token."""
        return detect_cliffs(self.ttft_curve(), power=2.0, factor=factor)

    def tpot_cliffs(self, factor: float = 1.5) -> list[Cliff]:
        """Jumps of the time per token."""
        return detect_cliffs(self.tpot_curve(), power=1.0, factor=factor)

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """The points as flat rows, times in seconds and memory in bytes."""
        return [_row(self, point) for point in self.points]

    @classmethod
    def load(cls, path: str | Path) -> list[Profile]:
        """Read the profiles of a `profile.json`.

        Raises
        ------
        ProfileError : no such file, or not a profile.
        """
        try:
            return list(_File.model_validate_json(Path(path).read_text(encoding="utf-8")).profiles)
        except (OSError, ValueError) as error:
            raise ProfileError(f"cannot read profile {path}: {str(error).splitlines()[0]}") from error


class _File(_Data):
    schema_version: Literal[1] = 1
    profiles: tuple[Profile, ...]


def to_json(profiles: Sequence[Profile]) -> str:
    """The text of a `profile.json`."""
    return _File(profiles=tuple(profiles)).model_dump_json(indent=1) + "\n"


def to_csv(profiles: Sequence[Profile]) -> str:
    """The text of a `profile.csv`, one row a point."""
    rows = [row for profile in profiles for row in profile.rows()]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(profile: Profile, point: ProfilePoint) -> dict[str, str | int | float | None]:
    row: dict[str, str | int | float | None] = {
        "model": profile.model,
        "recipe": profile.recipe,
        "length": point.length,
        "batch": point.batch,
        "status": point.status,
        "n": point.ttft.n if point.ttft else 0,
    }
    for name, spread in (("ttft", point.ttft), ("tpot", point.tpot)):
        row[f"{name}_s"] = spread.median if spread else None
        row[f"{name}_p05_s"] = spread.p05 if spread else None
        row[f"{name}_p95_s"] = spread.p95 if spread else None
    row["throughput_tok_s"] = point.throughput
    row["decode_throughput_tok_s"] = point.decode_throughput
    for field in MemorySplit.model_fields:
        row[f"{field}_bytes"] = getattr(point.memory, field) if point.memory else None
    row["note"] = point.note
    return row
