"""The loop: what is sampled is what is scored, what is resumed is what would have been, and it learns."""

import copy
import dataclasses
import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from torchstone.core import sequence_mean, sequence_sum, token_mean
from torchstone.data.find import find_task
from torchstone.data.tasks import HELD_OUT, Task, exact_match, load_task, take
from torchstone.recipes import RECIPES, PolicyRecipe, find
from torchstone.recipes.published.distill import DISTILL
from torchstone.rewards.judging import judge
from torchstone.store.files import load_config
from torchstone.terminal import UserError
from torchstone.train import methods as methods_module
from torchstone.train import model as model_module
from torchstone.train import offline, online
from torchstone.train.checks import check_recipe
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.methods import Batch, method_of
from torchstone.train.metrics import held_out, of_samples
from torchstone.train.model import Outputs, Policy, small_policy
from torchstone.train.offline import add_reference, encode, pair_log_probs, sample_pairs
from torchstone.train.online import learn_online
from torchstone.train.options import (
    METHODS,
    DistillOptions,
    DPOOptions,
    GRPOOptions,
    Online,
    PPOOptions,
    RecipeOptions,
    ReinforceOptions,
    Run,
)
from torchstone.train.rollout import Reader, Rollout, as_rollout, outputs_of, sample, slices, uniforms
from torchstone.train.run import Interrupted, train
from torchstone.train.start import make_start
from torchstone.train.tokens import weigh

TINY = {"pretrain_steps": 3, "warmup_steps": 2, "eval_prompts": 16, "device": "cpu"}
TINY_ROUNDS = {"steps": 4, "prompts": 8, "group_size": 4, "eval_every": 2}
ROUNDS = {m: TINY_ROUNDS for m in ("reinforce", "ppo", "grpo")} | {
    "dpo": {"samples": 256, "pairs": 16, "eval_every": 2},
    "distill": TINY_ROUNDS | {"signal": "jsd"},
    "recipe": TINY_ROUNDS | {"recipe": "dapo:penalty.cache=2+loss_kl=k3+loss_kl.beta=0.1"},
}


