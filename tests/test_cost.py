"""Cost on paper: the formulas against what torch and transformers really hold and do, byte by byte."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from torchstone.cli import main
from torchstone.cost import formulas as paper
from torchstone.fast import linear

ROOT = Path(__file__).parent.parent
SHAPE = paper.Shape(layers=3, hidden=48, heads=4, kv_heads=2, head_size=12, mlp=80, vocab=96)
B, S = 2, 7


def config_of(shape: paper.Shape, kind: type = LlamaConfig, **options):
    return kind(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_size,
        tie_word_embeddings=shape.tied, max_position_embeddings=64, pad_token_id=None, **options,
    )  # fmt: skip


def llama(shape=SHAPE, dtype=torch.float32, attention="sdpa"):
    torch.manual_seed(0)
    return LlamaForCausalLM(config_of(shape, attn_implementation=attention)).to(dtype).eval()


def tokens(rows=B, length=S):
    return torch.randint(0, SHAPE.vocab, (rows, length))


def stored(tensors) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_gradients_and_adam_to_the_byte(precision, dtype, tied):
    shape = replace(SHAPE, tied=tied)
    model = llama(shape, dtype)
    optimizer = torch.optim.Adam(model.parameters())
    model(tokens()).logits.float().logsumexp(-1).mean().backward()
    optimizer.step()
    held = {row.name: row.value for row in paper.memory(paper.plan("grpo", shape, precision=precision))}
    assert held["policy: weights"] == held["reference: weights"] == stored(model.parameters())
    assert held["policy: gradients"] == stored(p.grad for p in model.parameters())
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert held["policy: optimiser"] == stored(moments)


def test_mixed_precision_is_sixteen_bytes_and_eight_bit_adam_saves_six():
    n, mixed = 10**6 * 256, paper.PRECISIONS["mixed"]
    assert mixed.weight + mixed.gradient == 4 and paper.optimizer_bytes(n, mixed, "adam") == 12 * n
    assert paper.optimizer_bytes(n, mixed, "adam8bit") == 6 * n + 8 * n // 256


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        (MistralConfig, {}),
        (Qwen2Config, {}),
        (Qwen3Config, {}),
        (Qwen3Config, {"attention_bias": True}),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_config_s_parameters_are_counted_exactly(kind, options, tied, tmp_path):
    size = SHAPE.hidden // SHAPE.heads  # qwen2 has no head size of its own
    config = config_of(replace(SHAPE, tied=tied, head_size=size), kind, **options)
    config.save_pretrained(tmp_path)
    shape = paper.read_config(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.keys == model.model.layers[0].self_attn.k_proj.weight.shape[0]


def test_a_critic_is_the_body_with_one_output():
    config = config_of(SHAPE, num_labels=1)
    assert SHAPE.with_scalar().parameters == sum(p.numel() for p in LlamaForSequenceClassification(config).parameters())


@pytest.mark.parametrize(("size", "dtype"), [(4, torch.float32), (2, torch.bfloat16)])
def test_the_kv_cache_and_the_logits_to_the_byte(size, dtype):
    out = llama(dtype=dtype)(tokens(), use_cache=True)
    kept = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
    assert stored(kept) == paper.kv_cache_bytes(SHAPE, B, S, size)
    assert stored([out.logits]) == paper.logits_bytes(B, S, SHAPE.vocab, size)


@pytest.mark.parametrize(("size", "dtype"), [(4, torch.float32), (2, torch.bfloat16)])
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, layers=1, heads=6, kv_heads=3, head_size=8, mlp=40)])
def test_activations_to_the_byte(size, dtype, shape):
    model, kept = llama(shape, dtype), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t):
        if t.untyped_storage().data_ptr() not in weights:
            kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model(tokens(), use_cache=False)
    assert stored(kept.values()) == paper.activation_bytes(shape, B, S, size)
    assert out.logits.requires_grad


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_flops_of_a_pass_exactly():
    model, rows = llama(attention="eager"), tokens()
    forward = paper.forward_flops(SHAPE, B, S)
    assert flops(lambda: model(rows, use_cache=False)) == forward
    assert flops(lambda: model(rows, use_cache=False).logits.sum().backward()) == 3 * forward


def test_flops_of_a_step_with_checkpoints_exactly():
    model, rows = llama(attention="eager"), tokens()
    model.gradient_checkpointing_enable()
    model.train()
    with torch.utils.checkpoint.set_checkpoint_early_stop(False):  # else a layer's last product is left out
        counted = flops(lambda: model(rows, use_cache=False).logits.sum().backward())
    assert counted == 3 * paper.forward_flops(SHAPE, B, S) + paper.again_flops(SHAPE, B, S)


@torch.no_grad()
def test_flops_of_sampling_with_a_cache_exactly():
    model, rows, cache = llama(attention="eager"), tokens(), None

    def sample():
        nonlocal cache
        for t in range(S):
            cache = model(rows[:, t : t + 1], past_key_values=cache, use_cache=True).past_key_values

    assert flops(sample) == paper.sampling_flops(SHAPE, B, S)


def test_the_work_of_each_method_is_its_passes():
    names = {m: [row.name.split(":")[0] for row in paper.work(paper.plan(m, SHAPE))] for m in paper.METHODS}
    count = {m: [names[m].count(k) for k in ("policy", "reference", "critic", "reward model")] for m in names}
    assert count == {"reinforce": [3, 0, 0, 0], "ppo": [4, 1, 3, 1], "grpo": [4, 1, 0, 0], "dpo": [2, 1, 0, 0]}
    once, twice = (paper.work(paper.plan("ppo", SHAPE, epochs=e)) for e in (1, 2))
    for a, b in zip(once, twice, strict=True):
        assert b.value == a.value * (2 if "E " in a.formula else 1), a
    tiled = paper.work(paper.plan("grpo", SHAPE, tiled=True))
    assert any(row.name == "policy: logits again" for row in tiled)


def test_tokens_of_an_update():
    plan = paper.plan("grpo", SHAPE, prompts=3, group_size=4, prompt_tokens=5, completion_tokens=6, epochs=2)
    assert [row.value for row in paper.tokens(plan)] == [3 * 4 * 6, 3 * 4 * 11 * 2, 3 * 4 * 6 * 2]


def test_zero_shards_what_it_says():
    plans = [paper.plan("ppo", SHAPE, devices=7, zero=stage) for stage in range(4)]
    held = [{row.name: row for row in paper.memory(plan)} for plan in plans]
    for name in held[0]:
        from_stage = {"optimiser": 1, "gradients": 2, "weights": 3}.get(name.split(": ")[-1], 4)
        for stage, rows in enumerate(held):
            whole = held[0][name].value
            assert rows[name].value == (-(-whole // 7) if stage >= from_stage else whole), (name, stage)
            assert ("/ Z" in rows[name].formula) == (stage >= from_stage)


def test_the_peak_is_the_sum_that_the_table_says():
    plan = paper.plan("grpo", SHAPE)
    rows = paper.memory(plan)
    total = {when: sum(row.value for row in rows if row.when == when) for when in ("always", "sampling", "updating")}
    turns = max(row.value for row in rows if row.when == "turns")
    assert paper.peaks(plan)["sampling"] == total["always"] + total["sampling"]
    assert paper.peaks(plan)["updating"] == total["always"] + total["updating"] + turns
    assert list(paper.peaks(paper.plan("dpo", SHAPE))) == ["updating"]


def test_a_tile_is_that_of_the_code():
    assert linear.TILE_ELSEWHERE == paper.TILE


@pytest.mark.parametrize("params", [2e8, 5e8, 8e8, 1e9, 3e9, 7e9, 1.4e10, 3.2e10, 7e10, 4e11])
def test_an_estimated_shape_has_the_parameters_asked_for(params):
    shape = paper.estimate(params)
    assert abs(shape.parameters / params - 1) < 2e-4
    assert shape.mlp >= shape.hidden == 128 * shape.layers and shape.heads % shape.kv_heads == 0


def test_llama_3_8b_is_what_the_rule_gives():
    known = paper.Shape(32, 4096, 32, 8, 128, 14336, 128_256)
    assert known.parameters == 8_030_261_248  # as published
    assert paper.estimate(known.parameters) == known


# ------------------------------------------------------------------------------------------------- the command


def test_help_teaches_and_loads_no_torch():
    code = (
        "import sys; from torchstone.cli import main\n"
        "main(['cost', '--params', '7B', '--method', 'ppo']); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "12 N" in out and out.endswith("False\n")


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as end:
        main(["cost", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "torchstone cost --params 7e9 --method ppo" in out and "--sample-batch" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "--params 7e9 --method gpro",
            "unknown method 'gpro' (did you mean 'grpo'?); choose reinforce, ppo, grpo, dpo",
        ),
        ("--parms 7e9", "unknown option '--parms' (did you mean '--params'"),
        ("--params seven", "--params: expected a number from 1 to 1e+15 such as 7e9, 7B or 350M, got 'seven'"),
        ("--params nan", "got 'nan'"),
        ("--params 1e3", "--params: the rule that estimates a shape starts at 1.39e+08"),
        ("--params 7e9 --zero 4", "--zero: expected a whole number from 0 to 3, got '4'"),
        ("--params 7e9 --epochs 1.5", "--epochs: expected a whole number"),
        ("--params 7e9 --precision fp8", "unknown precision 'fp8'"),
        ("--params 7e9 --method grpo --group-size 1", "--group-size: expected at least 2 for grpo, got 1"),
        ("--params 7e9 --method dpo --group-size 3", "--group-size: expected 2 for dpo"),
        ("--params 7e9 --method grpo --critic-params 1e9", "--critic-params: grpo has no critic"),
        ("--params 7e9 --layers 2", "give the model in one way"),
        ("", "give the model in one way"),
        ("--layers 2", "--layers needs --hidden and --heads too"),
        ("--layers 2 --hidden 64 --heads 4 --kv-heads 3", "--kv-heads: expected a divisor of heads = 4, got 3"),
        ("--layers 2 --hidden 64 --heads 5", "--heads: expected a divisor of --hidden 64"),
        ("--config nowhere", "--config: cannot read nowhere"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys):
    assert main(["cost", *arguments.split()]) in (1, 2)
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "cannot read"),
        ("[]", "cannot read"),
        ('{"model_type": "gemma3"}', "has model_type 'gemma3'; counted are llama, mistral, qwen2, qwen3"),
        ('{"model_type": "llama"}', "hidden_size"),
        ('{"model_type": "llama", "hidden_size": 64, "num_attention_heads": "4"}', "num_attention_heads"),
    ],
)
def test_a_bad_config_is_named(config, says, tmp_path, capsys):
    (tmp_path / "config.json").write_text(config)
    assert main(["cost", "--config", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def test_json_is_the_numbers_of_the_table(capsys):
    shape = ["--layers", "3", "--hidden", "48", "--heads", "4", "--kv-heads", "2", "--mlp", "80", "--vocab", "96"]
    assert main(["cost", *shape, "--method", "ppo", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    plan = paper.plan("ppo", SHAPE)
    assert data == json.loads(json.dumps(paper.as_data(plan)))
    assert data["models"] == ["policy", "reference", "critic", "reward model"]
    assert data["symbols"]["N"] == SHAPE.parameters and data["peaks"] == paper.peaks(plan)
    assert main(["cost", *shape, "--json"]) == 0
    assert [d["plan"]["method"] for d in json.loads(capsys.readouterr().out)] == list(paper.METHODS)


@pytest.mark.parametrize("options", ["--logits tiled", "--no-checkpointing", "--critic-params 1e9 --reward-params 0"])
def test_every_symbol_that_is_shown_is_explained(options, capsys):
    assert main(["cost", "--params", "7e9", "--method", "ppo", "--markdown", *options.split()]) == 0
    *tables, symbols = capsys.readouterr().out.split("\n\n")
    explained = set(re.findall(r"^\| (\S+) \|", symbols, re.M))
    lines = [line.split(" | ") for table in tables for line in table.splitlines()[2:]]
    formulas = " ".join(line[-2] for line in lines if "always" not in line[-2] and "sum" not in line[-2])
    shown = set(re.findall(r"[A-Za-z]+(?:_[cr])?", formulas.replace("and", "").replace(")'", ")")))
    assert shown and shown <= explained


COMMANDS = re.findall(r"<!-- torchstone (cost .*?) -->\n(.*?)\n<!-- end -->", (ROOT / "docs/cost.md").read_text(), re.S)


@pytest.mark.parametrize(("command", "printed"), COMMANDS, ids=[c for c, _ in COMMANDS])
def test_the_page_is_in_step_with_the_code(command, printed, capsys):
    assert main(command.split()) == 0
    assert printed.strip() == capsys.readouterr().out.strip(), f"docs/cost.md: put in what torchstone {command} prints"


def test_the_page_has_its_tables():
    assert len(COMMANDS) == 2
