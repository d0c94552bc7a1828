"""Named probes: a benchmark family's task with its knobs, and the suites made of them.

`core` is what `farspan tune` judges a model by: one skill each, cheap, at any length, for base and chat models alike.
A probe can also be written `family:task`, `family` for its usual tasks or `family:all` for its whole suite, so that
every task of every family can be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.generate.generators import UnknownTaskError, suggest
from farspan.evals.tasks import TASKS

TEXT_LOSS = "text_loss"
RETRIEVAL, TRACING = "retrieval", "tracing"
ALL = "all"


class Probe(BaseModel):
    """One measure: which task of which family, with which knobs.

    title : for people
    questions_per_context : questions that share a context; a local model reads the context once
    share : part of the questions asked for that are really asked, where every one needs a context of its own
    skill : what it takes, a few words
    """

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    family: str
    task: str
    knobs: Mapping[str, object] = {}
    questions_per_context: int = 1
    share: float = 1.0
    skill: str = ""


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(
            name="single_lines",
            title="Single lines",
            family="lines",
            task="single",
            questions_per_context=8,
            skill=RETRIEVAL,
        ),
        Probe(
            name="multi_key",
            title="Multi-key needles",
            family="ruler",
            task="niah_multikey_1",
            questions_per_context=4,
            skill=RETRIEVAL,
        ),
        Probe(
            name="variable_tracking", title="Variable tracking", family="ruler", task="vt", share=0.25, skill=TRACING
        ),
        Probe(
            name="two_hop_threads",
            title="Two-hop threads",
            family="needle_threading",
            task="thread",
            knobs={"style": "prose", "thread_length": 2},
            questions_per_context=4,
            skill=TRACING,
        ),
    )
}

SUITES: dict[str, tuple[str, ...]] = {
    "core": (*PROBES, TEXT_LOSS),
    "fast": (
        "single_lines",
        "multi_key",
        "variable_tracking",
        "two_hop_threads",
        "ruler:cwe",
        "ruler:qa_2_gen",
        "longbiobench:standard",
        "longbiobench:calculation",
        "holobench:aggregation_easy",
    ),
}


def resolve(tasks: str | Sequence[str], knobs: Mapping[str, object] = {}) -> tuple[list[Probe], bool]:
    """Probes by name, and whether text loss is asked for.

    Parameters
    ----------
    tasks : names separated by commas, or a list of them: a suite (`core`, `fast`), `all` for every task of every
        family, a probe (`single_lines`), `text_loss`, a family (`lines`, its usual tasks), `family:all` (its whole
        suite) or `family:task`
    knobs : set in the probes of families that are named; those of suites keep theirs

    Raises
    ------
    UnknownTaskError : a name that is none of these; close ones are named.
    """
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    names = [part for name in names for part in ([f"{family}:{ALL}" for family in TASKS] if name == ALL else [name])]
    expanded = [part for name in names if name for part in SUITES.get(name, (name,))]
    if not expanded:
        raise FarspanError("no task given; try core, or a family such as lines")
    probes: dict[str, Probe] = {}
    for name in expanded:
        if name == TEXT_LOSS:
            continue
        family, _, task = name.partition(":")
        if name in PROBES:
            probes[name] = PROBES[name]
        elif family in TASKS:
            probes |= {probe.name: probe for probe in _probes_of_family(family, task, knobs)}
        else:
            raise UnknownTaskError(f"unknown task '{name}'; {suggest(name, [*SUITES, *PROBES, TEXT_LOSS, *TASKS])}")
    return list(probes.values()), TEXT_LOSS in expanded


def _probes_of_family(family: str, task: str, knobs: Mapping[str, object]) -> list[Probe]:
    from farspan.evals.tasks.family import family_class

    made_by = family_class(family)
    known = made_by.tasks
    if task and task not in (*known, ALL):
        raise UnknownTaskError(f"{family} has no task '{task}'; {suggest(task, known)}")
    names = made_by.suite() if task == ALL else [task] if task else made_by.default_tasks()
    shared = knobs.get("questions_per_context", 1)
    return [
        Probe(
            name=f"{family}:{name}",
            title=f"{family}: {name}".replace("_", " "),
            family=family,
            task=name,
            knobs={knob: value for knob, value in knobs.items() if knob != "questions_per_context"},
            questions_per_context=int(str(shared)),
            skill=made_by.skill(name),
        )
        for name in names
    ]