# Every published policy-gradient row but otb, whose energies the loop does not compute. DAPO's price on length is for
# completions of 20,480 tokens.
PUBLISHED = [name for name, row in RECIPES.items() if isinstance(row, PolicyRecipe) and "@" not in name]
LONG = ("dapo", "cispo", "high-entropy", "fipo")  # their cache of 4,096 tokens does not fit completions of three
NOT_COMPUTED = {"energies", "right", "prompt_values", "expert_log_probs"}  # what the loop does not have
PUBLISHED = [name for name in PUBLISHED if not NOT_COMPUTED & {*RECIPES[name].needs()}]
PUBLISHED = [f"{name}:penalty.cache=2" if name in LONG else name for name in PUBLISHED]
PUBLISHED = ["pass-at-k:advantage.k=2" if name == "pass-at-k" else name for name in PUBLISHED]  # groups here have 4


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A transformers Llama of another shape than ours, at random, with a chat template, in a folder."""
    torch.manual_seed(1)
    policy = small_policy("".join(map(chr, range(32, 127))) + "\n", 256, "cpu")
    policy.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2)
    folder = tmp_path_factory.mktemp("llama")
    policy.save(folder)
    return folder


# ------------------------------------------------------------------------------- tasks and reward functions


@pytest.mark.parametrize("name", ["sort", "add"])
def test_held_out_prompts_are_neither_trained_on_nor_tuned_on(name):
    test, validation = load_task(name), load_task(name, "validation")
    texts = [{row["prompt"] for row in rows} for rows in (test.examples, test.held_out, validation.held_out)]
    assert len(texts[1]) == len(texts[2]) == HELD_OUT
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert validation.examples == test.examples


def test_built_in_answers_are_right_and_raw_text_is_often_not():
    sort, add = load_task("sort"), load_task("add")
    assert all(row["answer"] == "".join(sorted(row["prompt"][:-1])) for row in sort.examples[:100])
    assert all(int(row["answer"]) == int(row["prompt"][:2]) + int(row["prompt"][3:5]) for row in add.examples[:100])
    lines = [line.split(">") for line in sort.raw_lines(sort.examples[:1000], random.Random(0))]
    assert 0.1 < sum("".join(sorted(x)) == y for x, y in lines) / 1000 < 0.4
    assert judge(sort, sort.examples[:2], [sort.examples[0]["answer"], "x"]) == [1.0, 0.0]


def test_every_row_is_taken_once_before_any_is_taken_twice():
    rows = [{"prompt": str(i)} for i in range(10)]
    taken = [row["prompt"] for step in range(5) for row in take(rows, 4, step, seed=3)]
    assert sorted(taken[:10]) == sorted(taken[10:]) and taken[:10] != taken[10:]
    assert take(rows, 4, 2, seed=3) == take(rows, 4, 2, seed=3)


# ---------------------------------------------------------------------------------------------------- files


def test_reasoning_gym_scores_with_its_own_checker():
    pytest.importorskip("reasoning_gym")
    task = find_task(Run(task="reasoning_gym:basic_arithmetic,max_terms=2,max_digits=1"))
    rows = task.examples[:3]
    assert judge(task, rows, [" " + row["answer"] for row in rows]) == [1.0] * 3
    assert {r["prompt"] for r in task.held_out} and len(task.examples) > 1000
    with pytest.raises(UserError, match="did you mean 'basic_arithmetic'"):
        find_task(Run(task="reasoning_gym:basic_arithmetik"))
    with pytest.raises(UserError, match="max_terms"):
        find_task(Run(task="reasoning_gym:basic_arithmetic,no_option=2"))


# ----------------------------------------------------------------------------------- policy and rollout


PROMPTS = ["1+1=", "hello, world", "?"]  # of different lengths: two of them are padded


def test_generation_with_the_cache_gives_the_log_probs_of_the_training_pass(llama):
    policy = load_policy(str(llama), "cpu", "float32")
    ids = policy.encode_prompts(PROMPTS)
    rollout = sample(policy, ids, 12, 0.7)
    scores = policy(*rollout.inputs, 0.7)

    width = rollout.tokens.shape[1] - 12
    cache, sampled = None, []
    for t in range(12):  # one token at a time with a KV cache, as the sampler does it
        new = rollout.tokens[:, :width] if t == 0 else rollout.tokens[:, width + t - 1 : width + t]
        attention = rollout.attention[:, : width + t].long()
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        out = policy.model(new, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        log_probs = (out.logits[:, -1] / 0.7).log_softmax(-1)
        sampled.append(log_probs.gather(1, rollout.tokens[:, width + t, None]))
    torch.testing.assert_close(scores.log_probs, torch.cat(sampled, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("second_pass", [-1, float("inf")], ids=["two passes", "one pass"])
def test_one_pass_and_two_give_the_scores_and_gradients_of_reading_every_row_whole(monkeypatch, second_pass):
    """Prompts that stand in several rows, one after the other or not, padded or not; with a critic; T from 1."""
    monkeypatch.setattr(model_module, "SECOND_PASS", second_pass)
    torch.manual_seed(0)
    policy = small_policy("abc", 16, "cpu")
    policy.add_critic()
    policy.double().entropy_bonus = True
    torch.nn.init.normal_(policy.value_head.weight)
    for T in (1, 4):
        prompts = policy.encode_prompts(["ab", "ab", "abc", "abc", "abc", "ab", "<pad>ab", "c"])
        batch = as_rollout(policy, prompts, [[3 + (i * t) % 3 for t in range(T)] for i in range(len(prompts))])
        weights = torch.randn(3, len(prompts), T, dtype=torch.float64)

        out = policy.read(batch.tokens, batch.attention, output_hidden_states=True, use_cache=False)
        log_p = out.logits[:, -T - 1 : -1].log_softmax(-1)
        values = policy.value_head(out.hidden_states[-1][:, -T - 1 : -1]).squeeze(-1)
        whole = (log_p.gather(-1, batch.tokens[:, -T:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1), values)
        found = policy(*batch.inputs, 1.0)
        scores = (found.log_probs, found.entropies, found.values)
        gradients = [
            torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, three, strict=True)), policy.parameters())
            for three in (scores, whole)
        ]
        torch.testing.assert_close(scores, whole, rtol=0, atol=1e-12)
        for a, b in zip(*gradients, strict=True):  # transformers takes the norms' gradients in float32
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())


OTHERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},  # positions are absolute
    "mistral": {"sliding_window": 3},  # and prompts are longer
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_dt_rank": 4,
        "num_experts": 2,
    },  # has a state
}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 32}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_are_sampled_and_scored_as_each_row_alone(monkeypatch, kind):
    monkeypatch.setattr(model_module, "SECOND_PASS", -1)
    tokenizer = small_policy("abc", 32, "cpu").tokenizer
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, **({} if kind == "gpt2" else SIZES) | OTHERS[kind] | tokens)
    policy = Policy(AutoModelForCausalLM.from_config(config), tokenizer)
    for p in policy.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
    texts = ["abcabc", "abcabc", "cabbac", "cabbac", "cabbac"]
    for prompts in (texts, [*texts, "ab", "b", "b"]) if kind != "jamba" else (texts,):  # its state takes no padding
        ids = policy.encode_prompts(prompts)
        rollout = sample(policy, ids, 6, temperature=0.0)
        scores = policy(*rollout.inputs, 1.0)
        for row, prompt in enumerate(ids):
            n = int(rollout.mask[row].sum())
            alone = rollout.tokens[row, -rollout.mask.shape[1] :][:n]
            logits = policy.model(torch.cat([torch.tensor(prompt), alone])[None], use_cache=False).logits
            assert alone.tolist() == logits[0, len(prompt) - 1 : -1].argmax(1).tolist()
            log_probs = logits[0, len(prompt) - 1 : -1].log_softmax(1).gather(1, alone[:, None])[:, 0]
            torch.testing.assert_close(scores.log_probs[row, :n], log_probs, rtol=0, atol=1e-4)


def test_padding_on_the_left_changes_no_log_prob(llama):
    policy = load_policy(str(llama), "cpu", "float32")
    ids, completions = policy.encode_prompts(PROMPTS), policy.encode_completions(["2", "and you", "yes!"])
    batch = as_rollout(policy, ids, completions)
    together = policy(*batch.inputs, 1.0)
    for row, (prompt, completion) in enumerate(zip(ids, completions, strict=True)):
        alone = policy(*as_rollout(policy, [prompt], [completion]).inputs, 1.0)
        assert batch.mask[row].sum() == len(completion)
        for a, b in ((together.log_probs, alone.log_probs), (together.entropies, alone.entropies)):
            torch.testing.assert_close(a[row, : len(completion)], b[0], rtol=0, atol=1e-5)


def test_sampled_frequencies_are_those_of_the_whole_softmax(llama):
    """No top-k, no top-p, no penalty: also where the model's own generation config asks for them."""
    policy = load_policy(str(llama), "cpu", "float32")
    ids = policy.encode_prompts(["a"]) * 4000
    rollout = sample(policy, ids, 1, 2.0)
    probabilities = policy(*as_rollout(policy, ids[:1], [[5]]).inputs, 2.0)
    expected = probabilities.entropies[0, 0].item()
    scores = outputs_of(policy, rollout, 2.0, list(slices(0, 4000, 1000)))
    assert abs(-scores.log_probs.mean() - expected) < 5 * scores.log_probs.std() / 4000**0.5


def test_the_mask_ends_with_the_end_token_and_a_cut_off_completion_has_none():
    policy = small_policy("ab", 16, "cpu")
    ids = policy.encode_prompts(["a", "ab"] * 200)
    rollout = sample(policy, ids, 3, 1.0)
    completions = rollout.tokens[:, -3:]
    for tokens, mask, cut_off, text in zip(
        completions, rollout.mask, rollout.cut_off, rollout.completions, strict=True
    ):
        ends = (tokens == 1).nonzero()
        length = int(ends[0]) + 1 if len(ends) else 3
        assert mask.tolist() == [t < length for t in range(3)] and bool(cut_off) == (len(ends) == 0)
        assert text == policy.tokenizer.decode(tokens[mask], skip_special_tokens=True)
    assert rollout.cut_off.any() and not rollout.cut_off.all()


def test_given_completions_carry_their_end_token_and_padding_is_not_chosen():
    policy = small_policy("ab", 16, "cpu")
    batch = as_rollout(policy, policy.encode_prompts(["a", "ba"]), policy.encode_completions(["bbb", ""]))
    assert batch.tokens.tolist() == [[0, 3, 4, 4, 4, 1], [4, 3, 1, 0, 0, 0]]
    assert batch.attention.tolist() == [[False] + [True] * 5, [True] * 6]
    assert batch.mask.tolist() == [[True] * 4, [True, False, False, False]]


