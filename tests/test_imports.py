"""Imports load nothing heavy, work in every order, and point one way.

The arrows are read from the source: imports inside functions and for types count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import memformer

KNOWN = """
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("memformer")
assert type(config).__name__ == "MemformerConfig", config
assert AutoModelForCausalLM._model_mapping[type(config)].__name__ == "MemformerForCausalLM"
"""


def run(code: str, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "first",
    [
        "import memformer",
        "import transformers; import memformer",
        "from transformers import AutoConfig; import memformer",
        "from transformers import AutoModelForCausalLM; import memformer",
        "import memformer.config",
        "import memformer.model",
        "import memformer.checkpoint",
        "import memformer.checkpoint.decoders",
        "import memformer.checkpoint.loading",
        "import memformer.attached",
        "import memformer.chat",
        "from memformer import MemoryConfig",
        "from memformer import ChatSession",
    ],
)
def test_the_auto_classes_know_memformer_in_any_order_of_imports(first):
    run(first + KNOWN)


def test_importing_memformer_loads_nothing_heavy():
    heavy = ("torch", "transformers", "peft", "faiss", "datasets", "accelerate", "safetensors")
    code = f"import sys, memformer; print([one for one in {heavy} if one in sys.modules])"
    assert run(code) == "[]\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["chat", "--help"], ["chat"], ["nonsense"], []]
)
def test_help_and_mistakes_on_the_command_line_load_nothing_heavy(arguments):
    code = (
        "import sys; from memformer.cli import main\n"
        f"sys.argv = ['memformer', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded', [one for one in ('torch', 'transformers') if one in sys.modules])"
    )
    assert run(code).endswith("loaded []\n")


def test_all_public_names_are_there():
    for name in memformer.__all__:
        assert getattr(memformer, name) is not None
    assert set(memformer.__all__) <= set(dir(memformer))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        memformer.nonsense  # noqa: B018


# The library, from the lowest file to the highest: a file imports files before it, and none after.
# The package's own `__init__` is left out: it names everything, and no file may import it.
ORDER = """
version config segments conventions sources pretrained template documents replies
memory.columns memory.parts memory.file memory.addressing memory.links memory.entries
memory.record memory.passages memory.finding memory.check memory.read memory.saving memory.state
memory.chunk memory.gate memory.reach memory.commit memory.memory_pass memory
classic.controller classic.addressing classic.links classic.sparse classic.search classic.step
classic.ntm classic.dnc classic.sam classic.segment classic
attach attach.backbone attach.borders attach.words attach.finders attach.mixing attach.calibrate
attach.heads attach.layers attach.hooks attach.questions attach.choosing attach.names
checkpoint checkpoint.card checkpoint.decoders checkpoint.saving checkpoint.merging
checkpoint.loading
checks fingerprints cache engine words recollection asides generation attached model
turns recalling rereading folder store reading chat
cli.output cli.application cli.inputs cli.demo cli.documents cli.conversation cli.commands cli.talk
cli.memories cli __main__
""".split()
LIBRARY = Path(memformer.__file__).parent


def files(folder: Path) -> dict[str, str]:
    """The source of every module below a package, by its name inside the package."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def imported(source: str, package: str, known: set[str]) -> set[str]:
    """The modules of a package that a file imports; "" is the package itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # from a.b import c: the module a.b.c if there is one, else a.b
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix(f"{package}.") in known else node.module
                     for name in inside]  # fmt: skip
            assert node.level == 0, "relative imports are not read here"
        for name in names:
            if name == package or name.startswith(f"{package}."):
                found.add(name.removeprefix(package).removeprefix("."))
    return found


def upward(sources: dict[str, str], order: list[str], package: str) -> list[str]:
    """Imports that do not point down, and files that have no place in the order."""
    place = {name: number for number, name in enumerate(order)}
    wrong = [f"{name or package} has no place" for name in sources if name and name not in place]
    wrong += [f"{name} is not there" for name in order if name not in sources]
    for name, source in sources.items():
        if not name:
            continue
        for other in imported(source, package, set(sources)) - {name}:
            if place.get(other, len(order)) > place.get(name, -1):
                wrong.append(f"{name} imports {other or package}")
    return wrong


def test_imports_of_the_library_point_one_way():
    assert upward(files(LIBRARY), ORDER, "memformer") == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from package.high import x", ["low imports high"]),
        ("def f():\n    import package.high", ["low imports high"]),
        ("if TYPE_CHECKING:\n    from package.high import X", ["low imports high"]),
        ("from package import high", ["low imports high"]),
        ("from package import x", ["low imports package"]),
        ("import other, other.high", []),
    ],
)
def test_an_import_that_points_up_is_noticed(source, wrong):
    sources = {"": "", "low": source, "high": "from package.low import x"}
    assert upward(sources, ["low", "high"], "package") == wrong


def test_a_file_without_a_place_is_noticed():
    assert upward({"": "", "low": "", "new": ""}, ["low"], "package") == ["new has no place"]
    assert upward({"": ""}, ["low"], "package") == ["low is not there"]
