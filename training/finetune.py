"""Fine-tunes a model with a memory on documents with questions.

    python -m training.finetune configs/finetune/NAME.yaml KEY=VALUE ...
    python -m training.finetune configs/finetune/NAME.yaml --launch configs/accelerate/ddp.yaml

`--launch` starts the processes that an accelerate config asks for; `accelerate launch -m
training.finetune ...` and `torchrun` do so too, but put a traceback below what an error says. A run
that was interrupted goes on with `--resume` as if it had not been; `--minutes 9` ends it in time,
to be resumed later.

A step takes documents of one source (`sources.py`), lays them out with their questions
(`documents.py`), sends each batch through the model in one forward, all segments at once, and
minimises the loss on answers and, where a source asks for it, on the text (`objective.py`).
OUT becomes a checkpoint that `memformer` and `eval` take as a model, with `finetune.json` (config,
command, scores) and `log.jsonl` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import torch
import typer
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, logging

from eval.corpora.jsonl import BadRecord
from eval.reporting.report import head, write_json
from memformer import MemformerForCausalLM
from memformer.pretrained import local_path
from training.finetuning import resume, sources
from training.finetuning.attention import in_float32
from training.finetuning.documents import Document, collate, laid_out, windowed
from training.finetuning.health import Health
from training.finetuning.launch import LaunchFailed, hand_over, launch
from training.finetuning.objective import Batch, budget_penalty, exact, predicted, sums
from training.finetuning.preparation import Prepared, check, prepare, weights
from training.finetuning.settings import Settings, Stage
from training.finetuning.sources import Pool, Source
from training.finetuning.thaw import build, grouped, rate
from training.setup.config import BadConfig, read_config


class Run:
    """Everything that a run holds; one method a part of it."""

    def __init__(
        self,
        prepared: Prepared,
        model: MemformerForCausalLM,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.settings = settings = prepared.settings
        self.tokenizer = tokenizer = prepared.tokenizer
        self.pools, self.measured = prepared.pools, prepared.measured
        self.accelerator = accelerator
        self.console = console
        self.out = Path(settings.out)
        self.head = head("training.finetune", dataclasses.asdict(settings))
        self.inner = model
        self.padding = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
        self.between = tokenizer("\n", add_special_tokens=False).input_ids
        self.teacher = self._teacher() if any(p.source.teacher for p in self.pools) else None
        optimizer = torch.optim.AdamW(
            grouped(model, settings.optim), betas=(0.9, 0.99), foreach=False
        )
        # an engine of its own, which steps, clips and shards by itself
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        if self.deepspeed:
            engine = accelerator.state.deepspeed_plugin.deepspeed_config
            share = settings.optim.documents // accelerator.num_processes
            engine["train_micro_batch_size_per_gpu"] = share
            engine["gradient_clipping"] = settings.optim.clip
            engine["zero_allow_untested_optimizer"] = True
        if accelerator.device.type == "cpu" and accelerator.mixed_precision != "no":
            in_float32(model.backbone)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.total = sum(stage.steps for stage in settings.stages)
        self.step = 0
        self.best: dict[str, Any] = {"score": None, "step": 0}
        self.tokens = 0
        self.seconds = 0.0
        # of the text, written in the step before this; one number for all processes
        self.share: float | None = None
        self.stopped = False

    def tell(self, text: str) -> None:
        """Prints a line, once."""
        if self.accelerator.is_main_process:
            self.console.print(text, highlight=False)

    def _teacher(self) -> nn.Module:
        """The backbone as it was, to learn from: a copy, since the student may change its own."""
        name = (self.inner.config.backbone or {})["name"]
        place = str(local_path(name) or name)
        teacher: nn.Module = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        return teacher.requires_grad_(False).eval().to(self.accelerator.device)

    # ---- data ----

    def stage(self) -> Stage:
        """The stage of the step that is next."""
        begin = 0
        for stage in self.settings.stages:
            begin += stage.steps
            if self.step < begin:
                return stage
        return self.settings.stages[-1]

    def batches(self) -> tuple[Pool, list[Batch]]:
        """This process's share of the next step, in as many forwards as it takes."""
        stage, optim = self.stage(), self.settings.optim
        seed = f"{self.settings.seed}/{self.step}"
        pool, documents = sources.batch(
            self.pools,
            weights(self.settings, stage),
            optim.documents,
            stage.segments,
            stage.segment_tokens,
            seed,
        )
        mine = documents[self.accelerator.process_index :: self.accelerator.num_processes]
        at_once = optim.at_once or len(mine)
        parts = [mine[begin : begin + at_once] for begin in range(0, len(mine), at_once)]
        return pool, [self.batch(part, stage.segment_tokens, pool.source) for part in parts]

    def batch(self, documents: Sequence[Document], segment_tokens: int, source: Source) -> Batch:
        """Documents as one batch on this process's device."""
        if (window := self.settings.window) is not None:
            rows = [row for one in documents for row in windowed(one, window, self.between)]
        else:
            text = source.text or source.teacher
            rows = [
                laid_out(document, segment_tokens, answers=not source.teacher, text=text)
                for document in documents
            ]
        found = collate(rows, self.padding)
        return {name: value.to(self.accelerator.device) for name, value in found.items()}

    # ---- learning ----

    def learn(self) -> dict[str, float]:
        """One step; returns what there is to log of it."""
        optim, accelerator = self.settings.optim, self.accelerator
        torch.manual_seed(hash((self.settings.seed, self.step, accelerator.process_index)))
        started = time.perf_counter()
        factor = rate(self.step, self.total, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        pool, batches = self.batches()
        mine = torch.zeros(3, device=accelerator.device)
        for batch in batches:
            _, of_answers = predicted(batch)
            mine += torch.stack(
                [of_answers.sum(), (~of_answers).sum(), batch["attention_mask"].sum()]
            )
        answers, text, tokens = accelerator.reduce(mine, "sum").tolist()
        if not answers + text:
            raise BadConfig(f"{pool.source.name}: a batch has nothing to learn from.")
        found = torch.zeros(9, device=accelerator.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                found += self._backward(batch, pool.source, max(1.0, answers), max(1.0, text))
        if self.step == 0 and not self.deepspeed:
            self._check_gradients()
        norm = accelerator.clip_grad_norm_(self.model.parameters(), optim.clip)
        if not math.isfinite(norm):
            raise BadConfig(
                f"The gradient is no number any more at step {self.step}, in {pool.source.name}; "
                "resume from the last checkpoint with lower rates."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tokens += int(tokens)
        self.seconds += time.perf_counter() - started
        losses = accelerator.reduce(found, "sum")
        parts, rows, asides = losses[:3].tolist(), float(losses[7]), float(losses[8])
        self.share = float(losses[3]) / max(rows, 1.0)
        values = {"slots": float(losses[4]) / max(rows, 1.0)}
        if self.settings.window is None:
            values["written"] = self.share
        if asides and self.settings.window is None:
            values["evidence"] = float(losses[5]) / asides
            values["entropy"] = float(losses[6]) / asides
        if answers:
            values["answer_loss"] = parts[0] / answers
        if text:
            values["text_loss"] = parts[1] / text
        if pool.source.teacher:
            values["teacher_loss"] = parts[2] / text
        values |= {"gradient": float(norm), "rate": factor, "tokens": tokens}
        return values

    def _backward(self, batch: Batch, source: Source, answers: float, text: float) -> Tensor:
        """Adds a batch's share to the gradient; returns sums to log."""
        optim, accelerator = self.settings.optim, self.accelerator
        teacher = self._taught(batch) if source.teacher else None
        with accelerator.autocast():
            output = self.model(**batch, chunks=optim.chunks)
        found = sums(output, batch, teacher)
        loss = found.answers / answers
        if source.text:
            loss = loss + optim.text_weight * found.text / text
        if source.teacher:
            loss = loss + optim.teacher_weight * found.teacher / text
        rows = len(batch["input_ids"])
        if (budget := self.inner.memory_config.write_budget) is not None:
            loss = loss + budget_penalty(
                output.written * rows / optim.documents, self.share, budget
            )
        # a mean over processes is what becomes of gradients
        accelerator.backward(loss * accelerator.num_processes)
        occupied = output.memory.occupied.sum() if output.memory is not None else 0
        return torch.stack(
            [
                torch.as_tensor(value, dtype=torch.float32, device=accelerator.device).detach()
                for value in (
                    found.answers,
                    found.text,
                    found.teacher,
                    output.written * rows,
                    occupied,
                    output.evidence.sum(),
                    output.entropy.sum(),
                    rows,
                    len(output.evidence),
                )
            ]
        )

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor:
        """The teacher's logits for what the student shall predict, seeing all text before it."""
        assert self.teacher is not None
        logits = self.teacher(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
        return logits[:, :-1][batch["labels"][:, 1:] != -100]

    def _check_gradients(self) -> None:
        """A weight without a gradient would be wrong on several processes, silently."""
        without = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if without:
            raise BadConfig(
                f"{len(without)} weights get no gradient, such as {without[0]}; documents of more "
                "than one segment, or with questions, are needed to train what is switched on."
            )

    # ---- measuring ----

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Exact matches (greedy) and losses on the validation sources."""
        self.model.eval()
        settings, accelerator = self.settings.validation, self.accelerator
        scores = {}
        for pool in self.measured:
            order = sorted(pool.sizes(settings.segment_tokens))
            documents = [pool.documents[number] for _, number in order]
            parts = [
                documents[begin : begin + settings.at_once]
                for begin in range(0, len(documents), settings.at_once)
            ]
            many, found = accelerator.num_processes, torch.zeros(4, device=accelerator.device)
            # all processes go through the model equally often
            for begin in range(0, len(parts), many):
                number = begin + accelerator.process_index
                batch = self.batch(
                    parts[min(number, len(parts) - 1)], settings.segment_tokens, pool.source
                )
                with accelerator.autocast():
                    output = self.model(**batch)
                if number < len(parts):
                    right, losses = exact(output, batch), sums(output, batch)
                    targets, of_answers = predicted(batch)
                    loss, tokens = losses.answers, of_answers.sum()
                    if not tokens:
                        loss, tokens = losses.text, torch.tensor(len(targets))
                    asked = torch.tensor(len(right))
                    found += torch.stack(
                        [one.to(found) for one in (right.sum(), asked, loss, tokens)]
                    )
            right, asked, loss, tokens = accelerator.reduce(found, "sum").tolist()
            if asked:
                scores[f"{pool.source.name} exact"] = right / asked
            scores[f"{pool.source.name} loss"] = loss / max(tokens, 1.0)
        self.model.train()
        return scores

    def score(self, scores: dict[str, float]) -> float:
        """One number to choose the best weights by; the higher, the better."""
        by = self.settings.validation.by
        found = [value for name, value in scores.items() if name.endswith(by)]
        mean = sum(found) / len(found)
        return -mean if by == "loss" else mean

    # ---- keeping ----

    @property
    def checkpoints(self) -> Path:
        """Where the run can be resumed from."""
        return self.out / resume.CHECKPOINTS

    def keep(self) -> None:
        """Writes a checkpoint to resume from."""
        state = {
            "settings": dataclasses.asdict(self.settings),
            "best": self.best,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "share": self.share,
            "streams": [pool.stream.state() if pool.stream else None for pool in self.pools],
        }
        resume.save(
            self.checkpoints,
            self.step,
            self.model,
            self.optimizer,
            state,
            main=self.accelerator.is_main_process,
            engine=self._keep_engine if self.deepspeed else None,
        )
        self.accelerator.wait_for_everyone()

    def _keep_engine(self, folder: Path) -> None:
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(folder))
        self.accelerator.wait_for_everyone()

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights on the CPU of the first process, however they are sharded."""
        if self.deepspeed:
            found: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
            return found
        return resume.whole_weights(self.model)

    def go_on(self) -> None:
        """Continues from the newest checkpoint.

        Raises:
            BadCheckpoint: there is none, it is of other settings, or can't be used.
        """
        state = resume.newest(self.checkpoints, dataclasses.asdict(self.settings))
        if self.deepspeed:
            engine = self.checkpoints / f"{state['step']:06d}" / resume.ENGINE
            self.accelerator.load_state(str(engine))
        else:
            resume.load(self.checkpoints, state["step"], self.model, self.optimizer)
        self.step, self.best = state["step"], state["best"]
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.share = state["share"]
        for pool, position in zip(self.pools, state["streams"], strict=True):
            if pool.stream is not None:
                pool.stream.resume(position)
        self.tell(f"resumed at step {self.step}")

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to the log."""
        if self.accelerator.is_main_process:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **entry}) + "\n")
        numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=self.step)

    # ---- the loop ----

    def train(self, minutes: float | None) -> bool:
        """Trains to the end, or until time is up; returns whether it is done."""
        previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self.out.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 60 * minutes if minutes else math.inf
        recent: list[dict[str, float]] = []
        try:
            with self._progress() as progress:
                task = progress.add_task("", total=self.total, completed=self.step)
                while self.step < self.total and not self._exhausted():
                    recent.append(self.learn())
                    if self.step % self.settings.report_every == 0:
                        progress.update(task, description=self._report(recent))
                        recent = []
                    due = self.step % self.settings.validation.every == 0
                    if self.measured and (due or self.step == self.total):
                        self._measured()
                    progress.update(task, completed=self.step)
                    ending = self._together(self.stopped or time.monotonic() > until)
                    if ending or self.step % self.settings.save_every == 0:
                        self.keep()
                    if ending and self.step < self.total:
                        self.tell(f"stopped at step {self.step}; go on with --resume")
                        return False
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks for a checkpoint; the second ends the process."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def _together(self, flag: bool) -> bool:
        """Whether any process says so."""
        found = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(found, "sum") > 0)

    def _exhausted(self) -> bool:
        patience, every = self.settings.validation.patience, self.settings.validation.every
        if patience is None or not self.measured:
            return False
        return self.step - int(self.best["step"]) >= (patience + 1) * every

    def _progress(self) -> Progress:
        return Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.accelerator.is_main_process,
        )

    def _report(self, recent: list[dict[str, float]]) -> str:
        names = dict.fromkeys(name for entry in recent for name in entry)
        means = {}
        for name in names:
            values = [entry[name] for entry in recent if name in entry]
            means[name] = round(sum(values) / len(values), 5)
        means["tokens_per_second"] = round(self.tokens / max(self.seconds, 1e-9), 1)
        found: list[str] = []
        if self.settings.window is None:
            health = Health(
                means["written"], means["slots"], means.get("evidence"), means.get("entropy")
            )
            found = health.warnings(self.inner.memory_config.write_budget)
        self.log(means | ({"warnings": found} if found else {}))
        for warning in found:
            self.tell(f"[yellow]step {self.step}:[/] {warning}")
        shown = [
            f"{name.removesuffix('_loss')} {means[name]:.3f}"
            for name in ("answer_loss", "text_loss", "teacher_loss", "written", "evidence")
            if name in means
        ]
        return "  ".join(shown)

    def _measured(self) -> None:
        scores = self.measure()
        score = self.score(scores)
        self.log({name: round(value, 5) for name, value in scores.items()})
        shown = "  ".join(f"{Path(name).name} {value:.3f}" for name, value in scores.items())
        self.tell(f"step {self.step}: {shown}")
        if self.best["score"] is None or score > self.best["score"]:
            self.best = {"score": score, "step": self.step, "scores": scores}
            weights = self.whole_weights()
            if self.accelerator.is_main_process:
                resume.save_best(self.checkpoints, resume.trained(weights, self.inner))

    def finish(self) -> None:
        """Puts the best weights back and writes the checkpoint."""
        weights = self.whole_weights()
        if not self.accelerator.is_main_process:
            return
        if self.best["step"]:
            weights |= resume.load_best(self.checkpoints)
        dtype = getattr(torch, self.settings.save_dtype)
        self.inner.save_pretrained(self.out, state_dict=weights, dtype=dtype)
        self.tokenizer.save_pretrained(self.out)
        write_json(
            self.out / "finetune.json",
            self.head
            | {
                "steps": self.step,
                "tokens": self.tokens,
                "seconds": round(self.seconds),
                "best": self.best,
            },
        )


# ---- the command ----------------------------------------------------------------------------

app = typer.Typer(add_completion=False)


def fail(error: Exception, console: Console, status: int = 2) -> NoReturn:
    """Ends the command with one sentence; a process that was launched hands it over instead."""
    sentence = " ".join(str(error).split())
    if not hand_over(sentence):
        console.print(f"[red]error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    raise typer.Exit(status) from None


@app.command(help=__doc__)
def main(
    config: Annotated[Path, typer.Argument(help="YAML; see configs/finetune.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Other values.")
    ] = None,
    resumed: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in OUT stopped.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this time, to be resumed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch threads.")] = None,
    launched: Annotated[
        Path | None,
        typer.Option(
            "--launch", help="An accelerate config: in how many processes; see configs/accelerate."
        ),
    ] = None,
) -> None:
    console = Console(stderr=True)
    logging.disable_progress_bar()
    # peft asks transformers for what transformers calls otherwise by now
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    if threads:
        torch.set_num_threads(threads)
    # softmax weights far from any match are denormal numbers, with which a CPU is four times slower
    torch.set_flush_denormal(True)
    try:
        settings = read_config(Settings, config, overrides or [])
        check(settings)
        if launched is not None:
            options = [
                *(["--resume"] if resumed else []),
                *([f"--minutes={minutes}"] if minutes else []),
                *([f"--threads={threads}"] if threads else []),
            ]
            launch(launched, "training.finetune", [str(config), *(overrides or []), *options])
            return
        accelerator = Accelerator(
            log_with="tensorboard" if settings.tensorboard else None, project_dir=settings.out
        )

        def tell(text: str) -> None:
            if accelerator.is_main_process:
                console.print(text, highlight=False)

        prepared = prepare(settings, accelerator, tell, resumed=resumed)
        run = Run(prepared, build(settings), accelerator, console)
        if resumed:
            run.go_on()
        if settings.tensorboard:
            accelerator.init_trackers("tensorboard")
        if run.train(minutes):
            run.finish()
            run.tell(f"saved {settings.out}")
        accelerator.end_training()
    except LaunchFailed as error:
        fail(error, console, error.status)
    except (BadConfig, BadRecord, resume.BadCheckpoint, OSError, ValueError) as error:
        fail(error, console)


if __name__ == "__main__":
    sys.exit(app())
