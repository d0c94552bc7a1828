"""The tables of `positions.py` as Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Cells = Mapping[str, Mapping[str, object]]

TITLES = {"single_lines": "lines", "multi_key": "needles", "variable_tracking": "variables"}
CENSORED = {"left": "<", "right": "≥"}


def tables(cells: Cells, claims: Sequence[Mapping[str, object]]) -> str:
    """All tables, each in a section of its own that a page can take: `overview`, `x2` and so on, `learning`,
    `decoding`, `directions`."""
    sections = {"overview": _overview(cells)}
    for factor in _factors(cells):
        parts = []
        for trained in (False, True):
            rows = list(_sides(cells, factor, trained))
            if rows:
                how = "After the fine-tune" if trained else "As it is"
                parts.append(f"{how}, {factor} times the window:\n\n{_sides_table(cells, factor, rows)}")
        sections[f"x{factor}"] = "\n\n".join(parts)
    sections["learning"] = _learning(cells)
    decoding = cells.get("decoding")
    if decoding and "failed" not in decoding:
        sections["decoding"] = _decoding(decoding)
    sections["directions"] = _directions(claims)
    return "\n".join(
        f"<!-- --8<-- [start:{name}] -->\n{text}\n<!-- --8<-- [end:{name}] -->\n" for name, text in sections.items()
    )


def _overview(cells: Cells) -> str:
    """Scores beyond the window of all methods, best untrained ones at the middle factor first."""
    factors = _factors(cells)
    found = {
        (str(cell["method"]), cell["factor"], cell["trained"]): _number(cell["score"])
        for cell in cells.values()
        if "method" in cell and "failed" not in cell
    }
    middle = 4 if 4 in factors else factors[0] if factors else 0
    names = sorted(dict.fromkeys(name for name, _, _ in found), key=lambda name: -found.get((name, middle, False), -1))
    columns = [(factor, trained) for trained in (False, True) for factor in factors]
    heads = ["method", *(f"{factor}x{', trained' if trained else ''}" for factor, trained in columns)]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name in names:
        values = [found.get((name, factor, trained)) for factor, trained in columns]
        lines.append(_row([f"`{name}`", *("" if value is None else f"{value:.2f}" for value in values)]))
    return "\n".join(lines)


def _directions(claims: Sequence[Mapping[str, object]]) -> str:
    """Claims with what was found and the figures behind it."""
    lines = [_row(["claim", "found", "figures"]), _row(["---"] * 3)]
    for claim in claims:
        found = {True: "holds", False: "**fails**", None: "not measured"}[_verdict(claim)]
        figures = "; ".join(
            f"{name.replace('_', ' ')} {_figure(value)}"
            for name, value in claim.items()
            if name not in ("claim", "holds")
        )
        lines.append(_row([str(claim["claim"]), found, figures]))
    return "\n".join(lines)


def _verdict(claim: Mapping[str, object]) -> bool | None:
    holds = claim["holds"]
    return holds if isinstance(holds, bool) else None


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_figure(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "(" + " to ".join(map(_figure, value)) + ")"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


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
