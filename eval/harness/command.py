"""A benchmark as a command: its own options, and the options that all benchmarks share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from accelerate import PartialState
from memformer.pretrained import DEFAULT_MODEL
from rich.console import Console
from rich.progress import Progress

from eval.harness.asking import progress_bar
from eval.harness.benchmark import Benchmark, Document
from eval.harness.cases import OtherRun
from eval.harness.charts import draw_all
from eval.harness.pages import markdown
from eval.harness.roster import ENCODER, Roster, check
from eval.harness.runner import ask, begin_log, groups, results
from eval.harness.specs import BadSystem, Spec, cost, parse
from eval.harness.summary import Key, summarize
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, PICTURE, require
from eval.reporting.options import (
    DeviceOption,
    DtypeOption,
    ModelArgument,
    ThreadsOption,
    use_threads,
)
from eval.reporting.page import write_page
from eval.reporting.report import head, write_json

# how long processes wait for the process with the longest documents; torch's half an hour was not
# enough
PATIENCE = timedelta(days=30)
# what a report holds of an answer
SHOWN = ("output", "scores", "log_likelihoods")
# makes a benchmark from a tokenizer and the benchmark's own options
Builder = Callable[..., Benchmark]


class BadData(ValueError):
    """The data make no benchmark; the message says why."""


@dataclass(frozen=True)
class Shared:
    """The options of every benchmark."""

    model: ModelArgument = None
    systems: Annotated[
        str, typer.Option(help="What is compared; a list. See eval/harness/specs.py.")
    ] = "nothing,truncated,sliding,full,bm25,dense,attached,memformer"
    style: Annotated[
        Literal["plain", "chat"], typer.Option(help="How systems are asked that name no style.")
    ] = "chat"
    encoder: Annotated[str, typer.Option(help="Hub id or folder; of the system dense.")] = ENCODER
    again: Annotated[bool, typer.Option("--again", help="Start over.")] = False
    threads: ThreadsOption = None
    device: DeviceOption = "cpu"
    dtype: DtypeOption = "float32"
    out: Annotated[
        Path | None, typer.Option(help="Where to write, without ending; reports/NAME if left out.")
    ] = None


def command(build: Builder) -> typer.Typer:
    """A command that makes a benchmark, asks its questions and reports.

    Args:
        build: makes the benchmark. Its first argument is the tokenizer of the model, its other
            arguments are options of typer. The docstring of its module is the help, its own name
            the name of the report. It may raise `ValueError` or `OSError` with one sentence about
            the mistake in the data.
    """
    own = _parameters(build)[1:]
    common = _parameters(Shared)

    def main(**options: Any) -> None:
        mine = {one.name: options.pop(one.name) for one in own}
        run(build, mine, Shared(**options))

    argument, *others = common
    parameters = [argument, *own, *others]
    main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    main.__annotations__ = {one.name: one.annotation for one in parameters}
    return make_app(main, inspect.getdoc(inspect.getmodule(build)) or "")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [
        one.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(function).parameters.items()
    ]


def run(build: Builder, own: dict[str, Any], shared: Shared) -> None:
    """Makes the benchmark, asks the questions that have no answer yet, and writes the report.

    Args:
        build: the benchmark, made with the options `own`.
        own: the benchmark's own options.
        shared: the options of every benchmark.

    Raises:
        typer.BadParameter: an option, a model, a system or the data are not usable.
    """
    # the packages are needed last and checked first
    require("the report", PAGE, PICTURE)
    use_threads(shared.threads)
    state = PartialState(cpu=shared.device == "cpu", timeout=PATIENCE)
    name = shared.model or DEFAULT_MODEL
    # with several processes on GPUs, each has its own GPU
    place = str(state.device) if shared.device == "cuda" else shared.device
    roster = Roster(name, shared.style, place, shared.dtype, shared.encoder)
    try:
        specs = parse(shared.systems)
        check(specs)
        benchmark = _built(build, LateTokenizer(roster), own)
        roster.open_finders(specs)
        out = shared.out or Path("reports") / (benchmark.name or build.__name__)
        wording, fingerprints = roster.wording(specs, benchmark), roster.fingerprints(specs)
        identities = roster.identities(specs, fingerprints, wording)
        common = {
            "device": shared.device,
            "dtype": shared.dtype,
            "max_new_tokens": benchmark.max_new_tokens,
            "instruction": benchmark.instruction,
            # stored answers without likelihoods are of another run
            **({"ranking": benchmark.ranking} if benchmark.ranks else {}),
            **benchmark.settings,
        }
        settings = {
            "systems": [spec.text for spec in specs],
            "style": shared.style,
            "encoder": shared.encoder,
            "wording": wording,
            "fingerprints": fingerprints,
            **common,
        }
        module: Any = inspect.getmodule(build)
        # the module's own name, also where it is run as __main__
        report = head(module.__spec__.name, settings) | {"model": name}
        log = begin_log(out, common, identities, shared.again, state)
        done = results(out, common, identities)
        with progress_bar(Console(stderr=True, quiet=not state.is_main_process)) as progress:
            meter = Meter(progress, benchmark, specs, state)
            ask(benchmark, specs, roster, done, log, state, meter.step, meter.advance)
            meter.finish()
    except (BadData, BadSystem, OtherRun) as error:
        raise typer.BadParameter(" ".join(str(error).split())) from None
    if state.is_main_process:
        typer.echo(write(out, benchmark, specs, results(out, common, identities), report))


class LateTokenizer:
    """The tokenizer of the run's model, opened when a benchmark first uses it.

    A benchmark checks its options and reads its data before it counts tokens, so that mistakes in
    them are reported before a model is opened.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._roster.tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """Tokenizes texts."""
        return self._roster.tokenizer(*texts, **options)


