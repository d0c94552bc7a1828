"""A model behind an address: every question accounted for, whatever the server does, and none asked twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from farspan.errors import FarspanError
from farspan.evals.endpoint import EndpointError, EndpointSettings
from farspan.evals.evaluation import Evaluation
from farspan.evals.journal import Journal, JournalError
from farspan.evals.remote import evaluate_endpoint
from farspan.evals.trust import UntrustworthyError, doubts, require_trust
from tests.evals.scripted_server import Script, Server, scripted

PASSING = ("busy", "broken", "cut", "hang_up", "garbled", "no_choices")


class Naps:
    """Sleeps that only say how long they would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def run(server: Server, lengths: Sequence[int] = (400, 800), n: int = 4, **settings: object) -> Evaluation:
    """An evaluation on single lines."""
    given = {name: settings.pop(name) for name in list(settings) if name in EndpointSettings.model_fields}
    where = EndpointSettings.model_validate({"url": server.url, "model": "scripted", "timeout": 20.0, **given})
    naps = settings.pop("naps", None) or Naps()
    return evaluate_endpoint(where, "lines:single", lengths, n=n, sleep=naps, **settings)  # type: ignore[arg-type]


def always(name: str) -> Script:
    return lambda count, prompt: name


def first(*names: str) -> Script:
    """These for the first requests of each prompt, then answers."""
    return lambda count, prompt: names[count] if count < len(names) else "answer"


@pytest.mark.parametrize(("api", "continues"), [("chat", False), ("chat", True), ("completions", False)])
def test_a_good_server_scores_full(api: str, continues: bool) -> None:
    with scripted(always("answer")) as server:
        found = run(server, api=api, continues=continues)
        assert found.account.answered == found.account.asked == 8
        assert all(cell.mean == 1 for cell in found.headline.by_length())
        assert found.source == server.url
        body = server.requests[0]
    assert body["temperature"] == 0
    if api == "completions":
        assert str(body["prompt"]).endswith("<")
        assert body["stop"] == ["\n"]
    else:
        roles = [message["role"] for message in body["messages"]]  # type: ignore[attr-defined]
        assert roles == (["user", "assistant"] if continues else ["user"])
        assert body.get("continue_final_message", False) is continues
    assert not doubts(found)


def test_what_passes_is_tried_again_and_waits_as_long_as_it_is_asked_to() -> None:
    naps = Naps()
    with scripted(first(*PASSING[:3])) as server:
        found = run(server, [400], 2, naps=naps, pause=1.0)
        assert len(server.requests) == 8
    assert found.account.answered == 2
    assert sorted(set(naps.seconds)) == [2.0, 4.0, 7.0]
    with scripted(first(*PASSING[3:])) as server:
        assert run(server, [400], 2).account.answered == 2


def test_a_late_reply_is_given_up_and_asked_for_again() -> None:
    with scripted(first("late")) as server:
        found = run(server, [400], 2, timeout=0.2)
        assert len(server.requests) == 4
    assert found.account.answered == 2


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_a_failed_question_and_no_wrong_answer(name: str) -> None:
    with scripted(lambda count, prompt: name if len(prompt) < 2400 else "answer") as server:
        found = run(server, attempts=3)
        # A connection that was cut may cost an attempt before the server sees it.
        assert 4 * 2 + 4 <= len(server.requests) <= 4 * 3 + 4
    account = found.account
    assert (account.asked, account.answered, account.failed) == (8, 4, 4)
    assert found.headline.lengths == [800]
    assert all("(3 attempts)" in answer.error for answer in found.headline.answers if answer.error)
    assert any("got no reply" in reason for reason in doubts(found))


def test_every_question_is_accounted_for_and_a_second_run_asks_only_what_is_open(tmp_path: Path) -> None:
    names = ("answer", "wrong", "length", "empty", "null", "busy", "bad", "too_long")
    order: dict[str, str] = {}

    def script(count: int, prompt: str) -> str:
        return order.setdefault(prompt, names[len(order) % len(names)])

    settings = {"seed": 0}
    path = tmp_path / "answers.jsonl"
    with scripted(script) as server:
        found = run(server, [400], 16, connections=3, attempts=2, journal=Journal(path, settings))
    account = found.account
    assert (
        account.asked
        == 16
        == sum((account.answered, account.truncated, account.empty, account.too_long, account.failed))
    )
    assert (account.answered, account.truncated, account.empty, account.too_long, account.failed) == (4, 2, 4, 2, 4)
    assert account.wrong_truncated == 2
    assert found.headline.by_length()[0].n == 10
    with scripted(always("answer")) as server:
        again = run(server, [400], 16, journal=Journal(path, settings))
        assert len(server.requests) == 4
    assert (again.account.answered, again.account.failed, again.account.too_long) == (8, 0, 2)
    kept = {answer.id: answer for answer in found.headline.answers if not answer.error}
    assert all(kept[answer.id] == answer for answer in again.headline.answers if answer.id in kept)


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with scripted(lambda count, prompt: "answer" if len(prompt) < 2400 else "no_key") as server:
        with pytest.raises(EndpointError, match="status 401: Incorrect API key provided; check address"):
            run(server, connections=1, journal=Journal(path, {}))
        assert len(server.requests) == 5
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"task": "lines:single", "answ')
    with scripted(always("answer")) as server:
        found = run(server, connections=1, journal=Journal(path, {}))
        assert len(server.requests) == 4
    with scripted(always("answer")) as server:
        assert found == run(server, connections=1).model_copy(update={"source": found.source})
    assert len(path.read_text(encoding="utf-8").splitlines()) == 9


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with scripted(always("answer")) as server:
        run(server, [400], 1, journal=Journal(path, {"seed": 0, "model": "a"}))
    with pytest.raises(JournalError, match="belongs to a run with seed=0, not 1; repeat its command"):
        Journal(path, {"seed": 1, "model": "a"})
    rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([rows[0], "{}", rows[1]]) + "\n", encoding="utf-8")
    with pytest.raises(JournalError, match="line 2 is no answer"):
        Journal(path, {"seed": 0, "model": "a"})
    assert json.loads(rows[0]) == {"settings": {"model": "a", "seed": 0}}


