"""Checks that the optional packages of a measurement are installed, before any work is done.

This file imports none of these packages.
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
# the packages that write a report's page and pictures
PAGE, PICTURE = "markdown_it", "matplotlib"


def missing(what: str, *modules: str) -> str:
    """A sentence about the first of some packages that is not installed; empty if all are there.

    Args:
        what: the name of the part that needs the packages, such as "the report".
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
    """Checks that packages are installed, and ends the program if one is missing.

    Raises:
        SystemExit: a package is missing; the status is 2, and a sentence goes to the error output.
    """
    if sentence := missing(what, *modules):
        print(sentence, file=sys.stderr)
        sys.exit(2)


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # an import hook refuses the module
        return False
