"""docs/ppo_from_trl.md: its options are those of ``torchstone train ppo``; its command runs with its reward model."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from torchstone.cli import main
from torchstone.train.options import PPOOptions

PAGE = (Path(__file__).parents[1] / "docs" / "ppo_from_trl.md").read_text(encoding="utf-8")
DEFAULTS = {f"--{field.name.replace('_', '-')}": field.default for field in fields(PPOOptions)}


def test_the_page_names_options_and_their_defaults():
    named = set(re.findall(r"`(--[\w-]+)", PAGE)) - {"--no-whiten", "--recipe"}
    assert len(named) >= 20 and named <= DEFAULTS.keys()
    rows = [row for row in PAGE.splitlines() if re.search(r"\| [\d.e-]+ \|$", row) and "`--gamma`" not in row]
    for row in rows:
        option, shown = re.search(r"`(--[\w-]+)`", row)[1], row.split("|")[-2].strip()
        assert float(shown) == DEFAULTS[option], row
    assert len(rows) == 11 and "`--gamma`, `--lam` | 1.0, 0.95" in PAGE
    assert (DEFAULTS["--gamma"], DEFAULTS["--lam"], DEFAULTS["--whiten"]) == (1.0, 0.95, True)
    assert (DEFAULTS["--prompts"], DEFAULTS["--group-size"]) == (256, 1)


def test_the_command_and_the_reward_model_of_the_page_run(tmp_path, monkeypatch, capsys):
    words = ["<pad>", "<eos>", "<unk>", *"0123456789>"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None, num_labels=1,
    )  # fmt: skip
    for name, kind in (("FOLDER", LlamaForCausalLM), ("my-reward-model", LlamaForSequenceClassification)):
        kind(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    prompts = [json.dumps({"prompt": f"{i:02d}>"}) for i in range(40)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts))
    (tmp_path / "reward.py").write_text(re.search(r"```py\n(.*?)```", PAGE, re.S)[1])
    command = re.search(r"```\ntorchstone (.*?)```", PAGE, re.S)[1].replace("\\\n", " ")
    monkeypatch.chdir(tmp_path)
    short = ["--steps", "2", "--prompts", "8", "--eval-prompts", "4", "--out", "run"]
    assert main([*shlex.split(command), *short]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("value_loss" in line for line in lines)
    assert "reward" in capsys.readouterr().out
