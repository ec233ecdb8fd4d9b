"""Memory and work of one RL update, on paper. Every number comes with the formula that made it; no torch needed.

What is counted, what is not, and how far measurements are from it: docs/cost.md. The symbols are ``SYMBOLS``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

METHODS = ("reinforce", "ppo", "grpo", "dpo")
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")  # of config.json: those whose parameters are counted exactly
TILE = 2**26  # logits that core.linear_log_probs holds at once on a GPU
QUANTILE_BLOCK = 256  # parameters that share one scale in 8-bit Adam


# ------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: rotary positions, grouped keys and values, a gated MLP, two norms a layer."""

    layers: int  # L
    hidden: int  # H
    heads: int
    kv_heads: int
    head_size: int
    mlp: int  # F
    vocab: int  # V
    tied: bool = False  # the output head is the input embedding
    extra: int = 0  # parameters a layer beside its matrices and two norms: biases, norms of queries and keys
    scalar: bool = False  # one output a token (critic, reward model) in place of V

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_size", "mlp", "vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: expected a divisor of heads = {self.heads}, got {self.kv_heads}")

    @property
    def queries(self) -> int:
        """Q: the width of a token's queries, all heads together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """K: the width of a token's keys; values are as wide."""
        return self.kv_heads * self.head_size

    @property
    def outputs(self) -> int:
        return 1 if self.scalar else self.vocab

    @property
    def layer_matrices(self) -> int:
        """m: parameters of a layer that a token is multiplied with."""
        return 2 * self.hidden * (self.queries + self.keys) + 3 * self.hidden * self.mlp

    @property
    def matrices(self) -> int:
        """M: parameters of the model that a token is multiplied with; looking up an embedding costs nothing."""
        return self.layers * self.layer_matrices + self.outputs * self.hidden

    @property
    def parameters(self) -> int:
        """N: all of them, a tied head once."""
        own_head = self.scalar or not self.tied
        tables = self.vocab * self.hidden + (self.outputs * self.hidden if own_head else 0)
        return tables + self.layers * (self.layer_matrices + 2 * self.hidden + self.extra) + self.hidden

    def with_scalar(self) -> Shape:
        """The same body with one output a token: the usual critic, the usual reward model."""
        return replace(self, scalar=True)


def estimate(params: float, vocab: int = 128_256, tied: bool = False, scalar: bool = False) -> Shape:
    """A likely shape of a model of which only the number of parameters is known.

    Heads of 128; H = 128 L; 8 key-value heads (4 where L is 4 or 12). L is the one of 4, 8, 12, 16, 24, 32, 40, ...
    whose model with F = 3.5 H comes nearest in ratio (which gives Llama 3 8B); then F takes up the rest, so that N
    is ``params`` up to rounding F. No F below H.
    """

    def shape(layers: int, mlp: int) -> Shape:
        kv_heads = 8 if layers % 8 == 0 else 4
        return Shape(layers, 128 * layers, layers, kv_heads, 128, mlp, vocab, tied, scalar=scalar)

    found: list[tuple[float, Shape]] = []
    layers = 4
    while True:
        rough, one = shape(layers, 448 * layers).parameters, shape(layers, 1).parameters
        mlp = 1 + round((params - one) / (3 * layers * 128 * layers))
        if mlp >= 128 * layers:
            found.append((abs(math.log(rough / params)), shape(layers, mlp)))
        if one > params:
            break
        layers += 4 if layers < 16 else 8
    if not found:
        least = shape(4, 512).parameters
        raise ValueError(
            f"params: the rule that estimates a shape starts at {least:.2e} with a vocabulary of {vocab}, "
            f"got {params:.3g}; give layers, hidden and heads, or another vocab"
        )
    return min(found, key=lambda pair: pair[0])[1]


