"""No call meets another: threads, interruptions, copies, other processes, adapters, compilation."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch
from backbones import FAMILIES, random_ids, tiny_backbone
from peft import LoraConfig, get_peft_model
from test_forms import SEGMENT, attached
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from memformer import MemformerForCausalLM, MemoryConfig
from memformer.attach.backbone import Backbone
from memformer.attach.mixing import BoundConfig

USERS = 8
QUESTION = random_ids(1, SEGMENT - 1, seed=50)


class Users:
    """Users of one model, each with a memory of their own, and the right results of their calls."""

    def __init__(self, model: MemformerForCausalLM) -> None:
        self.model = model
        self.memories = [model.memorize(random_ids(1, 21, seed=user)) for user in range(USERS)]
        self.right = [[self.call(user, kind) for kind in range(4)] for user in range(USERS)]

    @torch.no_grad()
    def call(self, user: int, kind: int) -> torch.Tensor:
        """What one call gives: logits with a memory or without, generated ids, what was written."""
        memory = self.memories[user]
        if kind == 0:
            return self.model(QUESTION, memory=memory).logits
        if kind == 1:
            return self.model((QUESTION + user) % 97).logits
        if kind == 2:
            options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
            return self.model.generate(QUESTION, memory=memory, **options)
        return self.model.memorize(QUESTION, memory=memory).keys

    def is_right(self, user: int, kind: int) -> bool:
        return torch.equal(self.call(user, kind), self.right[user][kind])


def test_users_differ():
    """Where they did not, the tests below could not fail."""
    users = Users(attached())
    for kind in (0, 1, 3):
        for user in range(1, USERS):
            assert not torch.equal(users.right[user][kind], users.right[0][kind])
    assert len({tuple(users.right[user][2][0].tolist()) for user in range(USERS)}) > 1


def test_threads_that_share_a_model_get_their_own_answers():
    users = Users(attached(memory_layers=(1, 3)))
    calls = [(number % USERS, (number // USERS) % 4) for number in range(1000)]
    random.Random(0).shuffle(calls)
    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(lambda call: users.is_right(*call), calls))
    assert right.count(False) == 0


class _Interrupted(BaseException):
    """As a KeyboardInterrupt is: no exception that code in between would catch."""


# Python prints, and does not raise, an exception that falls into a weak reference's callback
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_an_interruption_at_any_moment_leaves_nothing_for_the_next_call():
    users = Users(attached())
    moments = random.Random(0)
    # one call takes a few milliseconds: interrupt anywhere in it
    interrupted = wrong = 0

    def stop(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for number in count():
            # how many calls are interrupted depends on how fast the machine is
            if number >= 1000 and interrupted > 100:
                break
            grad = torch.is_grad_enabled()
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 6e-3))
                users.call(0, number % 4)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except _Interrupted:
                interrupted += 1
            torch.set_grad_enabled(grad)
            wrong += not users.is_right(1 + number % (USERS - 1), number % 4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert wrong == 0


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_failure_between_read_and_projection_is_the_failing_calls_alone(error, monkeypatch):
    users = Users(attached())

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("memformer.attach.mixing.ALL_ATTENTION_FUNCTIONS.get_interface", fail)
        with pytest.raises(type(error)):
            users.call(0, 0)
    for user in range(1, USERS):
        assert all(users.is_right(user, kind) for kind in range(4))
    with torch.no_grad():
        assert users.model(random_ids(2, 5)).logits.shape == (2, 5, 97)
    for layer in users.model.memory_layers:
        attention = Backbone.of(users.model.backbone).attention(layer.layer)
        assert not any(module._forward_pre_hooks for module in attention.children())


def test_calibration_sees_its_own_call_alone():
    """Other threads may use a backbone while a memory is attached to it."""
    backbone = tiny_backbone()
    view, stop = Backbone.of(backbone), threading.Event()
    wanted = view.attention_inputs(QUESTION)

    def others() -> None:
        with torch.no_grad():
            while not stop.is_set():
                backbone(random_ids(1, 5))

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(50):
            inputs = view.attention_inputs(QUESTION)
            assert len(inputs) == len(wanted)
            assert all(torch.equal(one, other) for one, other in zip(inputs, wanted, strict=True))
    finally:
        stop.set()
        thread.join()


def _logits(model: MemformerForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        memory = model.memorize(random_ids(1, 21))
        return model(QUESTION, memory=memory).logits


def _elsewhere(data: bytes, pipe: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    pipe.send_bytes(pickle.dumps(_logits(pickle.loads(data))))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_copies_and_other_processes_compute_the_same(family):
    model = attached(family)
    wanted = _logits(model)
    twin = copy.deepcopy(model)
    assert torch.equal(_logits(twin), wanted)
    first = Backbone.of(twin.backbone).attention(0)
    assert isinstance(first.config, BoundConfig)
    assert first.config.config is twin.backbone.config is not model.backbone.config
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_elsewhere, args=(pickle.dumps(model), there))
    worker.start()
    assert torch.equal(pickle.loads(here.recv_bytes()), wanted)
    worker.join()


def test_an_adapter_before_or_after_the_memory_is_the_same_model():
    lora = LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    config = MemoryConfig(segment_tokens=SEGMENT, memory_layers="all")
    torch.manual_seed(5)
    before = MemformerForCausalLM.from_backbone(get_peft_model(tiny_backbone(), lora), config)
    after = MemformerForCausalLM.from_backbone(tiny_backbone(), config)
    after.backbone = get_peft_model(after.backbone, lora)
    after.load_state_dict(before.state_dict())
    plain = attached().eval()
    assert torch.equal(_logits(before.eval()), _logits(after.eval()))
    assert not torch.equal(_logits(after), _logits(plain))


def test_a_compiled_backbone_reads_the_memory():
    model = attached(memory_layers=(2,))
    wanted = _logits(model)
    model.backbone.compile(backend="eager")
    assert torch.equal(_logits(model), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_may_be_changed_after_a_memory_is_attached(family):
    if family == "gemma2":
        pytest.skip("transformers has no sdpa kernel for gemma2")
    model = attached(family)
    wanted = _logits(model)
    model.backbone.set_attn_implementation("eager")
    torch.testing.assert_close(_logits(model), wanted, rtol=0, atol=1e-4)
    with torch.no_grad():
        memory = model.memorize(random_ids(1, 21))
        weights = model(QUESTION, memory=memory, output_attentions=True).attentions
    assert all(layer.shape[-2:] == (SEGMENT - 1, SEGMENT - 1) for layer in weights)


def test_gpt2s_own_eager_attention_stays():
    options = {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}
    backbone = tiny_backbone("gpt2", attn_implementation="eager", **options)
    with torch.no_grad():
        plain = backbone(QUESTION).logits
    model = MemformerForCausalLM.from_backbone(backbone, MemoryConfig(memory_layers="all"))
    with torch.no_grad():
        assert torch.equal(model(QUESTION).logits, plain)
        memory = model.memorize(random_ids(1, 21))
        assert not torch.equal(model(QUESTION, memory=memory).logits, plain)


def test_a_kernel_sees_the_backbones_own_config():
    """Flash attention looks into the module's config for which kernel it is."""
    seen = []

    def attend(module, *args, **kwargs):
        seen.append(module.config._attn_implementation)
        return sdpa_attention_forward(module, *args, **kwargs)

    model = attached()
    wanted = _logits(model)
    AttentionInterface.register("watched", attend)
    model.backbone.config._attn_implementation_internal = "watched"
    assert torch.equal(_logits(model), wanted)
    assert set(seen) == {"watched"}


def test_attention_outside_the_interface_is_refused(monkeypatch):
    backbone = tiny_backbone()
    attention = type(Backbone.of(backbone).attention(0))
    monkeypatch.setattr(
        attention, "forward", lambda self, hidden_states, **_: (hidden_states, None)
    )
    with pytest.raises(ValueError, match="does not attend through transformers' attention interf"):
        MemformerForCausalLM.from_backbone(backbone, MemoryConfig(memory_layers="all"))