def test_a_saved_small_model_is_an_ordinary_folder(tmp_path):
    policy = small_policy("0123>", 12, "cpu")
    policy.save(tmp_path)
    again = load_policy(str(tmp_path), "cpu", "float32")
    assert again.eos_ids == policy.eos_ids and again.pad_id == policy.pad_id
    ids = policy.encode_prompts(["012>", "3>"])
    assert again.encode_prompts(["012>", "3>"]) == ids == [[3, 4, 5, 7], [6, 7]]
    batch = as_rollout(policy, ids, [[3, 1], [4, 1]])
    assert torch.equal(policy(*batch.inputs, 1.0).log_probs, again(*batch.inputs, 1.0).log_probs)


def test_the_chat_template_is_used_where_there_is_one(llama):
    policy = load_policy(str(llama), "cpu", "float32")
    text = policy.tokenizer.decode(policy.encode_prompts(["hi"], system="be brief")[0])
    assert text == "[system]be brief\n[user]hi\n[assistant]"


# ------------------------------------------------------------------------------------------------ the loop


def test_the_loop_fits_one_screen_and_asks_no_config_what_it_is():
    loop, methods = (Path(module.__file__).read_text() for module in (online, methods_module))
    assert len(loop.splitlines()) <= 80 and "isinstance" not in loop and "isinstance" not in methods
    stages = re.findall(r"^ +# (\d) (\w+)", loop, re.M)
    names = ["prompts", "rollout", "log", "rewards", "advantages", "loss", "update"]
    assert stages == list(zip("1234567", names, strict=True))


def a_round(config) -> tuple[Policy, Rollout, Batch]:
    """Stages 1 to 5 on the small model, for all methods."""
    task = load_task("sort")
    policy = make_start(dataclasses.replace(config, **TINY), task, "cpu")
    if "values" in method_of(config).needs:
        policy.add_critic()
    rows = [row for row in task.examples[:8] for _ in range(config.group_size)]
    rollout = sample(policy, policy.encode_prompts([row["prompt"] for row in rows]), 8, 1.0)
    old = outputs_of(policy, rollout, 1.0, [slice(0, len(rows))])
    rewards = torch.rand(8, config.group_size).round()
    batch = Batch(rollout.mask, old, old.log_probs)
    return policy, rollout, method_of(config).advantages(rewards, batch, rewards[:, 0])


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo"])
def test_the_ratio_is_one_before_the_first_step(method):
    config = METHODS[method](group_size=4)
    (policy, rollout, batch), its = a_round(config), method_of(config)
    loss = its.loss(policy(*rollout.inputs, 1.0), batch, its.denominator(batch.mask))
    if method != "reinforce":
        assert float(loss.metrics["approx_kl"]) == 0.0
        assert float(loss.metrics["clip_ratio/low_mean"]) == float(loss.metrics["clip_ratio/high_mean"]) == 0.0


BONUS = [
    ReinforceOptions(entropy_coef=0.1),
    PPOOptions(entropy_coef=0.1),
    RecipeOptions(recipe="grpo:entropy=bonus+entropy.coef=0.1"),
]


@pytest.mark.parametrize("config", BONUS, ids=lambda config: config.method)
@pytest.mark.parametrize("micro_batch", [8, 4])
def test_a_bonus_for_entropy_moves_the_policy(config, micro_batch):
    """Rewards that are all alike teach nothing: what the policy learns of them is the bonus."""
    rows = [{"prompt": f"{d}>"} for d in range(2)]
    task = Task("nothing", rows, rows, lambda prompts, completions: [0.0] * len(completions))
    torch.manual_seed(0)
    policy = small_policy("0123>", 8, "cpu")
    config = dataclasses.replace(config, prompts=2, group_size=4, max_new_tokens=2, steps=1, minibatches=1)
    if "values" in method_of(config).needs:
        policy.add_critic()
    learner = Learner(policy)
    next(learn_online(dataclasses.replace(config, micro_batch=micro_batch), task, learner, copy.deepcopy(policy)))
    assert learner.means["grad_norm"].total > 1e-3


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", *PUBLISHED])
def test_micro_batches_add_up_to_the_gradient_of_the_whole(method):
    config = METHODS[method](group_size=4) if method in METHODS else RecipeOptions(recipe=method, group_size=4)
    (policy, rollout, batch), its = a_round(config), method_of(config)
    gradients = []
    for size in (32, 8 if "group_size" in its.needs else 5):
        policy.zero_grad()
        count = its.denominator(batch.mask)
        if "token_weights" in its.needs:
            batch = weigh(its, batch, slice(None), batch.old, seed=0)
        for rows in slices(0, 32, size):
            its.loss(policy(*rollout[rows].inputs, 1.0), batch[rows], count).value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_what_each_method_makes_of_rewards():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False]] * 8)
    zeros = torch.zeros(8, 3)
    batch = Batch(mask, Outputs(zeros, zeros, zeros), zeros)
    advantages = {
        std: method_of(GRPOOptions(std_correction=std, std_eps=0.0)).advantages(rewards, batch).advantages
        for std in (1, 0)
    }
    torch.testing.assert_close(advantages[1], torch.tensor([1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0]))
    torch.testing.assert_close(advantages[0], torch.tensor([3.0, -1.0, -1.0, -1.0, 0, 0, 0, 0]) / 3**0.5)
    for baseline, first in (("none", 1.0), ("mean", 1 - 5 / 8), ("leave-one-out", 1.0)):
        method = method_of(ReinforceOptions(baseline=baseline, group_size=4))
        made = method.advantages(rewards, batch)
        assert made.returns[0].tolist() == [1.0, 1.0, 0.0] and made.advantages is None
        loss = method.loss(Outputs(zeros, zeros, zeros)[:1], made[:1], 1)
        assert float(loss.metrics["advantages"]) == first
    made = method_of(PPOOptions(lam=1.0, beta=0.0)).advantages(rewards, batch)
    assert made.returns[0].tolist() == [1.0, 1.0, 0.0] and abs(made.advantages[mask].mean()) < 1e-6
    plain = method_of(PPOOptions(lam=1.0, beta=0.0, whiten=False)).advantages(rewards, batch).advantages
    assert plain[0].tolist() == [1.0, 1.0, 0.0]
    for n in (1, 0):
        whitened = method_of(PPOOptions(lam=1.0, beta=0.0, whiten_correction=n)).advantages(rewards, batch).advantages
        assert whitened[mask].var(correction=n).item() == pytest.approx(1, abs=1e-5)


