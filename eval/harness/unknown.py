"""Questions that may have no answer: how they are asked, and which reply says so."""

from __future__ import annotations

import re

from eval.harness.metrics import normal

INSTRUCTION = "Answer in a few words. If I have not told you, say that you don't know."
_UNKNOWN = re.compile(
    r"\b(not|dont|didnt|havent|hasnt|wasnt|never|unknown|unsure|nothing|no idea)\b"
)


def says_unknown(reply: str) -> bool:
    """Whether a reply says that the answer is not known."""
    return _UNKNOWN.search(normal(reply)) is not None
