"""The page as text: what it says, that it loads nothing, and that equal records give equal bytes."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from farspan.report import AblationRow, WinnerInfo, build_report
from farspan.report.page import render
from tests.report.conftest import EXAMPLES
from tests.report.examples import WINNING, minimal_record, nothing_helps_record, winner_record

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, the text a reader sees, and checks that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.raw: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[self.tags[-1][1].get("id", self.open[-1])] = data
        else:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text).replace("\u00a0", " "))

    def headings(self, level: str) -> int:
        return sum(tag == level for tag, _ in self.tags)


@pytest.mark.parametrize("name", EXAMPLES)
def test_page_loads_nothing(name: str, pages: dict[str, str]) -> None:
    page = Reader(pages[name])
    for tag, attributes in page.tags:
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"].startswith("tables/" if tag == "a" else "data:,"), (tag, attributes)
    assert not re.search(r"url\(|@import|@font-face", page.raw["style"])
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", page.raw["script"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_page_has_one_verdict_and_a_drawing_for_every_place(name: str, pages: dict[str, str]) -> None:
    page = Reader(pages[name])
    record = EXAMPLES[name]()
    assert page.headings("h1") == 1
    assert record.verdict in page.words
    places = [a for _, a in page.tags if a.get("class") == "plot"]
    assert places
    assert all(place["role"] == "img" and place["aria-label"] for place in places)
    figures = json.loads(page.raw["figures"])
    assert [place["data-figure"] for place in places] == list(figures)
    assert gzip.decompress(base64.b64decode(page.raw["plotly-packed"])).decode() == get_plotlyjs()


def test_winner_page_says_what_was_won_and_how(pages: dict[str, str]) -> None:
    page = Reader(pages["winner"])
    for said in (
        "541 → >4,096 tokens",
        "×7.57 (95 % interval ×6.40–8.71) · Single lines · n = 40 per length",
        "657 → 330 ms",
        "for 4,096 tokens, n = 5",
        "×3.88 effective length",
        "×3.10–4.64, n = 200",
        "2 min 41 s of a budget of 3 min",
        "- lever: fine-tune steps: 160",
        "farspan eval lines multi_key",
        "torch2.13.0",
        "memory8.00 GiB",
        "seed0",
    ):
        assert said in page.words, said
    assert WINNING in page.words
    levers = page.words[page.words.index("What each lever bought") :]
    places = [levers.index(name) for name in ("Architecture", "sink-window", "Training", "fine-tune")]
    assert places == sorted(places)
    assert page.headings("h2") == 9


def test_long_tail_of_trials_is_folded(pages: dict[str, str]) -> None:
    page = Reader(pages["winner"])
    assert "29 more trials" in page.words
    assert "out of memory at 4,096 tokens" in page.words


def test_nothing_helps_page_shows_one_side_only(pages: dict[str, str]) -> None:
    page = Reader(pages["nothing"])
    assert "/models/random-init <qwen3>" in page.words
    assert "<256 tokens" in page.words
    assert "→" not in page.words
    assert "winner" not in page.words
    assert "as found" in page.words
    assert "recipe.yaml" not in page.words
    assert not any(name in page.words for name in ("Text loss by position", "What each lever bought", "Where it reads"))
    assert page.headings("h2") == 6


def test_minimal_page_leaves_out_what_is_unknown(pages: dict[str, str]) -> None:
    page = Reader(pages["minimal"])
    assert ">1,024 tokens" in page.words
    assert page.headings("h2") == 4
    assert "Peak memory" not in page.words


def test_text_from_outside_is_escaped() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    record = winner_record(trials=3)
    base = record.baseline
    record = record.model_copy(
        update={
            "verdict": evil,
            "notes": [evil],
            "commands": [evil],
            "versions": {evil: evil},
            "model": record.model.model_copy(update={"name": evil, "architecture": evil}),
            "trials": [trial.model_copy(update={"recipe": evil, "reason": evil}) for trial in record.trials],
            "ablation": [AblationRow(lever=evil, note=evil, perspective=evil)],
            "winner": WinnerInfo(recipe_yaml=evil, recipe=evil, checkpoint=evil, baked=True, reason=evil),
            "baseline": base.model_copy(
                update={"tasks": {evil: base.tasks["lines"].model_copy(update={"title": evil}), **base.tasks}}
            ),
        }
    )
    page = Reader(render(record))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.words.count(evil) >= 12
    json.loads(page.raw["figures"])


def test_ablation_without_numbers_or_places_is_still_a_table() -> None:
    record = winner_record(trials=3).model_copy(update={"ablation": [AblationRow(lever="pbs", bought=0.0)]})
    page = Reader(render(record))
    assert "pbs×0.00 effective length" in page.words.replace("pbs ", "pbs")
    assert "Architecture" not in page.words


def test_equal_records_give_equal_bytes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    one = build_report(nothing_helps_record(), tmp_path / "a").read_bytes()
    assert one == build_report(nothing_helps_record(), tmp_path / "b").read_bytes()


def test_a_run_that_measured_nothing_still_has_a_page() -> None:
    record = minimal_record()
    record = record.model_copy(update={"baseline": type(record.baseline)(), "tasks": []})
    page = Reader(render(record))
    assert page.headings("h2") == 2
    assert "plotly-packed" not in page.raw
