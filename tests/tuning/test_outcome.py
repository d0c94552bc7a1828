"""Which trial wins: the longest, unless fewer levers do as well."""

from farspan.evals.evaluation import Answer, TaskResult
from farspan.report.record import TrialRecord
from farspan.tuning import judge
from farspan.tuning.folder import Trial
from farspan.tuning.outcome import best_trial, simplest_trial


def result(*shares: float, contexts: int = 12) -> TaskResult:
    """The first `shares` of the contexts at 512, 1,024 and 2,048 tokens are answered."""
    answers = tuple(
        Answer(
            id=f"{length}-{context}",
            length=length,
            depth=None,
            cluster=f"{length}-{context}",
            score=float(context < share * contexts),
            output="",
            expected=("",),
            question="",
        )
        for length, share in zip((512, 1024, 2048), shares, strict=True)
        for context in range(contexts)
    )
    return TaskResult(name="single_lines", title="Single lines", threshold=0.75, answers=answers)


def trial(number: int, levers: list[str], found: TaskResult, *, kept: bool = True) -> Trial:
    record = TrialRecord(
        number=number,
        recipe=",".join(levers),
        levers=levers,
        state="complete",
        effective_length=found.effective.value,
        kept=kept,
    )
    return Trial(record=record, params={}, result=found)


def test_an_equal_recipe_of_fewer_levers_wins():
    both, alone = trial(0, ["yarn", "fine-tune"], result(1, 1, 1)), trial(1, ["yarn"], result(1, 1, 11 / 12))
    trials = [both, alone, trial(2, ["ntk"], result(1, 0.5, 0))]
    assert best_trial(trials) is both
    assert simplest_trial(both, trials) is alone


def test_levers_that_pay_stay():
    both, alone = trial(0, ["yarn", "fine-tune"], result(1, 1, 1)), trial(1, ["yarn"], result(1, 1, 0.25))
    assert judge.pays(alone.result, both.result)
    assert simplest_trial(both, [both, alone]) is both


def test_a_better_score_pays_though_both_reach_the_end_of_the_grid():
    weak, strong = result(1, 1, 0.8, contexts=60), result(1, 1, 1, contexts=60)
    assert weak.effective.censoring == strong.effective.censoring == "right"
    assert judge.pays(weak, strong)
    assert not judge.pays(strong, weak)
    assert not judge.pays(strong, strong)


def test_what_did_not_clear_its_interval_never_wins():
    alone = trial(1, ["yarn"], result(1, 1, 1), kept=False)
    both = trial(0, ["yarn", "fine-tune"], result(1, 1, 1))
    assert simplest_trial(both, [both, alone]) is both
    assert best_trial([alone]) is None
    assert best_trial([]) is None
