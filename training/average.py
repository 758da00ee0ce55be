"""The mean of two checkpoints of the same form, such as of two parts of a training.

    python -m training.average runs/rereading-4 runs/rereading-5 runs/mean

Weights are averaged one by one; all else is the first one's. What one part learned too firmly is
softened by the other (Wortsman et al. 2022, arXiv:2203.05482). The adapter is written to its own
folder alone: `model.safetensors` holds the memory, and a Trainer can't resume from the mean.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.reporting.app import make_app
from training.setup.places import BadPlace, check_folder

MEMORY = "model.safetensors"
ADAPTER = "adapter/adapter_model.safetensors"
# files that tell of one run, which the mean is not
OF_ONE_RUN = ("checkpoints", "finetune.json", "log.jsonl", "README.md")


def mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of weights by name, in float32 and rounded once; whole numbers are the first one's.

    Raises:
        ValueError: a weight is missing, or has another shape or type, in one of them.
    """
    for name in sorted(one.keys() | other.keys()):
        forms = [(part[name].shape, part[name].dtype) for part in (one, other) if name in part]
        if len(forms) < 2 or forms[0] != forms[1]:
            raise ValueError(f"the weight {name} is not the same in form in both.")
    return {
        name: ((weight.float() + other[name].float()) / 2).to(weight.dtype)
        if weight.is_floating_point()
        else weight
        for name, weight in one.items()
    }


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    found = load_file(folder / name)
    return {key: value for key, value in found.items() if name == ADAPTER or "lora_" not in key}


def main(
    one: Annotated[Path, typer.Argument(help="Folder of a checkpoint with an adapter.")],
    other: Annotated[Path, typer.Argument(help="Another one, of the same form.")],
    out: Annotated[Path, typer.Argument(help="Folder for the mean; new or empty.")],
) -> None:
    try:
        check_folder(out, "name another OUT")
        found = {
            name: mean(_weights(one, name), _weights(other, name)) for name in (MEMORY, ADAPTER)
        }
    except (BadPlace, OSError, SafetensorError, ValueError) as error:
        raise typer.BadParameter(f"no mean can be made: {error}") from None
    shutil.copytree(one, out, ignore=shutil.ignore_patterns(*OF_ONE_RUN), dirs_exist_ok=True)
    for name, weights in found.items():
        save_file(weights, out / name, metadata={"format": "pt"})


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
