"""What a tune run tries: read from the table of levers, what is refused named, proposals back from Optuna equal."""

import optuna
import pytest
from transformers import LlamaConfig, MambaConfig

from farspan.recipe import build_lever, lever_class, lever_table
from farspan.tuning.space import FINE_TUNE, NONE, Proposal, Space


def space(**settings: object) -> Space:
    return Space(LlamaConfig(max_position_embeddings=512), 512, 2048, **settings)


def everything(made: Space) -> list[Proposal]:
    stretch = Proposal("yarn", 4.0)
    return [*made.opening_stretches(), *made.opening_savers(stretch), *made.calibrations()]


def test_every_lever_with_trial_settings_is_proposed_once_a_setting():
    made = space()
    proposed = [
        str(lever)
        for p in everything(made)
        for lever in p.levers()
        if lever.name != "yarn" or p == Proposal("yarn", 4.0)
    ]
    assert len(proposed) == len(set(proposed))
    for name in lever_table():
        lever = lever_class(name)
        if lever.slot == "positions" and lever.needs != "training":
            settings = [{"factor": 4.0, **trial} for trial in lever.trials]
        elif lever.slot in ("attention", "cache"):
            settings = list(lever.trials)
        else:
            continue
        if name not in made.refused:
            assert {str(build_lever(name, given)) for given in settings} <= set(proposed)
    assert made.stretches["training"] == ["randomized", "clex", "e2"]
    assert made.stretches["calibration"] == ["longrope"]


def test_first_settings_come_before_second_ones_and_slots_take_turns():
    choices = [p.attention if p.attention != NONE else p.cache for p in space().opening_savers(Proposal())]
    ranks = [int(choice.partition("/")[2]) for choice in choices]
    assert ranks == sorted(ranks)
    assert choices[:3] == ["pbs/0", "snapkv/0", "sink-window/0"]


def test_proposals_read_back_what_was_enqueued():
    made = space()
    study = optuna.create_study(directions=["maximize"])
    for proposal in [*everything(made), Proposal("clex", 4.0, fine_tune=True)]:
        study.enqueue_trial(proposal.params())
        assert made.suggest(study.ask()) == proposal


def test_what_must_be_learned_is_said():
    made = space()
    assert made.learns(Proposal("clex", 4.0))
    assert made.learns(Proposal("longrope", 4.0))
    assert made.learns(Proposal("yarn", 4.0, fine_tune=True))
    assert not made.learns(Proposal("yarn", 4.0, attention="pbs/0"))
    assert Proposal("e2", 4.0, fine_tune=True).name == f"e2:factor=4.0,{FINE_TUNE}"
    assert Proposal("longrope", 4.0).calibrated


def test_levers_that_cannot_work_are_refused_with_a_reason():
    made = Space(MambaConfig(), 512, 2048)
    assert not made.positions
    assert "yarn" in made.refused
    named = space(only=("squeezed", "yarn"))
    assert named.positions == ["yarn"]
    assert "put it into a recipe" in named.refused["squeezed"]
    assert not named.fine_tune


@pytest.mark.parametrize("slot", ["attention", "cache"])
def test_each_saver_stands_on_the_stretch_it_is_given(slot: str):
    stretch = Proposal("linear", 4.0)
    for proposal in space().opening_savers(stretch):
        assert (proposal.positions, proposal.factor) == ("linear", 4.0)
        assert (proposal.attention == NONE) != (proposal.cache == NONE)