@pytest.mark.parametrize("name", ["thinks_apart", "thinks_within"])
def test_reasoning_is_no_part_of_the_answer(name: str) -> None:
    with scripted(always(name)) as server:
        found = run(server, [400], 2, thinking_tokens=500)
        body = server.requests[0]
    assert found.account.answered == 2
    assert found.prefix_mode == "none"
    assert "7" not in found.headline.answers[0].output.split()
    assert found.headline.answers[0].reasoning_tokens > 0
    assert found.headline.by_length()[0].mean == 1
    assert int(str(body["max_tokens"])) > 500
    assert "stop" not in body


def test_a_model_that_never_ends_its_reasoning_is_told_apart_from_a_silent_one() -> None:
    with scripted(always("thinks_on")) as server:
        found = run(server, [400], 2, thinking_tokens=10)
    assert found.account.empty == 2
    with pytest.raises(UntrustworthyError, match="still reasoning; give it more with --thinking-tokens"):
        require_trust(found)
    with scripted(always("empty")) as server:
        found = run(server, [400], 2)
    with pytest.raises(UntrustworthyError, match="all 2 answers are empty; check model, chat template"):
        require_trust(found)


def test_a_server_that_cuts_prompts_is_found_out() -> None:
    with scripted(always("wrong"), window=300) as server:
        found = run(server, [300, 600, 1200], 2)
    with pytest.raises(UntrustworthyError, match=r"prompts of 600 tokens reached the model with 300 of about \d+"):
        require_trust(found)
    with scripted(always("wrong")) as server:
        assert not doubts(run(server, [300, 600, 1200], 2))


def test_cut_prompts_are_found_out_at_one_length_where_the_tokenizer_is_known(byte_file: Path) -> None:
    with scripted(always("wrong"), window=200) as server:
        found = run(server, [800], 2, tokenizer=str(byte_file))
    with pytest.raises(UntrustworthyError, match="so they were cut"):
        require_trust(found)


def test_cut_off_answers_are_told_from_wrong_ones() -> None:
    with scripted(always("length")) as server:
        found = run(server, [400], 4)
    assert found.account.truncated == found.account.wrong_truncated == 4
    assert any("cut off rather than wrong" in problem for problem in found.problems())
    with scripted(always("wrong")) as server:
        found = run(server, [400], 4)
    assert (found.account.answered, found.account.wrong_truncated) == (4, 0)


def test_a_limit_takes_from_all_lengths_and_the_rest_follows(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with scripted(always("answer")) as server:
        found = run(server, limit=3, journal=Journal(path, {}))
        assert [answer.length for answer in found.headline.answers] == [400, 400, 800]
        run(server, journal=Journal(path, {}))
        assert len(server.requests) == 8


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="no address"):
        EndpointSettings(url="localhost:80", model="m")
    where = EndpointSettings(url="http://localhost:9/v1", model="m")
    with pytest.raises(FarspanError, match="goes on with a started message"):
        evaluate_endpoint(where, "lines", [400], prefix_mode="continue")
    with pytest.raises(FarspanError, match="leaves no room for reasoning"):
        evaluate_endpoint(
            where.model_copy(update={"continues": True}), "lines", [400], prefix_mode="continue", thinking_tokens=9
        )
    with pytest.raises(FarspanError, match="leaves nothing to ask"):
        evaluate_endpoint(where, "lines", [400], limit=0)


def test_a_search_asks_where_the_score_falls(tmp_path: Path) -> None:
    def short_reader(count: int, prompt: str) -> str:
        return "answer" if len(prompt) < 4 * 1500 else "wrong"

    path = tmp_path / "answers.jsonl"
    with scripted(short_reader) as server:
        found = run(server, [400, 3200], 16, adaptive=True, journal=Journal(path, {}))
        asked = len(server.requests)
        again = run(server, [400, 3200], 16, adaptive=True, journal=Journal(path, {}))
        assert len(server.requests) == asked
    assert again == found
    assert 1300 < found.effective_length.value < 1700
    assert found.effective_length.hi <= 1.25 * found.effective_length.lo
    lengths = found.headline.lengths
    assert lengths[0] == 400
    assert lengths[-1] == 3200
    assert len(lengths) > 3
    with scripted(short_reader) as server:
        small = run(server, [400, 3200], 16, adaptive=True, token_budget=30_000)
    assert sum(answer.length for answer in small.headline.answers) <= 30_000
    with scripted(always("bad")) as server:
        assert run(server, [400, 3200], 16, adaptive=True).account.failed == 8
