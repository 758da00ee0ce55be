"""Packages that a measurement needs beyond those of the library: what is missing is said at once.

This file imports nothing of the packages: it asks whether they are there.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

# module: name of its package, and the extra of pyproject.toml that brings it
PACKAGES = {
    "bm25s": ("bm25s", "eval"),
    "datasets": ("datasets", "train"),
    "faiss": ("faiss-cpu", "eval"),
    "lm_eval": ("lm-eval", "lm-eval"),
    "markdown_it": ("markdown-it-py", "eval"),
    "matplotlib": ("matplotlib", "eval"),
    "nltk": ("nltk", "eval"),
    "rouge_score": ("rouge-score", "eval"),
}
# what a report is made with
PAGE, PICTURE = "markdown_it", "matplotlib"


def missing(what: str, *modules: str) -> str:
    """A sentence about the first of some packages that is not installed; empty if all are there.

    Args:
        what: names what needs them, such as "the report".
        *modules: keys of `PACKAGES`.
    """
    for module in modules:
        if not _is_there(module):
            package, extra = PACKAGES[module]
            return (
                f"{what} needs the package {package}, which is not installed; install it with "
                f'`pip install -e ".[{extra}]"`.'
            )
    return ""


def require(what: str, *modules: str) -> None:
    """Checks that packages are installed, before any work is done.

    Raises:
        SystemExit: one is not; with status 2, after a sentence on the error output.
    """
    if sentence := missing(what, *modules):
        print(sentence, file=sys.stderr)
        sys.exit(2)


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook that refuses it
        return False
