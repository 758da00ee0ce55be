"""Trains the write gate: the memory learns to keep facts and to leave out the book around them.

    python examples/train_the_write_gate.py gate-first                # the default decoder
    python examples/train_the_write_gate.py gate-tiny --model FOLDER  # another decoder

A training text tells six facts, goes on with a page of a book, and asks for one fact. The loss is
that of the answer, and of writing more than a budget. Only the gate learns. It takes about two
minutes on a CPU, with a tiny decoder some seconds. For real use: `python -m training.gate`.
"""

import argparse
import random
from pathlib import Path

import torch
from transformers import AutoTokenizer

from memformer import MemformerForCausalLM, MemoryConfig, fetch

WORDS = (Path(__file__).parents[1] / "training" / "data" / "garden.txt").read_text().split()
NAMES = "Anna Boris Clara David Emma Farid Greta Hugo Ines Jonas Karl".split()
TOWNS = "Lisbon Oslo Rome Cairo Lima Delhi Paris Quito Tokyo Madrid Riga".split()
TEST_FACTS = "Lena lives in Vienna. Maria lives in Boston. Nils lives in Geneva."
TEST_PAGE = " ".join(WORDS[-200:])

parser = argparse.ArgumentParser(description="Trains the write gate.")
parser.add_argument("out", help="folder for the checkpoint")
parser.add_argument("--model", help="folder or hub name of a decoder")
given = parser.parse_args()

decoder = given.model or fetch()
tokenizer = AutoTokenizer.from_pretrained(decoder)
config = MemoryConfig(segment_tokens=64, write_budget=0.3)  # 30 % of the tokens of a text
model = MemformerForCausalLM.from_pretrained(decoder, memory_config=config)
model.requires_grad_(False)
gate = [weight for name, weight in model.named_parameters() if "write_gate" in name]
optimizer = torch.optim.Adam([weight.requires_grad_() for weight in gate], lr=0.005)
draw = random.Random(0)
for step in range(51):
    if step % 25 == 0:
        model.eval()
        for name, text in (("facts", TEST_FACTS), ("book", TEST_PAGE)):
            ids = tokenizer(text, return_tensors="pt").input_ids
            kept = model.memorize(ids).closed().occupied.sum() / ids.shape[1]
            print(f"step {step}: {kept:.0%} of the {name} written")
    names, towns = draw.sample(NAMES, 6), draw.sample(TOWNS, 6)
    facts = [f"{name} lives in {town}." for name, town in zip(names, towns, strict=True)]
    begin, asked = draw.randrange(len(WORDS) - 400), draw.randrange(6)
    page = " ".join([*facts, *WORDS[begin : begin + 70]])
    question = f"\n\nWhere does {names[asked]} live? {names[asked]} lives in"
    text = tokenizer([page + question, f" {towns[asked]}."], add_special_tokens=False).input_ids
    labels = [-100] * len(text[0]) + text[1]  # the loss is that of the answer
    model.train()
    model(torch.tensor([sum(text, [])]), labels=torch.tensor([labels])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.save_pretrained(given.out)
tokenizer.save_pretrained(given.out)
print(f"saved in {given.out}")