REDUCTIONS = {"token-mean": token_mean, "sequence-mean": sequence_mean, "sequence-sum": sequence_sum}


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "fixed-length", None])
def test_each_method_reduces_as_its_paper_does_or_as_it_is_told(reduction):
    mask, x = torch.tensor([[True, True], [True, False]]), torch.tensor([[1.0, 2.0], [4.0, 9.0]])
    outputs = Outputs(-torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2))  # the ratio is 1, log pi is -1
    for kind, default in ((GRPOOptions, sequence_mean), (PPOOptions, token_mean), (ReinforceOptions, sequence_sum)):
        method = method_of(kind(**{} if reduction is None else {"reduction": reduction}))
        batch = Batch(mask, outputs, outputs.log_probs, -x, x if kind is ReinforceOptions else torch.zeros(2, 2))
        expected = REDUCTIONS.get(reduction, default)(x, mask)  # each token's loss is -A log pi, or -A
        if reduction == "fixed-length":
            expected = sequence_sum(x, mask) / 8
        assert method.loss(outputs, batch, method.denominator(mask)).value == expected


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_grpo_estimates_the_kl_as_it_is_told(kl):
    mask = torch.tensor([[True, True]])
    log_probs, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    outputs = Outputs(log_probs, log_probs, log_probs)
    method = method_of(GRPOOptions(beta=0.5, kl=kl))
    loss = method.loss(outputs, Batch(mask, outputs, ref, torch.zeros(1)), 1).value
    u = [-0.5, 1.0]  # log ref - log pi
    values = {"k1": [-x for x in u], "k2": [x * x / 2 for x in u], "k3": [math.exp(x) - 1 - x for x in u]}
    assert loss.item() == pytest.approx(0.5 * sum(values[kl]) / 2, rel=1e-6)


def test_the_dual_clip_bounds_the_loss_of_a_bad_token():
    mask, zeros = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
    new, old = Outputs(zeros, zeros, zeros), Outputs(zeros - 3, zeros, zeros)  # the ratio is exp(3) = 20.1
    batch = Batch(mask, old, zeros, torch.tensor([-1.0]), zeros)
    losses = [method_of(PPOOptions(dual_clip=c)).loss(new, batch, 1).value.item() for c in (None, 3.0)]
    assert losses == pytest.approx([math.exp(3), 3.0])


def test_pairs_rank_the_best_against_the_worst_and_carry_the_reference():
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    task = Task("lengths", rows, rows, lambda prompts, completions: [len(c) for c in completions])
    policy = small_policy("ab", 16, "cpu")
    config = DPOOptions(samples=16, group_size=8, max_new_tokens=6, **{k: v for k, v in TINY.items() if k != "device"})
    pairs = sample_pairs(config, task, policy)
    assert pairs and all(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    for pair in add_reference(config, policy, pairs):
        alone = as_rollout(policy, policy.encode_prompts([pair["prompt"]]), policy.encode_completions([pair["chosen"]]))
        assert abs(policy(*alone.inputs, 1.0).log_probs.sum().item() - pair["ref_chosen"]) < 1e-4
    chosen, rejected = pair_log_probs(config, policy, encode(config, policy, pairs))
    assert chosen.shape == rejected.shape == (len(pairs),)


def test_pairs_are_encoded_once_while_few_are_kept_and_are_the_same_in_every_epoch(monkeypatch):
    policy, config, seen = small_policy("0123456789>", 16, "cpu"), DPOOptions(seed=3), []
    pairs = [{"prompt": f"{i}>", "chosen": str(i), "rejected": f"{i}{i}", "ref_chosen": float(i)} for i in range(10)]
    monkeypatch.setattr(offline, "encode", lambda c, p, some: (seen.append(len(some)), encode(c, p, some))[1])
    found = []
    for most in (100, 6, 0):
        monkeypatch.setattr(offline, "KEPT", most)
        encoded = offline.encoder(config, policy, pairs, 4)
        for step in range(6):
            assert encoded(step) == encode(config, policy, take(pairs, 4, step, 3))
        found.append(sum(seen))
        seen.clear()
    assert found[0] == 10 < found[1] < found[2] <= 24  # each once; some again; all of every step


@pytest.mark.parametrize("bonus", [False, True])
def test_entropies_are_made_of_a_few_rows_at_a_time_and_are_the_same(monkeypatch, bonus):
    torch.manual_seed(0)
    policy = small_policy("0123456789>", 16, "cpu")
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.3)
    policy.entropy_bonus, seen = bonus, []
    rows = as_rollout(policy, policy.encode_prompts([f"{i}>" for i in range(7)]), [[3, 4, 5, 1]] * 7)
    original = model_module.token_entropies
    monkeypatch.setattr(model_module, "token_entropies", lambda x, **t: (seen.append(len(x)), original(x, **t))[1])
    found = []
    for piece in (2**20, 2 * 4 * policy.vocabulary, 1):
        monkeypatch.setattr(model_module, "PIECE", piece)
        policy.zero_grad()
        out = policy(*rows.inputs, 1.3)
        (out.log_probs.sum() + (out.entropies.sum() if bonus else 0)).backward()
        found.append([out.entropies, *(p.grad.clone() for p in policy.parameters())])
    assert seen == [7, 2, 2, 2, 1, *[1] * 7] and out.entropies.requires_grad == bonus and out.entropies.max() > 0.1
    assert all(torch.equal(x, y) for some in found[1:] for x, y in zip(found[0], some, strict=True))


# --------------------------------------------------------------------------------------- recipes in the loop


def a_run(config: Run, task: Task) -> tuple[list[dict], Policy]:
    """Three rounds from one and the same start."""
    torch.manual_seed(7)
    policy = small_policy("0123>", 12, "cpu")
    reference = copy.deepcopy(policy) if "ref_log_probs" in method_of(config).needs else None
    if "values" in method_of(config).needs:
        policy.add_critic()
    return list(learn_online(config, task, Learner(policy), reference)), policy


