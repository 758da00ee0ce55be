"""Attaches a memory to the default decoder, tells it facts, and asks for them. Nothing is trained.

    python examples/recall_without_training.py

The decoder alone can only guess. An untrained memory is the decoder's own attention over what was
told before, so it completes sentences that are begun; free answers need the trained checkpoint.
Takes about 20 seconds on two CPU cores, most of it for measuring where the decoder looks facts up.
"""

from __future__ import annotations

from transformers import AutoTokenizer

from memformer import MemformerForCausalLM, MemoryConfig, MemoryState, chat_ids, fetch

TOLD = (
    "Harold lives in Boston. Martha works as a gardener. Edith has a pet rabbit. "
    "Clifford plays the harp. Agnes likes to eat pears. Rupert was born in Geneva."
)
# a question, and how its answer begins
ASKED = (
    ("Where does Harold live?", "Harold lives in"),
    ("What does Martha do?", "Martha works as a"),
    ("What pet does Edith have?", "Edith has a pet"),
    ("What does Clifford play?", "Clifford plays the"),
    ("What does Agnes like to eat?", "Agnes likes to eat"),
    ("Where was Rupert born?", "Rupert was born in"),
)


def main() -> None:
    """Tells all facts in one turn, then asks each question with the memory and without."""
    decoder = fetch()  # downloaded once; any folder or hub name of a supported decoder will do
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    model = MemformerForCausalLM.from_pretrained(decoder, memory_config=MemoryConfig())
    memory = model.memorize(chat_ids(tokenizer, [{"role": "user", "content": TOLD}]))

    def answer(question: str, begun: str, memory: MemoryState | None) -> str:
        asked = [{"role": "user", "content": question}]
        ids = chat_ids(tokenizer, asked, reply=begun)
        output = model.generate(ids, memory=memory, max_new_tokens=4, do_sample=False)
        return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()

    for question, begun in ASKED:
        print(f"{question}  {begun} ...")
        print(f"  with memory:    {answer(question, begun, memory)}")
        print(f"  without memory: {answer(question, begun, None)}")


if __name__ == "__main__":
    main()
