"""A reward model: a language model's body, and a head that gives one number; transformers' sequence classification."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchstone.data.files import first_line
from torchstone.data.tasks import Example
from torchstone.layers import run_again
from torchstone.store.files import absolute, file_hash
from torchstone.store.models import FAILS, REWARD, read_model, read_tokenizer
from torchstone.terminal import UserError, near
from torchstone.train.model import Policy
from torchstone.train.offline import cut_pairs, encode, side_by_side
from torchstone.train.options import Run


class RewardModel(Policy):
    """Of one label: r(x, y) is read at the last token but padding."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__(model, tokenizer)
        self.pad_id = model.config.get_text_config().pad_token_id  # which transformers goes by

    def forward(self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:  # type: ignore[override]
        """r(x, y) of each row, padded on the left, the right, or both."""
        return wide(self.read(tokens, attention, use_cache=False).logits[:, 0])

    def values(self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], T: int) -> Float[Tensor, "B T"]:
        """What the head says before each of the last T tokens: a critic's first guess of the reward."""
        out = self.read(tokens[:, :-1], attention[:, :-1], use_cache=False, output_hidden_states=True)
        with self.computing():
            return wide(self.model.score(out.hidden_states[-1][:, -T:])[..., 0])

    def save(self, folder: Path) -> None:
        """Write a folder that ``--reward-model`` and transformers can load, adapters merged into the weights."""
        model = self.model if self.adapters == "none" else copy.deepcopy(self.model).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def wide(x: Tensor) -> Tensor:
    """In float32, or what is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reward_model_of(config: Run, policy: Policy) -> RewardModel:
    """The policy's body under a head at random. Its padding is a token that no text ends with: transformers needs it.

    Raises UserError: transformers has no sequence classification of this kind of model.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(config.seed)
    tokenizer, kind = copy.deepcopy(policy.tokenizer), copy.deepcopy(policy.model.config)
    free = [i for i in (policy.pad_id, *tokenizer.all_special_ids) if i not in policy.eos_ids]
    if not free:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.pad_token_id = free[0] if free else tokenizer.pad_token_id
    kind.num_labels, kind.eos_token_id = 1, policy.eos_ids
    kind.get_text_config().pad_token_id = tokenizer.pad_token_id
    try:
        model: Any = AutoModelForSequenceClassification.from_config(kind, dtype=policy.model.dtype)
        model.base_model.load_state_dict(policy.model.base_model.state_dict())
        assert model.score.out_features == 1
    except (ValueError, RuntimeError, AttributeError) as e:
        raise UserError(f"transformers has no reward model of a {kind.model_type}: {str(e).splitlines()[0]}") from e
    if len(tokenizer) > policy.vocabulary:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    made = RewardModel(model.to(policy.device), tokenizer)
    made.compute, made.template_arguments = policy.compute, policy.template_arguments
    if config.gradient_checkpointing:
        run_again(made.model)
    if config.lora:
        made.add_lora(config.lora, absolute("model", config.model or str(config.folder / "start")), "SEQ_CLS")
    return made


def load_reward_model(source: str, device: str, dtype: str = "float32", trust: bool = False) -> RewardModel:
    """The model of ``--reward-model``: of a finished run's folder, or one of transformers' with one label.

    Raises UserError: there is none, it is a model of another kind, or it has no tokenizer.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder, name = Path(source), f"--reward-model {source}"
    if (folder / "metrics.jsonl").exists() and not (folder / "model").exists():
        raise UserError(f"{name}: that run has not finished; go on with: torchstone train --resume {folder}")
    source = str(folder / "model") if (folder / "model").is_dir() else source
    if not Path(source).is_dir() and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        runs = [str(f.parents[1]) for f in folder.parent.glob("*/model/config.json")]
        raise UserError(f"{name}: no such folder{near(str(folder), runs)}")
    try:
        kind = AutoConfig.from_pretrained(source, trust_remote_code=trust)
        is_a = ", ".join(kind.architectures or [kind.model_type])
        if not is_a.endswith(REWARD):
            make = f"torchstone train reward --model {source} --data PAIRS.jsonl"
            raise UserError(f"{name} is a {is_a}, without a head that gives a reward: {make} makes a reward model")
        if kind.num_labels != 1:
            raise UserError(f"{name} has {kind.num_labels} labels, and a reward model has one")
        tokenizer = read_tokenizer(source, trust)
        weights = torch.bfloat16 if dtype == "pure-bfloat16" else torch.float32
        model = read_model(AutoModelForSequenceClassification, source, dtype=weights, trust_remote_code=trust)
    except FAILS as e:
        raise UserError(f"{name} cannot be loaded: {first_line(e)}") from e
    if not hasattr(model, "score"):
        raise UserError(f"{name} is a {is_a}: only models that read from left to right can be used")
    if model.config.get_text_config().pad_token_id is None:
        raise UserError(f"{name}: its config.json has no pad_token_id, which tells where a text ends: set it")
    found = RewardModel(model.to(device), tokenizer).requires_grad_(True)
    found.compute = torch.bfloat16 if dtype == "bfloat16" else None
    return found


def load_critic(config: Any, policy: Policy) -> Any:
    """The network of ``--critic reward-model``; None for a linear layer. Raises UserError: it has other tokens."""
    if getattr(config, "critic", "linear") == "linear":
        return None
    critic = load_reward_model(config.reward_model, str(policy.device), config.dtype, config.trust_remote_code)
    theirs, ours = (reader.tokenizer.get_vocab().items() for reader in (critic, policy))
    if not ours <= theirs or critic.vocabulary < policy.vocabulary:
        told = f"reads the policy's tokens, and {config.reward_model} has others: --critic linear"
        raise UserError(f"--critic reward-model {told}")
    if config.gradient_checkpointing:
        run_again(critic.model)
    return critic


def weights_hash(folder: Path) -> str:
    """Of the weights in a model's folder, or in that of its run; of a model of the hub nothing."""
    found = sorted((folder / "model" if (folder / "model").is_dir() else folder).glob("*.safetensors"))
    return " ".join(map(file_hash, found))


def pair_rewards(model: Any, pairs: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """r(x, y) of the chosen [N] and of the rejected [N] completions of encoded pairs."""
    batch = side_by_side(model, pairs)
    chosen, rejected = model(batch.tokens, batch.attention).view(-1, 2).unbind(1)
    return chosen, rejected


@torch.no_grad()
def judge_pairs(config: Run, model: Any, pairs: Sequence[Example]) -> list[Example]:
    """The pairs with ``rewards/chosen`` and ``rewards/rejected``."""
    out: list[Example] = []
    ids = encode(config, model, pairs) if pairs else []
    for piece in cut_pairs(config, ids) if pairs else ():
        rewards = (x.tolist() for x in pair_rewards(model, ids[piece]))
        both = zip(pairs[piece], *rewards, strict=True)
        out += [pair | {"rewards/chosen": chosen, "rewards/rejected": rejected} for pair, chosen, rejected in both]
    return out