COPY = Task("copy", [{"prompt": f"{d}>", "answer": str(d)} for d in range(4)], [], exact_match)
ROUND = {"steps": 3, "prompts": 8, "group_size": 4, "minibatches": 2, "epochs": 2, "max_new_tokens": 3, "lr": 3e-3}


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        (GRPOOptions(beta=0.1, epsilon_high=0.3, **ROUND), "grpo:loss_kl.beta=0.1+surrogate.epsilon_high=0.3"),
        (GRPOOptions(divide_by_std=False, **ROUND), "grpo:loss_kl=none+advantage=group-mean"),
        (PPOOptions(**ROUND), "ppo:reward_kl.beta=0.01+normalise.correction=1+value.coef=0.5"),
        (PPOOptions(entropy_coef=0.01, value_epsilon=None, beta=0.0, **ROUND),
         "ppo:reward_kl=none+normalise.correction=1+value.coef=0.5+value.epsilon=none+entropy=bonus+entropy.coef=0.01"),
        (ReinforceOptions(baseline="leave-one-out", beta=0.05, **ROUND),
         "rloo:reward_kl=per-token+reward_kl.beta=0.05"),
        (ReinforceOptions(baseline="mean", entropy_coef=0.1, **ROUND),
         "reinforce:advantage=batch-mean+entropy=bonus+entropy.coef=0.1"),
    ],
)  # fmt: skip
def test_a_recipe_of_the_same_choices_is_the_method(method, recipe):
    one, a = a_run(method, COPY)
    other, b = a_run(RecipeOptions(recipe=recipe, **ROUND), COPY)
    assert one[0]["frac_reward_zero_std"] < 1 and one[-1]["grad_norm"] > 0.01
    for x, y in zip(one, other, strict=True):
        assert {k: v for k, v in x.items() if k in y} == pytest.approx(
            {k: y[k] for k in x if k in y}, rel=2e-3, abs=1e-6
        )
        assert set(x) - set(y) <= {"advantages"}
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_published_recipe_runs(recipe):
    check_recipe(RecipeOptions(recipe=recipe, **ROUND))
    records, _ = a_run(RecipeOptions(recipe=recipe, **ROUND), COPY)
    assert all(math.isfinite(v) for record in records for v in record.values())
    assert max(record["grad_norm"] for record in records) > 0
    again, _ = a_run(RecipeOptions(recipe=recipe, micro_batch=9, **ROUND), COPY)  # groups stay whole where they must
    assert again[0]["grad_norm"] == pytest.approx(records[0]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("recipe", ["kl-cov:tokens.share=0.3", "clip-cov:tokens.share=0.5+tokens.low=-9"])
def test_tokens_are_judged_on_each_whole_minibatch_by_the_policy_as_it_then_is(recipe, monkeypatch):
    judged, taken = [], []
    ahead, loss = PolicyRecipe.token_weights, PolicyRecipe.loss

    def token_weights(self, log_probs, *given, **known):
        judged.append((log_probs, known, ahead(self, log_probs, *given, **known)))
        return judged[-1][-1]

    def of_some_rows(self, log_probs, *given, token_weights, **known):
        taken.append((len(judged), log_probs, token_weights))
        return loss(self, log_probs, *given, token_weights=token_weights, **known)

    monkeypatch.setattr(PolicyRecipe, "token_weights", token_weights)
    monkeypatch.setattr(PolicyRecipe, "loss", of_some_rows)
    a_run(RecipeOptions(recipe=recipe, micro_batch=5, **ROUND | {"steps": 1}), COPY)
    assert len(judged) == ROUND["minibatches"] * ROUND["epochs"] and len(taken) > 2 * len(judged)
    for n, (log_probs, _, weights) in enumerate(judged, 1):
        parts = [(now.detach(), w) for at, now, w in taken if at == n]
        torch.testing.assert_close(torch.cat([now for now, _ in parts]), log_probs)
        assert len(log_probs) == 16 and torch.equal(torch.cat([w for _, w in parts]), weights)
        assert 0 < weights.sum() < weights.numel() and not any(x.requires_grad for x in (log_probs, weights))
    if "draws" in judged[0][1]:  # drawn anew for each step
        assert not torch.equal(judged[0][1]["draws"], judged[2][1]["draws"])


def test_groups_that_a_recipe_leaves_out_neither_teach_nor_count():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    mask = torch.ones(4, 2, dtype=torch.bool)
    config = RecipeOptions(recipe="dapo:penalty=none", group_size=2)
    assert method_of(config).keep(rewards).tolist() == [[True, True], [False, False]]
    mask[2:] = False
    counts = {"dapo:penalty=none": 1, "dapo:penalty=none+reduction=token-mean": 4, "dr_grpo": 2}
    for recipe, count in counts.items():
        assert method_of(dataclasses.replace(config, recipe=recipe)).denominator(mask) == count
    assert method_of(GRPOOptions(group_size=2)).keep(rewards).all()


def test_at_temperature_zero_every_token_is_the_most_likely_one(llama):
    policy = load_policy(str(llama), "cpu", "float32")
    ids = policy.encode_prompts(PROMPTS)
    rollout = sample(policy, ids, 4, 0.0)
    assert rollout.completions == sample(policy, ids, 4, 0.0).completions
    out = policy.model(rollout.tokens, attention_mask=rollout.attention.long(),
                       position_ids=(rollout.attention.long().cumsum(1) - 1).clamp(min=0))  # fmt: skip
    likely = out.logits.argmax(-1)[:, -5:-1]
    assert torch.equal(likely[rollout.mask], rollout.tokens[:, -4:][rollout.mask])


def test_dots_before_the_answer_mean_nothing():
    task = load_task("ramble")
    rows = task.examples[:50]
    answers = ["".join(sorted(row["prompt"][:-1])) for row in rows]
    assert judge(task, rows, answers) == judge(task, rows, ["....." + x for x in answers]) == [1.0] * len(rows)
    assert judge(task, rows[:3], [answers[0] + ".", answers[1][:-1], "....."]) == [0.0] * 3
    assert len({row["answer"].count(".") for row in rows}) > 5


# ------------------------------------------------------------------------------------------------ distillation


def a_teacher(characters: str, context: int, spread: float = 0.2) -> Policy:
    """A small model at random that is sure of some tokens."""
    torch.manual_seed(2)
    policy = small_policy(characters, context, "cpu")
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=spread)
    return policy.requires_grad_(False)


