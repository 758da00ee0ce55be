"""`memformer ask` and `memformer chat`."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memformer.cli.application import (
    BackboneOption,
    DocumentsOption,
    JsonOption,
    ModelOption,
    TokensOption,
    app,
)
from memformer.cli.output import note, print_json, say, show

if TYPE_CHECKING:
    from memformer.chat import ChatSession
    from memformer.store import MemoryStore

AskUserOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose memory. Without it: one for this question only."),
]
AppendOption = Annotated[
    bool,
    typer.Option(
        "--append/--replace",
        help="Add the documents to what the user's memory holds, or start it anew with them.",
    ),
]
AgainOption = Annotated[bool, typer.Option("--again", help="Read anew what is in memory already.")]
SystemOption = Annotated[
    str | None, typer.Option(help="The system message, before every turn; not remembered.")
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Above 0, replies are sampled.")]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    user: AskUserOption = None,
    document: DocumentsOption = None,
    model: ModelOption = None,
    backbone: BackboneOption = None,
    max_new_tokens: TokensOption = 128,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep what was read.")] = True,
    append: AppendOption = True,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read documents into memory and answer a question.

    A document needs to be read once: later questions of the same user can leave it out. Questions
    and answers are not remembered, so that they don't mix with what was read; `memformer chat` is
    for talking. Reading saves on the way: after an interruption the same command goes on.

    Example: `memformer ask --user alice --document book.txt "Who is the captain?"`
    """
    if user is None and not document:
        raise typer.BadParameter("give --document, or --user for a memory that is there already.")
    if not append and (user is None or not document):
        raise typer.BadParameter("--replace needs --user and --document.")
    if not question.strip():
        raise typer.BadParameter("the question is empty.")
    from memformer.cli.documents import read_with_bar
    from memformer.cli.inputs import open_documents
    from memformer.store import MemoryStore

    with open_documents(document or []) as documents:
        store = MemoryStore()
        if user is not None and not documents and not store.exists(user):
            raise ValueError(f"User {user!r} has no memory yet; give one with --document.")
        session = _open_session(model, backbone, store, user, save, append, max_new_tokens)
        start = time.monotonic()
        readings = [
            read_with_bar(session, one, again=again, shown=not as_json, quiet=as_json)
            for one in documents
        ]
    read_seconds = time.monotonic() - start
    start = time.monotonic()
    [answer] = session.ask(question)
    if not as_json:
        say(answer)
        return
    print_json(
        {
            "user": user,
            "question": question,
            "answer": answer,
            "document_tokens": sum(one.tokens for one in readings),
            "kept_tokens": sum(one.kept for one in readings),
            "memory_tokens": int(session.memory.num_seen[0]),
            "memory_bytes": session.memory.nbytes,
            "read_seconds": round(read_seconds, 2),
            "answer_seconds": round(time.monotonic() - start, 2),
            "saved": session.store is not None,
        }
    )


def _open_session(
    model: str | None,
    backbone: str | None,
    store: MemoryStore,
    user: str | None,
    save: bool,
    append: bool,
    max_new_tokens: int,
) -> ChatSession:
    """Opens the model, and a session that reads the documents of `ask` and answers.

    Args:
        model: the name of the model; None: the default.
        backbone: where the decoder of a checkpoint is.
        store: the store with the user's memory.
        user: whose memory; None: a new memory for this question.
        save: whether the store keeps the memory afterwards.
        append: whether the session goes on with the user's memory, or starts a new one.
        max_new_tokens: the longest answer.
    """
    from memformer.chat import ChatSession
    from memformer.cli.inputs import open_model

    brain, tokenizer = open_model(model, backbone=backbone)
    if user is not None and save:
        if not append:
            store.delete(user, timeout=5.0)
        return ChatSession(brain, tokenizer, store=store, user=user, max_new_tokens=max_new_tokens)
    session = ChatSession(brain, tokenizer, max_new_tokens=max_new_tokens)
    kept = store.load(user, brain) if user is not None and append else None
    if kept is not None:
        session.memory = kept
    return session


@app.command()
def recall(
    query: Annotated[str, typer.Argument(help="A question, or any words.")],
    user: Annotated[str, typer.Option(metavar="NAME", help="Whose memory.")],
    top_k: Annotated[int, typer.Option(min=1, help="The most passages.")] = 5,
    around: Annotated[
        bool,
        typer.Option(
            "--around", help="Also show what was told right before and after; --json always does."
        ),
    ] = False,
    model: ModelOption = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what a user told that some words are about; nothing is answered or remembered.

    Example: `memformer recall --user alice "Where does my daughter live?"`
    """
    from memformer.cli.conversation import passage_table
    from memformer.store import MemoryStore

    store = MemoryStore()
    if store.version(user) is None:
        raise ValueError(f"There is no memory of {user!r}; memformer memory list shows whose are.")
    session = _open_session(model, backbone, store, user, True, True, 1)
    found = session.recall(query, top_k)
    if as_json:
        print_json({"user": user, "passages": [dataclasses.asdict(one) for one in found]})
    elif found:
        show(passage_table(found, around=around))
    else:
        note("nothing was found.")


@app.command()
def chat(
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Whose memory.")] = None,
    model: ModelOption = None,
    backbone: BackboneOption = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Start empty and keep nothing.")
    ] = False,
    system: SystemOption = None,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: TokensOption = 256,
) -> None:
    """Talk in the terminal; what was said is there the next time.

    The memory is saved after every turn. `/memory` shows it, `/forget TURN` removes a turn,
    `/read FILE` reads a document, `/help` lists the commands, `/quit` leaves.

    Example: `memformer chat --user alice`
    """
    if temporary == (user is not None):
        raise typer.BadParameter("give either --user NAME or --temporary.")
    if sys.stdin is None:
        raise ValueError(
            "`memformer chat` reads standard input, which is closed; use a terminal or a pipe."
        )
    from memformer.chat import ChatSession
    from memformer.cli.conversation import lines, take_turn
    from memformer.cli.inputs import open_model
    from memformer.store import MemoryStore

    store = None
    if user is not None:
        store = MemoryStore()
        store.exists(user)  # an unusable id is refused before the model is loaded
    brain, tokenizer = open_model(model, backbone=backbone)
    options: dict[str, Any] = {"temperature": temperature} if temperature > 0 else {}
    session = ChatSession(
        brain,
        tokenizer,
        store=store,
        user=user,
        system=system,
        max_new_tokens=max_new_tokens,
        **options,
    )
    begun = session.memory
    remembered = int(session.memory.num_seen[0])
    whose = "a temporary memory" if temporary else f"the memory of {user}"
    show(f"{whose}: {remembered:,} tokens so far. /help lists the commands.")
    for line in lines(sys.stdin):
        if line.strip() in ("/quit", "/exit"):
            break
        if line.strip():
            take_turn(session, line)
    if temporary:
        show("nothing was kept.")
    elif session.memory is begun:
        show(f"nothing was saved; the memory of {user} is as it was.")
    else:
        show(f"the memory of {user} is saved.")
