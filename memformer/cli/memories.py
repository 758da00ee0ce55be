"""`memformer memory list`, `show` and `delete`: the memories of the store, without any model."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from memformer.cli.application import JsonOption, ModelOption, app
from memformer.cli.output import cell, print_json, show, visible

memory = typer.Typer(
    help="List, show and delete what is remembered.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(memory, name="memory")

UserOption = Annotated[str, typer.Option("--user", metavar="NAME", help="Whose memory.")]


@memory.command("list")
def list_memories(as_json: JsonOption = False) -> None:
    """List whose memories there are.

    Example: `memformer memory list`
    """
    from memformer.store import MemoryStore

    store = MemoryStore()
    rows = [
        {
            "user": one.user,
            "bytes": one.nbytes,
            "saved": _date(one.saved),
            "model": one.model,
            "path": str(one.path),
        }
        for one in store.memories()
    ]
    if as_json:
        print_json({"store": str(store.root), "memories": rows})
        return
    if not rows:
        show(f"no memories in {store.root}")
        return
    table = Table()
    for name, justify in (("user", "left"), ("MiB", "right"), ("saved", "left"), ("model", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        user = "? (an older version)" if row["user"] is None else str(row["user"])
        size = f"{float(str(row['bytes'])) / 2**20:.1f}"
        table.add_row(cell(user), size, str(row["saved"]), cell(str(row["model"]) or "unnamed"))
    show(table)


@memory.command("show")
def show_memory(user: UserOption, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Show what is remembered of a user, turn by turn.

    The text needs the tokenizer of the model that wrote it; no model is loaded.

    Example: `memformer memory show --user alice`
    """
    from memformer.cli.conversation import memory_table
    from memformer.store import MemoryStore
    from memformer.template import frame
    from memformer.turns import readable_turns

    found = MemoryStore().read(user)
    if found is None:
        raise ValueError(f"User {user!r} has no memory.")
    tokenizer = _tokenizer(model or found.fingerprint.get("name"))
    turns = readable_turns(found, tokenizer, frame(tokenizer))
    if as_json:
        print_json({"user": user, "model": found.fingerprint.get("name", ""), "turns": turns})
    else:
        show(memory_table(turns))


@memory.command("delete")
def delete_memory(
    user: UserOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete all that is remembered of a user, whichever model wrote it.

    Example: `memformer memory delete --user alice`
    """
    from memformer.store import MemoryStore

    store = MemoryStore()
    if not store.exists(user):
        raise ValueError(f"User {user!r} has no memory.")
    if not yes:
        typer.confirm(f"Delete the memory of {visible(user)}? It can't be brought back", abort=True)
    store.delete(user, timeout=5.0)
    show(f"the memory of {user} is deleted.")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _tokenizer(name: str | None) -> Any:
    """The tokenizer of the model that wrote a memory.

    Raises:
        ValueError: the memory names no model, or its tokenizer can't be loaded.
    """
    from transformers import AutoTokenizer

    from memformer.pretrained import DEFAULT_MODEL, TRAINED, local_path

    if not name:
        raise ValueError("The memory does not say which model wrote it; give --model.")
    place = local_path(name) or (TRAINED if name == DEFAULT_MODEL else name)
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The tokenizer of {name}, which wrote this memory, can't be loaded; give --model."
        ) from error
