"""Training on top of memformer and eval; run from the checkout.

A command that lacks a package says so in one sentence, whichever import was the first to miss it.
Commands check with `missing` for packages that they need only later.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType

# folders of the checkout; no extra installs their modules
OURS = ("eval", "memformer", "training")


def missing(package: str) -> str | None:
    """A sentence that says how to get a package; None where it is installed."""
    return None if find_spec(package) else _sentence(package)


def _sentence(package: str) -> str:
    return (
        f"This needs the package {package}, which is not installed; the extra train brings it: "
        "python -m pip install -e '.[train]'."
    )


def _in_a_sentence(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Handles an exception that ends a command: a missing package becomes one sentence."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name or name in OURS:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {_sentence(name)}", file=sys.stderr)
    raise SystemExit(2)


# true while `python -m training.NAME` looks for NAME
if sys.argv[:1] == ["-m"]:
    sys.excepthook = _in_a_sentence