SIGNALS = {
    "teacher-advantage": {"gamma": 0.5},
    "k2": {},
    "k3": {},
    "jsd": {"beta": 0.5},
    "jsd-top-k": {"beta": 0.3, "k": 3, "of": "policy", "rest": "drop"},
}


def distilled(config: Online) -> tuple[list[dict], Policy]:
    torch.manual_seed(7)
    student = small_policy("0123>", 12, "cpu")
    return list(learn_online(config, COPY, Learner(student), a_teacher("0123>", 12))), student


def by_hand(config: DistillOptions, log_p, log_q, tokens, lengths) -> torch.Tensor:
    """What the tokens lose on policy, one after the other; log_p, log_q are whole distributions [B T V]."""
    total = 0.0
    for row, length in enumerate(lengths):
        for t in range(length):
            p, q = log_p[row, t].exp(), log_q[row, t].exp()
            v = tokens[row, t]
            if config.signal == "teacher-advantage":
                later = [log_q[row, s, tokens[row, s]] - log_p[row, s, tokens[row, s]] for s in range(t, length)]
                total -= sum(config.gamma**i * d.item() for i, d in enumerate(later)) * log_p[row, t, v]
            elif config.signal == "k2":
                total += (log_p[row, t, v] - log_q[row, t, v]) ** 2 / 2
            elif config.signal == "k3":
                u = log_q[row, t, v] - log_p[row, t, v]
                total += u.exp() - 1 - u
            else:
                among = p.topk(3).indices if config.signal == "jsd-top-k" else range(len(p))
                for w in among:
                    m = config.beta * q[w] + (1 - config.beta) * p[w]
                    total += config.beta * q[w] * (q[w] / m).log() + (1 - config.beta) * p[w] * (p[w] / m).log()
    return total


@pytest.mark.parametrize("signal", SIGNALS)
def test_each_signal_has_the_gradient_of_its_sum_written_out(signal):
    config = DistillOptions(signal=signal, temperature=0.7, **SIGNALS[signal])
    method, (student, teacher) = method_of(config), (a_teacher("0123>", 12, s).double() for s in (0.1, 0.3))
    student.requires_grad_(True).keep_logits = "logits" in method.needs
    rollout = sample(student, student.encode_prompts(["0>", "21>", "3>"]), 3, 0.7)
    new, ref = (p(*rollout.inputs, 0.7) for p in (student, teacher))
    batch = method.advantages(
        torch.zeros(3, 1), Batch(rollout.mask, new.detach(), ref.log_probs, teacher=Reader(teacher, rollout))
    )
    count = method.denominator(rollout.mask)
    log_p, log_q = ((p.logits(*rollout.inputs) / 0.7).log_softmax(-1) for p in (student, teacher))
    wanted = (
        by_hand(config, log_p, log_q, rollout.tokens[:, -rollout.mask.shape[1] :], rollout.mask.sum(1).tolist()) / count
    )
    gradients = [torch.autograd.grad(x, student.parameters()) for x in (method.loss(new, batch, count).value, wanted)]
    assert max(g.abs().max() for g in gradients[1]) > 0.001
    for a, b in zip(*gradients, strict=True):  # transformers takes the norms' gradients in float32
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("signal", ["teacher-advantage", "jsd"])
def test_a_student_comes_close_to_its_teacher(signal):
    sizes = {"prompts": 32, "minibatches": 1, "max_new_tokens": 3, "lr": 5e-3}
    records, _ = distilled(DistillOptions(signal=signal, steps=20, **sizes))
    assert sum(r["kl"] for r in records[-3:]) / 3 < 0.2 * records[0]["kl"], [r["kl"] for r in records]
    assert {"reward", "frac_reward_zero_std"} <= records[0].keys()


@pytest.mark.parametrize("signal", SIGNALS)
def test_micro_batches_of_a_distillation_add_up(signal):
    sizes = {"prompts": 12, "max_new_tokens": 3, "steps": 1, "epochs": 2, "minibatches": 2, "lr": 1e-3}
    sizes |= {"signal": signal, **SIGNALS[signal]}
    (whole, a), (parts, b) = (distilled(DistillOptions(micro_batch=n, **sizes)) for n in (32, 5))
    assert parts[0] == pytest.approx(whole[0], rel=1e-3, abs=1e-6)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recipe", [row.name for row in DISTILL])
def test_every_published_distillation_runs(recipe):
    changes = ":signal.k=3" if "k" in find(recipe).signal.numbers else ""  # of a small vocabulary
    sizes = {"prompts": 6, "group_size": 2, "minibatches": 1, "steps": 2, "max_new_tokens": 3}
    records, _ = distilled(RecipeOptions(recipe=recipe + changes, **sizes))
    assert all(math.isfinite(v) for record in records for v in record.values())
    assert min(record["grad_norm"] for record in records) > 0 and records[0]["kl"] > 0.01


def test_a_distillation_of_the_same_choices_is_the_row():
    sizes = {"prompts": 6, "group_size": 2, "minibatches": 2, "epochs": 2, "steps": 2, "max_new_tokens": 3, "lr": 3e-3}
    pairs = {
        "opd-exact": DistillOptions(signal="jsd", **sizes),
        "opd-k3": DistillOptions(signal="k3", **sizes),
        "gkd": DistillOptions(signal="jsd", beta=0.5, reduction="sequence-mean", **sizes),
        "opd:signal=teacher-advantage+signal.gamma=0": DistillOptions(reduction="sequence-sum", **sizes),
    }
    for recipe, options in pairs.items():
        (one, a), (other, b) = distilled(RecipeOptions(recipe=recipe, **sizes)), distilled(options)
        assert one[1] == pytest.approx({k: other[1][k] for k in one[1]}, rel=2e-3, abs=1e-6), recipe
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_the_held_out_kl_is_that_of_whole_distributions():
    student, teacher = a_teacher("0123>", 12, 0.1), a_teacher("0123>", 12)
    task = Task("copy", [], COPY.examples)
    samples = held_out(DistillOptions(max_new_tokens=3, temperature=0.5), task, student, teacher)
    noise = uniforms(0, -1, len(samples), 3)  # which samples the same
    rollout = sample(student, student.encode_prompts([one["prompt"] for one in samples]), 3, 0.5, noise)
    log_p, log_q = ((p.logits(*rollout.inputs) / 0.5).log_softmax(-1) for p in (student, teacher))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[rollout.mask]
    assert len(kl) == sum(one["tokens"] for one in samples) and kl.mean() > 0.1
    assert of_samples(samples) == {"eval_kl": pytest.approx(kl.mean().item(), rel=1e-5)}
    assert samples[1]["kl"] == pytest.approx(
        kl[rollout.mask[:1].sum() :][: samples[1]["tokens"]].sum().item(), rel=1e-5
    )


