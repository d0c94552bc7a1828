"""Named probes: a benchmark family's task with its knobs, and the suites made of them.

`core` is what `farspan tune` judges a model by: one skill each, cheap, at any length, for base and chat models alike.
A probe can also be written `family:task`, so that every task of every family can be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.generate.generators import UnknownTaskError, suggest
from farspan.evals.tasks import TASKS

TEXT_LOSS = "text_loss"


class Probe(BaseModel):
    """One measure: which task of which family, with which knobs.

    title : for people
    questions_per_context : questions that share a context; a local model reads the context once
    share : part of the questions asked for that are really asked, where every one needs a context of its own
    """

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    family: str
    task: str
    knobs: Mapping[str, object] = {}
    questions_per_context: int = 1
    share: float = 1.0


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(name="single_lines", title="Single lines", family="lines", task="single", questions_per_context=8),
        Probe(
            name="multi_key",
            title="Multi-key needles",
            family="ruler",
            task="niah_multikey_1",
            questions_per_context=4,
        ),
        Probe(name="variable_tracking", title="Variable tracking", family="ruler", task="vt", share=0.25),
        Probe(
            name="two_hop_threads",
            title="Two-hop threads",
            family="needle_threading",
            task="thread",
            knobs={"style": "prose", "thread_length": 2},
            questions_per_context=4,
        ),
    )
}

SUITES: dict[str, tuple[str, ...]] = {"core": (*PROBES, TEXT_LOSS)}


def resolve(tasks: str | Sequence[str]) -> tuple[list[Probe], bool]:
    """Probes by name, and whether text loss is asked for.

    Parameters
    ----------
    tasks : names separated by commas, or a list of them: a suite (`core`), a probe (`single_lines`), `text_loss`, a
        family (`lines`, its first task) or `family:task`

    Raises
    ------
    UnknownTaskError : a name that is none of these; close ones are named.
    """
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
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
            probes[name] = _probe_of_family(name, family, task)
        else:
            raise UnknownTaskError(f"unknown task '{name}'; {suggest(name, [*SUITES, *PROBES, TEXT_LOSS, *TASKS])}")
    return list(probes.values()), TEXT_LOSS in expanded


def _probe_of_family(name: str, family: str, task: str) -> Probe:
    from farspan.evals.tasks.family import family_class

    known = family_class(family).tasks
    task = task or known[0]
    if task not in known:
        raise UnknownTaskError(f"{family} has no task '{task}'; {suggest(task, known)}")
    return Probe(name=name, title=f"{family}: {task}".replace("_", " "), family=family, task=task)
