"""Peers: what their memories do, how far gradients reach, and that they train, save and answer."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from eval.harness import command
from eval.peers.armt import ARMT, Associations, Layer, features
from eval.peers.rmt import RMT
from eval.peers.system import load, segments
from tests.eval.toy import said, toy
from tests.tiny import byte_tokenizer, save_tiny
from training import peers
from training.baselines import groups as baselines
from training.baselines.loss import loss
from training.data.records import parse
from training.finetuning.documents import tokenised

KINDS = [RMT, ARMT]


def ones(ids: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(ids, dtype=torch.bool)


def read(peer: Any, *segments: torch.Tensor) -> Any:
    """The state after some segments that are text throughout."""
    state = peer.empty()
    for ids in segments:
        state = peer.read(ids, ones(ids), state)
    return state


FIRST, SECOND = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
ASKED = torch.tensor([[12, 13]])


@pytest.fixture
def backbone(tmp_path: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(save_tiny(tmp_path).parent / "base")


def lively(peer: Any) -> Any:
    """With values that are not zero, so that there is something to find."""
    for layer in getattr(peer, "layers", []):
        torch.nn.init.normal_(layer.value.weight, std=0.3)
    return peer


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_first_matters_later_and_its_gradient_goes_back(
    kind: Any, backbone: Any
) -> None:
    peer = lively(kind(backbone))
    text = backbone.get_input_embeddings()

    def after(first: torch.Tensor) -> torch.Tensor:
        return peer.logits(ASKED, read(peer, first, SECOND))

    assert not torch.allclose(after(FIRST), after(FIRST + 1))
    after(FIRST).square().mean().backward()
    reached = text.weight.grad.abs().sum(-1)
    assert reached[5:9].min() > 0  # full backpropagation through time
    assert peer.memory.grad.abs().sum() > 0


def test_rmt_reads_memory_before_and_takes_it_from_behind_the_text(backbone: Any) -> None:
    peer = RMT(backbone, tokens=3)
    text = backbone.get_input_embeddings()(FIRST)
    both = torch.cat([peer.memory, text, peer.memory], 1)
    states = backbone(inputs_embeds=both, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(read(peer, FIRST), states[:, -3:])
    logits = backbone(inputs_embeds=torch.cat([peer.memory, text], 1)).logits
    torch.testing.assert_close(peer.logits(FIRST, peer.empty()), logits[:, 3:])
    torch.testing.assert_close(
        peer.logits(FIRST, peer.empty(), at=torch.tensor([1, 3])), logits[:, [4, 6]]
    )


def test_armt_begins_as_its_backbone(backbone: Any) -> None:
    peer = ARMT(backbone)
    state = read(peer, FIRST, SECOND)
    torch.testing.assert_close(peer.logits(ASKED, state), backbone(ASKED).logits)
    at = torch.tensor([1])
    torch.testing.assert_close(peer.logits(ASKED, state, at=at), backbone(ASKED).logits[:, 1:])


def test_armt_finds_what_was_written_and_a_second_value_replaces_the_first() -> None:
    layer = Layer(width=8, keys=4)
    torch.nn.init.eye_(layer.value.weight)
    torch.nn.init.zeros_(layer.strength.weight)
    torch.nn.init.constant_(layer.strength.bias, 50.0)  # written entirely
    layer.query = layer.key
    one = torch.randn(1, 1, 8)
    held = layer.written(one, Associations(torch.zeros(1, 24, 8), torch.zeros(1, 24)))
    torch.testing.assert_close(layer.found(one, held), one, atol=1e-3, rtol=1e-3)
    # under the same key: the projection of keys sees half of what values see
    torch.nn.init.zeros_(layer.key.weight[:, 4:])
    held = layer.written(one, Associations(torch.zeros(1, 24, 8), torch.zeros(1, 24)))
    other = torch.cat([one[..., :4], -one[..., 4:]], -1)
    again = layer.written(other, held)
    torch.testing.assert_close(layer.found(one, again), other, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(again.weight, held.weight, atol=1e-3, rtol=1e-3)


def test_features_are_the_products_of_neighbours() -> None:
    found = features(torch.tensor([[2.0, -1.0]]))
    # relu of (2, -1, -2, 1) is (2, 0, 0, 1); products with itself shifted by 1, 2 and 3
    raw = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]])
    assert found.shape == (1, 12)
    torch.testing.assert_close(found, raw / math.sqrt(8), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_asked_together_and_a_cache_change_nothing(kind: Any, backbone: Any) -> None:
    from transformers import DynamicCache

    peer = lively(kind(backbone))
    with torch.no_grad():
        state = read(peer, FIRST)
        alone = peer.logits(ASKED, state)
        padded = torch.tensor([[12, 13, 0, 0], [9, 8, 7, 6]])
        padded = peer.logits(padded, peer.rows(state, [0, 0]))
        torch.testing.assert_close(padded[:1, :2], alone)
        cache = DynamicCache()
        steps = [peer.logits(ASKED[:, n : n + 1], state, cache) for n in range(2)]
    torch.testing.assert_close(torch.cat(steps, 1), alone)


def record(number: int) -> dict[str, Any]:
    text = f"Ada went to room {number}. Then she slept for a long time."
    return {
        "document": text,
        "questions": [
            {"question": "Which room?", "answer": str(number), "after": text.index(".") + 1},
            {"question": "Who?", "answer": "Ada"},
        ],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_documents_side_by_side_are_read_as_alone(kind: Any, backbone: Any) -> None:
    """However long the others are: their losses add up, and so do their gradients."""
    torch.manual_seed(0)
    peer = lively(kind(backbone, 2))
    long = record(7) | {
        "document": "Bob sang a song about a river, and then " + record(7)["document"]
    }
    long["questions"][0]["after"] = len(long["document"])
    tokenizer = byte_tokenizer()
    both = [tokenised(parse(one, "here"), tokenizer, "plain") for one in (record(3), long)]
    assert len(both[0].ids) != len(both[1].ids)

    def found(*documents: Any) -> tuple[torch.Tensor, torch.Tensor]:
        total = loss(peer, documents, segment_tokens=16)
        return total, torch.autograd.grad(total, peer.memory)[0]

    together, alone = found(*both), [found(one) for one in both]
    torch.testing.assert_close(together[0], alone[0][0] + alone[1][0])
    torch.testing.assert_close(together[1], alone[0][1] + alone[1][1])


def test_questions_are_asked_where_they_stand(backbone: Any) -> None:
    """In the segment of the text before them; what comes after must not be known."""
    tokenizer = byte_tokenizer()
    document = tokenised(parse(record(3), "here"), tokenizer, "plain")
    done: list[tuple[str, list[int]]] = []

    class Watched(RMT):
        def read(self, ids: Any, there: Any, memory: Any) -> Any:
            assert there.all()
            done.append(("read", ids[0].tolist()))
            return super().read(ids, there, memory)

        def logits(self, ids: Any, memory: Any, cache: Any = None, at: Any = None) -> Any:
            done.append(("asked", ids[0].tolist()))
            return super().logits(ids, memory, cache, at)

    assert loss(Watched(backbone, 2), [document], segment_tokens=16).requires_grad
    bounds = document.cut(16)
    expected: list[tuple[str, list[int]]] = []
    for begin, end in itertools.pairwise(bounds):
        for aside in document.asides:
            if begin < aside.after <= end:
                expected.append(("asked", [*document.ids[begin : aside.after], *aside.ids]))
        if end < bounds[-1]:
            expected.append(("read", list(document.ids[begin:end])))
    assert done == expected
    assert [kind for kind, _ in done].count("asked") == 2 and len(bounds) > 3
    first = document.asides[0].after
    assert first not in bounds  # asked in the midst of a segment


def test_a_document_is_read_up_to_a_question_and_at_first_to_early_ones() -> None:
    tokenizer = byte_tokenizer()
    document = tokenised(parse(record(3), "here"), tokenizer, "plain")
    first, second = (aside.after for aside in document.asides)
    most = len(document.cut(first)) - 1
    groups = baselines.grouped([document, document], first, most)
    assert [[len(one.ids) for one in group] for group in groups] == [[first] * 2, [second] * 2]
    for share, ends in {
        0.0: {first},
        0.24: {first},
        0.25: {first, second},
        1.0: {first, second},
    }.items():
        drawn = [baselines.drawn(groups, 2, share, str(seed)) for seed in range(20)]
        assert {len(one.ids) for some in drawn for one in some} == ends
        assert all(len({len(one.ids) for one in some}) == 1 for some in drawn)
    assert [len(group) for group in baselines.grouped([document], first, 1)] == [1]
    with pytest.raises(typer.BadParameter, match="within --segments 1 of 2 tokens; raise"):
        baselines.grouped([document], 2, 1)
    early = baselines.beginning(document, first)
    assert early.ids == document.ids[:first]
    assert early.asides == document.asides[:1]
    chats = [{"role": "user", "content": f"I am in room {n}."} for n in range(3)]
    talk = tokenised(parse({"document": chats}, "here"), tokenizer, "plain")
    assert baselines.beginning(talk, talk.begins[1]).cut(1000) == [0, *talk.begins]


def test_a_text_is_cut_as_in_training() -> None:
    tokenizer = byte_tokenizer()
    text = "Ada went to the old mill. Was she late? She was! Then she slept, and slept. So it went."
    document = tokenised(parse({"document": text}, "here"), tokenizer, "plain")
    last = {tokenizer.convert_tokens_to_ids(mark) for mark in ".!?"}
    for longest in (2, 7, 16, 30, 200):
        cut = [len(one) for one in segments(document.ids, longest, last)]
        bounds = document.cut(longest)
        assert cut == [end - begin for begin, end in itertools.pairwise(bounds)]
    assert len(cut) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_learns_to_carry_what_an_earlier_segment_said(kind: Any, backbone: Any) -> None:
    """One of four tokens, over a segment that says nothing of it; a guess has a loss of 1.39."""
    torch.manual_seed(0)
    peer = kind(backbone, 4)
    optimizer = torch.optim.Adam(peer.parameters(), lr=3e-3)
    for _ in range(120):
        told = torch.randint(10, 14, (32, 1))
        between, asked = torch.randint(20, 40, (32, 3)), torch.full((32, 1), 6)
        state = peer.empty(32)
        for ids in (told, between):
            state = peer.read(ids, ones(ids), state)
        loss = torch.nn.functional.cross_entropy(peer.logits(asked, state)[:, -1], told[:, 0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize("name", ["rmt", "armt"])
def test_a_peer_learns_is_saved_and_answers_as_a_system(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    base = str(folder.parent / "base")
    data = tmp_path / "rooms.jsonl"
    data.write_text("".join(json.dumps(record(n % 3)) + "\n" for n in range(6)))
    few = ["--steps", "30", "--documents", "2", "--segment-tokens", "32", "--rank", "4"]
    options = ["--model", base, *few, "--rate", "0.01", "--threads", "1"]
    result = CliRunner().invoke(
        peers.app, [name, str(data), "--out", str(tmp_path / "peer"), *options]
    )
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "peer" / "peer.json").read_text())
    assert (settings["peer"], settings["segment_tokens"]) == (name, 32)
    losses = settings["losses"]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    names = {path.name for path in (tmp_path / "peer").iterdir()}
    assert names == {"peer.json", "peer.safetensors", "adapter", "checkpoints"}
    peer, _ = load(tmp_path / "peer")
    assert not peer.training
    system = f"eval.peers.system:Saved@{tmp_path / 'peer'}"
    arguments = [str(folder), "--systems", system, "--style", "plain", "--threads", "1"]
    asked = CliRunner().invoke(
        command.command(toy), [*arguments, "--cases", "1", "--out", str(tmp_path / "out")]
    )
    assert asked.exit_code == 0, asked.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["overall"][0]["scores"] is not None
    assert report["overall"][0]["state_bytes"] > 0
    assert len(report["predictions"]) == 2 * 2


@pytest.mark.parametrize("name", ["rmt", "armt"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    base = str(save_tiny(tmp_path / "model").parent / "base")
    data = tmp_path / "rooms.jsonl"
    data.write_text("".join(json.dumps(record(n)) + "\n" for n in range(6)))
    few = ["--steps", "4", "--documents", "3", "--segment-tokens", "16", "--rank", "2"]
    few += ["--save-every", "2"]

    def run(out: str, *options: str) -> Any:
        arguments = [name, str(data), "--out", str(tmp_path / out), "--model", base, *few]
        result = CliRunner().invoke(
            peers.app, [*arguments, "--threads", "1", *options], terminal_width=300
        )
        return result.exit_code, said(result) if result.exit_code else result.output

    assert run("whole")[0] == 0
    code, told = run("parts", "--minutes", "0")
    assert code == 0 and "stopped at step 1; go on with --resume" in told
    assert not (tmp_path / "parts" / "peer.json").exists()
    for options, message in {
        (): "is not empty; go on with --resume",
        ("--resume", "--rate", "0.5"): "has rate 0.001, not 0.5; resume with the same",
    }.items():
        code, told = run("parts", *options)
        assert code == 2 and message in told
    code, told = run("nothing", "--resume")
    assert code == 2 and "There is no checkpoint in" in told
    for _ in range(2):  # a run that is done can be resumed too, and stays as it is
        assert run("parts", "--resume")[0] == 0
    for file in ("peer.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    losses = [
        json.loads((tmp_path / out / "peer.json").read_text())["losses"]
        for out in ("whole", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rmt", "no.jsonl"], "no.jsonl can't be read"),
        (["rmt", "no.jsonl", "--model", "nowhere/at-all"], "no.jsonl can't be read"),
        (["rmt", "plain.jsonl", "--model", "nowhere"], "the model 'nowhere' can't be opened"),
        (["rmt", "plain.jsonl", "--out", "model"], "model is not empty; go on with --resume"),
        (["lm2", "no.jsonl"], "Invalid value"),
        (["rmt", "plain.jsonl"], "no document of the data has a question"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(save_tiny(tmp_path / "model").parent / "base")
    monkeypatch.chdir(tmp_path)
    Path("plain.jsonl").write_text('{"document": "Ada slept."}\n')
    options = ["--model", base, "--out", "peer"]
    result = CliRunner().invoke(peers.app, [*options, *arguments], terminal_width=200)
    assert result.exit_code == 2
    assert message in said(result)
    assert not Path("peer").exists()


def test_a_folder_without_a_peer_is_one_sentence(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    for system, message in {
        f"eval.peers.system:Saved@{tmp_path}": "holds no peer as training.peers writes it",
        "eval.peers.system:Saved": "is written eval.peers.system:Saved@FOLDER",
    }.items():
        arguments = [str(folder), "--systems", system, "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(command.command(toy), arguments, terminal_width=300)
        assert result.exit_code == 2
        assert message in said(result)