def test_prompts_alone_are_enough_for_distillation(tmp_path, llama):
    """Own model, own teacher, no reward: there is a KL to the teacher and no reward to report."""
    teacher = load_policy(str(llama), "cpu", "float32")
    for p in teacher.parameters():
        torch.nn.init.normal_(p, std=0.25)
    teacher.save(tmp_path / "teacher")
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"say {c}"}) + "\n" for c in "abcdefghijkl"))
    options = {"model": str(llama), "data": data, "device": "cpu", "steps": 2, "prompts": 4, "max_new_tokens": 5}
    folder = train(DistillOptions(teacher=str(tmp_path / "teacher"), out=tmp_path / "run", **options))
    records = without_seconds(folder / "metrics.jsonl")
    assert all("eval_kl" in r and "eval_reward" not in r and "reward" not in r for r in records)
    assert records[1]["kl"] > 0.01
    with pytest.raises(UserError, match=r"it holds prompts .*: judge what grpo samples with --reward"):
        train(GRPOOptions(out=tmp_path / "other", **options))


@pytest.mark.parametrize(
    ("teacher", "options", "says"),
    [
        (None, {}, "distill needs --teacher FOLDER: torchstone train grpo --task sort makes one in runs/grpo-sort-0"),
        (None, {"data": "data.jsonl"}, "grpo --data .* --reward FILE.py makes one in runs/grpo-data-0"),
        ("nowhere", {}, "--teacher .*nowhere: no such folder"),
        ("empty", {}, "--teacher .*empty holds no model: config.json is missing"),
        ("stopped", {}, "--teacher .*stopped: that run has not finished; go on with: torchstone train --resume"),
        ("ramble", {}, "--teacher .*ramble has 17 tokens, the student 16; choose one of the student's family"),
        ("swapped", {}, "has another tokenizer: token 11 is '9' there, '8' for the student"),
        ("end", {}, "ends a completion with .'<pad>'., the student with .'<eos>'."),
        ("same", {"max_new_tokens": 9}, "7 tokens, then 9 of a completion, in the teacher's context of 15"),
        ("same", {"model": "same"}, "--teacher .*same predicts what the student predicts: there is nothing to learn"),
        (
            "same",
            {"signal": "jsd", "gamma": 1.0},
            "--gamma would change nothing: it belongs to --signal teacher-advantage",
        ),
        ("same", {"k": 3}, "--k would change nothing: it belongs to --signal jsd-top-k"),
        ("same", {"signal": "jsd-top-k", "k": 17}, "--k must be at most the vocabulary's 16, got 17"),
        ("same", {"recipe": "opd-topk-tail"}, "--recipe opd-topk-tail: signal.k must be at most the vocabulary's 16"),
        ("same", {"recipe": "grpo"}, "--recipe grpo: it has no teacher: leave --teacher out"),
        ("same", {"recipe": "opd:outcome=added+outcome.coef=1"}, "--recipe opd:outcome.*advantages"),
        (None, {"recipe": "opd"}, "opd needs --teacher FOLDER: torchstone train grpo --task sort makes one"),
        ("same", {"signal": "jsd", "beta": 1.5}, "--beta must be from 0 to 1 for distill, got 1.5"),
    ],
)
def test_what_no_student_can_learn_from_is_said_before_any_work(tmp_path, teacher, options, says):
    characters = {"ramble": "0123456789+=>.", "swapped": "0123456798+=>"}
    policy = small_policy(characters.get(teacher, "0123456789+=>"), 15, "cpu")
    policy.eos_ids, policy.tokenizer.eos_token = ([0], "<pad>") if teacher == "end" else ([1], "<eos>")
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    if teacher in ("empty", "stopped"):
        (tmp_path / teacher).mkdir()
        (tmp_path / teacher / ("metrics.jsonl" if teacher == "stopped" else "note.txt")).touch()
    elif teacher not in (None, "nowhere"):
        policy.save(tmp_path / teacher)
    paths = {"data": tmp_path / "data.jsonl"} if "data" in options else {}
    paths |= {"model": str(tmp_path / teacher)} if "model" in options else {}
    kind = RecipeOptions if "recipe" in options else DistillOptions
    config = kind(out=tmp_path / "run", **{"max_new_tokens": 7} | options | paths)
    with pytest.raises(UserError, match=says):
        train(dataclasses.replace(config, teacher=teacher and str(tmp_path / teacher)))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------- runs, and resuming them