def read_config(folder: Path) -> Shape:
    """The shape that a Hugging Face ``config.json`` (or the folder that holds it) describes."""
    path = folder / "config.json" if folder.is_dir() else folder
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as e:
        raise ValueError(f"config: cannot read {path}: {e}") from e
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(
            f"config: {path} has model_type {kind!r}; counted are {known}. Give layers, hidden and heads instead"
        )

    def read(name: str, default: int | None = None) -> int:
        value = config.get(name, default)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"config: {name} in {path}: expected a whole number of at least 1, got {value!r}")
        return value

    hidden, heads = read("hidden_size"), read("num_attention_heads")
    kv_heads = read("num_key_value_heads", {"qwen2": 32, "qwen3": 32, "mistral": 8}.get(kind, heads))
    size = read("head_dim", 128 if kind == "qwen3" else hidden // heads)
    shape = Shape(
        read("num_hidden_layers"), hidden, heads, kv_heads, size, read("intermediate_size"), read("vocab_size"),
        bool(config.get("tie_word_embeddings", False)),
    )  # fmt: skip
    extra = 0
    if kind == "qwen2" or config.get("attention_bias"):
        extra += shape.queries + 2 * shape.keys
    if kind != "qwen2" and config.get("attention_bias"):
        extra += shape.hidden
    if kind == "llama" and config.get("mlp_bias"):
        extra += 2 * shape.mlp + shape.hidden
    if kind == "qwen3":
        extra += 2 * shape.head_size
    return replace(shape, extra=extra)


# ---------------------------------------------------------------------------------------------- what is to be run


@dataclass(frozen=True)
class Precision:
    """Bytes a parameter. Frozen models and the KV cache take what ``weight`` takes."""

    weight: int  # w
    gradient: int
    master: int  # a second copy of the weights, in the optimiser
    moment: int  # each of Adam's two
    meaning: str


PRECISIONS = {
    "mixed": Precision(2, 2, 4, 4, "bf16 weights and gradients; fp32 master weights and moments in the optimiser"),
    "mixed-fp32-grad": Precision(2, 4, 4, 4, "as mixed, with gradients gathered in fp32"),
    "bf16": Precision(2, 2, 0, 2, "all in bf16, Adam's moments too: what torch does with a bf16 model"),
    "fp32": Precision(4, 4, 0, 4, "all in fp32"),
}
OPTIMIZERS = ("adam", "adam8bit")


COUNTS = (
    "prompts", "group_size", "prompt_tokens", "completion_tokens", "epochs", "micro_batch", "sample_batch", "devices",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A method, its models, and the numbers of one update."""

    method: str
    policy: Shape
    critic: Shape | None = None  # None: no critic, or (ppo) a linear layer on the policy
    reward: Shape | None = None  # None: rewards come from a program
    reference: bool = True
    prompts: int = 64  # P; dpo: pairs
    group_size: int = 8  # G; dpo: 2, the chosen and the rejected
    prompt_tokens: int = 512  # X
    completion_tokens: int = 1024  # T, of every completion
    epochs: int = 1  # E: passes over the round's completions
    micro_batch: int = 4  # b: rows in one forward and backward pass, on each device
    sample_batch: int = 64  # c: completions that are sampled at a time, on each device
    precision: str = "mixed"
    optimizer: str = "adam"
    checkpointing: bool = True
    tiled: bool = False  # linear_log_probs in place of whole logits
    tile: int = TILE  # logits it holds at once
    devices: int = 1  # Z
    zero: int = 0  # stage

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name, known in (("method", METHODS), ("precision", tuple(PRECISIONS)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero: expected a stage from 0 to 3, got {self.zero}")
        if self.method == "grpo" and self.group_size < 2:
            raise ValueError(f"group_size: expected at least 2 for grpo, got {self.group_size}")
        if self.method == "dpo" and self.group_size != 2:
            raise ValueError(f"group_size: expected 2 for dpo, the chosen and the rejected, got {self.group_size}")

    @property
    def rows(self) -> int:
        """B = P G."""
        return self.prompts * self.group_size

    @property
    def length(self) -> int:
        """S = X + T."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def online(self) -> bool:
        return self.method != "dpo"

    @property
    def models(self) -> list[str]:
        others = (("reference", self.reference), ("critic", self.critic), ("reward model", self.reward))
        return ["policy", *(name for name, held in others if held)]


def plan(method: str, policy: Shape, **options: Any) -> Plan:
    """The plan of a method as it is usually described; ``options`` are fields of ``Plan`` and win.

    ppo: a reference, a critic and a reward model of the policy's body. grpo, dpo: a reference. reinforce: none.
    """
    usual: dict[str, Any] = {"reference": method != "reinforce"}
    if method == "ppo":
        usual |= {"critic": policy.with_scalar(), "reward": policy.with_scalar()}
    if method == "dpo":
        usual |= {"group_size": 2}
    return Plan(method, policy, **usual | options)


# ---------------------------------------------------------------------------------------------------- memory

SYMBOLS: dict[str, tuple[str, Callable[[Plan], int | None]]] = {
    "N": ("parameters of the policy", lambda p: p.policy.parameters),
    "N_c": ("parameters of the critic", lambda p: p.critic.parameters if p.critic else None),
    "N_r": ("parameters of the reward model", lambda p: p.reward.parameters if p.reward else None),
    "M": ("those that a token is multiplied with", lambda p: p.policy.matrices),
    "M_c": ("the same of the critic", lambda p: p.critic.matrices if p.critic else None),
    "M_r": ("the same of the reward model", lambda p: p.reward.matrices if p.reward else None),
    "m": ("those of one layer", lambda p: p.policy.layer_matrices),
    "L": ("layers", lambda p: p.policy.layers),
    "H": ("hidden width", lambda p: p.policy.hidden),
    "A": ("attention heads", lambda p: p.policy.heads),
    "D": ("width of a head", lambda p: p.policy.head_size),
    "Q": ("width of the queries, A D", lambda p: p.policy.queries),
    "K": ("width of the keys, and of the values", lambda p: p.policy.keys),
    "F": ("width of the MLP", lambda p: p.policy.mlp),
    "V": ("vocabulary", lambda p: p.policy.vocab),
    "P": ("prompts (dpo: pairs)", lambda p: p.prompts),
    "G": ("completions of each", lambda p: p.group_size),
    "B": ("rows of an update, P G", lambda p: p.rows),
    "X": ("tokens of a prompt", lambda p: p.prompt_tokens),
    "T": ("tokens of a completion", lambda p: p.completion_tokens),
    "S": ("tokens of a row, X + T", lambda p: p.length),
    "E": ("epochs", lambda p: p.epochs),
    "b": ("rows of a micro-batch, per device", lambda p: p.micro_batch),
    "c": ("completions sampled at a time, per device", lambda p: p.sample_batch if p.online else None),
    "w": ("bytes of a weight", lambda p: PRECISIONS[p.precision].weight),
    "Z": ("devices", lambda p: p.devices if p.devices > 1 else None),
    "r": ("rows of a tile of linear_log_probs", lambda p: tile_of(p)[0]),
    "k": ("columns of it", lambda p: tile_of(p)[1]),
    "a": ("bytes kept for a token in a layer: w (4H + 2Q + 2K + 4F) + 4 (2H + A + 2)", lambda p: kept(p)[0]),
    "e": ("bytes kept for a token outside the layers: 2wH + 4H + 12", lambda p: kept(p)[1]),
}


@dataclass(frozen=True)
class Quantity:
    """One number and where it comes from."""

    name: str
    formula: str
    value: int
    when: str = "always"  # when the bytes are held: always | sampling | updating | turns: updating, the larger of them
    #                       counts | instead: not at all, what another choice would take in place of the row before


def optimizer_bytes(parameters: int, precision: Precision, optimizer: str) -> int:
    """Adam's two moments, and master weights where weights are bf16; 8-bit: two bytes, a scale a block for each."""
    moments = 2 * precision.moment * parameters
    if optimizer == "adam8bit":
        moments = 2 * parameters + 2 * 4 * math.ceil(parameters / QUANTILE_BLOCK)
    return precision.master * parameters + moments


def kv_cache_bytes(shape: Shape, rows: int, length: int, size: int) -> int:
    """A key and a value in each layer for each token."""
    return 2 * shape.layers * shape.keys * rows * length * size


def logits_bytes(rows: int, positions: int, vocab: int, size: int) -> int:
    """One copy of the logits."""
    return rows * positions * vocab * size


def tile_of(plan: Plan) -> tuple[int, int]:
    """Rows and columns of the logits that linear_log_probs holds at once."""
    rows = min(plan.micro_batch * plan.completion_tokens, math.isqrt(plan.tile))
    return rows, min(plan.policy.vocab, plan.tile // rows)


def tiled_bytes(plan: Plan) -> int:
    """What linear_log_probs adds to hidden states and head: a tile, its columns of the head's gradient in fp32 (and of
    the head, if that is bf16), the new gradient of the head, and hidden states and their gradient in fp32."""
    (rows, columns), w = tile_of(plan), PRECISIONS[plan.precision].weight
    hidden, positions = plan.policy.hidden, plan.micro_batch * plan.completion_tokens
    copies = 2 if w == 2 else 1
    return 4 * columns * (rows + copies * hidden) + w * plan.policy.vocab * hidden + 8 * positions * hidden


def activation_bytes(shape: Shape, rows: int, length: int, size: int, checkpointing: bool = False) -> int:
    """What autograd keeps of a forward pass for the backward pass, from the token ids to the last norm's output.

    Counted tensor by tensor for transformers' Llama with fused attention (no S x S scores) and no dropout; its norms
    compute in fp32. With checkpointing the input of each layer is kept; the rest of one layer at a time, which is
    computed again in the backward pass, is not in here.
    """
    layer, ends = _kept(shape, size)
    layers = shape.layers * (size * shape.hidden if checkpointing else layer)
    return rows * length * (layers + ends) + 2 * size * length * shape.head_size


def _kept(shape: Shape, size: int) -> tuple[int, int]:
    wide = 4 * shape.hidden + 2 * shape.queries + 2 * shape.keys + 4 * shape.mlp
    layer = size * wide + 4 * (2 * shape.hidden + shape.heads + 2)
    return layer, 2 * size * shape.hidden + 4 * shape.hidden + 12


def kept(plan: Plan) -> tuple[int, int]:
    """``a`` and ``e`` of the policy."""
    return _kept(plan.policy, PRECISIONS[plan.precision].weight)


def memory(plan: Plan) -> list[Quantity]:
    """Bytes on each device, by what holds them."""
    p, size, shape = plan, PRECISIONS[plan.precision], plan.policy
    w = size.weight

    def share(formula: str, value: int, stage: int) -> tuple[str, int]:
        sharded = p.zero >= stage and p.devices > 1
        return (f"{formula} / Z", math.ceil(value / p.devices)) if sharded else (formula, value)

    def trained(name: str, symbol: str, parameters: int) -> list[Quantity]:
        state = f"{size.master + 2 * size.moment} {symbol}"
        if p.optimizer == "adam8bit":
            state = f"({size.master} + 2 + 8/{QUANTILE_BLOCK}) {symbol}"
        return [
            Quantity(f"{name}: weights", *share(f"{w} {symbol}", w * parameters, 3)),
            Quantity(
                f"{name}: gradients", *share(f"{size.gradient} {symbol}", size.gradient * parameters, 2), "updating"
            ),
            Quantity(f"{name}: optimiser", *share(state, optimizer_bytes(parameters, size, p.optimizer), 1)),
        ]

    rows = trained("policy", "N", shape.parameters)
    if p.reference:
        rows.append(Quantity("reference: weights", *share(f"{w} N", w * shape.parameters, 3)))
    if p.critic:
        rows += trained("critic", "N_c", p.critic.parameters)
    elif p.method == "ppo":
        rows += trained("value head", "(H + 1)", shape.hidden + 1)
    if p.reward:
        rows.append(Quantity("reward model: weights", *share(f"{w} N_r", w * p.reward.parameters, 3)))
    if p.online:
        cache = kv_cache_bytes(shape, p.sample_batch, p.length, w)
        rows.append(Quantity("KV cache", "2 w L K c S", cache, "sampling"))
        rows.append(Quantity("logits of one step", "4 c V", 4 * p.sample_batch * shape.vocab, "sampling"))
    b, length = p.micro_batch, p.length
    forms = {False: "b S (L a + e) + 2 w S D", True: "b S (L w H + e) + 2 w S D"}
    mine, other = (activation_bytes(shape, b, length, w, c) for c in (p.checkpointing, not p.checkpointing))
    if p.checkpointing:
        rows.append(Quantity("activations: layer inputs", forms[True], mine, "updating"))
        rows.append(Quantity("without checkpoints", forms[False], other, "instead"))
        rows.append(Quantity("activations: one layer again", "b S a", b * length * kept(p)[0], "turns"))
    else:
        rows.append(Quantity("activations", forms[False], mine, "updating"))
        rows.append(
            Quantity("with checkpoints", forms[True] + ", and b S a", other + b * length * kept(p)[0], "instead")
        )
    whole = ("12 b (T + 1) V", logits_bytes(b, p.completion_tokens + 1, shape.vocab, 12))
    tiled = (f"4 k (r + {2 if w == 2 else 1} H) + w V H + 8 b T H", tiled_bytes(p))
    if p.tiled:
        rows.append(Quantity("logits in tiles", *tiled, "turns"))
        rows.append(Quantity("with whole logits", *whole, "instead"))
    else:
        rows.append(Quantity("logits, 3 copies in fp32", *whole, "turns"))
        rows.append(Quantity("with linear_log_probs", *tiled, "instead"))
    return rows


def peaks(plan: Plan) -> dict[str, int]:
    """Bytes on each device while sampling, and while updating.

    The logits are gone when a checkpointed layer is computed again: the larger of the two counts. A critic of its own
    makes its passes after the policy's: the larger of the two counts.
    """
    rows, size = memory(plan), PRECISIONS[plan.precision].weight
    always, sampling = (sum(row.value for row in rows if row.when == when) for when in ("always", "sampling"))
    gradients = sum(row.value for row in rows if row.name.endswith("gradients"))
    passes = [sum(row.value for row in rows if row.when == "updating") - gradients]
    passes[0] += max(row.value for row in rows if row.when == "turns")
    if plan.critic:
        again = plan.micro_batch * plan.length * _kept(plan.critic, size)[0] if plan.checkpointing else 0
        passes.append(again + activation_bytes(plan.critic, plan.micro_batch, plan.length, size, plan.checkpointing))
    updating = always + gradients + max(passes)
    return {"sampling": always + sampling, "updating": updating} if plan.online else {"updating": updating}


# ------------------------------------------------------------------------------------------------------ work


def forward_flops(shape: Shape, rows: int, length: int) -> int:
    """A multiplication and an addition for each matrix parameter and token; scores and their sums over S x S."""
    return rows * (2 * shape.matrices * length + 4 * shape.layers * shape.queries * length**2)


def sampling_flops(shape: Shape, rows: int, length: int) -> int:
    """With a KV cache every token passes once, and attends to itself and those before it."""
    return rows * (2 * shape.matrices * length + 2 * shape.layers * shape.queries * length * (length + 1))


def again_flops(shape: Shape, rows: int, length: int) -> int:
    """The layers' forward pass once more, for activation checkpoints."""
    return forward_flops(shape, rows, length) - rows * 2 * shape.outputs * shape.hidden * length


def tokens(plan: Plan) -> list[Quantity]:
    """Tokens of one update."""
    p, rows = plan, []
    if p.online:
        rows.append(Quantity("sampled", "P G T", p.rows * p.completion_tokens))
    trained = p.rows * p.length * p.epochs
    rows.append(Quantity("in the update's passes", "P G (X + T) E", trained))
    rows.append(Quantity("with a loss", "P G T E", p.rows * p.completion_tokens * p.epochs))
    return rows


def work(plan: Plan) -> list[Quantity]:
    """Floating-point operations of one update, on all devices together."""
    p, shape, at = plan, plan.policy, (plan.rows, plan.length)
    rows = []

    def forward(symbol: str, own: Shape) -> tuple[str, int]:
        attention = "4 L Q S^2" if _same_body(own, shape) else "4 (L Q)' S^2"
        return f"B (2 {symbol} S + {attention})", forward_flops(own, *at)

    def update(name: str, symbol: str, own: Shape) -> list[Quantity]:
        mine = _same_body(own, shape)
        attention, layer = ("12 L Q S^2", "L m") if mine else ("12 (L Q)' S^2", "(L m)'")
        out = [
            Quantity(
                f"{name}: forward and backward", f"E B (6 {symbol} S + {attention})",
                3 * p.epochs * forward_flops(own, *at),
            )
        ]  # fmt: skip
        if p.checkpointing:
            again = f"E B (2 {layer} S + {attention.replace('12', '4')})"
            out.append(Quantity(f"{name}: layers again", again, p.epochs * again_flops(own, *at)))
        return out

    if p.online:
        formula = "B (2 M S + 2 L Q S (S + 1))"
        rows.append(Quantity("policy: sampling", formula, sampling_flops(shape, *at)))
    if p.method in ("ppo", "grpo"):
        rows.append(Quantity("policy: old log-probs", *forward("M", shape)))
    if p.reference:
        rows.append(Quantity("reference: log-probs", *forward("M", shape)))
    if p.critic:
        rows.append(Quantity("critic: values", *forward("M_c", p.critic)))
    if p.reward:
        rows.append(Quantity("reward model: scores", *forward("M_r", p.reward)))
    rows += update("policy", "M", shape)
    if p.tiled:
        again = 2 * p.epochs * p.rows * p.completion_tokens * shape.vocab * shape.hidden
        rows.append(Quantity("policy: logits again", "E B 2 V H T", again))
    return rows + (update("critic", "M_c", p.critic) if p.critic else [])


def _same_body(a: Shape, b: Shape) -> bool:
    return replace(a, scalar=False) == replace(b, scalar=False)


def as_data(plan: Plan) -> dict[str, Any]:
    """All of it as plain numbers: bytes on each device, tokens and FLOPs of one update."""
    listed = {"memory": memory(plan), "tokens": tokens(plan), "work": work(plan)}
    shapes = {"policy": plan.policy, "critic": plan.critic, "reward": plan.reward}
    return {
        "plan": {k: v for k, v in vars(plan).items() if k not in shapes},
        "models": plan.models,
        "shapes": {k: vars(s) | {"parameters": s.parameters} for k, s in shapes.items() if s},
        "symbols": {k: of(plan) for k, (_, of) in SYMBOLS.items() if of(plan) is not None},
        "peaks": peaks(plan),
        "flops": sum(row.value for row in listed["work"]),
    } | {name: [vars(row) for row in rows] for name, rows in listed.items()}
