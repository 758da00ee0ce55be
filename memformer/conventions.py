"""`Conventions`: a mixin with the methods that users of transformers and peft expect of a model.

Each method either works, or raises an error whose sentence says what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn, cast

from torch import nn
from torch.nn.modules.module import _IncompatibleKeys

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# names of memory weights in version 0.1.0, which `from_pretrained` converts
_EARLIER = re.compile(r"memory\.\d+\.")


class _Block:
    """One `memory_disabled` block; its model is None once the block is over."""

    def __init__(self, model: Any) -> None:
        self.model = model


# the open blocks around this thread or task; another task may keep a copy of the tuple, with blocks
# that are over
_BLOCKS: ContextVar[tuple[_Block, ...]] = ContextVar("memory_disabled", default=())


def _open_blocks() -> tuple[_Block, ...]:
    return tuple(block for block in _BLOCKS.get() if block.model is not None)


def is_adapted(backbone: nn.Module) -> bool:
    """Whether peft has wrapped a backbone."""
    return hasattr(backbone, "get_base_model")


def check_adapter(backbone: Any) -> None:
    """Refuses adapters that a checkpoint can't hold.

    Raises:
        ValueError: the adapter is no LoRA named "default", put on with `peft.get_peft_model`.
    """
    if not is_adapted(backbone):
        if getattr(backbone, "_hf_peft_config_loaded", False):
            raise ValueError(
                "The backbone has an adapter that was added with add_adapter, which a checkpoint "
                "can't hold; put it on with model.backbone = peft.get_peft_model(backbone, config)."
            )
        return
    configs = backbone.peft_config
    kinds = {
        name: str(getattr(one.peft_type, "value", one.peft_type)) for name, one in configs.items()
    }
    if kinds != {"default": "LORA"}:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(
            f"A checkpoint can hold one LoRA adapter named 'default'; the backbone has {found}. "
            "Merge the others with backbone.merge_and_unload()."
        )
    if configs["default"].modules_to_save:
        raise ValueError(
            f"modules_to_save={configs['default'].modules_to_save} can't be kept in a checkpoint "
            "of memformer; leave it out, or unfreeze these modules of the backbone instead. The "
            "memory path is trained and saved anyway."
        )


class Conventions:
    """Methods that users of transformers and peft expect; see the module."""

    @property
    def _model(self) -> Any:
        return cast(Any, self)

    # ---- memory off ------------------------------------------------------------------------

    @contextmanager
    def memory_disabled(self) -> Iterator[None]:
        """Turns the memory off: within the block, the model reads no memory and writes none.

        It works as peft's `disable_adapter`, but other threads keep the memory, and an adapter on
        the backbone stays on. The memory is also off in an asyncio task that starts within the
        block, until the block is over. A generator that yields within the block leaves the memory
        off for its caller, until the generator leaves the block or is closed.
        """
        block = _Block(self)
        _BLOCKS.set((*_open_blocks(), block))
        try:
            yield
        finally:
            block.model = None
            _BLOCKS.set(_open_blocks())

    @property
    def is_memory_disabled(self) -> bool:
        """Whether this thread or asyncio task is within `memory_disabled`."""
        return any(block.model is self for block in _BLOCKS.get())

    # ---- parameters ------------------------------------------------------------------------

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many parameters are trained, and how many there are."""
        sizes = [(one.numel(), one.requires_grad) for one in self._model.parameters()]
        return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Prints the two numbers of parameters in peft's format."""
        trained, total = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trained:,d} || all params: {total:,d} || "
            f"trainable%: {100 * trained / total:.4f}"
        )

    def train(self, mode: bool = True) -> Any:
        """Sets training or evaluation mode, as in torch.

        Raises:
            ValueError: peft was put around the whole model, which freezes the memory path.
        """
        mixin: Any = super()
        memory = list(self._model.memory.parameters())
        if mode and memory and not any(one.requires_grad for one in memory):
            backbone = self._model.backbone
            inside = any("lora_" in name for name, _ in backbone.named_parameters())
            if inside and not is_adapted(backbone):
                raise ValueError(
                    "peft was put around the whole model, which freezes the memory path and would "
                    "not save it; wrap the backbone instead: model.backbone = "
                    "peft.get_peft_model(model.backbone, config)."
                )
        return mixin.train(mode)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads weights as in torch; a checkpoint of memformer may leave the frozen backbone out.

        transformers' Trainer calls this when it resumes a run or goes back to its best model.

        Raises:
            ValueError: the checkpoint leaves trained weights out, which would stay as they are, or
                its weights have earlier names.
        """
        if first := next((name for name in state_dict if _EARLIER.match(name)), None):
            raise ValueError(
                f"These weights have names of an earlier memformer, such as {first}; open their "
                "folder with MemformerForCausalLM.from_pretrained, which converts them. A run that "
                "the earlier memformer began can't be resumed with this one."
            )
        mixin: Any = super()
        trained = {name for name, one in self._model.named_parameters() if one.requires_grad}
        names = {name for name, _ in self._model.named_parameters()}
        memory = {name for name in names if name.startswith("memory.")}
        is_checkpoint = not strict and memory <= state_dict.keys()
        if is_checkpoint and (lost := sorted(trained - state_dict.keys())):
            raise ValueError(
                f"This checkpoint's model.safetensors leaves out {len(lost)} weights that are "
                f"trained, {lost[0]} among them; they are in its other folders. Open it with "
                "MemformerForCausalLM.from_pretrained(folder), or resume with training.finetune, "
                "which restores every part."
            )
        result = mixin.load_state_dict(state_dict, strict=strict, assign=assign)
        if not is_checkpoint:
            return result
        frozen = {name for name in self._model.state_dict() if name.startswith("backbone.")}
        missing = [name for name in result.missing_keys if name not in frozen]
        return _IncompatibleKeys(missing, result.unexpected_keys)

    # ---- embeddings ------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The input embeddings of the backbone."""
        return self._backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the input embeddings of the backbone."""
        self._backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The output embeddings of the backbone."""
        return self._backbone.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Sets the output embeddings of the backbone."""
        self._backbone.set_output_embeddings(new_embeddings)

    @property
    def _backbone(self) -> PreTrainedModel:
        backbone: PreTrainedModel = self._model.backbone
        return backbone

    # ---- the hub ---------------------------------------------------------------------------

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads the files that `save_pretrained` writes; a model card on the hub stays.

        Args:
            repo_id: the repository, such as "user/name"; made if it does not exist.
            commit_message: the message of the upload.
            private: whether a new repository is private.
            token: the token for the hub; None: the token that is stored on this machine.
            revision: the branch to upload to.
            create_pr: whether to upload as a pull request.

        Returns:
            The address of the upload.
        """
        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        has_card = hub.file_exists(repo_id, "README.md", revision=revision)
        with TemporaryDirectory() as folder:
            self._model.save_pretrained(folder)
            uploaded = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload a decoder with a memory",
                revision=revision,
                create_pr=create_pr,
                ignore_patterns=["README.md"] if has_card else None,
            )
        return str(uploaded.commit_url)

    # ---- what a model with a memory can't do ------------------------------------------------

    def _refuse_adapter(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            "An adapter goes on the backbone, where it is trained and saved with the memory: "
            "model.backbone = peft.get_peft_model(model.backbone, config)."
        )

    add_adapter = load_adapter = set_adapter = delete_adapter = _refuse_adapter
    enable_adapters = disable_adapters = active_adapters = get_adapter_state_dict = _refuse_adapter

    def _refuse_batching(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            "Continuous batching can't carry a memory for each row; call generate with prompts "
            "padded on the left and a memory of as many rows."
        )

    generate_batch = init_continuous_batching = _refuse_batching
    continuous_batching_context_manager = _refuse_batching
