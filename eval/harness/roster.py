"""Opens the systems of a run, whose names `specs.py` reads, and knows them by their weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from memformer import MemformerConfig
from memformer.checkpoint import OWN_BACKBONE
from memformer.pretrained import DEFAULT_MODEL
from transformers import AutoConfig

from eval.harness.benchmark import Benchmark
from eval.harness.desk import Desk
from eval.harness.memories import Memory, Session
from eval.harness.prompts import STYLES, Prompts, wording
from eval.harness.retrieval import PACKAGES, Dense, Finder, NoRetrieval, bm25, check_packages
from eval.harness.specs import TRAINED, BadSystem, Spec
from eval.harness.systems import Full, Nothing, Retrieval, Sliding, System, Truncated
from eval.reporting.opening import open_model

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def check(specs: Sequence[Spec]) -> None:
    """Finds the mistakes that show before a model is opened.

    Raises:
        BadSystem: a system lacks a package, or a user's own class can't be imported.
    """
    for spec in specs:
        try:
            check_packages(spec.name)
        except NoRetrieval as error:
            raise BadSystem(str(error)) from None
        if ":" in spec.name:
            _own(spec)


@dataclass
class Roster:
    """Opens the systems of a run, one after the other.

    Args:
        model: the run's model: hub id or folder.
        style: the style of systems that name none.
        device: the device of models.
        dtype: torch's name for the type of weights and activations.
        encoder: the encoder of `dense`.
    """

    model: str
    style: str
    device: str = "cpu"
    dtype: str = "float32"
    encoder: str = ENCODER

    def __post_init__(self) -> None:
        self._opened: tuple[str, Any, Any, dict[str, str]] | None = None
        self._finders: dict[str, Finder] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the run's model."""
        return self._open(self.model)[1]

    def open_finders(self, specs: Sequence[Spec]) -> None:
        """Opens the searches of the systems.

        Raises:
            BadSystem: the encoder can't be opened.
        """
        for spec in specs:
            if spec.name in PACKAGES:
                self._finder(spec.name)

    def fingerprints(self, specs: Sequence[Spec]) -> dict[str, dict[str, str]]:
        """Fingerprints of the systems' weights, by the names of their models.

        Raises:
            BadSystem: a model can't be switched as a system says.
        """
        names = dict.fromkeys(self._name(spec) for spec in specs)
        found = {}
        for name in names:
            found[name] = self._open(name)[2]
            for spec in specs:
                if self._name(spec) == name:
                    self._view(spec)  # a switch that can't be is refused before anything is asked
        # a user's own class may open any file of its folder, so all files count
        own = (spec.model for spec in specs if ":" in spec.name and spec.model is not None)
        for name in own:
            found[name] = found.get(name, {}) | _files(Path(name))
        return found

    def wording(self, specs: Sequence[Spec], benchmark: Benchmark) -> dict[str, str]:
        """A checksum of the benchmark's words in each style: other words get other answers.

        Raises:
            BadSystem: the tokenizer's chat template can't be used.
        """
        first = next(one for document in benchmark.documents for one in document.questions)
        styles = dict.fromkeys(spec.style or self.style for spec in specs)
        return {
            style: wording(self._prompts(style, self.tokenizer, benchmark), first)
            for style in styles
        }

    def identities(
        self,
        specs: Sequence[Spec],
        fingerprints: Mapping[str, dict[str, str]],
        wording: Mapping[str, str],
    ) -> dict[str, dict[str, Any]]:
        """The identity of each system: stored answers of another identity are not its answers.

        Args:
            specs: the systems.
            fingerprints: the fingerprints of their models.
            wording: the checksums of the words in their styles.
        """
        found = {}
        for spec in specs:
            names = dict.fromkeys(filter(None, (self._name(spec), spec.model)))
            found[spec.text] = {
                "fingerprints": [fingerprints[name] for name in names],
                "wording": wording[spec.style or self.style],
                "encoder": self.encoder if spec.name == "dense" else None,
            }
        return found

    def system(self, spec: Spec, benchmark: Benchmark, advance: Callable[[int], None]) -> System:
        """A system that is ready to read.

        Raises:
            BadSystem: the system lacks a package, an encoder or a chat template, or a user's own
                class can't be opened or can't rank the options of the benchmark.
        """
        model, tokenizer = self._view(spec), self._open(self._name(spec))[1]
        prompts = self._prompts(spec.style or self.style, tokenizer, benchmark)
        desk = Desk(model, tokenizer, prompts, benchmark.max_new_tokens, advance)
        number = () if spec.number is None else (spec.number,)
        match spec.name:
            case "nothing":
                return Nothing(desk)
            case "full":
                return Full(desk)
            case "truncated":
                return Truncated(desk, *number)
            case "sliding":
                return Sliding(desk, *number)
            case "bm25" | "dense" if spec.in_tokens:
                return Retrieval(desk, self._finder(spec.name), tokens=spec.number)
            case "bm25" | "dense":
                return Retrieval(desk, self._finder(spec.name), *number)
            case "memformer" | "attached":
                return Memory(desk, spec.number)
            case "ungated":
                return Memory(desk, spec.number, gated=False)
            case "session":
                return Session(desk, spec.number)
        try:
            own = _own(spec)(desk, spec.number, spec.model)
        except (OSError, ValueError) as error:
            raise BadSystem(f"the system {spec.text!r} can't be had: {error}") from None
        if benchmark.ranks and not hasattr(own, "rank"):
            raise BadSystem(f"the system {spec.text!r} has no method rank, and there are options.")
        return own

    def _prompts(self, style: str, tokenizer: Any, benchmark: Benchmark) -> Prompts:
        try:
            return STYLES[style](
                tokenizer, benchmark.instruction, benchmark.marks, benchmark.ranking
            )
        except ValueError as error:
            raise BadSystem(f"{error} Ask in plain text, with --style plain.") from None

    def _name(self, spec: Spec) -> str:
        """The name of the model of a system."""
        if ":" in spec.name:
            return self.model
        if spec.model is not None:
            return spec.model
        return self.model if spec.name in TRAINED else released(self.model)

    def _view(self, spec: Spec) -> Any:
        """The model of a system, with the switches of the system.

        Raises:
            BadSystem: the model can't be switched so.
        """
        model = self._open(self._name(spec))[0]
        if not spec.switches:
            return model
        try:
            return model.with_memory(**spec.switches)
        except ValueError as error:
            raise BadSystem(f"the system {spec.text!r} can't be had: {error}") from None

    def _open(self, name: str) -> tuple[Any, Any, dict[str, str]]:
        """A model, its tokenizer and its fingerprint. Only one model is held at a time."""
        if self._opened is None or self._opened[0] != name:
            self._opened = None
            model: Any
            model, tokenizer = open_model(name, self.device, self.dtype)
            self._opened = (name, model, tokenizer, model.fingerprint)
        return self._opened[1:]

    def _finder(self, name: str) -> Finder:
        try:
            if name not in self._finders:
                self._finders[name] = bm25 if name == "bm25" else Dense(self.encoder, self.device)
        except NoRetrieval as error:
            raise BadSystem(str(error)) from None
        return self._finders[name]


def _files(path: Path) -> dict[str, str]:
    """A checksum of all files in a folder; empty if the path is no folder."""
    digest = sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return {"files": digest.hexdigest()[:16]} if path.is_dir() else {}


def _own(spec: Spec) -> Callable[..., System]:
    """A user's own class, named package.module:Class.

    Raises:
        BadSystem: the class can't be imported.
    """
    module, _, attribute = spec.name.partition(":")
    try:
        found: Callable[..., System] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadSystem(f"the system {spec.name!r} can't be imported: {error}.") from None
    return found


def released(name: str) -> str:
    """The decoder of a checkpoint; for any other model, the model itself."""
    if name == DEFAULT_MODEL:
        return name
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        return name  # opening the model reports the mistake
    if not isinstance(config, MemformerConfig):
        return name
    # a decoder without a name lies in the checkpoint
    return str((config.backbone or {}).get("name") or Path(name, OWN_BACKBONE))
