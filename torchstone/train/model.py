"""The policy: a causal language model and its tokenizer in Hugging Face format, small or large alike.

The default model is a Llama of 0.1 M parameters over characters. It needs no download, and transformers' KV
cache serves it as it serves a real model.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torchstone.core import Mean, token_entropies, token_log_probs
from torchstone.data.chat import Prompt, choose_template, render
from torchstone.layers import balanced
from torchstone.terminal import UserError

warnings.filterwarnings("ignore", "`is_gradient_checkpointing`")  # peft asks by transformers' older name
PIECE = 2**20  # numbers of a softmax that are worked on at once
SECOND_PASS = 2**25  # reading prompts apart is a second pass: worth it if it saves more tokens times parameters


class Sliceable:
    """All of its parts have a row for each completion: ``x[rows]`` takes those rows of every part."""

    def __getitem__(self, rows: slice) -> Any:
        return type(self)(**{name: None if part is None else part[rows] for name, part in vars(self).items()})


@dataclass(frozen=True)
class Outputs(Sliceable):
    """What a policy says about the tokens of B completions; column t is about completion token t."""

    log_probs: Float[Tensor, "B T"]  # nats, of the distribution that is sampled
    entropies: Float[Tensor, "B T"]  # nats; without a gradient unless the policy's entropy_bonus is set
    values: Float[Tensor, "B T"]  # the critic's guess of the return, made before token t; 0 without a critic
    logits: Any = None  # [B T V]: what token t was chosen by, if the policy's keep_logits is set

    @classmethod
    def cat(cls, parts: Sequence[Outputs], dim: int) -> Outputs:
        """Several in one: of further rows (dim 0) or of further tokens (dim 1)."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        together: Any = (None if column[0] is None else torch.cat(column, dim) for column in columns)
        return cls(*together)

    def detach(self) -> Outputs:
        """The same as constants, without the logits."""
        return Outputs(self.log_probs.detach(), self.entropies.detach(), self.values.detach())


