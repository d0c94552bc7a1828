"""What L-Eval says to models: what each set is about, how long an answer is to be, and what a judge is asked."""

from __future__ import annotations

from farspan.evals.metrics.exam_answers import Verdict

SYSTEMS = {
    "gsm100": 'Go on as in the examples of questions and answers, and end with "The answer is" and the number.',
    "topic_retrieval_longchat": "You are shown the record of a conversation. Keep in mind what each part is about.",
    "coursera": (
        "You are shown a very long document and a question that may have several right options. Reply with letters "
        "alone, such as A or AB."
    ),
    "codeU": "You are shown code with functions and comments. Work out what the program prints at the end.",
    "sci_fi": "You are shown a long story. Say True or False by what the story tells, not by what you know.",
    "exam": "You are shown a long document and a question. Reply with the letter of the right option, else briefly.",
    "open": "You are shown a long document and an instruction on it. Do what the instruction asks.",
    "world": "Say True or False.",
}  # fmt: skip


def length_instruction(words: int) -> str:
    """What tells a model how long its answer is to be."""
    return f"Write about {words} words.\n"


def judge_prompt(question: str, reference: str, first: str, second: str) -> str:
    """What a judge of two answers is asked; its verdict ends with [[A]], [[B]] or [[C]] for neither.

    Ask twice with the answers changed over, and count with `pairwise_win_rate`.
    """
    return (
        "Two assistants answered a question on a long document that you cannot see. A person's answer is given. Say "
        "which answer agrees with it better. What goes beyond it is no merit; being to the point counts, and errors of "
        "fact count more. Neither order nor length nor names matter.\n\n"
        f"Question: {question}\n\nA person's answer: {reference}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\n"
        "Give your reasons briefly and end with [[A]] if A is better, [[B]] if B is, and [[C]] if neither is."
    )


def verdict_of(reply: str, *, swapped: bool = False) -> Verdict:
    """Whom a judge's reply prefers: `m1`, `m2`, `tie`, or `error` where it says nothing that can be read."""
    place, letter = max((reply.rfind(f"[[{letter}]]"), letter) for letter in "ABC")
    if place < 0:
        return "error"
    if letter == "C":
        return "tie"
    return "m1" if (letter == "A") != swapped else "m2"