def without_seconds(file: Path) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file.read_text().splitlines()]


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo", "dpo", "distill", "recipe"])
def test_stopped_and_resumed_is_the_same_as_never_stopped(tmp_path, method):
    (tmp_path / "r.py").write_text("def reward(prompts, completions, **columns): return [len(c) for c in completions]")
    more = {"reward": str(tmp_path / "r.py")} | ({} if method == "recipe" else {"beta": 0.5})
    if method == "distill":
        a_teacher(load_task("sort").alphabet, 16).save(tmp_path / "teacher")
        more["teacher"] = str(tmp_path / "teacher")
    config = METHODS[method](out=tmp_path / "a", **TINY | ROUNDS[method] | more)
    train(config)
    whole = without_seconds(tmp_path / "a" / "metrics.jsonl")
    steps = whole[-1]["step"]

    config = dataclasses.replace(config, out=tmp_path / "b")
    with pytest.raises(Interrupted):
        train(config, lambda record: record["step"] == 3)
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward": 99}\n{"step": 5, "rew')  # a killed run wrote beyond its checkpoint
    train(load_config(tmp_path / "b"), resume=True)
    assert without_seconds(tmp_path / "b" / "metrics.jsonl") == whole
    samples = [(tmp_path / name / "completions.jsonl").read_text() for name in "ab"]
    assert samples[0] == samples[1] and f'"step": {steps}' in samples[0]
    a, b = (load_policy(str(tmp_path / name / "model"), "cpu", "float32").state_dict() for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_is_not_overwritten(tmp_path):
    config = GRPOOptions(out=tmp_path, **TINY | ROUNDS["grpo"])
    train(config)
    with pytest.raises(UserError, match=r"holds a run already: go on with --resume"):
        train(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GRPOOptions(group_size=1), "--group-size must be at least 2 for grpo, got 1"),
        (ReinforceOptions(baseline="leave-one-out"), "--group-size must be at least 2 for reinforce"),
        (DPOOptions(group_size=1), "--group-size must be at least 2 for dpo"),
        (GRPOOptions(steps=0), "--steps must be at least 1"),
        (PPOOptions(temperature=0.0), "--temperature must be above 0"),
        (PPOOptions(lr=float("inf")), "--lr must be above 0"),
        (PPOOptions(gamma=2.0), "--gamma must be from 0 to 1"),
        (PPOOptions(lam=float("nan")), "--lam must be from 0 to 1"),
        (GRPOOptions(epsilon=-1.0), "--epsilon must be at least 0"),
        (GRPOOptions(std_correction=2), "--std-correction must be 0 or 1 for grpo, got 2"),
        (GRPOOptions(std_eps=-1e-4), "--std-eps must be at least 0"),
        (PPOOptions(whiten_correction=-1), "--whiten-correction must be 0 or 1"),
        (PPOOptions(dual_clip=1.0), "--dual-clip must be above 1"),
        (GRPOOptions(beta=-1.0), "--beta must be at least 0"),
        (DPOOptions(beta=0.0), "--beta must be above 0"),
        (RecipeOptions(recipe="grop"), "--recipe grop: .*did you mean 'grpo'"),
        (RecipeOptions(recipe="grpo:surogate=clip"), "with a column of penalty, .*did you mean 'surrogate'"),
        (
            RecipeOptions(recipe="grpo:surrogate.epsilon=-1"),
            "--recipe .*epsilon: expected a finite number >= 0, got -1",
        ),
        (
            RecipeOptions(recipe="dapo"),
            "cache is longer than a completion: raise --max-new-tokens, or .*penalty.cache=1",
        ),
        (
            RecipeOptions(recipe="otb"),
            "--recipe otb: energies: the recipe otb needs the squared norm of each token's score",
        ),
        (RecipeOptions(recipe="dpo"), "--recipe dpo: dpo learns from preference pairs"),
        (RecipeOptions(recipe="grpo", group_size=1), "--recipe grpo: rewards: expected at least 2"),
        (
            PPOOptions(task="srot"),
            "unknown task 'srot' .did you mean 'sort'..; choose sort, add, ramble, reasoning_gym:NAME",
        ),
        (GRPOOptions(model="/no/such/model"), "--model /no/such/model cannot be loaded"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(tmp_path, config, says):
    with pytest.raises(UserError, match=says):
        train(dataclasses.replace(config, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_prompt_beyond_the_context_is_named(tmp_path, llama):
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "short"}\n' + json.dumps({"prompt": "long " * 60}) + "\n")
    (tmp_path / "r.py").write_text("def reward(prompts, completions): return [0.0] * len(prompts)\n")
    config = GRPOOptions(model=str(llama), data=data, reward=str(tmp_path / "r.py"), out=tmp_path / "run")
    with pytest.raises(UserError, match=r"does not fit .*in a context of 256.: '.user.long long"):
        train(config)


def test_own_model_own_prompts_own_reward(tmp_path, llama):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"say {c}", "letter": c}) + "\n" for c in "abcdefghijkl"))
    (tmp_path / "r.py").write_text(
        "def reward(prompts, completions, letter, **columns):\n"
        "    return [float(c.count(x)) for c, x in zip(completions, letter)]\n"
    )
    config = GRPOOptions(
        model=str(llama), data=data, reward=f"{tmp_path / 'r.py'}:reward", out=tmp_path / "run", device="cpu",
        steps=2, prompts=2, group_size=3, max_new_tokens=5, micro_batch=4, beta=0.1, system="be brief",
    )  # fmt: skip
    folder = train(config)
    records = without_seconds(folder / "metrics.jsonl")
    assert [r["step"] for r in records] == [0, 1, 2] and {"reward", "kl", "entropy"} <= records[1].keys()
    assert records[0]["eval_reward"] >= 0 and (folder / "completions.jsonl").read_text().count("say") >= 3
    assert load_policy(str(folder / "model"), "cpu", "float32").tokenizer.chat_template


def test_prompts_without_answers_need_no_demonstrations():
    rows = [{"prompt": "a"}, {"prompt": "bc"}]
    policy = make_start(Run(**TINY), Task("t", rows, rows), "cpu")
    assert policy.context == 2 + 1 + 8


def test_own_preference_pairs(tmp_path, llama):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no " * (i % 3)} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model": str(llama), "data": data, "device": "cpu", "max_new_tokens": 5, "eval_prompts": 4}
    folder = train(DPOOptions(out=tmp_path / "run", pairs=4, epochs=5, lr=1e-3, beta=0.5, **options))
    records = without_seconds(folder / "metrics.jsonl")
    assert records[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert records[-1]["rewards/margins"] > 0.1 and records[-1]["samples"] == 0
    with pytest.raises(UserError, match=r"preference pairs.*use dpo"):
        train(GRPOOptions(out=tmp_path / "other", **options))
    data.write_text(json.dumps(rows[0] | {"rejected": "no " * 90}) + "\n")
    with pytest.raises(
        UserError, match=r"2\d* tokens, then 271 of a completion, in a context of 256.*shorten the text"
    ):
        train(DPOOptions(out=tmp_path / "long", **options))


# ----------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("method", ["reinforce", "ppo", "grpo"])
def test_it_learns_to_answer_with_the_digit_it_sees(method):
    """One digit in, the same digit out: 10% by chance, from nothing at all, in 2,000 samples."""
    rows = [{"prompt": f"{d}>", "answer": str(d)} for d in range(4)]
    task = Task("copy", rows, rows, exact_match, alphabet="0123>")
    sizes = {"prompts": 16, "group_size": 8, "steps": 30}
    config = METHODS[method](max_new_tokens=2, lr=3e-3, **sizes)
    policy = small_policy("0123>", 8, "cpu")
    if method == "ppo":
        policy.add_critic()
    rewards = [metrics["reward"] for metrics in learn_online(config, task, Learner(policy), None)]
    assert rewards[0] < 0.2 and sum(rewards[-3:]) / 3 > 0.6, rewards
