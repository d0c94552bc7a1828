"""The page of rotary pairs."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from pathlib import Path

import pytest

from farspan.positions import DPRoPE, distributions, get_rope, pair_rows, plan_rope
from farspan.report import RecordError, RopeView, build_rope_page
from farspan.report.rope import render_rope, rope_tables, verdict
from farspan.report.rope_figures import merge_bins
from farspan.report.theme import LIGHT
from tests.positions.conftest import WINDOW, config_of


def view_of(method: str | None, with_angles: bool = False) -> RopeView:
    config = config_of("llama")
    before = after = get_rope(config)
    if method is not None:
        after = plan_rope(config, method, 4 * WINDOW)
    return RopeView(
        model="a <tiny> model",
        architecture="LlamaForCausalLM",
        method="" if method is None else f"{method}:factor=4.0",
        native_length=before.target_length,
        target_length=after.target_length,
        rows=pair_rows(before, after),
        distributions=distributions(config, DPRoPE(factor=4)) if with_angles else None,
    )


def figures_of(page: str) -> dict[str, dict[str, list[dict[str, object]]]]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert match
    found: dict[str, dict[str, list[dict[str, object]]]] = json.loads(match[1].replace("<\\/", "</"))
    return found


@pytest.mark.parametrize(
    ("view", "figures", "tables"),
    [
        (view_of(None), {"wavelengths"}, ["rotary_pairs"]),
        (view_of("yarn"), {"wavelengths", "divisors"}, ["rotary_pairs"]),
        (view_of("truncated"), {"wavelengths", "divisors"}, ["rotary_pairs"]),
        (
            view_of("dprope", with_angles=True),
            {"wavelengths", "divisors", "disturbance"},
            ["rotary_pairs", "disturbance", "angles"],
        ),
    ],
)
def test_a_page_holds_its_figures_and_loads_nothing(view: RopeView, figures: set[str], tables: list[str]) -> None:
    page = render_rope(view)
    drawn = figures_of(page)
    assert {key for key in drawn if not key.startswith("circle")} == figures
    assert any(key.startswith("circle") for key in drawn) == (view.distributions is not None)
    assert [table.name for table in rope_tables(view)] == tables
    assert "a &lt;tiny&gt; model" in page
    assert "<tiny>" not in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
    assert unescape(page).count(f"tables/{tables[-1]}.csv") >= 1
    assert render_rope(view) == page


def test_figures_show_the_rows() -> None:
    view = view_of("yarn")
    drawn = figures_of(render_rope(view))
    before, after = drawn["wavelengths"]["data"]
    assert before["y"] == pytest.approx([row.wavelength for row in view.rows])
    assert after["y"] == pytest.approx([row.new_wavelength for row in view.rows])
    (divisors,) = drawn["divisors"]["data"]
    assert divisors["y"] == pytest.approx([row.divisor for row in view.rows])


def test_pairs_at_rest_are_left_out_of_curves_and_empty_in_tables() -> None:
    view = view_of("truncated")
    at_rest = [row.index for row in view.rows if math.isinf(row.new_wavelength)]
    assert at_rest
    values = figures_of(render_rope(view))["wavelengths"]["data"][1]["y"]
    assert [index for index, value in enumerate(values) if value is None] == at_rest  # type: ignore[arg-type,var-annotated]
    lines = rope_tables(view)[0].to_csv().splitlines()
    assert "inf" not in "".join(lines)
    assert lines[1 + at_rest[0]].split(",")[2] == ""


def test_colours_are_the_palettes_own() -> None:
    text = json.dumps(figures_of(render_rope(view_of("dprope", with_angles=True))))
    assert set(re.findall(r"#[0-9a-f]{6}", text)) <= set(LIGHT.values())


def test_verdicts_count_pairs() -> None:
    assert verdict(view_of(None)) == "a <tiny> model turns 3 of 8 rotary pairs fully within its window of 64 tokens"
    said = verdict(view_of("linear"))
    assert said == "linear takes a <tiny> model from 64 to 256 tokens: of 8 rotary pairs 8 interpolated"


def test_bins_are_merged_evenly() -> None:
    merged = merge_bins([1 / 360] * 360, 36)
    assert len(merged) == 36
    assert sum(merged) == pytest.approx(1)
    assert merge_bins([0.5, 0.5], 36) == [0.5, 0.5]
    assert len(merge_bins([1 / 37] * 37, 36)) in (1, 37)


def test_files_are_written_whole(tmp_path: Path) -> None:
    page = build_rope_page(view_of("dprope", with_angles=True), tmp_path / "new")
    assert page == tmp_path / "new" / "rope.html"
    assert {path.name for path in (tmp_path / "new" / "tables").iterdir()} == {
        "rotary_pairs.csv",
        "disturbance.csv",
        "angles.csv",
    }
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write to"):
        build_rope_page(view_of(None), tmp_path / "file" / "in")
