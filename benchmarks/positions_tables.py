"""The tables of `positions.py` as Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Cells = Mapping[str, Mapping[str, object]]

TITLES = {"single_lines": "lines", "multi_key": "needles", "variable_tracking": "variables"}
CENSORED = {"left": "<", "right": "≥"}


def tables(cells: Cells) -> str:
    """One table for each factor and for each of the two: as it is, and trained; then learning and decoding."""
    parts = []
    for trained in (False, True):
        for factor in _factors(cells):
            rows = list(_sides(cells, factor, trained))
            if rows:
                how = "after the fine-tune" if trained else "as it is"
                parts.append(f"### {factor} times the window, {how}\n\n{_sides_table(cells, factor, rows)}")
    learned = _learning(cells)
    if learned:
        parts.append(f"### Cost of learning\n\n{learned}")
    decoding = cells.get("decoding")
    if decoding and "failed" not in decoding:
        parts.append(f"### Time a token\n\n{_decoding(decoding)}")
    return "\n\n".join(parts) + "\n"


def _factors(cells: Cells) -> list[int]:
    return sorted({int(key.split("x")[1]) for key in cells if key.startswith("windows x")})


def _sides(cells: Cells, factor: int, trained: bool) -> Iterator[Mapping[str, object]]:
    found = [
        cell
        for cell in cells.values()
        if cell.get("factor") == factor and cell.get("trained") is trained and "failed" not in cell
    ]
    return iter(sorted(found, key=lambda cell: -_number(cell["score"])))


def _sides_table(cells: Cells, factor: int, rows: Sequence[Mapping[str, object]]) -> str:
    """Best score first."""
    windows = cells.get(f"windows x{factor}", {}).get("loss_beyond")
    heads = ["method", "score beyond the window", *TITLES.values(), "score inside", "loss beyond, over windows"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for cell in rows:
        tasks = cell["tasks"]
        assert isinstance(tasks, dict)
        more = "" if windows is None else f"{_number(cell['loss_beyond']) - _number(windows):+.2f}"
        lines.append(
            _row(
                [
                    f"`{cell['method']}`",
                    "{:.2f} ({:.2f} to {:.2f})".format(*(_number(cell[k]) for k in ("score", "score_lo", "score_hi"))),
                    *(_reach(tasks[name], factor) for name in TITLES),
                    f"{_number(cell['score_inside']):.2f}",
                    more,
                ]
            )
        )
    return "\n".join(lines)


def _reach(task: Mapping[str, object], factor: int) -> str:
    """Effective length with its interval."""
    sign = CENSORED.get(str(task["censoring"]), "")
    shown = 512 if sign == "<" else task["effective"]
    return f"{sign}{shown} ({task['lo']} to {task['hi']})"


def _learning(cells: Cells) -> str:
    heads = ["method", "trained for", "tokens", "longest row", "seconds", "serves"]
    seen: dict[tuple[str, object], list[str]] = {}
    for cell in cells.values():
        cost = cell.get("learning")
        if not isinstance(cost, dict) or "tokens" not in cost:
            continue
        shared = bool(cost["serves_all"])
        name, factor = str(cell["method"]), "all" if shared else f"{cell['factor']}x"
        seen[name, factor] = [
            f"`{name}`",
            factor,
            f"{cost['tokens']:,}",
            f"{cost['longest_row']:,}",
            f"{cost['seconds']:.0f}",
            "every factor" if shared else "this factor",
        ]
    return "\n".join([_row(heads), _row(["---"] * len(heads)), *map(_row, seen.values())]) if seen else ""


def _decoding(cell: Mapping[str, object]) -> str:
    ratios, quartiles = cell["ratio_to_none"], cell["ratio_quartiles"]
    assert isinstance(ratios, dict)
    assert isinstance(quartiles, dict)
    heads = ["method", "time a token, over the model as it is", "quartiles"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, ratio in ratios.items():
        if name != "none":
            low, high = quartiles[name]
            lines.append(_row([f"`{name}`", f"{ratio:.3f}", f"{low:.3f} to {high:.3f}"]))
    return "\n".join(lines)


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)
