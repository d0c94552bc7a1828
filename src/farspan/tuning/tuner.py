"""The main job: measure a model, try recipes under a budget, keep what pays, explain it.

One object per run. The search is an Optuna study in the run's folder, asked and told trial by trial; finished trials
are files beside it, so a killed run loses at most the trial it was in. Writing checkpoint and report is `deliver`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna
from optuna.trial import TrialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.evals.evaluation import Evaluation, TaskResult
from farspan.profiling import Profile
from farspan.recipe import Lever, Recipe
from farspan.report.record import TrialRecord
from farspan.tuning import judge
from farspan.tuning.budget import Budget
from farspan.tuning.folder import Measured, RunFolder, Trial
from farspan.tuning.learner import Learner
from farspan.tuning.outcome import Ablated, Outcome, best_trial, in_words, length_grid, simplest_trial
from farspan.tuning.space import NONE, Proposal, Space

QUESTIONS = 8
MOST_CONTEXTS = 6
TRIAL_REPEATS = 2
FULL_REPEATS = 2
TEXTS = 6
LONG_BUDGET = 300.0
# shares of the budget, and the last of what is left
OPENING_SHARE = 0.35
CALIBRATION_SHARE = 0.05
FIT_SHARE = 0.45
SHORTEST_FIT = 8.0
MOST_FITS = 4

Say = Callable[[str], None]


class Tuner:
    """Runs the search on a loaded model.

    Parameters
    ----------
    model, tokenizer : as loaded; the model is left as found
    native_length, target_length : tokens
    levers : names to try; all that work where empty
    say : told in one line what happens
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: RunFolder,
        budget: Budget,
        *,
        native_length: int,
        target_length: int,
        seed: int,
        threshold: float,
        levers: tuple[str, ...] = (),
        say: Say,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.folder = folder
        self.budget = budget
        self.native_length = native_length
        self.target_length = target_length
        self.seed = seed
        self.threshold = threshold
        self.say = say
        self.lengths = length_grid(native_length, target_length)
        self.space = Space(model.config, native_length, target_length, only=levers)
        self._learner = Learner(model, tokenizer, folder, native_length, target_length, seed=seed)
        self.notes: list[str] = []
        self.n = QUESTIONS * MOST_CONTEXTS
        self.scale = 1 if budget.seconds <= LONG_BUDGET else 3

    def run(self) -> Outcome:
        """Measure, search, explain."""
        baseline = self._baseline()
        self.n = max(len([a for a in baseline.evaluation.headline.answers if a.length == self.lengths[0]]), 1)
        trials = self._search(baseline)
        winner = best_trial(trials)
        if winner is not None:
            longest, winner = winner, simplest_trial(winner, trials)
            if winner is not longest:
                self.notes.append(
                    f"{longest.record.recipe} is not clearly better than {winner.record.recipe}, which has fewer "
                    "levers and wins"
                )
        ablated: list[Ablated] = []
        best: Measured | None = None
        if winner is not None:
            self.say(f"best so far: {winner.record.recipe}")
            best = self._measure_winner(winner)
            ablated = self._ablate(winner, trials)
        return Outcome(self.lengths, baseline, trials, winner, best, ablated, self.space.refused, self.notes)

    # -- baseline ------------------------------------------------------------------------------------------------

    def _baseline(self) -> Measured:
        kept = self.folder.baseline()
        if kept is not None:
            self.say("baseline: read from the folder")
            return kept
        started = time.monotonic()
        self.n = self._questions()
        headline = judge.measure_headline(
            self.model, self.tokenizer, self.lengths, n=self.n, seed=self.seed, threshold=self.threshold
        )
        measured = self._complete(headline, recipe="", started=started)
        self.folder.save_baseline(measured)
        self.budget.save()
        found = headline.effective
        self.say(f"baseline: reads {in_words(found.value, found.censoring, self.lengths)} (n = {self.n} a length)")
        return measured

    def _questions(self) -> int:
        """Questions a length, so that a dozen trials take about a third of the budget; the first call only warms up."""
        judge.measure_headline(
            self.model, self.tokenizer, self.lengths[:1], n=QUESTIONS, seed=self.seed + 1, threshold=self.threshold
        )
        started = time.monotonic()
        judge.measure_headline(
            self.model, self.tokenizer, self.lengths[1:2], n=QUESTIONS, seed=self.seed + 1, threshold=self.threshold
        )
        a_context = (time.monotonic() - started) * sum(self.lengths) / self.lengths[1]
        contexts = int(self.budget.seconds / 3 / 12 / max(a_context, 1e-6))
        return QUESTIONS * max(2, min(MOST_CONTEXTS, contexts))

    def _complete(self, headline: TaskResult, *, recipe: str, started: float) -> Measured:
        evaluation: Evaluation = judge.measure_all(
            self.model,
            self.tokenizer,
            self.lengths,
            headline,
            n=QUESTIONS * self.scale,
            texts=TEXTS * self.scale,
            seed=self.seed,
            threshold=self.threshold,
            recipe=recipe,
        )
        profile = judge.measure_cost(self.model, self.lengths, repeats=FULL_REPEATS, seed=self.seed, recipe=recipe)
        return Measured(evaluation=evaluation, profile=profile, seconds=time.monotonic() - started)

    # -- search --------------------------------------------------------------------------------------------------

    def _search(self, baseline: Measured) -> list[Trial]:
        """Cheap things first: stretches as they are, savers on the best of them, calibrations, fine-tunes, draws."""
        study = self._study()
        trials = self.folder.trials()
        done = {trial.record.recipe for trial in trials if trial.record.state != "failed"}
        reserve = self._reserve(baseline)
        opening_ends = self.budget.used + OPENING_SHARE * self.budget.seconds
        left_out: list[str] = []

        def attempt(proposals: list[Proposal]) -> None:
            for proposal in proposals:
                if proposal.name in done:
                    continue
                if self.budget.used > opening_ends or self.budget.left < reserve + 2 * SHORTEST_FIT:
                    left_out.append(proposal.lever_names[-1])
                    continue
                trials.append(self._trial(study, proposal, baseline, learn_until=0.0))

        attempt(self.space.opening_stretches())
        attempt(self.space.opening_savers(self._best_stretch(trials)))
        if self.budget.seconds > LONG_BUDGET:
            for proposal in self.space.calibrations():
                if proposal.name not in done and self.budget.left > reserve + 2 * SHORTEST_FIT:
                    until = time.monotonic() + CALIBRATION_SHARE * self.budget.seconds
                    trials.append(self._trial(study, proposal, baseline, learn_until=until))
        else:
            left_out += [proposal.positions for proposal in self.space.calibrations()]
        left_out += self._search_fits(study, trials, done, baseline, reserve)
        while self.budget.left > reserve + 1.5 * self._trial_seconds(trials) and len(trials) < 60:
            asked = study.ask()
            proposal = self.space.suggest(asked)
            known = {t.record.recipe for t in trials}
            if self.space.learns(proposal) or proposal.name in known or proposal == Proposal():
                study.tell(asked, state=TrialState.FAIL)
                if sum(t.state == TrialState.FAIL for t in study.trials) > 200:
                    break
                continue
            trials.append(self._trial(study, proposal, baseline, learn_until=0.0, asked=asked))
        tried = {lever for trial in trials for lever in trial.record.levers}
        if missed := [name for name in dict.fromkeys(left_out) if name not in tried]:
            self.notes.append(f"Not tried for want of time: {', '.join(missed)}. A longer --budget tries them.")
        return trials

    def _search_fits(
        self, study: optuna.Study, trials: list[Trial], done: set[str], baseline: Measured, reserve: float
    ) -> list[str]:
        """Fine-tunes, each with its share of the time that is left; levers that found no time for theirs."""
        fits = 0
        proposals = self._fits(trials)
        for index, proposal in enumerate(proposals):
            if proposal.name in done:
                continue
            spare = self.budget.left - reserve
            share = 1.0 if self.budget.seconds <= LONG_BUDGET else FIT_SHARE
            seconds = spare * share - self._trial_seconds(trials)
            if spare < SHORTEST_FIT or fits >= MOST_FITS or seconds < SHORTEST_FIT:
                return [late.positions for late in proposals[index:]]
            trials.append(self._trial(study, proposal, baseline, learn_until=time.monotonic() + seconds))
            fits += 1
        return []

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            study_name="tune",
            storage=self.folder.storage,
            directions=["maximize", "minimize", "minimize"],
            sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=8),
            load_if_exists=True,
        )
        for interrupted in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(interrupted.number, state=TrialState.FAIL)
        return study

    def _reserve(self, baseline: Measured) -> float:
        """Seconds that measuring the winner, its ablation and the report will take."""
        return 1.6 * baseline.seconds + 6.0

    def _trial_seconds(self, trials: list[Trial]) -> float:
        complete = [t.record.seconds or 0.0 for t in trials if t.record.state == "complete" and not t.learned]
        return max(complete, default=5.0)

    def _ranked_stretches(self, trials: list[Trial]) -> list[str]:
        """Stretches that need nothing, best first by what they did alone at the target; ties as in the table."""
        scores: dict[str, tuple[float, float]] = {}
        for trial in trials:
            name = str(trial.params["positions"])
            alone = trial.record.recipe == Proposal(positions=name, factor=self.space.full).name
            if name != NONE and alone and trial.result is not None:
                mean = sum(a.score for a in trial.result.answers) / len(trial.result.answers)
                scores[name] = max(scores.get(name, (0.0, 0.0)), (mean, trial.record.effective_length or 0.0))
        names = self.space.stretches["nothing"]
        return sorted(names, key=lambda name: scores.get(name, (0.0, 0.0)), reverse=True)

    def _best_stretch(self, trials: list[Trial]) -> Proposal:
        ranked = self._ranked_stretches(trials)
        return Proposal(positions=ranked[0], factor=self.space.full) if ranked else Proposal()

    def _fits(self, trials: list[Trial]) -> list[Proposal]:
        """Fine-tunes to try: on the best stretch, with levers that are made for training, on the other stretches."""
        if not self.space.fine_tune:
            return []
        # A basis without a length-following rule trains best.
        first, *rest = [*(name for name in self._ranked_stretches(trials) if name != "dynamic-ntk"), NONE]
        order = [first, *self.space.stretches["training"], *rest]
        return [Proposal(positions=name, factor=self.space.full, fine_tune=True) for name in order if name != NONE]

    def _trial(
        self,
        study: optuna.Study,
        proposal: Proposal,
        baseline: Measured,
        *,
        learn_until: float,
        asked: optuna.Trial | None = None,
    ) -> Trial:
        if asked is None:
            asked = self._enqueued(study, proposal)
        started = time.monotonic()
        params = {key: value for key, value in proposal.params().items() if isinstance(value, str | float | bool)}
        record = TrialRecord(number=asked.number, recipe=proposal.name, levers=proposal.lever_names, state="failed")
        trial = Trial(record=record, params=params)
        before = baseline.evaluation.headline
        try:
            recipe, seconds, tokens = self._learner.learn(proposal, asked.number, learn_until)
            trial = trial.model_copy(update={"rows": recipe.to_list(), "fit_seconds": seconds, "fit_tokens": tokens})
            if tokens:
                self.say(f"fine-tuned on {tokens:,} tokens in {seconds:.0f} s")
            moved = self._guard(recipe)
            with recipe(self.model):
                result = judge.measure_headline(
                    self.model,
                    self.tokenizer,
                    self.lengths,
                    n=self.n,
                    seed=self.seed,
                    threshold=self.threshold,
                    baseline=before,
                    native_length=self.native_length,
                )
                profile = judge.measure_cost(
                    self.model, self.lengths[-1:], repeats=TRIAL_REPEATS, seed=self.seed, recipe=str(recipe)
                )
        except judge.Pruned as pruned:
            study.tell(asked, state=TrialState.PRUNED)
            update: dict[str, object] = {"state": "pruned", "reason": pruned.reason}
            trial = trial.model_copy(update={"result": pruned.result})
        except FarspanError as error:
            study.tell(asked, state=TrialState.FAIL)
            update = {"state": "failed", "reason": str(error)}
        else:
            update = self._figures(result, profile, before, moved)
            trial = trial.model_copy(update={"result": result})
            study.tell(
                asked,
                [
                    float(str(update["effective_length"])),
                    float(str(update["ttft_s"] or 0.0)),
                    float(str(update["peak_memory_bytes"] or 0.0)),
                ],
            )
        update["seconds"] = time.monotonic() - started
        trial = trial.model_copy(update={"record": trial.record.model_copy(update=update)})
        self.folder.save_trial(trial)
        self.budget.save()
        self.say(f"trial {trial.record.number}: {trial.record.recipe}: {trial.record.reason}")
        return trial

    def _enqueued(self, study: optuna.Study, proposal: Proposal) -> optuna.Trial:
        """The proposal as a trial of the study; what a killed run left in the queue before it is given up."""
        study.enqueue_trial(proposal.params())
        asked = study.ask()
        while self.space.suggest(asked) != proposal:
            study.tell(asked, state=TrialState.FAIL)
            asked = study.ask()
        return asked

    def _guard(self, recipe: Recipe) -> float | None:
        """What an attention lever moves at the target length, None without one; `Pruned` where it is not worth it."""
        rest = Recipe([lever for lever in recipe if not (isinstance(lever, Lever) and lever.slot == "attention")])
        if len(rest) == len(recipe):
            return None
        return judge.guard_attention(self.model, self._learner.text, rest, recipe)

    def _figures(
        self, result: TaskResult, profile: Profile, before: TaskResult, moved: float | None
    ) -> dict[str, object]:
        ratio = judge.paired(before, result)
        found = result.effective
        point = profile.points[0]
        kept = ratio.lo > 1.0
        gain = judge.paired_score(before, result)
        if kept:
            reason = f"kept: {ratio.ratio:.2f} times the baseline [{ratio.lo:.2f}, {ratio.hi:.2f}]"
        else:
            reason = f"dropped: {ratio.ratio:.2f} times the baseline [{ratio.lo:.2f}, {ratio.hi:.2f}] includes 1"
        return {
            "state": "complete",
            "effective_length": found.value,
            "lo": found.lo,
            "hi": found.hi,
            "censoring": found.censoring,
            "ratio_to_baseline": ratio.ratio,
            "ratio_lo": ratio.lo,
            "ratio_hi": ratio.hi,
            "n": len(result.answers),
            "length": point.length,
            "ttft_s": point.ttft.median if point.ttft else None,
            "peak_memory_bytes": point.memory.allocated_peak if point.memory else None,
            "kept": kept,
            "reason": f"{reason}, score {gain:+.2f} on average"
            + (f"; attention moved {moved:.0%} of next-token probability" if moved is not None else ""),
        }

    # -- explain -------------------------------------------------------------------------------------------------

    def _measure_winner(self, winner: Trial) -> Measured:
        started = time.monotonic()
        recipe = winner.whole_recipe
        assert winner.result is not None
        with recipe(self.model):
            return self._complete(winner.result, recipe=winner.record.recipe, started=started)

    def _ablate(self, winner: Trial, trials: list[Trial]) -> list[Ablated]:
        levers = [lever for lever in winner.whole_recipe if isinstance(lever, Lever)]
        if len(levers) < 2:
            return []
        rows = []
        for index, lever in enumerate(levers):
            rest = levers[:index] + levers[index + 1 :]
            known = [t for t in trials if not t.learned and t.record.recipe == str(Recipe(rest)) and t.result]
            if known:
                rows.append(Ablated(lever.name, known[0].result, None))
                continue
            if self.budget.left < 3.0:
                self.notes.append(f"the budget ended before the recipe without {lever.name} was measured")
                continue
            with Recipe(rest)(self.model):
                result = judge.measure_headline(
                    self.model, self.tokenizer, self.lengths, n=self.n, seed=self.seed, threshold=self.threshold
                )
            rows.append(Ablated(lever.name, result, None))
        return rows
