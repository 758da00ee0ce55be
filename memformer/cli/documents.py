"""Reading a document into a session's memory, with a bar and notes on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memformer.cli.output import note, reading

if TYPE_CHECKING:
    from memformer.chat import ChatSession
    from memformer.documents import Document
    from memformer.reading import Reading


def read_with_bar(
    session: ChatSession, document: Document, *, again: bool, shown: bool, quiet: bool = False
) -> Reading:
    """Reads a document with a bar; notes before and after say what a full memory loses.

    Args:
        session: the session that reads.
        document: the document.
        again: whether to read a document anew that is in memory already.
        shown: whether there is a bar.
        quiet: whether to leave the notes out.
    """
    slots = session.memory.num_slots
    expected = document.expected_tokens(session.tokenizer)
    if slots is not None and expected > slots and not quiet:
        note(
            f"{document.name} has about {expected:,} tokens and the memory keeps {slots:,}: about "
            f"{expected - slots:,} of them will be evicted on the way, and what was there before, "
            "the least used first. `memformer attach --slots` makes a memory that keeps more."
        )
    with reading(document.name, shown=shown) as report:
        found = session.read(document, again=again, progress=report)
    if quiet:
        return found
    if found.tokens == 0:
        note(f"{document.name} is in memory already; --again reads it anew.")
    elif found.kept < found.total:
        note(f"{document.name}: {found.total:,} tokens read, {found.kept:,} of them kept.")
    return found
