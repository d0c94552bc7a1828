"""Small exercises of seven types, each with its right answer, wrong ones of the same form, and a solver.

An exercise can be solved from its own text alone. The solver reads that text anew, so that it checks the generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

NAMES = ("Ada", "Ben", "Cleo", "Dov", "Edda", "Finn", "Greta", "Hugo", "Ines", "Jon", "Kaia", "Lars", "Mona", "Nils")
TOWNS = ("Bergen", "Cadiz", "Dover", "Essen", "Faro", "Ghent", "Havre", "Jena", "Kazan", "Lund", "Malmo", "Namur")
FIRMS = ("Arcova", "Belmont", "Cindral", "Dorvex", "Elmark", "Fennick")
THINGS = ("lamp", "rope", "kettle", "ladder", "basket", "hammer", "blanket", "mirror")
PLACES = ("attic", "cellar", "garden", "kitchen", "garage", "hall")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
GOOD = ("lovely", "brilliant", "delightful", "excellent", "charming")
BAD = ("dreadful", "boring", "awful", "clumsy", "tedious")
NOUNS = ("film", "meal", "book", "concert", "hotel", "play")
TOPICS = {
    "sports": ("goal", "coach", "match", "team", "league"),
    "weather": ("rain", "storm", "cloud", "frost", "wind"),
    "cooking": ("oven", "flour", "butter", "soup", "salt"),
    "music": ("violin", "choir", "melody", "drum", "opera"),
}
GERMAN_NOUNS = {"dog": "Hund", "man": "Mann", "baker": "Bäcker", "teacher": "Lehrer", "farmer": "Bauer"}
GERMAN_VERBS = {"sees": "sieht", "buys": "kauft", "finds": "findet", "carries": "trägt"}
GERMAN_THINGS = {"apples": "Äpfel", "chairs": "Stühle", "books": "Bücher", "shoes": "Schuhe"}
NUMBERS = {"two": ("zwei", "dos"), "three": ("drei", "tres"), "four": ("vier", "cuatro"), "five": ("fünf", "cinco")}
SPANISH_NOUNS = {"dog": "perro", "man": "hombre", "baker": "panadero", "teacher": "maestro", "farmer": "granjero"}
SPANISH_VERBS = {"sees": "ve", "buys": "compra", "finds": "encuentra", "carries": "lleva"}
SPANISH_THINGS = {"apples": "manzanas", "chairs": "sillas", "books": "libros", "shoes": "zapatos"}
UNITS = {("hours", "minutes"): 60, ("metres", "centimetres"): 100, ("weeks", "days"): 7, ("minutes", "seconds"): 60}
HEAVIER = ("feather", "coin", "apple", "brick", "bicycle", "piano", "car", "ship")
HOLDS = {"fish": "a pond", "bread": "an oven", "letters": "a mailbox", "coats": "a wardrobe", "cars": "a garage"}
BEFORE = (
    ("planting a seed", "picking the fruit"),
    ("boiling water", "drinking the tea"),
    ("buying a ticket", "boarding the train"),
    ("writing a letter", "posting it"),
    ("lighting a fire", "smelling the smoke"),
)
KINDS = {"sparrow": "bird", "trout": "fish", "oak": "tree", "rose": "flower", "beetle": "insect", "spaniel": "dog"}


@dataclass(frozen=True)
class Item:
    """An exercise: what is given, the right answer, and wrong ones."""

    kind: str
    family: str
    instruction: str
    given: str
    answer: str
    wrong: tuple[str, ...]


Made = tuple[str, str, list[str]]


@dataclass(frozen=True)
class ItemFamily:
    """Exercises made alike.

    kind : one of the seven types
    instructions : the same task in several wordings
    make : given text, right answer, wrong answers
    solve : the right answer, from the given text
    """

    kind: str
    name: str
    instructions: tuple[str, ...]
    make: Callable[[Random], Made]
    solve: Callable[[str], str]

    def item(self, rng: Random, instruction: int = 0) -> Item:
        """One exercise."""
        given, answer, wrong = self.make(rng)
        told = self.instructions[instruction % len(self.instructions)]
        return Item(self.kind, self.name, told, given, answer, tuple(wrong))


def _others(rng: Random, right: str, pool: Sequence[str], count: int = 3) -> list[str]:
    rest = [value for value in dict.fromkeys(pool) if value != right]
    return rng.sample(rest, min(count, len(rest)))


def _near(rng: Random, right: int) -> list[str]:
    offsets = rng.sample([-3, -2, -1, 1, 2, 3, 10], 3)
    return [str(right + offset) for offset in offsets if right + offset > 0]


def _sum(rng: Random) -> Made:
    name, a, b = rng.choice(NAMES), rng.randint(11, 80), rng.randint(11, 80)
    thing = rng.choice(THINGS)
    return f"{name} had {a} {thing}s and bought {b} more. How many now?", str(a + b), _near(rng, a + b)


def _largest(rng: Random) -> Made:
    numbers = rng.sample(range(100, 1000), 4)
    text = [str(number) for number in numbers]
    return f"Which is the largest of {', '.join(text)}?", str(max(numbers)), _others(rng, str(max(numbers)), text)


def _convert(rng: Random) -> Made:
    (large, small), factor = rng.choice(list(UNITS.items()))
    n = rng.randint(2, 12)
    return f"How many {small} are {n} {large}?", str(n * factor), _near(rng, n * factor)


def _day(rng: Random) -> Made:
    today, ahead = rng.randrange(7), rng.randint(2, 6)
    right = DAYS[(today + ahead) % 7]
    return f"Today is {DAYS[today]}. Which day is it in {ahead} days?", right, _others(rng, right, DAYS)


def _solve_convert(text: str) -> str:
    small, n, large = re.findall(r"How many (\w+) are (\d+) (\w+)\?", text)[0]
    return str(int(n) * UNITS[large, small])


def _solve_day(text: str) -> str:
    today, ahead = re.findall(r"is (\w+day)\. .* in (\d+) days", text)[0]
    return DAYS[(DAYS.index(today) + int(ahead)) % 7]


def _review(rng: Random) -> Made:
    good = rng.random() < 0.5
    words = rng.sample(GOOD if good else BAD, 2)
    right = "positive" if good else "negative"
    return f"The {rng.choice(NOUNS)} was {words[0]} and quite {words[1]}.", right, ["negative" if good else "positive"]


def _topic(rng: Random) -> Made:
    topic = rng.choice(list(TOPICS))
    return " ".join(rng.sample(TOPICS[topic], 3)), topic, _others(rng, topic, list(TOPICS))


def _spam(rng: Random) -> Made:
    spam = rng.random() < 0.5
    name, day = rng.choice(NAMES), rng.choice(DAYS)
    text = (
        f"{name}, click now and win {rng.randint(2, 9)}00 coins free!" if spam else f"{name}, see you on {day} at noon."
    )
    return text, "spam" if spam else "not spam", ["not spam" if spam else "spam"]


def _parity(rng: Random) -> Made:
    number = rng.randint(100, 999)
    return str(number), "odd" if number % 2 else "even", ["even" if number % 2 else "odd"]


def _passage(rng: Random) -> tuple[str, list[str], list[str], list[str]]:
    names, towns = rng.sample(NAMES, 3), rng.sample(TOWNS, 3)
    years = [str(year) for year in rng.sample(range(1850, 1999), 3)]
    facts = [f"{n} moved to {t} in {y}." for n, t, y in zip(names, towns, years, strict=True)]
    return " ".join(facts), names, towns, years


def _where(rng: Random) -> Made:
    text, names, towns, _ = _passage(rng)
    pick = rng.randrange(3)
    return f"{text} Where did {names[pick]} move?", towns[pick], _others(rng, towns[pick], towns)


def _when(rng: Random) -> Made:
    text, names, _, years = _passage(rng)
    pick = rng.randrange(3)
    return f"{text} When did {names[pick]} move?", years[pick], _others(rng, years[pick], years)


def _who(rng: Random) -> Made:
    text, names, towns, _ = _passage(rng)
    pick = rng.randrange(3)
    return f"{text} Who moved to {towns[pick]}?", names[pick], _others(rng, names[pick], names)


def _first(rng: Random) -> Made:
    text, names, _, years = _passage(rng)
    right = names[years.index(min(years))]
    return f"{text} Who moved first?", right, _others(rng, right, names)


_FACT = re.compile(r"(\w+) moved to (\w+) in (\d+)\.")


def _read(text: str) -> str:
    facts = _FACT.findall(text)
    if text.endswith("Who moved first?"):
        return str(min(facts, key=lambda fact: int(fact[2]))[0])
    if found := re.search(r"Where did (\w+) move\?", text):
        return next(str(town) for name, town, _ in facts if name == found[1])
    if found := re.search(r"When did (\w+) move\?", text):
        return next(str(year) for name, _, year in facts if name == found[1])
    asked = re.findall(r"Who moved to (\w+)\?", text)[0]
    return next(str(name) for name, town, _ in facts if town == asked)


RELATIONS = ("entailment", "contradiction", "neutral")


def _sets(rng: Random) -> Made:
    n, more = rng.randint(3, 9), rng.randint(1, 4)
    right = rng.choice(RELATIONS)
    thing = rng.choice(THINGS)
    second = {
        "entailment": f"There are more than {n - 1} {thing}s.",
        "contradiction": f"There are fewer than {n} {thing}s.",
        "neutral": f"{more} of the {thing}s are new.",
    }[right]
    return f"There are {n} {thing}s. / {second}", right, _others(rng, right, RELATIONS)


def _solve_sets(text: str) -> str:
    n = int(re.findall(r"There are (\d+)", text)[0])
    second = text.partition(" / ")[2]
    if found := re.search(r"more than (\d+)", second):
        return "entailment" if n > int(found[1]) else "contradiction"
    if found := re.search(r"fewer than (\d+)", second):
        return "entailment" if n < int(found[1]) else "contradiction"
    return "neutral"


def _quantifier(rng: Random) -> Made:
    right = rng.choice(RELATIONS)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    second = {
        "entailment": f"One {thing} is in the {place}.",
        "contradiction": f"No {thing} is in the {place}.",
        "neutral": f"The {thing}s in the {place} are old.",
    }[right]
    return f"All {thing}s are in the {place}, and there are some. / {second}", right, _others(rng, right, RELATIONS)


def _solve_quantifier(text: str) -> str:
    second = text.partition(" / ")[2]
    return {"One": "entailment", "No": "contradiction"}.get(second.split()[0], "neutral")


def _sentence(rng: Random) -> tuple[str, str, str, str]:
    return (
        rng.choice(list(GERMAN_NOUNS)),
        rng.choice(list(GERMAN_VERBS)),
        rng.choice(list(NUMBERS)),
        rng.choice(list(GERMAN_THINGS)),
    )


def _german(noun: str, verb: str, number: str, thing: str) -> str:
    return f"Der {GERMAN_NOUNS[noun]} {GERMAN_VERBS[verb]} {NUMBERS[number][0]} {GERMAN_THINGS[thing]}."


def _spanish(noun: str, verb: str, number: str, thing: str) -> str:
    return f"El {SPANISH_NOUNS[noun]} {SPANISH_VERBS[verb]} {NUMBERS[number][1]} {SPANISH_THINGS[thing]}."


def _translated(into: Callable[[str, str, str, str], str]) -> Callable[[Random], Made]:
    """A sentence of noun, verb, number and things; a wrong translation has one of them changed."""

    def make(rng: Random) -> Made:
        parts = _sentence(rng)
        pools = (list(GERMAN_NOUNS), list(GERMAN_VERBS), list(NUMBERS), list(GERMAN_THINGS))
        wrong = []
        for place in rng.sample(range(4), 3):
            other = list(parts)
            other[place] = _others(rng, parts[place], pools[place], 1)[0]
            wrong.append(into(*other))
        noun, verb, number, thing = parts
        return f"The {noun} {verb} {number} {thing}.", into(*parts), wrong

    return make


def _translate(into: Callable[[str, str, str, str], str]) -> Callable[[str], str]:
    def solve(text: str) -> str:
        noun, verb, number, thing = re.findall(r"The (\w+) (\w+) (\w+) (\w+)\.", text)[0]
        return into(noun, verb, number, thing)

    return solve


def _entities(rng: Random) -> tuple[str, list[str], list[str], list[str]]:
    people, towns, firms = rng.sample(NAMES, 2), rng.sample(TOWNS, 2), rng.sample(FIRMS, 2)
    text = f"{people[0]} of {firms[0]} met {people[1]} of {firms[1]} in {towns[0]}, not in {towns[1]}."
    return text, people, towns, firms


def _named(which: int, pool: Sequence[str]) -> Callable[[Random], Made]:
    """All people, towns or firms of a sentence; a wrong list lacks one, or holds one of another type or text."""

    def make(rng: Random) -> Made:
        text, *found = _entities(rng)
        right = found[which]
        other = found[(which + 1) % 3]
        stranger = _others(rng, right[0], [name for name in pool if name not in text], 1)[0]
        wrong = [right[0], f"{right[0]}, {other[0]}", f"{stranger}, {right[1]}"]
        return text, ", ".join(right), wrong

    return make


def _find(pool: Sequence[str]) -> Callable[[str], str]:
    return lambda text: ", ".join(word for word in re.findall(r"\w+", text) if word in pool)


def _weight(rng: Random) -> Made:
    one, other = rng.sample(range(len(HEAVIER)), 2)
    right, wrong = (one, other) if one > other else (other, one)
    return f"Which is heavier, a {HEAVIER[one]} or a {HEAVIER[other]}?", HEAVIER[right], [HEAVIER[wrong]]


def _solve_weight(text: str) -> str:
    one, other = re.findall(r"a (\w+) or a (\w+)\?", text)[0]
    return str(max(one, other, key=HEAVIER.index))


def _holder(rng: Random) -> Made:
    thing = rng.choice(list(HOLDS))
    return f"Where are {thing} likely to be?", HOLDS[thing], _others(rng, HOLDS[thing], list(HOLDS.values()))


def _order(rng: Random) -> Made:
    pair = rng.choice(BEFORE)
    one, other = rng.sample(pair, 2)
    return f"What comes first, {one} or {other}?", pair[0], [pair[1]]


def _solve_order(text: str) -> str:
    return next(first for first, second in BEFORE if first in text and second in text)


def _kind_of(rng: Random) -> Made:
    thing = rng.choice(list(KINDS))
    return f"What is a {thing}?", KINDS[thing], _others(rng, KINDS[thing], list(KINDS.values()))


def _sum_of(text: str) -> str:
    _only(text, "How many now?")
    return str(sum(map(int, re.findall(r"\d+", text))))


def _largest_of(text: str) -> str:
    _only(text, "Which is the largest")
    return str(max(map(int, re.findall(r"\d+", text))))


def _only(text: str, mark: str) -> None:
    """Leave texts of other families, which are told alike, to their own solvers."""
    if mark not in text:
        raise ValueError(f"no exercise with {mark!r}")


QA = ("Answer the question.", "Give the answer.", "Reply to the question with the answer alone.")
READ = ("Answer from the text.", "Read the text and answer.", "Take the answer from the passage.")
LOGIC = (
    "Say how the second sentence follows from the first: entailment, contradiction or neutral.",
    "Name the relation of the two sentences: entailment, contradiction or neutral.",
    "Is the second sentence entailment, contradiction or neutral to the first?",
)
SENSE = ("Use common sense.", "Answer by what everyone knows.", "Choose what is plausible.")


def _tell(what: str) -> tuple[str, str, str]:
    return f"List all {what} of the sentence in order.", f"Name the {what}.", f"Which {what} does the sentence hold?"


FAMILIES: tuple[ItemFamily, ...] = (
    ItemFamily("qa", "sum", QA, _sum, _sum_of),
    ItemFamily("qa", "largest", QA, _largest, _largest_of),
    ItemFamily("qa", "convert", QA, _convert, _solve_convert),
    ItemFamily("qa", "day", QA, _day, _solve_day),
    ItemFamily(
        "classification",
        "review",
        ("Is the review positive or negative?", "Say positive or negative.", "Judge the review: positive or negative."),
        _review,
        lambda text: "positive" if any(word in text for word in GOOD) else "negative",
    ),
    ItemFamily(
        "classification",
        "topic",
        tuple(f"{told}: {', '.join(TOPICS)}." for told in ("Name the topic", "Choose the topic", "Sort the words")),
        _topic,
        lambda text: next(topic for topic, words in TOPICS.items() if set(text.split()) <= set(words)),
    ),
    ItemFamily(
        "classification",
        "spam",
        ("Is the message spam or not spam?", "Say spam or not spam.", "Judge the message: spam or not spam."),
        _spam,
        lambda text: "spam" if "win" in text else "not spam",
    ),
    ItemFamily(
        "classification",
        "parity",
        ("Is the number odd or even?", "Say odd or even.", "Judge the number: odd or even."),
        _parity,
        lambda text: "odd" if int(text) % 2 else "even",
    ),
    *(
        ItemFamily("reading", name, READ, make, _read)
        for name, make in (("where", _where), ("when", _when), ("who", _who), ("first", _first))
    ),
    ItemFamily("inference", "sets", LOGIC, _sets, _solve_sets),
    ItemFamily("inference", "quantifier", LOGIC, _quantifier, _solve_quantifier),
    ItemFamily(
        "translation",
        "german",
        ("Translate into German.", "Say it in German.", "Write the sentence in German."),
        _translated(_german),
        _translate(_german),
    ),
    ItemFamily(
        "translation",
        "spanish",
        ("Translate into Spanish.", "Say it in Spanish.", "Write the sentence in Spanish."),
        _translated(_spanish),
        _translate(_spanish),
    ),
    ItemFamily("names", "people", _tell("people"), _named(0, NAMES), _find(NAMES)),
    ItemFamily("names", "towns", _tell("towns"), _named(1, TOWNS), _find(TOWNS)),
    ItemFamily("names", "firms", _tell("firms"), _named(2, FIRMS), _find(FIRMS)),
    ItemFamily("sense", "weight", SENSE, _weight, _solve_weight),
    ItemFamily("sense", "holder", SENSE, _holder, lambda text: HOLDS[re.findall(r"are (\w+) likely", text)[0]]),
    ItemFamily("sense", "order", SENSE, _order, _solve_order),
    ItemFamily("sense", "kind", SENSE, _kind_of, lambda text: KINDS[re.findall(r"is a (\w+)\?", text)[0]]),
)

KINDS_OF_ITEMS = tuple(dict.fromkeys(family.kind for family in FAMILIES))


def solved(given: str, instruction: str) -> str:
    """The right answer of an exercise, found from its text and instruction.

    Raises
    ------
    LookupError : no family is told so.
    """
    for family in FAMILIES:
        if instruction in family.instructions:
            try:
                return family.solve(given)
            except (IndexError, KeyError, StopIteration, ValueError):
                continue
    raise LookupError(f"no exercise is told as {instruction!r}")
