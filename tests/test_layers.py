"""Layers that run again to save memory, experts that are kept in balance, and models that are refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from torchstone.cli import main
from torchstone.core import Loss
from torchstone.layers import set_layers
from torchstone.terminal import UserError
from torchstone.train.learner import Learner
from torchstone.train.loading import load_policy
from torchstone.train.model import Policy, small_policy
from torchstone.train.options import DPOOptions, GRPOOptions, SFTOptions
from torchstone.train.rollout import as_rollout, sample

KINDS = {
    "llama": {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 8, "n_head": 2, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "opt": {"dropout": 0.5, "ffn_dim": 64, "word_embed_proj_dim": 32},  # its layers themselves drop out
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
        "moe_intermediate_size": 32,
    },
}  # fmt: skip
PROMPTS = ["abc", "cab", "b"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def a_policy(kind: str, layers: int = 8) -> Policy:
    torch.manual_seed(0)
    tokenizer = small_policy("abc", 32, "cpu").tokenizer
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, **({} if kind == "gpt2" else sizes) | KINDS[kind], **ids)
    return Policy(AutoModelForCausalLM.from_config(config), tokenizer)


def batch(policy: Policy):
    prompts = policy.encode_prompts([p for p in PROMPTS for _ in range(4)])
    return as_rollout(policy, prompts, [policy.encode_completions(["abcabc"[: 1 + i % 5]])[0] for i in range(12)])


def backward(policy: Policy) -> tuple[int, list[torch.Tensor]]:
    """Bytes that are kept for the backward pass, and the gradients."""
    kept = {}
    rows = batch(policy)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.update({x.data_ptr(): x.nbytes}) or x, lambda x: x):
        loss = policy(*rows.inputs, 1.0).log_probs.masked_fill(~rows.mask, 0).sum()
    loss.backward()
    return sum(kept.values()), [p.grad for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_run_again_give_the_same_gradients_from_less_memory(kind):
    """Layer 0 runs once in a forward and backward pass, and twice where it runs again; dropout never acts."""
    found = []
    for again in (False, True):
        policy = a_policy(kind)
        policy.one_pass = True
        set_layers(GRPOOptions(gradient_checkpointing=again), policy)
        policy.one_pass = True
        runs = []
        layers = (
            getattr(policy.model.model, "layers", None)
            if hasattr(policy.model, "model")
            else policy.model.transformer.h
        )
        layers = policy.model.model.decoder.layers if layers is None else layers
        attention = next(m for name, m in layers[0].named_modules() if name.endswith(("attn", "attention")))
        attention.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        kept, gradients = backward(policy)
        found.append((len(runs), kept, gradients))
    (runs, kept, gradients), (runs_again, kept_again, gradients_again) = found
    assert (runs, runs_again) == (1, 2) and kept_again < kept / 3
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True)) and len(gradients) > 10


def test_sampling_and_frozen_copies_are_as_before():
    policy = a_policy("llama")
    prompts = policy.encode_prompts(PROMPTS)
    before = sample(policy, prompts, 5, 0.0).completions
    set_layers(GRPOOptions(gradient_checkpointing=True), policy)
    assert sample(policy, prompts, 5, 0.0).completions == before
    frozen = policy.frozen()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    assert sample(frozen, prompts, 5, 0.0).completions == before


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_the_balancing_loss_of_experts_is_added_with_its_weight(kind, capsys):
    policy = a_policy(kind, layers=2)
    rows = batch(policy)
    assert "the model is a mixture of experts: their use is not balanced" in set_layers(GRPOOptions(), policy)
    assert not capsys.readouterr().err  # the run says it, in its first process alone
    _, plain = backward(policy)
    plain = [x.clone() for x in plain]
    policy.zero_grad()
    tokens, attention, _ = rows.inputs
    where = (attention.long().cumsum(1) - 1).clamp(min=0)[:, :-1]
    inputs = {"input_ids": tokens[:, :-1], "attention_mask": attention[:, :-1].long(), "position_ids": where}
    aux = policy.model(**inputs, output_router_logits=True).aux_loss
    aux.backward()
    balance = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    assert not set_layers(GRPOOptions(router_aux_loss=0.5, prompts=3, group_size=4, minibatches=1), policy)
    assert policy.balance == 0.5 / 12
    backward(policy)
    assert float(policy.aux_loss["aux_loss"]) == pytest.approx(aux.item()) and policy.aux_loss["aux_loss"].count == 12
    got = [p.grad for p in policy.parameters() if p.grad is not None]
    names = [name for name, p in policy.named_parameters() if p.grad is not None]
    for name, with_balance, without in zip(names, got, plain, strict=True):
        torch.testing.assert_close(with_balance, without + 0.5 * balance.get(name, torch.zeros_like(without)))
    assert any(balance[name].abs().max() > 1e-4 for name in balance if "gate" in name)


def test_each_row_of_a_step_has_the_same_share_of_the_balancing_loss():
    policy = a_policy("mixtral", layers=2)
    for config, rows in (
        (DPOOptions(pairs=8, router_aux_loss=1.0), 16),
        (SFTOptions(batch_size=4, router_aux_loss=1.0), 4),
    ):
        set_layers(config, policy)
        assert policy.balance == 1 / rows
    with pytest.raises(UserError, match="--router-aux-loss: the model has no experts"):
        set_layers(GRPOOptions(router_aux_loss=0.1), a_policy("llama"))


def test_both_run_by_command(tmp_path):
    a_policy("mixtral", layers=2).save(tmp_path / "model")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": p[0]}) + "\n" for p in PROMPTS * 8))
    options = ["--steps=1", "--prompts=2", "--group-size=3", "--eval-prompts=2", "--max-new-tokens=4", "--device=cpu"]
    options += ["--router-aux-loss=0.01", "--gradient-checkpointing", "--reward", "last_words", "exact"]
    run = [
        "train",
        "grpo",
        f"--model={tmp_path / 'model'}",
        f"--data={tmp_path / 'p.jsonl'}",
        f"--out={tmp_path / 'run'}",
    ]
    assert main([*run, *options]) == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["grad_norm"] > 0 and "rewards/last_words/mean" in last and last["unscored"] == 0
    assert last["aux_loss"] >= 2  # transformers' is top k, 2, where experts are used evenly, and more elsewhere


def test_the_balancing_loss_that_is_reported_is_the_mean_over_rows():
    policy = a_policy("mixtral", layers=2)
    set_layers(GRPOOptions(router_aux_loss=1.0, prompts=3, group_size=4, minibatches=1), policy)
    learner, rows, losses = Learner(policy), batch(policy), []
    learner.begin_round(0.0, 1)
    for part in (slice(0, 2), slice(2, 12)):
        learner.backward(Loss(-policy(*rows[part].inputs, 1.0).log_probs.mean(), {}))
        losses.append(float(policy.aux_loss["aux_loss"]))
    assert learner.end_round()["aux_loss"] == pytest.approx((2 * losses[0] + 10 * losses[1]) / 12, rel=1e-6)
    assert abs(losses[0] - losses[1]) > 1e-4


CODE = "from transformers import GPT2Config\nopen({!r}, 'w').write('ran')\nclass Own(GPT2Config): model_type = 'own'\n"


def test_code_that_comes_with_a_model_runs_only_when_asked_for(tmp_path):
    policy = small_policy("abc", 32, "cpu")
    policy.tokenizer.save_pretrained(tmp_path)
    mark = tmp_path / "mark"
    (tmp_path / "own.py").write_text(CODE.format(str(mark)))
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9).to_dict()
    auto = {"AutoConfig": "own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": auto}))
    with pytest.raises(UserError, match=r"brings code of its own, .* read it, then add --trust-remote-code"):
        load_policy(str(tmp_path), "cpu", "float32")
    assert not mark.exists()
    with pytest.raises(UserError, match="cannot be loaded"):  # there are no weights
        load_policy(str(tmp_path), "cpu", "float32", trust=True)
    assert mark.exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path):
    policy = small_policy("abc", 32, "cpu")
    policy.save(tmp_path)
    policy.tokenizer.add_tokens(["new"])
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its tokenizer has a token 6, and the model none from 6 on"):
        load_policy(str(tmp_path), "cpu", "float32")


def test_mamba_and_encoder_decoders_are_refused_in_a_line(tmp_path):
    tokenizer = small_policy("abc", 32, "cpu").tokenizer
    sizes = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    AutoConfig.for_model("t5", **sizes).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5 cannot be loaded: Unrecognized configuration class"):
        load_policy(str(tmp_path / "t5"), "cpu", "float32")
    config = AutoConfig.for_model(
        "mamba", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4, eos_token_id=1
    )
    Policy(AutoModelForCausalLM.from_config(config), tokenizer).save(tmp_path / "mamba")
    (tmp_path / "p.jsonl").write_text('{"prompt": "ab", "answer": "a"}\n' * 3)
    run = ["train", "grpo", f"--model={tmp_path / 'mamba'}", f"--data={tmp_path / 'p.jsonl'}", "--reward=exact"]
    assert main([*run, "--steps=1", f"--out={tmp_path / 'run'}", "--max-new-tokens=4"]) == 1