def _built(build: Builder, tokenizer: Any, options: dict[str, Any]) -> Benchmark:
    try:
        benchmark = build(tokenizer, **options)
    except (OSError, EOFError, ValueError) as error:
        raise BadData(str(error)) from None
    if not any(document.questions for document in benchmark.documents):
        raise BadData("there is nothing to ask: the options and the data leave no question.")
    return benchmark


def write(
    out: Path,
    benchmark: Benchmark,
    specs: Sequence[Spec],
    found: dict[Key, dict[str, Any]],
    report: dict[str, Any],
) -> str:
    """Writes the report's files; returns its Markdown.

    OUT.json depends on the command alone; machine, start and durations stand in OUT.timing.json.
    """
    systems = [spec.text for spec in specs]
    timing = {name: report[name] for name in ("machine", "started")}
    report = {name: value for name, value in report.items() if name not in timing}
    report |= {"title": benchmark.title, "axes": dict(benchmark.axes), "metrics": benchmark.metrics}
    report |= summarize(benchmark, systems, found)
    cases = [(one.id, question) for one in benchmark.documents for question in one.questions]
    parts = {one.id: {"source": one.source} for one in benchmark.documents if one.source}
    report["questions"] = [
        {
            "document": document,
            "question": question.id,
            **parts.get(document, {}),
            "at": dict(question.at),
            **({"asked": question.text, "answers": question.answers} if benchmark.quotable else {}),
        }
        for document, question in cases
    ]
    report["predictions"] = [
        {
            "system": system,
            "document": document,
            "question": question.id,
            **{name: found[key][name] for name in SHOWN if name in found[key]},
        }
        for system in systems
        for document, question in cases
        if "output" in found.get(key := (system, document, question.id), ())
    ]
    seconds: dict[str, float] = {}
    for one in found.values():
        seconds[one["system"]] = seconds.get(one["system"], 0.0) + one.get("seconds", 0.0)
    timing["seconds"] = {name: round(seconds.get(name, 0.0), 3) for name in systems}
    # each cell and each answer has its own line
    write_json(out.with_name(f"{out.name}.json"), report, levels=2)
    write_json(out.with_name(f"{out.name}.timing.json"), timing)
    text = markdown(benchmark, report, timing)
    write_page(out, benchmark.title, text, draw_all(out, benchmark, report))
    return text


class Meter:
    """A progress bar in tokens, for the groups of documents that this process asks about."""

    def __init__(
        self,
        progress: Progress,
        benchmark: Benchmark,
        specs: Sequence[Spec],
        state: PartialState,
    ) -> None:
        mine = [
            group
            for number, group in enumerate(groups(benchmark.documents))
            if number % state.num_processes == state.process_index
        ]
        self.progress = progress
        self.bar = progress.add_task(
            "", total=sum(cost(spec, group) for spec in specs for group in mine)
        )
        self.most = 0

    def step(self, spec: Spec, group: Sequence[Document]) -> None:
        """Moves the bar to the start of the next group."""
        self.progress.update(self.bar, description=spec.text, completed=self.most)
        self.most += cost(spec, group)

    def finish(self) -> None:
        """Moves the bar to the end."""
        self.progress.update(self.bar, completed=self.most)

    def advance(self, tokens: int) -> None:
        """Moves the bar on by `tokens`, at most to the end of this group."""
        now = self.progress.tasks[0].completed
        self.progress.update(self.bar, completed=min(self.most, now + tokens))
