"""Word problems: short stories over quantities, each with its result, the way there, and numbers that do not matter.

A story and its solution come from the same steps; `solved_problem` reads the story's text alone and computes anew, so
that it checks the maker. Results are whole numbers above zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

NAMES = {
    "en": ("Ada", "Ben", "Cleo", "Dov", "Edda", "Finn", "Greta", "Hugo", "Ines", "Jon", "Kaia", "Lars", "Mona", "Nils"),
    "zh": ("小明", "小红", "李雷", "王芳", "张伟", "刘洋", "陈静", "赵磊", "孙丽", "周强"),
}
THINGS = {
    "en": ("apples", "stamps", "marbles", "coins", "cards", "shells", "pencils", "beads", "stickers", "buttons"),
    "zh": ("个苹果", "张邮票", "颗弹珠", "枚硬币", "张卡片", "个贝壳", "支铅笔", "颗珠子", "张贴纸", "颗纽扣"),
}
FIRST = {
    "en": (
        "{name} has {n} {thing}.",
        "There are {n} {thing} in {name}'s bag.",
        "{name} starts the week with {n} {thing}.",
        "{name} collects {n} {thing} on the first day.",
    ),
    "zh": (
        "{name}有{n}{thing}。",
        "{name}的包里有{n}{thing}。",
        "{name}一开始有{n}{thing}。",
        "第一天{name}收集了{n}{thing}。",
    ),
}
MORE = {
    "en": (
        "{name} buys {n} more.",
        "A friend gives {name} {n} more.",
        "{name} finds {n} more in a drawer.",
        "{n} more arrive in the post.",
        "{name} wins {n} more in a game.",
        "{name}'s aunt brings {n} more.",
        "Another {n} turn up under the bed.",
        "For helping, {name} is given {n} more.",
    ),
    "zh": (
        *("{name}又买了{n}。", "朋友又送来{n}。", "抽屉里又找到{n}。", "邮局又寄来{n}。"),
        *("比赛中又赢得{n}。", "姑姑又带来{n}。", "床底下又找到{n}。", "因为帮忙又得到{n}。"),
    ),
}
FEWER = {
    "en": (
        "{name} gives away {n}.",
        "{name} loses {n} on the way.",
        "{name} sells {n} at the market.",
        "{n} of them break.",
        "A neighbour takes {n} home.",
        "A dog carries {n} off.",
        "{name} gives {n} of them to the school.",
        "{name} throws {n} away.",
    ),
    "zh": (
        *("{name}送掉{n}。", "路上丢掉{n}。", "{name}在集市上卖掉{n}。", "其中坏掉{n}。"),
        *("邻居拿走{n}。", "小狗叼走{n}。", "{name}送给学校{n}。", "{name}扔掉{n}。"),
    ),
}
TIMES = {
    "en": (
        "In the next month the number grows to {n} times as many.",
        "A trader swaps every one of them for {n}.",
        "{name} works on until there are {n} times as many.",
        "With a new machine there are soon {n} times as many.",
    ),
    "zh": (
        *("下个月数量变成原来的{n}倍。", "商人把每一个都换成{n}。"),
        *("{name}继续努力，直到数量是原来的{n}倍。", "有了新机器，数量很快变成{n}倍。"),
    ),
}
SHARED = {
    "en": (
        "They are shared equally among {n} people, and {name} keeps one share.",
        "{name} splits them into {n} equal heaps and keeps one heap.",
        "Only one in every {n} is kept.",
        "{name} puts them into {n} equal bags and carries one bag home.",
    ),
    "zh": (
        *("它们平均分给{n}个人，{name}留下一份。", "{name}把它们平均分成{n}堆，只留下一堆。"),
        *("每{n}个里只留下一个。", "{name}把它们平均装进{n}个袋子，只带一袋回家。"),
    ),
}
ASKED = {
    "en": (
        "How many {thing} are there in the end?",
        "How many {thing} does {name} have now?",
        "What is the number of {thing} at the end?",
        "With how many {thing} does the story end?",
        "What number of {thing} is left when all this is over?",
    ),
    "zh": ("最后有多少？", "现在{name}有多少？", "最终的数量是多少？", "故事结束时有多少？", "所有这些之后还剩多少？"),
}
BESIDE = {
    "en": (
        "The shop closes at {n} o'clock.",
        "It is a walk of {n} minutes to the market.",
        "The table is {n} years old.",
        "{name}'s house has the number {n}.",
        "The bus of line {n} passes by.",
        "Outside it is {n} degrees.",
        "A ticket for the tram costs {n} crowns.",
    ),
    "zh": (
        "商店{n}点关门。",
        "去集市要走{n}分钟。",
        "这张桌子用了{n}年。",
        "{name}家的门牌号是{n}号。",
        "{n}路公共汽车经过这里。",
        "外面是{n}度。",
        "电车票要{n}克朗。",
    ),
}
TEMPLATES = {
    language: sum(len(group[language]) for group in (FIRST, MORE, FEWER, TIMES, SHARED, ASKED, BESIDE))
    for language in ("en", "zh")
}
RESULT = {"en": "The answer is {n}.", "zh": "答案是{n}。"}
LARGEST = 100_000


@dataclass(frozen=True)
class Problem:
    """A question, what is right, and the worked way there."""

    text: str
    gold: str
    solution: str


@dataclass(frozen=True)
class _Step:
    sentences: Mapping[str, tuple[str, ...]]
    sign: str
    compute: Callable[[int, int], int]

    def number(self, rng: Random, value: int) -> int | None:
        """A number that the step can take, None where there is none."""
        if self.sign == "+":
            return rng.randint(2, 60)
        if self.sign == "-":
            return rng.randint(1, value - 1) if value > 1 else None
        if self.sign == "×":
            return rng.randint(2, 6) if value * 6 < LARGEST else None
        divisors = [n for n in range(2, 10) if value % n == 0 and value > n]
        return rng.choice(divisors) if divisors else None


STEPS = (
    _Step(MORE, "+", lambda value, n: value + n),
    _Step(FEWER, "-", lambda value, n: value - n),
    _Step(TIMES, "×", lambda value, n: value * n),
    _Step(SHARED, "÷", lambda value, n: value // n),
)


def word_problem(rng: Random, steps: int, *, language: str = "en", distractors: int = 0) -> Problem:
    """One problem.

    Parameters
    ----------
    steps : operations on the quantity
    language : `en` or `zh`
    distractors : sentences with numbers that do not matter
    """
    name, thing = rng.choice(NAMES[language]), rng.choice(THINGS[language])

    def told(sentences: Mapping[str, tuple[str, ...]], n: int) -> str:
        return rng.choice(sentences[language]).format(name=name, thing=thing, n=n)

    value = rng.randint(5, 60)
    story = [told(FIRST, value)]
    work: list[str] = []
    while len(work) < steps:
        step = rng.choice(STEPS)
        if (n := step.number(rng, value)) is None:
            continue
        found = step.compute(value, n)
        story.append(told(step.sentences, n))
        work.append(f"{value} {step.sign} {n} = {found}")
        value = found
    for _ in range(distractors):
        story.insert(rng.randrange(1, len(story) + 1), told(BESIDE, rng.randint(3, 60)))
    joiner = " " if language == "en" else ""
    end, comma = (". ", ", ") if language == "en" else ("。", "，")
    solution = comma.join(work) + end + RESULT[language].format(n=value)
    return Problem(joiner.join([*story, told(ASKED, 0)]), str(value), solution)


# What a sentence does, told by words of its own: nothing here looks at the sentences above.
_READ: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bmore\b|\bturn up\b|又"), "+"),
    (re.compile(r"\b(?:gives|loses|sells|break|takes|carries \d+ off|throws)\b|[送丢卖坏扔]掉|[拿叼]走|送给学校"), "-"),
    (re.compile(r"\btimes as many|\bswaps every\b|倍|换成"), "×"),
    (re.compile(r"\bequal(?:ly)?\b|one in every|平均|每\d+个里"), "÷"),
)
_FIRST_READ = re.compile(r"\bhas \d|There are|starts the week|collects|有\d|收集")
_SENTENCE = re.compile(r"[^.?。？]*[.?。？]")


def solved_problem(text: str) -> str:
    """The result of a story, from its text alone.

    Raises
    ------
    ValueError : the story begins with no quantity.
    """
    value: int | None = None
    for sentence in _SENTENCE.findall(text):
        number = re.search(r"\d+", sentence)
        if number is None:
            continue
        n = int(number[0])
        sign = next((sign for pattern, sign in _READ if pattern.search(sentence)), "")
        if value is None:
            if not sign and _FIRST_READ.search(sentence):
                value = n
        elif sign:
            value = {"+": value + n, "-": value - n, "×": value * n, "÷": value // n}[sign]
    if value is None:
        raise ValueError("the story begins with no quantity")
    return str(value)
