"""The prompt of a pair that has none of its own, and of a conversation, beside TRL's own functions."""

import random

import trl.data_utils as trl
from transformers import PreTrainedTokenizerFast

from torchstone.data.chat import render
from torchstone.data.formats import extract
from torchstone.train.model import small_policy


def test_the_prompt_of_a_pair_is_the_one_that_trl_extracts():
    """Of 2,000 pairs of texts over three characters, one a space, where neither is the beginning of the other."""
    rng, seen = random.Random(0), 0
    while seen < 2000:
        pair = {side: "".join(rng.choices("ab ", k=rng.randrange(2, 9))) for side in ("chosen", "rejected")}
        chosen, rejected = pair.values()
        n = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        if n and chosen[:n].strip():
            wanted = trl.extract_prompt(pair)
            assert extract(pair) == tuple(wanted.values()), pair
            seen += 1


def test_the_prompt_of_two_conversations_is_the_one_that_trl_extracts():
    rng = random.Random(0)
    for _ in range(100):
        talk = [{"role": role, "content": rng.choice("ab")} for role in ("user", "assistant") * rng.randrange(1, 4)]
        pair = {side: [*talk[:-1], {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
        assert extract(pair) == (trl.extract_prompt(pair)["prompt"], "chosen", "rejected")


def test_a_conversation_is_read_as_by_trl():
    """The text before the answer, with a system message, over several turns, and where an answer has begun."""
    tokenizer: PreTrainedTokenizerFast = small_policy("ab", 8, "cpu").tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}[a]{% endif %}"
    )
    user, answer, system = ({"role": role, "content": role} for role in ("user", "assistant", "system"))
    for chat in ([user], [system, user], [user, answer, user], [user, answer]):
        assert render(tokenizer, [chat], None, {}) == [trl.apply_chat_template({"prompt": chat}, tokenizer)["prompt"]]
