"""A tiny model inside TRL's trainers, in float64 with SGD: its weights after four optimizer steps, by settings.

``online``, ``offline`` and ``distilled`` train; ``POLICY``, ``DPO`` and ``DISTILL`` are the rows of TRL's trainers with
the settings that make TRL compute them. As a program it runs all of them, TRL's own trainer beside the plug, on as many
processes as it is started with:
    python tests/frameworks/engine_trl.py [ROW ...]
    torchrun --nproc-per-node 2 tests/frameworks/engine_trl.py [ROW ...]
    python tests/frameworks/engine_trl.py --learn [ROW ...]     published rows, from random text to a reward
"""

import os
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers
from cases_trl import ALPHA, PAIRS, SETTINGS
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import (
    DistillationConfig,
    DistillationTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from torchstone.frameworks.loading import default_dtype, float32_is_float64
from torchstone.frameworks.trl import RecipeDistillationTrainer, RecipeDPOTrainer, RecipeGRPOTrainer
from torchstone.frameworks.trl.settings import refusal
from torchstone.frameworks.trl.unit import VERSION
from torchstone.recipes import RECIPES, PolicyRecipe, find

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
POLICY = {**SETTINGS, "gmpo": {}, "rloo": {}}
POLICY["gdpo"] = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.5]}
DPO = {name: {k: list(v) if isinstance(v, tuple) else v for k, v in of.items()} for name, of in PAIRS.items()}
DPO |= {"wpo": {"use_weighting": True}, "f-dpo-alpha": ALPHA}
DISTILL: dict[str, dict[str, Any]] = {"opd-exact": {}, "opd-forward": {"beta": 0.0}, "gkd": {"beta": 0.5}}
HEAD = "trl.kernels.chunked_logprob"  # where TRL computes log-probs in float32; here they stay float64
OFFLINE = "trl.trainer.dpo_trainer"  # where it takes the power of f-DPO's alpha-divergence in float32
DIVERGENCE = "trl.kernels.chunked_divergence"
WORDS = [*"0123456789", ">", "-"]
G, LONGEST = 4, 6
RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
FIXED = {
    "output_dir": tempfile.gettempdir(), "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2,
    "max_steps": 4, "logging_steps": 1, "report_to": "none", "learning_rate": 0.1, "optim": "sgd", "use_cpu": True,
    "bf16": False, "seed": 0, "disable_tqdm": True, "save_strategy": "no", "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0, "gradient_checkpointing": False,
}  # fmt: skip


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<unk>", *WORDS]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


@cache
def start() -> tempfile.TemporaryDirectory:
    """A folder with a model that has never learned, far from uniform: TRL reads its reference from there."""
    folder = tempfile.TemporaryDirectory()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3 + len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    with default_dtype(torch.float32):  # the same numbers, whatever a caller's is
        LlamaForCausalLM(config).double().save_pretrained(folder.name)
    return folder


def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(start().name, dtype=torch.float64)


def teacher() -> LlamaForCausalLM:
    """Another that has never learned."""
    torch.manual_seed(1)
    return LlamaForCausalLM(model().config).double()


def flat(trained: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.parameters()])


class Rollouts:
    """What a sampler would return, seeded by the first prompt: completions, their log-probs, tool output in them."""

    def __init__(self, tools: bool) -> None:
        self.tools = tools

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list]:
        draws = torch.Generator().manual_seed(1 + RANK + 2 * int(prompts[0][:3]))
        draw = lambda *shape: torch.rand(shape, generator=draws)  # noqa: E731
        lengths = [1 + int(x) for x in draw(len(prompts)) * LONGEST]
        ids = [[3 + int(x) for x in draw(n) * len(WORDS)] for n in lengths]
        found = {
            "prompt_ids": tokenizer()(prompts)["input_ids"],
            "completion_ids": ids,
            "logprobs": [(-2.5 + draw(n)).tolist() for n in lengths],
        }
        return found | ({"env_mask": [(draw(n) > 0.2).int().tolist() for n in lengths]} if self.tools else {})


