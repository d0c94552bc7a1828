"""The communication plan: how many bytes each strategy moves, and which one to take.

Source: the strategies are those of arXiv 2310.01889 (ring), DeepSpeed-Ulysses (all-to-all) and arXiv 2503.15758 (two
dimensions); the counts are derived here and checked against what is really received.
"""

from __future__ import annotations

from typing import Literal

from farspan.training.parallel.layouts import ParallelError

Strategy = Literal["auto", "ring", "allgather_kv", "ulysses", "grid2d"]
STRATEGIES: tuple[Strategy, ...] = ("ring", "allgather_kv", "ulysses", "grid2d")


def communication_bytes(
    batch: int,
    heads: int,
    kv_heads: int,
    length: int,
    head_dim: int,
    world_size: int,
    bytes_per_element: int,
    grid_rows: int | None = None,
) -> dict[str, int]:
    """Bytes that each rank receives in one forward pass of attention, by strategy.

    Parameters
    ----------
    length : tokens of the whole sequence, divisible by `world_size`
    grid_rows : rows of the grid of ranks; by default the number that receives least

    Returns
    -------
    `ring`, `allgather_kv` and `grid2d`, and `ulysses` where the ranks divide the heads

    Raises
    ------
    ParallelError : sizes that do not divide.
    """
    if min(batch, heads, kv_heads, length, head_dim, world_size, bytes_per_element) < 1:
        raise ParallelError("all sizes must be at least 1")
    if heads % kv_heads or length % world_size:
        raise ParallelError(
            f"kv_heads must divide heads and world_size the length; given {kv_heads}, {heads}, {world_size}, {length}"
        )
    shard = length // world_size
    queries = batch * heads * shard * head_dim * bytes_per_element
    keys_values = 2 * batch * kv_heads * shard * head_dim * bytes_per_element
    logsumexps = 4 * batch * heads * shard
    found = dict.fromkeys(("ring", "allgather_kv"), keys_values * (world_size - 1))
    if heads % world_size == 0:
        widened = keys_values * travelling_heads(heads, kv_heads, world_size) // kv_heads
        found["ulysses"] = (2 * queries + widened) * (world_size - 1) // world_size

    def grid(rows: int) -> int:
        columns = world_size // rows
        partial = 4 * queries // bytes_per_element + logsumexps
        return (queries + partial) * (columns - 1) + keys_values * (rows - 1)

    found["grid2d"] = grid(grid_rows) if grid_rows else min(grid(rows) for rows in divisors(world_size))
    if grid_rows and world_size % grid_rows:
        raise ParallelError(f"{world_size} ranks cannot stand in {grid_rows} rows")
    return found


def score_matrix_bytes(batch: int, heads: int, length: int, bytes_per_element: int) -> int:
    """What attention that writes its scores out keeps in memory, on one device."""
    return batch * heads * length * length * bytes_per_element


def travelling_heads(heads: int, kv_heads: int, world_size: int) -> int:
    """Key heads that an all-to-all moves: each rank needs whole ones, so they are repeated where ranks are many."""
    repeats = 1
    while (kv_heads * repeats) % world_size:
        repeats += 1
    if heads % (kv_heads * repeats):
        return heads
    return kv_heads * repeats


def choose_strategy(
    batch: int, heads: int, kv_heads: int, length: int, head_dim: int, world_size: int, bytes_per_element: int
) -> Strategy:
    """The strategy that receives least; of equals the ring, which hides its transfers behind computing."""
    found = communication_bytes(batch, heads, kv_heads, length, head_dim, world_size, bytes_per_element)
    order: tuple[Strategy, ...] = ("ring", "ulysses", "grid2d", "allgather_kv")
    return min((name for name in order if name in found), key=lambda name: found[name])


def grid_rows(
    batch: int, heads: int, kv_heads: int, length: int, head_dim: int, world_size: int, bytes_per_element: int
) -> int:
    """Rows of the grid of ranks that receive least."""

    def cost(rows: int) -> int:
        sizes = (batch, heads, kv_heads, length, head_dim, world_size, bytes_per_element)
        return communication_bytes(*sizes, grid_rows=rows)["grid2d"]

    return min(divisors(world_size), key=cost)


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