class Policy(nn.Module):
    """A model, its tokenizer, and for PPO a critic: a linear layer on the model's last hidden states, or a network."""

    def __init__(self, model: Any, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer  # eval: never any dropout
        self.parameter_count: int = model.num_parameters()
        self.value_head: nn.Linear | None = None
        self.critic: Any = None  # a reward model, as a network of its own
        self.entropy_bonus = False  # whether a loss wants the gradient of the entropies: three times the logits' memory
        self.keep_logits = False  # whether a loss wants them: the vocabulary's size times a log-prob's memory
        self.one_pass = False  # prompts and completions are always read together
        self.balance = 0.0  # weight of a mixture of experts' balancing loss, for each row
        self.aux_loss: dict[str, Mean] = {}  # that loss, of the rows that were read last with a gradient
        self.compute: torch.dtype | None = None  # what the model computes in, beside weights of another dtype
        generation = getattr(model, "generation_config", None)  # a reward model has none
        listed = getattr(generation or model.config, "eos_token_id", None)
        self.eos_ids: list[int] = [listed] if isinstance(listed, int) else list(listed or [])
        self.end_id = _end_of_turn(tokenizer, self.eos_ids)
        self.eos_ids += [i for i in (self.end_id,) if i not in self.eos_ids]
        self.template_arguments: dict[str, Any] = {}  # of the chat template
        self.adapters: Literal["none", "on", "off"] = "none"
        self.uncut: tuple[Policy, ...] = ()  # if the weights are cut over several processes, the same without weights
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        if generation:  # or its top_k, penalties, ... would be sampled with
            model.generation_config = type(generation)()

    def add_critic(self, network: Any = None) -> None:
        """A network that has ``values``; or a linear layer, whose first guess is 0 everywhere."""
        if network is not None:
            self.critic = network
            return
        self.value_head = nn.Linear(self.model.config.hidden_size, 1).to(self.device)
        self.value_head.load_state_dict({name: 0 * p for name, p in self.value_head.state_dict().items()})

    def add_lora(self, rank: int, base: str, task: str = "CAUSAL_LM") -> None:
        """Adapters of this rank on every linear layer but the last, 0 at first; the weights of ``base`` are frozen."""
        from peft import LoraConfig, get_peft_model

        kind = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
        self.model, self.adapters = get_peft_model(self.model, kind).eval(), "on"
        self.model.peft_config["default"].base_model_name_or_path = base

    def frozen(self) -> Policy:
        """The policy as it is at the start, for good: a copy, or itself with the adapters off."""
        if self.adapters == "none":
            return copy.deepcopy(self).requires_grad_(False)
        base = copy.copy(self)  # of the same weights
        base.adapters = "off"
        return base

    @property
    def is_cut(self) -> bool:
        """Whether each process has a share of the weights: then all read at the same time."""
        return bool(self.uncut)

    @property
    def attention_alone(self) -> bool:
        """Whether what the model keeps of a prompt is keys and values, of which any number of tokens can read on."""
        from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

        kinds = {type(layer) for layer in DynamicCache(config=self.model.config).layers}
        return not self.model._is_stateful and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context(self) -> int:
        """The most tokens that prompt and completion may have together; any number where the config sets no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize

    def forward(
        self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], T: int, temperature: float
    ) -> Outputs:
        """What the policy says about the last T tokens of each row; ``attention`` is False on the padding before."""
        out = self.predict(tokens, attention, T, temperature)
        if self.critic is None or self.adapters == "off":
            return out
        return replace(out, values=self.critic.values(tokens, attention, T))

    def predict(
        self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], T: int, temperature: float
    ) -> Outputs:
        """The same without a network for the values.

        In one pass; or, where prompts stand in so many rows that this costs less, in two: the prompts, and, with the
        keys and values that they left in the cache, their completions. What follows the last token is not predicted.
        """
        P = tokens.shape[1] - T
        options = {"output_hidden_states": self.value_head is not None}
        saved = P * (~_new_prompt(tokens[:, :P], attention[:, :P])).sum()  # tokens that two passes do not read
        if saved * self.parameter_count <= SECOND_PASS or self.one_pass or self.is_cut or not self.attention_alone:
            out = self.read(tokens[:, :-1], attention[:, :-1], use_cache=False, logits_to_keep=T, **options)
            return self.read_off(out, tokens[:, P:], temperature)
        out = self.read_prompts(tokens[:, :P], attention[:, :P], **options)
        parts = [self.read_off(out, tokens[:, P : P + 1], temperature)]  # the last prompt token predicts the first
        if T > 1:
            cache = out.past_key_values
            out = self.read(tokens[:, P:-1], attention[:, :-1], past_key_values=cache, use_cache=True, **options)
            parts.append(self.read_off(out, tokens[:, P + 1 :], temperature))
        return Outputs.cat(parts, dim=1)

    def read_off(self, out: Any, tokens: Int[Tensor, "B N"], temperature: float) -> Outputs:
        """What the model's output at N positions says about the tokens that follow them."""
        log_probs = token_log_probs(out.logits, tokens, temperature=temperature)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.entropy_bonus):
            pieces = out.logits.split(max(1, PIECE // out.logits[0].numel()))  # their softmax stays in the cache
            entropies = torch.cat([token_entropies(piece, temperature=temperature) for piece in pieces])
        if self.value_head is None:
            return Outputs(log_probs, entropies, torch.zeros_like(log_probs), out.logits if self.keep_logits else None)
        states = out.hidden_states[-1][:, -tokens.shape[1] :]  # [B N H], each from before its token
        return Outputs(log_probs, entropies, self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1))

    def logits(self, tokens: Int[Tensor, "B S"], attention: Bool[Tensor, "B S"], T: int) -> Float[Tensor, "B T V"]:
        """The logits that the last T tokens of each row were, or could have been, chosen by."""
        return self.read(tokens[:, :-1], attention[:, :-1], use_cache=False, logits_to_keep=T).logits

    def read_prompts(self, tokens: Int[Tensor, "B P"], attention: Bool[Tensor, "B P"], **options: Any) -> Any:
        """The model's output at the end of each prompt, and its cache; equal prompts side by side are read once."""
        new = _new_prompt(tokens, attention)
        which = new.cumsum(0) - 1  # [B]: which of the prompts it is
        out = self.read(tokens[new], attention[new], use_cache=True, logits_to_keep=1, **options)
        out.logits = out.logits[:, -1:].index_select(0, which)
        if out.hidden_states is not None:
            out.hidden_states = [out.hidden_states[-1][:, -1:].index_select(0, which)]
        out.past_key_values.reorder_cache(which)  # index_select: unlike indexing, with a fast gradient
        return out

    def read(self, tokens: Int[Tensor, "B N"], attention: Bool[Tensor, "B S"], **options: Any) -> Any:
        """The model's output at the last N of S positions; the others are in its cache."""
        padded = not attention.all()  # if not, no mask is needed, and one row of positions does for all
        positions = ((attention if padded else attention[:1]).long().cumsum(1) - 1).clamp(min=0)
        options |= {"attention_mask": attention.long()} if padded else {}
        balancing = self.balance > 0 and torch.is_grad_enabled()
        options |= {"output_router_logits": True} if balancing else {}
        with self.computing():
            out = self.model(input_ids=tokens, position_ids=positions[:, -tokens.shape[1] :], **options)
        return balanced(self, out, len(tokens)) if balancing else out

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Matrix products in ``compute``; around several reads without a gradient, weights are cast once for all."""
        with ExitStack() as stack:
            if self.compute:
                stack.enter_context(torch.autocast(self.device.type, self.compute))
            if self.adapters == "off":  # peft switches them on again at the end, also inside another such block
                stack.enter_context(self.model.disable_adapter())
            yield

    @property
    def vocabulary(self) -> int:
        """How many tokens it has a logit for: at least those of the tokenizer."""
        return self.model.config.get_text_config().vocab_size

    def set_template(self, template: str, arguments: str) -> None:
        """Prompts go through this chat template: ``default``, ``none`` or a file of Jinja, with arguments in JSON."""
        self.template_arguments = choose_template(self.tokenizer, template, arguments)
        self.end_id = _end_of_turn(self.tokenizer, self.eos_ids)

    def encode_prompts(self, prompts: Sequence[Prompt], system: str | None = None) -> list[list[int]]:
        """Token ids, through the chat template where the tokenizer has one; of None, the token that begins a text."""
        if prompts and prompts[0] is None:
            begin = self.tokenizer.bos_token_id
            return [[self.end_id if begin is None else begin] for _ in prompts]
        texts = render(self.tokenizer, prompts, system, self.template_arguments)
        if getattr(self.tokenizer, "chat_template", None) is not None:
            return self._ids(texts, add_special_tokens=False)
        alone, bare = self._ids(["a"])[0], self._ids(["a"], add_special_tokens=False)[0]
        closed = alone[-1] != bare[-1]  # by a token that the tokenizer appends to every text
        return [ids[: len(ids) - closed] for ids in self._ids(texts)]

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        """Token ids, each with the token that ends a turn: to end there is part of the answer."""
        return [[*row, self.end_id] for row in self._ids(completions, add_special_tokens=False)]

    def _ids(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        """A thousand at a time: beside its ids, a text that is being tokenised takes kilobytes."""
        pieces = (list(texts[i : i + 1000]) for i in range(0, len(texts), 1000))
        return [ids for piece in pieces for ids in self.tokenizer(piece, **options)["input_ids"]]

    def save_adapters(self, folder: Path) -> None:
        """Write a folder that ``--model`` and peft can load."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def save(self, folder: Path) -> None:
        """Write a folder that ``--model`` and transformers can load, adapters merged into the weights."""
        model = self.model if self.adapters == "none" else copy.deepcopy(self.model).merge_and_unload()
        model.generation_config.eos_token_id = self.eos_ids
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        model.generation_config.eos_token_id = None


def _end_of_turn(tokenizer: Any, listed: list[int]) -> int:
    """The end token that the chat template writes after an answer, else the tokenizer's, else the only one listed."""
    from jinja2 import TemplateError

    ends, answer = {*listed, tokenizer.eos_token_id}, "torchstone"
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        with suppress(TemplateError):
            after = tokenizer.apply_chat_template(chat, tokenize=False).partition(answer)[2]
            ends_turn = [i for i in tokenizer(after, add_special_tokens=False)["input_ids"] if i in ends]
            if ends_turn:
                return ends_turn[0]
    if tokenizer.eos_token_id is None and len(listed) != 1:
        how = f"lists {len(listed)} end tokens, of which none is the tokenizer's" if listed else "has none"
        raise UserError(f"which token ends an answer? The model {how}: set the tokenizer's eos_token")
    return listed[0] if tokenizer.eos_token_id is None else tokenizer.eos_token_id


def _new_prompt(tokens: Int[Tensor, "B P"], attention: Bool[Tensor, "B P"]) -> Bool[Tensor, " B"]:
    """Whether a row's prompt is another than that of the row above."""
    differs = (tokens[1:] != tokens[:-1]) | (attention[1:] != attention[:-1])
    return torch.cat([torch.ones_like(attention[:1, 0]), differs.any(1)])


def small_policy(characters: str, context: int, device: str) -> Policy:
    """An untrained Llama of 2 layers of width 64 over single characters, about 0.1 M parameters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(["<pad>", "<eos>", "<unknown>", *characters])}
    characters_only = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    characters_only.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters_only.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters_only, padding_side="left",
        pad_token="<pad>", eos_token="<eos>", unk_token="<unknown>", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=176, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=context,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    return Policy(model.to(device), tokenizer)
