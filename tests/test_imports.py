"""What importing costs, and that every order of imports works: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

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
