"""Text made comparable before answers are matched: SQuAD's rules for English, with and without case, and Chinese ones.

Published scores depend on these to the letter: punctuation is deleted, not replaced, and before articles.
"""

from __future__ import annotations

import re
import string

CHINESE_PUNCTUATION = "".join(
    (
        "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣",
        "､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.",
    )
)
"""Full-width marks that `normalize_zh` deletes beside the ASCII ones; 》 is among them, 《 is not."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII = str.maketrans("", "", string.punctuation)
_CHINESE = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)


def normalize_squad(text: str) -> str:
    """Lower case, ASCII punctuation deleted, the words a, an and the taken out, white space collapsed.

    Source: arXiv 1606.05250, evaluation.
    """
    return normalize_squad_cased(text.lower())


def normalize_squad_cased(text: str) -> str:
    """`normalize_squad` with case kept; capitalised articles stay."""
    return " ".join(_ARTICLES.sub(" ", text.translate(_ASCII)).split())


def normalize_zh(text: str) -> str:
    """Lower case, ASCII and full-width punctuation and all white space deleted.

    Source: arXiv 2308.14508, section 3.3.
    """
    return "".join(text.lower().translate(_CHINESE).split())
