"""Figures: what they are computed from, and that they keep to the palette."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.report import Cell, Effective, Measurement, RunRecord, TaskMeasure
from farspan.report.cost import linear_ticks, pareto_front, pareto_panels, profile_panels, wrap_recipe
from farspan.report.heat import DARK_BELOW, INK_ON_DARK, INK_ON_LIGHT, heat_maps, threshold_edges
from farspan.report.reading import Panel, forest, loss_curve, score_curves
from farspan.report.theme import DARK, HEAT, LIGHT, band, length_axis, log_ticks, thin
from tests.report.examples import LENGTHS, minimal_record, nothing_helps_record, winner_record


def panels(record: RunRecord) -> Iterator[Panel]:
    yield from forest(record)
    for _, pair in heat_maps(record):
        yield from pair
    yield from (*score_curves(record), *profile_panels(record), *loss_curve(record), *pareto_panels(record))


def cell(mean: float | None) -> Cell:
    return Cell(length=1, depth=0, n=0 if mean is None else 8, mean=mean)


def test_palettes_pair_up_and_can_be_swapped_by_value() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_text_and_marks_stand_out(palette: dict[str, str]) -> None:
    for name in ("ink", "muted"):
        assert contrast(palette[name], palette["paper"]) >= 4.5
    for name in ("before", "after"):
        assert contrast(palette[name], palette["paper"]) >= 4.3
    # Before and after differ in lightness too, not in hue alone.
    assert contrast(palette["before"], palette["after"]) >= 1.15


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.44, 0.45, 0.46, 0.464, 0.466, 0.47, 0.48, 0.5, 0.6, 0.8, 1.0])
def test_numbers_on_heat_map_cells_can_be_read(share: float) -> None:
    place = share * (len(HEAT) - 1)
    low, high = HEAT[math.floor(place)], HEAT[math.ceil(place)]
    mixed = [
        round(int(low[i : i + 2], 16) + (int(high[i : i + 2], 16) - int(low[i : i + 2], 16)) * (place % 1))
        for i in (1, 3, 5)
    ]
    ink = INK_ON_DARK if share < DARK_BELOW else INK_ON_LIGHT
    assert contrast(ink, "#" + "".join(f"{part:02x}" for part in mixed)) >= 4.5


@pytest.mark.parametrize(
    "record", [winner_record(), nothing_helps_record(), minimal_record()], ids=lambda r: r.model.name
)
def test_every_color_comes_from_the_palette(record: RunRecord) -> None:
    allowed = {*LIGHT.values(), *HEAT, INK_ON_DARK, INK_ON_LIGHT}
    for panel in panels(record):
        text = json.dumps(panel.plot.to_plotly_json())
        used = set(re.findall(r"#[0-9a-fA-F]{6}\b|rgba?\([^)]*\)", text))
        assert used <= allowed, panel.key
        assert panel.description


def test_panel_keys_are_unique() -> None:
    keys = [panel.key for panel in panels(winner_record())]
    assert len(keys) == len(set(keys)) == 1 + 8 + 4 + 4 + 1 + 2


def test_forest_draws_censored_values_at_the_edge_of_what_was_tested() -> None:
    plot = forest(winner_record())[0].plot
    marks = {(trace.marker.symbol, trace.x[0]) for trace in plot.data if trace.mode == "markers"}
    assert ("triangle-right", 4096.0) in marks
    assert ("triangle-left", 256.0) in marks
    assert all(256 <= x <= 4096 for trace in plot.data for x in trace.x)
    words = [annotation.text for annotation in plot.layout.annotations]
    assert any("&gt;4,096" in text for text in words)
    assert any("&lt;256" in text for text in words)


def numbers_on(panel: Panel) -> list[go.Scatter]:
    return [trace for trace in panel.plot.data if isinstance(trace, go.Scatter) and trace.mode == "text"]


def test_heat_map_hatches_what_was_not_measured() -> None:
    title, (before, after) = heat_maps(winner_record())[0]
    assert title == "Single lines"
    bars = [trace for trace in before.plot.data if isinstance(trace, go.Bar)]
    assert [list(bar.x) for bar in bars] == [[4, 4]]
    assert not [trace for trace in after.plot.data if isinstance(trace, go.Bar)]
    numbers = [text for trace in numbers_on(after) for text in trace.text]
    assert len(numbers) == len(LENGTHS) * 5


def test_heat_map_drops_the_numbers_when_columns_get_narrow() -> None:
    cells = [Cell(length=length, depth=0, n=8, mean=1.0) for length in range(100, 1400, 100)]
    record = minimal_record().model_copy(
        update={"baseline": Measurement(tasks={"lines": TaskMeasure(title="Lines", cells=cells)})}
    )
    (_, (panel,)) = heat_maps(record)[0]
    assert len(panel.plot.data[0].z[0]) == 13
    assert not numbers_on(panel)


def test_threshold_edges_separate_passed_from_failed() -> None:
    grid = [[cell(1.0), cell(0.5)], [cell(1.0), cell(0.9)]]
    x, y = threshold_edges(grid, 0.75)
    pieces = {((x[i], y[i]), (x[i + 1], y[i + 1])) for i in range(0, len(x), 3)}
    assert pieces == {((0.5, -0.5), (0.5, 0.5)), ((0.5, 0.5), (1.5, 0.5))}
    assert threshold_edges([[cell(1.0), cell(None), cell(0.0)]], 0.75) == ([], [])
    assert threshold_edges([[cell(0.75), cell(0.8)]], 0.75) == ([], [])


def test_score_curve_marks_the_crossing_unless_censored() -> None:
    diamonds = {
        panel.key: [t.x[0] for t in panel.plot.data if t.mode == "markers" and t.marker.symbol == "diamond"]
        for panel in score_curves(winner_record())
    }
    assert len(diamonds["score-lines"]) == 1
    assert len(diamonds["score-multi_key"]) == 2


def test_native_window_far_from_the_lengths_tested_is_left_out() -> None:
    record = minimal_record()
    far = record.model_copy(update={"model": record.model.model_copy(update={"native_length": 131072})})
    assert "native 512" in str(score_curves(record)[0].plot.layout.annotations)
    assert "native" not in str(score_curves(far)[0].plot.layout.annotations)


def test_single_length_gets_an_error_bar_and_a_finite_axis() -> None:
    (panel,) = score_curves(minimal_record())
    (line,) = [trace for trace in panel.plot.data if trace.mode == "lines+markers"]
    assert list(line.error_y.array) == pytest.approx([0.07])
    assert list(line.error_y.arrayminus) == pytest.approx([0.2])
    low, high = length_axis([1024])["range"]  # type: ignore[misc]
    assert low < math.log10(1024) < high


def test_bands_break_at_gaps() -> None:
    shapes = band([1, 2, 3, 4, 5], [0, 0, None, 0, 0], [1, 1, None, 1, 1], "after")
    assert [list(shape.x) for shape in shapes] == [[1, 2, 2, 1], [4, 5, 5, 4]]


points = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30)


@given(points)
def test_pareto_front_is_what_nothing_beats(found: list[tuple[float, float]]) -> None:
    front = pareto_front(found)

    def beaten(point: tuple[float, float]) -> bool:
        return any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in found)

    assert set(front) == {point for point in found if not beaten(point)}
    assert front == sorted(front)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_linear_ticks_are_round_and_inside(lo: float, span: float, most: int) -> None:
    ticks = linear_ticks(lo, lo + span, most)
    assert len(ticks) <= most + 1
    assert all(lo - 1e-6 * span <= tick <= lo + span * (1 + 1e-6) for tick in ticks)
    assert linear_ticks(0, lo + span, most)[0] == 0


def test_log_ticks_and_thinning() -> None:
    assert log_ticks(0.018, 0.52) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5])
    assert thin([1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert thin([1, 2, 3, 4], 3) == [2, 4]


def test_recipes_wrap_after_commas_and_are_escaped() -> None:
    text = wrap_recipe("a:x=1,b:y=<2>,c:z=3", width=8)
    assert text == "a:x=1,<br>b:y=&lt;2&gt;,<br>c:z=3"


def test_no_pareto_picture_of_a_single_trial() -> None:
    record = winner_record()
    assert pareto_panels(record.model_copy(update={"trials": record.trials[:1]})) == []


def test_effective_length_without_samples_or_interval_is_drawn() -> None:
    task = TaskMeasure(title="Lines", effective=Effective(value=700, threshold=0.75))
    record = minimal_record().model_copy(update={"baseline": Measurement(tasks={"lines": task}), "lengths": []})
    (panel,) = forest(record)
    assert "700 tokens" in panel.description