def digits(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [sum(c.count(d) for d in "0123") / 4 + 0.1 * c.count("7") for c in completions]


def short(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [10.0 - len(c) for c in completions]


class FedRLOOTrainer(RLOOTrainer):
    """It has no ``rollout_func`` of its own, and no tool output."""

    def __init__(self, *given: Any, rollout_func: Any, **named: Any) -> None:
        self.rollouts = rollout_func
        super().__init__(*given, **named)

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        found = self.rollouts(prompts, self)
        ids = found["completion_ids"]
        return found["prompt_ids"], ids, tokenizer().batch_decode(ids, skip_special_tokens=True)


class NoServer:
    """In the place of vLLM's client."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def sync_weights(self) -> None:
        pass


def online(trainer: type = GRPOTrainer, config: type = GRPOConfig, recipe: Any = None, tools: bool = True,
           reward: Any = digits, model: Any = model, beside: Any = None, resume: bool = False,
           **settings: Any) -> Any:  # fmt: skip
    """The trainer after training. ``recipe``: the plug in its place; ``beside``: more of the trainer's arguments."""
    args = {"num_generations": G, "max_completion_length": LONGEST, "num_iterations": 2} | FIXED | settings
    prompts = Dataset.from_dict({"prompt": [f"{i:03d}>" for i in range(48)]})
    made, given = (trainer, {}) if recipe is None else (RecipeGRPOTrainer, {"recipe": recipe})
    with (
        redirect_stdout(StringIO()),
        float32_is_float64(HEAD),
        patch("trl.trainer.grpo_trainer.VLLMGeneration", NoServer),
    ):
        run = made(
            model=model(), args=config(**args), train_dataset=prompts, reward_funcs=reward,
            processing_class=tokenizer(), **({"rollout_func": Rollouts(tools)} | given | (beside or {})),
        )  # fmt: skip
        run.train(resume_from_checkpoint=resume)
    return run


def offline(trainer: type = DPOTrainer, recipe: Any = None, model: Any = model, beside: Any = None,
            resume: bool = False, **settings: Any) -> Any:  # fmt: skip
    """The trainer after training on pairs of unequal lengths."""
    draws = torch.Generator().manual_seed(2)
    some = lambda: "".join(WORDS[int(i)] for i in torch.rand(1 + int(torch.randint(5, (), generator=draws)),  # noqa: E731
                                                              generator=draws) * len(WORDS))  # fmt: skip
    pairs = Dataset.from_dict(
        {"prompt": [f"{i:03d}>" for i in range(48)]} | {k: [some() for _ in range(48)] for k in ("chosen", "rejected")}
    )
    made, given = (trainer, {}) if recipe is None else (RecipeDPOTrainer, {"recipe": recipe})
    with redirect_stdout(StringIO()), float32_is_float64(HEAD, OFFLINE):
        run = made(
            model=model(), args=DPOConfig(**(FIXED | settings)), train_dataset=pairs, processing_class=tokenizer(),
            **given, **(beside or {}),
        )  # fmt: skip
        run.train(resume_from_checkpoint=resume)
    return run


def distilled(recipe: Any = None, tools: bool = True, model: Any = model, beside: Any = None, resume: bool = False,
              **settings: Any) -> Any:  # fmt: skip
    """The trainer after training on completions that the generator makes in the student's place."""
    made, given = (DistillationTrainer, {}) if recipe is None else (RecipeDistillationTrainer, {"recipe": recipe})
    rollouts, prompts = Rollouts(tools), Dataset.from_dict({"prompt": [f"{i:03d}>" for i in range(48)]})

    class Stubbed(made):  # type: ignore[valid-type, misc]
        def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
            found = rollouts(prompts, self)
            return found["prompt_ids"], found["completion_ids"], found.get("env_mask"), None, []

    args = {"max_completion_length": LONGEST} | FIXED | settings
    with redirect_stdout(StringIO()), float32_is_float64(HEAD, DIVERGENCE):
        run = Stubbed(
            model=model(), teacher_model=teacher(), args=DistillationConfig(**args), train_dataset=prompts,
            processing_class=tokenizer(), **given, **(beside or {}),
        )  # fmt: skip
        run.train(resume_from_checkpoint=resume)
    return run


def both(name: str) -> tuple[Any, Any]:
    """TRL's own trainer and the plug, after the same steps. The row of GKD stands beside DistillationTrainer."""
    recipe = f"{name}@{VERSION}"
    if name in POLICY:
        row, of = find(recipe), POLICY[name]
        others = {"gmpo": (GMPOTrainer, GMPOConfig), "rloo": (FedRLOOTrainer, RLOOConfig)}
        theirs, tools = others.get(name, (GRPOTrainer, GRPOConfig)), name != "rloo"
        ours = {k: v for k, v in of.items() if ("vllm" in k and "mode" not in k) or k == "reward_weights"}
        how = {"tools": tools, "reward": [digits, short] if row.several else digits}
        assert row.name == recipe
        return online(*theirs, **how, **of), online(recipe=recipe, **how, **ours)
    train, of = (offline, DPO) if name in DPO else (distilled, DISTILL)
    return train(**of[name]), train(recipe=recipe)


def difference(name: str) -> tuple[float, float]:
    """Between the weights of both, over the largest movement; and that movement."""
    theirs, ours = (flat(run.accelerator.unwrap_model(run.model)) for run in both(name))
    moved = float((theirs - flat(model())).abs().max())
    return float((theirs - ours).abs().max()) / moved, moved


PUBLISHED = [
    name for name, row in RECIPES.items() if "@" not in name and isinstance(row, PolicyRecipe) and not refusal(row)
]


def learned(name: str) -> tuple[float, float]:
    """The share of sevens, in float32 with Adam and TRL's own sampler: in the first and the last 3 of 30 steps."""
    price = ":penalty.cache=2" if RECIPES[name].penalty.name != "none" else ""  # of 6 tokens
    sevens = lambda completions, **_: [text.count("7") / LONGEST for text in completions]  # noqa: E731
    run = online(
        recipe=name + price, reward=sevens, model=lambda: model().float(), beside={"rollout_func": None},
        per_device_train_batch_size=32, gradient_accumulation_steps=1, num_generations=8, num_iterations=1,
        max_steps=30, optim="adamw_torch", learning_rate=1e-2, max_grad_norm=1.0,
    )  # fmt: skip
    rewards = [entry["reward"] for entry in run.state.log_history if "reward" in entry]
    return sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3


if __name__ == "__main__":
    if sys.argv[1:2] == ["--learn"]:
        warnings.filterwarnings("ignore")
        for name in sys.argv[2:] or PUBLISHED:
            print(name, "from {:.2f} to {:.2f}".format(*learned(name)), flush=True)
        sys.exit()
    torch.set_default_dtype(torch.float64)  # TRL makes constants with it
    warnings.filterwarnings("ignore")
    names = sys.argv[1:] or [*POLICY, *DPO, *DISTILL]
    worst = 0.0
    for name in names:
        apart, moved = difference(name)
        worst = max(worst, apart)
        if RANK == 0:
            print(f"{name:18s} moved {moved:.1e}, differs by {apart:.1e} of it", flush=True)
    if RANK == 0:
        print(f"{len(names)} rows of {VERSION}, {RANKS} processes: the largest difference {worst:.1e}")
    sys.exit(worst > 1e-6)
