"""How memory is best attached before any training: compares settings on development questions.

    python -m eval.recipe focus=0 key_positions=none,read_distance=64 --distances 0,2048

Each argument is one setting of `MemoryConfig`, as `name=value` pairs; the defaults are always
measured too. The people, the kinds of fact and the haystack's places are others than those of
`eval.recall`: this is where choices are made, and that is where they are tested.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from memformer import MemformerForCausalLM, MemoryConfig
from rich.console import Console
from rich.table import Table

from eval.corpora.haystack import Haystack
from eval.corpora.people import make_documents
from eval.corpora.training_facts import KINDS, NAMES
from eval.harness.interview import Interview, right
from eval.reporting.app import make_app
from eval.reporting.opening import open_model
from eval.reporting.options import ThreadsOption, numbers, use_threads


def main(
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings such as focus=0,null_offset=1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the default model.")] = None,
    facts: Annotated[int, typer.Option(min=1, max=len(NAMES), help="Facts in a document.")] = 6,
    distances: Annotated[str, typer.Option(help="Tokens of book text; a list.")] = "0,2048",
    cases: Annotated[int, typer.Option(min=1, help="Questions a cell.")] = 48,
    seed: Annotated[int, typer.Option(help="Draws the documents.")] = 1000,
    threads: ThreadsOption = None,
) -> None:
    use_threads(threads)
    places = numbers(distances, 0, "--distances")
    configs = {setting: parse(setting) for setting in ["", *(settings or [])]}
    documents = make_documents(facts, cases, seed, NAMES, KINDS)
    asked = [fact for document in documents for fact in document.asked]
    loaded, tokenizer = open_model(model, "cpu")
    haystack = Haystack(tokenizer, None)
    table = Table("setting", *(f"d = {distance}" for distance in places))
    for setting, config in configs.items():
        backbone = loaded.unload_memory()
        loaded = MemformerForCausalLM.from_backbone(backbone, config, tokenizer)
        interview = Interview(loaded, tokenizer, haystack, seed)
        row = []
        for distance in places:
            said = interview.answers(documents, distance)
            correct = sum(right(text, fact) for text, fact in zip(said, asked, strict=True))
            row.append(f"{correct / len(asked):.3f}")
        table.add_row(setting or "defaults", *row)
    Console().print(table)


def parse(setting: str) -> MemoryConfig:
    """The configuration of one setting, `name=value,name=value`; lists of layers are `8-29`.

    Raises:
        typer.BadParameter: the text has another form, or `MemoryConfig` refuses the setting.
    """
    values: dict[str, Any] = {"num_slots": None}
    for pair in filter(None, setting.split(",")):
        name, found, text = pair.partition("=")
        if not found:
            raise typer.BadParameter(f"{pair!r} is not name=value.")
        begin, dash, end = text.partition("-")
        if name == "memory_layers" and dash and begin:
            values[name] = list(range(int(begin), int(end) + 1))
            continue
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    try:
        return MemoryConfig.from_dict(values)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
