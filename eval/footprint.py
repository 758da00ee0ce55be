"""Measures the space for using a full memory, and for tokenizing a large document.

    python -m eval.footprint MODEL --megabytes 50 --threads 1

A memory is filled with book text. Then each of these runs in a process of its own, with the model
loaded: opening the file, saving it, a turn of a chat (open, answer, save), an answer that returns
the memory. Last, a document of so many megabytes is tokenized, as it is for reading. Sizes are what
the process holds at most beyond what it held before.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer.chat import ChatSession
from memformer.memory import MemoryState
from memformer.reading import Document, begun
from memformer.store import MemoryStore
from memformer.template import chat_ids, frame, text_pieces

from eval.corpora.book import read_book
from eval.corpora.haystack import Haystack
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import BookOption, ModelArgument, OutOption, ThreadsOption
from eval.reporting.page import Page, publish
from eval.reporting.report import head, write_json
from eval.reporting.resident import in_fresh_process, peak, release, reset_peak, resident

USER = "reader"
ANSWER_TOKENS = 32
MEBIBYTE = 2**20


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """The MiB that a piece of work takes at most beyond the memory before it, and its seconds."""
    release()
    reset_peak()
    before, start = resident(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"mib": round((peak() - before) / MEBIBYTE, 1), "seconds": round(seconds, 2)}


def one(given: tuple[str | None, str, str, int]) -> dict[str, float]:
    """Measures one row in this process, which does nothing else."""
    name, folder, what, threads = given
    torch.set_num_threads(threads)
    model, tokenizer = open_model(name)
    store = MemoryStore(folder)
    path = next(Path(folder).glob("*.safetensors"))
    turn = [{"role": "user", "content": "Who came up from the sea?"}]
    ids = chat_ids(tokenizer, turn, reply="")
    options: dict[str, Any] = {
        "max_new_tokens": ANSWER_TOKENS,
        "do_sample": False,
        "return_memory": True,
    }
    # the buffers that a first call sets up do not belong to the memory
    model.generate(ids, **options)
    if what == "open":
        return measured(lambda: MemoryState.load(path, model=model))
    if what == "turn":
        # made without the store, so that the session holds no memory before its turn
        session = ChatSession(model, tokenizer, max_new_tokens=ANSWER_TOKENS)
        session.store, session.user = store, USER
        return measured(lambda: session.say(turn[0]["content"]))
    memory = MemoryState.load(path, model=model)
    if what == "save":
        return measured(lambda: memory.save(Path(folder) / "copy"))
    return measured(lambda: model.generate(ids, memory=memory, **options))


def tokenized(given: tuple[str | None, str]) -> dict[str, float]:
    """Measures tokenizing a document in pieces."""
    name, path = given
    _, tokenizer = open_model(name)
    document, tokens = Document.file(path), 0

    def work() -> None:
        nonlocal tokens
        for ids, _ in text_pieces(tokenizer, document.texts()):
            tokens += len(ids)

    return measured(work) | {"tokens": tokens}


ROWS = {
    "open": "opening the file",
    "save": "saving it",
    "turn": "a turn of a chat: open, answer, save",
    "generate": "an answer that returns the memory",
}


def page(report: dict[str, Any]) -> Page:
    """The page of a report: a row for each step."""
    settings, rows = report["settings"], report["rows"]
    lines = [["", "MiB beyond", "seconds"]]
    lines += [[text, f"{rows[name]['mib']:.0f}", f"{rows[name]['seconds']:.1f}"] for name, text in
              ROWS.items()]  # fmt: skip
    text = rows["tokenizing"]
    lines.append([
        f"tokenizing {settings['megabytes']} MB, {text['tokens']:,.0f} tokens",
        f"{text['mib']:.0f}", f"{text['seconds']:.1f}",
    ])  # fmt: skip
    return Page(
        f"What a full memory takes: {settings['model']}",
        f"A full memory of {report['slots']:,} slots takes {report['memory_mib']:.0f} MiB. Beyond "
        "the model, the memory where it is open already, and what was there before:",
        lines,
    )


def main(
    model: ModelArgument = None,
    megabytes: Annotated[int, typer.Option(min=1, help="Of the document.")] = 50,
    book: BookOption = None,
    out: OutOption = Path("reports/footprint"),
    threads: ThreadsOption = 1,
) -> None:
    require("the report", PAGE)
    torch.set_num_threads(threads or 1)
    settings = model_name(model) | {"megabytes": megabytes, "threads": threads or 1}
    report = head("eval.footprint", settings)
    loaded, tokenizer = open_model(model)
    slots = loaded.memory_config.num_slots
    if slots is None:
        raise typer.BadParameter("the model's memory is unbounded: it is never full.")
    with tempfile.TemporaryDirectory() as folder:
        ids = torch.tensor([Haystack(tokenizer, book).tokens(slots)])
        begin = begun(loaded, frame(tokenizer), loaded.init_memory())
        memory = loaded.memorize(ids, memory=begin, gated=False)
        store = Path(folder) / "store"
        MemoryStore(store).save(USER, memory)
        report |= {"slots": slots, "memory_mib": round(memory.nbytes / MEBIBYTE, 1)}
        del loaded, memory
        rows = {
            what: in_fresh_process(one, (model, str(store), what, threads or 1)) for what in ROWS
        }
        large, text = Path(folder) / "large.txt", read_book(book)
        whole = megabytes * 10**6
        with large.open("w", encoding="utf-8") as file:
            while (room := whole - file.tell()) > 0:
                file.write(text[:room])
        rows["tokenizing"] = in_fresh_process(tokenized, (model, str(large)))
    report["rows"] = rows
    write_json(out.with_name(f"{out.name}.json"), report)
    publish(out, page(report), report)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
