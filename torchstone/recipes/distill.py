"""On-policy distillation as rows of choices: what a teacher says of each token, and how that reaches the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.core import Loss, kl_k1, kl_k2, kl_k3
from torchstone.core.inputs import as_float, check_mask, number, per_token, require, select
from torchstone.core.logprobs import log_ratios
from torchstone.core.result import mean_of
from torchstone.distill import jsd_exact, jsd_top_k, teacher_advantages
from torchstone.distill.divergence import under_mask
from torchstone.fast.pointwise import bounded_exp
from torchstone.ppo import variants as ppo
from torchstone.recipes import columns
from torchstone.recipes.choices import NONE, Choice, Option, Recipe, nothing
from torchstone.recipes.online import TRAINER, check_ratio, with_metrics

# ------------------------------------------------------------------ stage 5: what the teacher says of each token


def of_policy(log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """``teacher_advantages`` of the present policy."""
    return teacher_advantages(log_probs, teacher_log_probs, mask, gamma=gamma)


def of_old_policy(old_log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """``teacher_advantages`` of the policy before the update: the same in each of its steps."""
    return teacher_advantages(old_log_probs, teacher_log_probs, mask, gamma=gamma)


def k3_advantage(log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor) -> Tensor:
    """-k3, a constant."""
    return -kl_k3(log_probs, teacher_log_probs, mask).detach()


def estimate(
    kl: Callable[[Tensor, Tensor, Tensor], Tensor], log_probs: Tensor, teacher_log_probs: Tensor, mask: Tensor
) -> Tensor:
    """An estimate of KL(pi || pi_T) at each sampled token, with the gradient that it has."""
    return kl(log_probs, teacher_log_probs, mask)


def clamp(x: Tensor, *, limit: float) -> Tensor:
    """No further from 0 than ``limit``; beyond it there is no gradient."""
    number("limit", limit, above=0)
    return x.clamp(-limit, limit)


def floor(x: Tensor) -> Tensor:
    """Not below 0; where it would be, there is no gradient."""
    return x.clamp(min=0)


def prefix_weighted(x: Tensor, *, gamma: float, eps: float) -> Tensor:
    """Advantages times 1 + gamma (1 - the share of the completion's |A| that lies before the token) (IW-OPD)."""
    number("gamma", gamma, at_least=0)
    number("eps", eps, above=0)
    size = x.abs()
    before = (size.cumsum(1) - size) / size.sum(1, keepdim=True).clamp(min=eps)
    return x * (1 + gamma * (1 - before))


def added(x: Tensor, advantages: Tensor, mask: Tensor, *, coef: float) -> Tensor:
    """The teacher's advantages plus ``coef`` times the task's."""
    number("coef", coef, at_least=0)
    return x + coef * per_token("advantages", advantages, mask)


SIGNALS = {
    "teacher-advantage": Option(
        of_policy,
        "A token earns the teacher's log-ratio to the present policy: as a policy gradient that lowers KL(policy || "
        "teacher), on average over samples.",
    ),
    "old-teacher-advantage": Option(
        of_old_policy,
        "As teacher-advantage, of the anchor's log-probs: it stays the same in every step of an update.",
    ),
    "k3-advantage": Option(
        k3_advantage,
        "Every token pays k3: as a policy gradient that lowers one KL less the other, and may go uphill.",
    ),
    "k1": Option(partial(estimate, kl_k1), "On average no pull at all: the expected gradient is 0."),
    "k2": Option(
        partial(estimate, kl_k2), "Pulls along the gradient of KL(policy || teacher) at each token, given its prefix."
    ),
    "k3": Option(
        partial(estimate, kl_k3),
        "Pulls along the gradient of KL(teacher || policy): the other direction than it reports.",
    ),
    "jsd": Option(
        jsd_exact,
        "Every token of the vocabulary teaches, without the noise of the sampled one; beta 1 is KL(policy || teacher).",
    ),
    "jsd-top-k": Option(
        jsd_top_k, "As jsd, on the k likeliest tokens: what becomes of the others decides what the minimum is."
    ),
}
BOUNDS = {
    "none": Option(nothing, "A token that teacher and policy see very differently has its full say."),
    "clamp": Option(
        clamp, "No token counts for more than the limit: an advantage is cut, a loss loses its gradient there."
    ),
    "floor": Option(floor, "A token whose loss would be below 0 has none, and no gradient."),
}
WEIGHTS = {
    "none": Option(nothing, "Early and late tokens count the same."),
    "prefix": Option(
        prefix_weighted, "Early tokens count more, and the less the further a completion has left the teacher by then."
    ),
}
OUTCOMES = {
    "none": Option(nothing, "The teacher alone says what is good."),
    "added": Option(added, "The task's own advantage, which the caller gives, is added to the teacher's."),
}

# ------------------------------------------------------------------------------- stage 6: from there to the loss


def back_propagated(x: Tensor) -> Tensor:
    """The signal itself is the loss."""
    return x


def truncated_ratio(x: Tensor, log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """The loss times the token's ratio to the old policy, at most ``cap`` and a constant."""
    number("cap", cap, above=0)
    return x * bounded_exp(log_ratios(log_probs, old_log_probs, mask, "old_log_probs")).clamp(max=cap).detach()


def policy_weights(
    log_probs: Tensor, sampler_log_probs: Tensor, mask: Tensor, *, level: str, gate: str | None, low: float | None,
    high: float | None,
) -> Tensor:  # fmt: skip
    """``importance_weights`` of the present policy over the engine that sampled."""
    return ppo.importance_weights(log_probs, sampler_log_probs, mask, level=level, gate=gate, low=low, high=high)


ANCHORS = columns.ANCHORS
RATIOS = {name: columns.RATIOS[name]._replace(run=nothing) for name in ("none", "token")}  # the surrogate takes it
SURROGATES = {
    "none": Option(back_propagated, "The signal is the loss, and is back-propagated.", ("none",)),
    "truncated-ratio": Option(
        truncated_ratio,
        "The signal is the loss; a token that has become likelier counts more, up to the cap.",
        ("token",),
    ),
    **{name: columns.SURROGATES[name] for name in ("policy-gradient", "importance", "clip", "cispo")},
}
SAMPLERS = {
    **{name: columns.SAMPLERS[name] for name in ("none", "weights")},
    "policy-weights": Option(
        policy_weights, "Each token weighs its ratio of the present policy to the engine that sampled, within bounds."
    ),
}
REDUCTIONS = columns.REDUCTIONS | {  # there is no right answer or wrong one here, and not every signal is a log-prob
    name: columns.REDUCTIONS[name]._replace(effect=effect)
    for name, effect in {
        "sequence-mean": "Every completion weighs the same, so a token of a long one weighs less.",
        "sequence-sum": "A completion counts by the sum over its tokens: all weigh the same, so long ones weigh more.",
    }.items()
}

COLUMNS = {
    "anchor": ANCHORS,
    "signal": SIGNALS,
    "bound": BOUNDS,
    "weight": WEIGHTS,
    "outcome": OUTCOMES,
    "ratio": RATIOS,
    "surrogate": SURROGATES,
    "sampler": SAMPLERS,
    "reduction": REDUCTIONS,
}
NUMBERS = {
    "gamma": "above 0 a token also answers for what follows it: at 1 the whole completion's KL falls, with more noise",
    "beta": "0 is KL(teacher || policy), which covers; 1 is KL(policy || teacher), which seeks one mode",
    "temperature": "above 1 the unlikely tokens of both distributions count more",
    "k": "more tokens of the vocabulary teach",
    "of": "whose likeliest tokens they are",
    "rest": "what becomes of the other tokens: one more token, nothing after rescaling, or nothing at all",
    "clamp.limit": "the largest signal of a token",
    "prefix.gamma": "larger favours early tokens more",
    "prefix.eps": "the smallest sum that the shares are taken of",
    "coef": "the weight of the task's own advantage",
    **{name: columns.NUMBERS[name] for name in ("epsilon", "epsilon_high", "cispo.epsilon", "cispo.epsilon_high")},
    **{name: columns.NUMBERS[name] for name in ("dual_clip", "cap", "level", "gate", "low", "high", "kept_max")},
    "empty_rows": columns.NUMBERS["empty_rows"],
}


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(Recipe):
    """An on-policy distillation: the policy samples, the teacher says what it thinks of each token.

    A signal whose name ends in ``advantage`` is a constant that a surrogate turns into a policy gradient. Every other
    signal is a loss per token, with the surrogate "none" or "truncated-ratio".
    """

    COLUMNS: ClassVar = COLUMNS
    STAGES: ClassVar = {"loss": tuple(COLUMNS)}
    NUMBERS: ClassVar = NUMBERS
    ALWAYS: ClassVar = frozenset({"mask", "x"})

    anchor: Choice = TRAINER
    signal: Choice
    bound: Choice = NONE
    weight: Choice = NONE
    outcome: Choice = NONE
    ratio: Choice = NONE
    surrogate: Choice = NONE
    sampler: Choice = NONE
    reduction: Choice

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self)
        losses, why = ("none", "truncated-ratio"), f"since signal is {self.signal}"
        if self.signal.name.endswith("advantage") == (self.surrogate.name in losses):
            names = [x for x in SURROGATES if (x in losses) != self.signal.name.endswith("advantage")]
            raise ValueError(f"{self.name}.surrogate: expected {' or '.join(names)}, {why}, got {self.surrogate}")
        for at in ("weight", "outcome"):
            if self.surrogate.name in losses and getattr(self, at).name != "none":
                raise ValueError(f"{self.name}.{at}: expected none, {why}, got {getattr(self, at)}")

    def inputs(self, at: str, stage: str = "loss") -> dict[str, bool]:
        """Tensors that the choice of this column takes, without those that another choice makes idle."""
        idle = {"advantages"} if at == "surrogate" else set()  # the signal is in their place
        if self.anchor.name == "sampler":
            idle.add("old_log_probs")  # the engine's are in their place
        if at == "anchor" and not any("old_log_probs" in self.option(x).inputs for x in ("signal", "surrogate")):
            idle |= {"old_log_probs", "sampler_log_probs"}  # nothing looks at the policy before the update
        return {tensor: needed for tensor, needed in super().inputs(at, stage).items() if tensor not in idle}

    def loss(
        self,
        mask: Bool[Tensor, "B T"],
        *,
        log_probs: Float[Tensor, "B T"] | None = None,
        teacher_log_probs: Float[Tensor, "B T"] | None = None,
        logits: Float[Tensor, "B T V"] | None = None,
        teacher_logits: Float[Tensor, "B T V"] | None = None,
        old_log_probs: Float[Tensor, "B T"] | None = None,
        sampler_log_probs: Float[Tensor, "B T"] | None = None,
        advantages: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        max_length: int | None = None,
        group_size: int | None = None,
        denominator: int | float | Tensor | None = None,
    ) -> Loss:
        """The loss of this row: a scalar to minimise.

            L = reduce( w_t L_t ),    L_t from the signal itself, or from the signal as the advantage

        Args:
            mask: True where the policy chose the token. Elsewhere every tensor may hold anything, NaN included.
            log_probs: log pi(y_t | x, y_<t) of the sampled tokens, in nats. Gradient flows through it.
            teacher_log_probs: the same tokens under the teacher, in nats. Treated as a constant.
            logits: of the policy, at the positions that chose the tokens. Gradient flows through it.
            teacher_logits: of the teacher, for the same positions and the same vocabulary. Treated as a constant.
            old_log_probs, sampler_log_probs: the sampled tokens under the trainer's policy before the update, and as
                the engine that sampled reported them (the old ones where the trainer did). Treated as constants.
            advantages: the task's own, one a completion or a token, for the outcome "added". Treated as a constant.
            max_length: the longest completion that generation allows, in tokens, for the reduction "fixed-length".
            group_size: G, completions of each prompt, for the reduction "group-token-mean".
            denominator: tokens (``token-mean``), groups (``group-token-mean``) or completions of the whole batch, for
                micro-batches.

        Returns: ``Loss``; metrics (means over tokens): ``kl`` (k1 of the sampled tokens) or ``jsd``, ``approx_kl`` with
            a ratio, and the clip's with "clip".
        Raises ValueError: a shape or dtype is wrong; something that the row needs is missing; the two vocabularies are
            not of one size, or smaller than k.
        """
        check_mask(mask)
        given: dict[str, Any] = {
            "log_probs": log_probs, "teacher_log_probs": teacher_log_probs, "logits": logits, "advantages": advantages,
            "teacher_logits": teacher_logits, "old_log_probs": old_log_probs, "sampler_log_probs": sampler_log_probs,
            "max_length": max_length, "group_size": group_size, "denominator": denominator,
        }  # fmt: skip
        batch = given | {"mask": mask, "x": mask}
        self.check("loss", batch)
        tokens = {name: x for name, x in given.items() if name.endswith("log_probs") and x is not None}
        if tokens:
            batch |= dict(zip(tokens, select(mask, **tokens), strict=True))
        if self.anchor.name == "sampler":
            batch["old_log_probs"] = batch["sampler_log_probs"]
        if logits is not None:
            batch |= of_one_vocabulary(mask, logits, teacher_logits)
        batch["x"] = signal = self.run("signal", batch)
        metrics = self.metrics(batch, signal)
        for at in ("bound", "weight", "outcome"):
            changed = self.run(at, batch)
            batch["x"] = batch["x"] if changed is None else changed
        if self.ratio.name != "none":
            metrics["approx_kl"] = mean_of(kl_k3(batch["old_log_probs"], batch["log_probs"], mask), mask)
        losses, more = with_metrics(self.run("surrogate", batch | {"advantages": batch["x"]}))
        weights = self.run("sampler", batch)
        losses = losses if weights is None else losses * weights
        return Loss(self.run("reduction", batch | {"x": losses}), metrics | more)

    def metrics(self, batch: dict[str, Any], signal: Tensor) -> dict[str, Any]:
        """What the signal says of the distance to the teacher: ``kl`` or ``jsd``."""
        mask = batch["mask"]
        if "logits" in self.option("signal").inputs:
            return {"jsd": mean_of(signal, mask)}
        return {"kl": mean_of(kl_k1(batch["log_probs"], batch["teacher_log_probs"], mask), mask)}


def of_one_vocabulary(mask: Tensor, logits: Any, teacher_logits: Any) -> dict[str, Tensor]:
    """Both logits ``[B T V]``, checked, and 0 where ``mask`` is False."""
    both = {"logits": logits, "teacher_logits": teacher_logits}
    policy, teacher = (as_float(name, x, "B T V").shape[-1] for name, x in both.items())
    require(teacher == policy, "teacher_logits", f"the policy's vocabulary of {policy} tokens", teacher)
    return dict(zip(both, under_mask(logits, teacher_logits, mask), strict=True))
