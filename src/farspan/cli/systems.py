"""`farspan systems`: the map of published systems as an outline or as the documentation's page.

It lays out text; what is on the map and who asks for what, `farspan.systems` knows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer

from farspan import systems as atlas

PAGE_HEAD = """\
# Systems

<!-- Made by `make docs` from src/farspan/systems.json; edit that file. -->

Every published system that Farspan brings under one roof, on the map of the survey
["Thus Spake Long-Context Large Language Model"](https://arxiv.org/abs/2502.17129), with one branch of our own, X. A
system stands at its home leaf and is linked from the others it touches. The same list on the screen: `farspan systems`.
"""


def systems(
    leaf: Annotated[
        str | None, typer.Argument(metavar="LEAF", help="A place of the map, such as A1.3a, or A3 for all below it.")
    ] = None,
    question: Annotated[
        int | None, typer.Option(metavar="N", help="Only systems that bear on open question N, 1 to 10.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Show the 46 published systems: where each lives, its state, and how to try it.

    A system is listed at its home, and at its other leaves too if you ask for a place.

    Example:

        farspan systems A1.3a
        farspan systems --question 4
    """
    if markdown:
        typer.echo(to_markdown(), nl=False)
        return
    if question is not None:
        asked = atlas.question(question)
        typer.echo(f"Question {asked.number}, {asked.title.lower()}: {asked.question}\n")
    typer.echo("\n".join(outline(leaf, question)))


def outline(place: str | None = None, question: int | None = None) -> list[str]:
    """Lines of the map's outline, indented by depth, with the number of systems last.

    Parameters
    ----------
    place : only what stands at or below this node, cross-links included
    question : only systems that bear on this open question
    """
    chosen = list(atlas.load_map().systems) if place is None else atlas.systems_under(place)
    if question is not None:
        chosen = [entry for entry in chosen if entry in atlas.systems_of_question(question)]
    root = None if place is None else atlas.node(place)
    lines: list[str] = []
    shown: set[str] = set()
    for node in atlas.load_map().nodes:
        ancestry = atlas.ancestry(node.id)
        if root is not None and root not in ancestry:
            continue
        here = [entry for entry in chosen if node.id in (entry.leaves[:1] if root is None else entry.leaves)]
        remarks = [] if root is None or question is not None else _remarks(node)
        if not here and not remarks:
            continue
        for above in ancestry:
            if above.id not in shown:
                shown.add(above.id)
                lines.append("  " * (len(atlas.ancestry(above.id)) - 1) + f"{above.id}  {above.title}")
        indent = "  " * len(ancestry)
        lines += [indent + line for entry in here for line in _system_lines(entry)]
        lines += [indent + line for line in remarks]
    counts = [f"{sum(entry.state == state for entry in chosen)} {state}" for state in ("works", "partial", "planned")]
    total = f"{len(chosen)} system{'' if len(chosen) == 1 else 's'}: {', '.join(counts)}"
    return [*lines, "", total]


def _system_lines(entry: atlas.System) -> list[str]:
    lines = [f"{entry.slug:<24} {entry.state:<8} {entry.system} (arXiv {entry.arxiv})"]
    if entry.state != "planned":
        lines.append(f"{'':<24} {entry.file}; try: {entry.command}")
    return lines


def _remarks(node: atlas.Node) -> list[str]:
    compared = atlas.baselines_of_leaf(node.id)
    lines = [f"to compare with: {', '.join(_baseline_text(entry) for entry in compared)}"] if compared else []
    return lines + ([f"elsewhere: {node.elsewhere.replace('`', '')}"] if node.elsewhere else [])


def _baseline_text(entry: atlas.Baseline) -> str:
    names = f" ({', '.join(entry.names)})" if entry.names else ""
    return entry.system + names


def to_markdown() -> str:
    """The documentation's page of systems; the same bytes every time.

    Chapters follow the map's roots and leaves their order; a system is described at its home and linked elsewhere.
    """
    systems = atlas.load_map().systems
    count = {state: sum(entry.state == state for entry in systems) for state in ("works", "partial", "planned")}
    lines = [
        PAGE_HEAD,
        f"Of {len(systems)} systems, {count['works']} work, {count['partial']} work in part and {count['planned']} "
        "are planned. *Planned* means that there is no code for it yet.",
        "",
    ]
    leaf_ids = set(atlas.leaves())
    for node in atlas.load_map().nodes:
        level = min(len(atlas.ancestry(node.id)) + 1, 4)
        section = f" (survey {node.section})" if node.section != "-" else ""
        lines += [f"{'#' * level} {node.id} {node.title}{section}", ""]
        if node.id in leaf_ids:
            lines += _leaf_paragraphs(node)
    lines += [
        "## The ten open questions",
        "",
        "| | question | what Farspan brings, once the systems are in | systems |",
        "|---|---|---|---|",
    ]
    for asked in atlas.load_map().questions:
        links = _links(atlas.systems_of_question(asked.number))
        lines.append(f"| {asked.number} | **{asked.title}.** {asked.question} | {asked.answer} | {links} |")
    return "\n".join(lines) + "\n"


def _leaf_paragraphs(leaf: atlas.Node) -> list[str]:
    here = atlas.systems_of_leaf(leaf.id)
    compared = atlas.baselines_of_leaf(leaf.id)
    paragraphs = [leaf.about] if leaf.about else []
    paragraphs += [_description(entry) for entry in here if entry.leaves[0] == leaf.id]
    if linked := [entry for entry in here if entry.leaves[0] != leaf.id]:
        paragraphs.append(f"See also: {_links(linked)}.")
    if compared:
        paragraphs.append(f"To compare with: {', '.join(_baseline_link(entry) for entry in compared)}.")
    if leaf.elsewhere:
        paragraphs.append(f"Elsewhere: {leaf.elsewhere}")
    if not (here or compared or leaf.elsewhere):
        paragraphs.append("None.")
    return [line for paragraph in paragraphs for line in (paragraph, "")]


def _description(entry: atlas.System) -> str:
    head = (
        f'<a id="{entry.slug}"></a>**{entry.system}** ([arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})), '
        f"{entry.kind}, room `{entry.room}`: *{entry.state}*"
    )
    if entry.state == "planned":
        return head
    return f"{head}\n\n- file: `{entry.file}`\n- try: `{entry.command}`\n- evidence: `{entry.evidence}`"


def _links(entries: Collection[atlas.System]) -> str:
    return ", ".join(f"[{entry.system}](#{entry.slug})" for entry in entries)


def _baseline_link(entry: atlas.Baseline) -> str:
    title = f"[{entry.system}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else entry.system
    return title + (f" (`{'`, `'.join(entry.names)}`)" if entry.names else "")
