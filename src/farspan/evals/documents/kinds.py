"""What kind of text a prediction is, as far as that spoils its score: empty, huge, broken, of another script.

Only kinds are told; nothing is mended here, and no score depends on them. They are counted beside the scores, since a
model that answers with half a JSON object scores as low as one that knows nothing, for another reason.
"""

from __future__ import annotations

import json
import unicodedata

HUGE_CHARACTERS = 20_000
FEW_LETTERS = 8
"""Below so many letters a script means nothing: a name or a number is right in any language."""

MOST_FOREIGN = 0.8
_ALLOWED_CONTROLS = "\t\n\r"
REPLACEMENT = "\ufffd"
_SAMPLED = 4_000


def prediction_kinds(prediction: str, language: str = "en") -> tuple[str, ...]:
    """Names of what is odd about a prediction; empty where nothing is.

    Parameters
    ----------
    language : `en`, `zh` or a programming language; only the first two have a script to be wrong in

    Returns
    -------
    Of `empty` (no character but white space), `huge` (over 20,000 characters), `control_characters` (controls other
    than tabs and line breaks, or the replacement character), `wrong_script` (four letters in five are not of the
    language), `half_json` (begins as JSON and does not end as it).
    """
    if not prediction.strip():
        return ("empty",)
    kinds = []
    if len(prediction) > HUGE_CHARACTERS:
        kinds.append("huge")
    if any(map(_unprintable, prediction)):
        kinds.append("control_characters")
    if _foreign(prediction, language) > MOST_FOREIGN:
        kinds.append("wrong_script")
    if _half_json(prediction.strip()):
        kinds.append("half_json")
    return tuple(kinds)


def _unprintable(character: str) -> bool:
    control = unicodedata.category(character) in ("Cc", "Cs") and character not in _ALLOWED_CONTROLS
    return control or character == REPLACEMENT


def is_cjk(character: str) -> bool:
    """Whether a character is an ideograph of Chinese (also as Japanese and Korean use them)."""
    return (
        "\u3400" <= character <= "\u9fff"
        or "\uf900" <= character <= "\ufaff"
        or "\U00020000" <= character < "\U00040000"
    )


def _foreign(text: str, language: str) -> float:
    """Share of letters that are not of a language's script, over the beginning of a text."""
    letters = [c for c in text[:_SAMPLED] if c.isalpha()]
    if language not in ("en", "zh") or len(letters) < FEW_LETTERS:
        return 0.0
    if language == "zh":
        return sum(not is_cjk(c) for c in letters) / len(letters)
    return sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters) / len(letters)


def _half_json(text: str) -> bool:
    if not text.startswith(("{", "[{", '["', "[[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False
