"""The Language Model Evaluation Harness with a memory: `lm_eval`, and one model more.

    python -m eval.lm_harness run --model memformer --model_args pretrained=X,memory=on --tasks piqa

All arguments are those of `lm_eval` (EleutherAI, the extra `lm-eval`). `memory=on`: a text longer
than a segment is read segment by segment through the memory, so contexts may be longer than the
model's window; every request begins with an empty memory. `memory=off` is the backbone as the
checkpoint has it, without the memory.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
import typer

from eval.reporting.extras import require
from eval.reporting.opening import open_model

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError:
    require("eval.lm_harness", "lm_eval")
    raise

# tokens of a request with memory; the logits of all its tokens are kept at once
MAX_LENGTH = 16_384


class BadModel(ValueError):
    """A model that can't be opened as the arguments say; the message says why."""


@register_model("memformer")
class MemformerLM(HFLM):  # type: ignore[misc]
    """A model with its memory, or its backbone, for the harness.

    Args:
        pretrained: hub id or folder of a decoder or of a memformer checkpoint.
        memory: `on` or `off`.
        dtype: `float32` or `bfloat16`.
        device: the device; the harness names its first GPU by default, and a machine without a
            GPU uses its CPU.
        batch_size: requests at once.
        max_length: the most tokens of a request; the default is the window without memory, and
            16,384 with memory.

    Raises:
        BadModel: the model can't be opened, or `memory` is neither `on` nor `off`.
    """

    def __init__(
        self,
        pretrained: str,
        memory: Literal["on", "off"] = "on",
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str | None = None,
        batch_size: int | str = 1,
        max_length: int | None = None,
        **_: Any,
    ) -> None:
        # the harness may have read on and off of a command line as true and false
        wanted = {"on": True, "off": False, "True": True, "False": False}.get(str(memory))
        if wanted is None:
            raise BadModel(f"memory must be on or off; got {memory!r}.")
        if not torch.cuda.is_available() and (device or "cuda").startswith("cuda"):
            device = "cpu"
        device = device or "cuda"
        try:
            model: Any
            model, tokenizer = open_model(pretrained, device, dtype)
        except typer.BadParameter as error:
            raise BadModel(str(error)) from None
        super().__init__(
            pretrained=model if wanted else model.backbone,
            backend="causal",
            tokenizer=tokenizer,
            device=device,
            batch_size=batch_size,
            max_length=max_length or (MAX_LENGTH if wanted else None),
        )


def main() -> None:
    """The command `lm_eval`; a mistake about the model is a sentence, with exit status 2."""
    try:
        cli_evaluate()
    except BadModel as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
