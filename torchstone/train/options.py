"""Every option of a run. The comment beside an option is its text in ``torchstone train METHOD --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # it imports torch, which reading the options does not need
    from torchstone.recipes import PolicyRecipe
    from torchstone.recipes.distill import DistillRecipe

MethodName = Literal["reinforce", "ppo", "grpo", "dpo", "distill"]
Signal = Literal["teacher-advantage", "k2", "k3", "jsd", "jsd-top-k"]  # what the teacher says of a token
Schedule = Literal["up-down", "linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
DType = Literal["float32", "bfloat16", "pure-bfloat16"]
Reduction = Literal["token-mean", "sequence-mean", "sequence-sum", "fixed-length"]  # from a loss a token to a scalar


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all methods share."""

    task: str = "sort"  # Built in: sort, add, ramble. Or reasoning_gym:NAME, or reasoning_gym:NAME,option=value,...
    data: Path | None = None  # Instead of a task: a file (JSONL, JSON, CSV, Parquet), a data set's folder or hub name
    columns: str = ""  # Other names for columns of --data: prompt=question,answer=final
    skip_bad_rows: bool = False  # Leave out rows of --data that cannot be read; they are counted, and the first named
    chat_template: str = "default"  # Around prompts: the one of --model, none, or that of a FILE of Jinja
    template_args: str = ""  # JSON that the chat template is given: '{"enable_thinking": false}'
    reward: tuple[str, ...] | str = ()  # file.py:function, module:function, exact, lenient, math; several are added up
    reward_weights: tuple[float, ...] = ()  # One for each --reward; if left out, 1
    reward_workers: int = 0  # Processes that judge a batch, each a part of it; 0: the run's own judges all
    reward_timeout: float | None = None  # Seconds that judging a batch may take, in another process; then the run ends
    model: str | None = None  # Folder in Hugging Face format, or hub id; if left out, a small model is made first
    trust_remote_code: bool = False  # Code that comes with --model may run here, with all rights that you have
    gradient_checkpointing: bool = False  # Layers run again in the backward pass: less memory, more time
    router_aux_loss: float = 0.0  # Mixture of experts: weight of the loss that keeps experts in balance; TRL: 0.001
    lora: int = 0  # Rank of LoRA adapters, which alone are trained; needs the extra lora
    system: str | None = None  # System prompt, such as "Answer with the number only."
    out: Path | None = None  # Folder for everything that the run writes; if left out, runs/METHOD-TASK-SEED
    seed: int = 0  # Same seed, same machine, same numbers
    lr: float = 5e-4  # Learning rate of Adam: reached after a tenth of the run, then falling to 0
    schedule: Schedule = "up-down"  # Of the learning rate: as above, or one of transformers'
    lr_warmup: int = 0  # Rounds that transformers' schedule takes to reach it, from 0
    weight_decay: float = 0.0  # Above 0, AdamW: a step also takes lr times this share of each weight away
    max_grad_norm: float = 1.0  # The gradient of a step is shortened to this norm
    max_new_tokens: int = 8  # Longest completion
    temperature: float = 1.0  # Divides the logits, in sampling and in training alike
    micro_batch: int = 1024  # Completions in one forward and backward pass: memory and speed, not the gradient
    micro_batch_tokens: int = 0  # Or fewer, for at most so many tokens, padding included; 0 for no such bound
    eval_prompts: int = 1000  # Held-out prompts, sampled once each, at an evaluation; 0 for none
    eval_every: int = 0  # Rounds between evaluations, and between checkpoints; 0 for a tenth of the run
    keep: int = 1  # Newest checkpoints that stay; with 2 or more also best/, the model with the best held-out reward
    log: tuple[Tracker, ...] = ()  # Where metrics go beside metrics.jsonl, by their own packages (extra log)
    split: Literal["test", "validation"] = "test"  # Held-out prompts of built-in tasks: tune on validation, report test
    device: str = "auto"  # cpu, cuda, mps; auto is cuda if there is one
    shard: bool = False  # Several processes: each keeps a share of every weight, for models too large for one device
    dtype: DType = "float32"  # Of what --model computes; its weights and Adam stay in float32, but for pure-bfloat16
    pretrain_steps: int | None = None  # Small model: steps of 64 raw lines; if left out, 400, add 950, ramble 800
    warmup_steps: int | None = None  # Small model: supervised steps on demonstrations; if left out, 7, add 20
    demonstrations: int | None = 100  # Small model: prompts with answers that are imitated before RL starts

    def __post_init__(self) -> None:
        if isinstance(self.reward, str):  # in Python, one may be given as it is
            object.__setattr__(self, "reward", (self.reward,))

    @property
    def method(self) -> str:
        """Its name, as ``torchstone train`` and config.json have it: "grpo" of ``GRPOOptions``."""
        return type(self).__name__.removesuffix("Options").lower()

    @property
    def label(self) -> str:
        """What a person calls this kind of run."""
        return self.method

    @property
    def has_teacher(self) -> bool:
        """Whether it learns from a teacher, and needs no reward."""
        return False

    def rows_at_once(self, width: int) -> int:
        """Completions in a pass, each with its prompt and padding of so many tokens: at least one."""
        bound = self.micro_batch_tokens // width if self.micro_batch_tokens else self.micro_batch
        return max(1, min(self.micro_batch, bound))

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        name = self.data.stem if self.data else self.task.replace(":", "-").replace(",", "-")
        return self.out or Path("runs") / f"{file_name(self.label)}-{file_name(name)}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class SFTOptions(Run):
    """SFT: imitate demonstrations, each a prompt and the completion that it should get."""

    lr: float = 1e-3  # Learning rate of Adam: reached after a tenth of the run, then falling to 0
    batch_size: int = 64  # Demonstrations in one optimizer step
    epochs: int = 5  # Passes over the demonstrations
    demonstrations: int | None = 100  # Of the task's examples, at random; none for all of them; --data: all of the file
    warmup_steps: int | None = 0  # Small model: supervised steps before the run, on the same demonstrations


@dataclass(frozen=True, kw_only=True)
class Online(Run):
    """Methods that learn from their own samples."""

    steps: int = 100  # Rounds: sample, judge, update
    prompts: int = 64  # P, prompts in a round
    group_size: int = 8  # G, completions of each prompt
    epochs: int = 1  # Passes over the completions of a round
    minibatches: int = 1  # Optimizer steps in a pass; after a round's first, the ratio leaves 1 and the clip can act
    rollout_tokens: int = 0  # Sampled together, prompts and padding included: memory and speed; 0 for a whole round
    reward_model: str | None = None  # Folder of a train reward run, or of one in Hugging Face format: it is the reward
    missing_eos_penalty: float = 0.0  # --reward-model: taken from the reward of a completion without an end token


@dataclass(frozen=True, kw_only=True)
class ReinforceOptions(Online):
    """REINFORCE: raise the log-probability of what earned more than the baseline."""

    prompts: int = 256  # P, prompts in a round
    group_size: int = 1  # G, completions of each prompt
    baseline: Literal["mean", "leave-one-out", "none"] = "mean"  # Mean reward of the round, or of the group's others
    gamma: float = 1.0  # Discount per token
    beta: float = 0.0  # Price in the reward of the KL to the start model (k1, each token its own), per nat
    entropy_coef: float = 0.0  # Bonus per nat of entropy
    reduction: Reduction = "sequence-sum"  # How tokens add up: the policy gradient; rlhf-book: sequence-mean


@dataclass(frozen=True, kw_only=True)
class PPOOptions(Online):
    """PPO: some clipped steps on each round, a critic, and the KL to the start model paid in the reward."""

    prompts: int = 256  # P, prompts in a round
    group_size: int = 1  # G, completions of each prompt
    epochs: int = 2  # Passes over the completions of a round
    minibatches: int = 2  # Optimizer steps in a pass
    epsilon: float = 0.2  # Clip: moving the ratio beyond 1 - epsilon or 1 + epsilon earns nothing
    dual_clip: float | None = None  # Bounds the loss where A < 0 at this times |A|: 3 in verl; TRL, OpenRLHF: no bound
    gamma: float = 1.0  # Discount per token
    lam: float = 0.95  # Lambda of GAE: 1 is return - value, 0 is one-step TD
    whiten: bool = True  # Advantages of a round to mean 0, deviation 1: TRL, verl, OpenRLHF; not torchrl
    whiten_correction: int = 1  # Squares are averaged over N - 1 (1: TRL, verl) or over N (0: OpenRLHF)
    whiten_eps: float = 1e-8  # Added to the variance: TRL and verl the same; CleanRL adds it to the deviation
    beta: float = 0.01  # Price in the reward of the KL to the start model (k1, each token its own), per nat
    critic: Literal["linear", "reward-model"] = "linear"  # A layer on the policy; or --reward-model, trained on
    value_coef: float = 0.5  # Weight of the critic's error in the loss
    value_epsilon: float | None = 0.2  # Clip of the critic's move: 0.2 in TRL, 0.5 in verl and OpenRLHF; None: no clip
    entropy_coef: float = 0.0  # Bonus per nat of entropy
    reduction: Reduction = "token-mean"  # How tokens add up: all weigh the same, in TRL, verl, OpenRLHF too


@dataclass(frozen=True, kw_only=True)
class GRPOOptions(Online):
    """GRPO: each completion against the others of its prompt; no critic."""

    minibatches: int = 4  # Optimizer steps in a pass; after a round's first, the ratio leaves 1 and the clip can act
    epsilon: float = 0.2  # Clip: moving the ratio below 1 - epsilon earns nothing
    epsilon_high: float | None = None  # Nor does moving it above 1 + epsilon-high; if left out, epsilon
    beta: float = 0.0  # Weight in the loss of the KL to the start model; 0 needs no reference in memory
    kl: Literal["k1", "k2", "k3"] = "k3"  # How it is estimated: the paper, Liger: k3; TRL: k3 times the ratio
    divide_by_std: bool = True  # Divide advantages by the group's deviation: the paper, TRL, verl; Dr. GRPO does not
    std_correction: int = 1  # Squares are averaged over G - 1 (1: TRL, verl, OpenRLHF) or over G (0)
    std_eps: float = 1e-4  # Added to the deviation: TRL 1e-4, verl 1e-6, OpenRLHF 1e-9, the paper nothing
    reduction: Reduction = "sequence-mean"  # How tokens add up; TRL and verl: token-mean; Dr. GRPO: fixed-length


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Online):
    """Any row of the table of recipes that learns from samples, as it stands or with changes."""

    recipe: str = "grpo"  # Such as gspo, or grpo:surrogate.epsilon_high=0.28+advantage=group-mean
    teacher: str | None = None  # For a distillation, such as opd: folder of a finished run, or of a model
    minibatches: int = 4  # Optimizer steps in a pass; after a round's first, the ratio leaves 1 and the clip can act

    @property
    def label(self) -> str:
        """The recipe, as it was written."""
        return self.recipe

    @property
    def has_teacher(self) -> bool:
        """Whether the row is a distillation."""
        from torchstone.recipes.distill import DistillRecipe

        try:
            return isinstance(self.find(), DistillRecipe)
        except ValueError:  # check_options says what is wrong with it
            return False

    def find(self) -> PolicyRecipe | DistillRecipe:
        """The recipe of that name. Raises ValueError: there is none, or it learns from pairs."""
        from torchstone.recipes import PolicyRecipe, find
        from torchstone.recipes.distill import DistillRecipe

        found = find(self.recipe)
        if not isinstance(found, PolicyRecipe | DistillRecipe):
            raise ValueError(
                f"{self.recipe} learns from preference pairs, and this loop from samples and their rewards"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Pairs(Run):
    """Methods that learn from pairs of a better and a worse completion; no sampling while they train."""

    lr: float = 3e-4  # Learning rate of Adam: reached after a tenth of the run, then falling to 0
    samples: int = 32_768  # Completions of the start model that are ranked and paired; none if --data has pairs
    group_size: int = 8  # G, completions of each prompt, for the pairs
    pairs: int = 128  # Pairs in one optimizer step
    epochs: int = 2  # Passes over the pairs


@dataclass(frozen=True, kw_only=True)
class DPOOptions(Pairs):
    """DPO: from pairs of a better and a worse completion; no sampling while it trains."""

    beta: float = 2.0  # Pull to the start model: reward per nat
    label_smoothing: float = 0.0  # Share of preferences taken to be wrong (cDPO)


@dataclass(frozen=True, kw_only=True)
class RewardOptions(Pairs):
    """A reward model, from pairs of a better and a worse completion: a head on the model, for ppo --reward-model."""

    samples: int = 8192  # Completions of the start model that are ranked and paired; none if --data has pairs
    center_rewards_coefficient: float = 0.0  # How strongly the rewards of a pair are held around 0; TRL: 0.01 at times


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Online):
    """Distillation: what a teacher thinks of each token that the student samples, in place of a reward.

    A task's reward is only reported. To make a teacher: torchstone train grpo, then --teacher runs/grpo-sort-0.
    Signals: teacher-advantage is the policy gradient, with log pi_T - log pi of each sampled token as its advantage;
    k2 and k3 are estimates of the KL, back-propagated (k3 pulls as KL(teacher || student) does); jsd is the divergence
    over the whole vocabulary, jsd-top-k over k of its tokens.
    """

    teacher: str | None = None  # Folder of a finished run, or of a model in Hugging Face format; same tokenizer
    prompts: int = 256  # P, prompts in a round
    group_size: int = 1  # G, completions of each prompt
    minibatches: int = 4  # Optimizer steps in a pass; after a round's first, samples weigh pi / pi_old
    signal: Signal = "teacher-advantage"  # What is learned from, as above
    gamma: float = 0.0  # teacher-advantage: 0 judges each token alone; above 0, what follows too, discounted
    beta: float = 1.0  # jsd, jsd-top-k: 0 is KL(teacher || student), 1 KL(student || teacher); TRL: 0.5, between
    k: int = 8  # jsd-top-k: tokens of the vocabulary that are compared one by one
    of: Literal["teacher", "policy"] = "teacher"  # jsd-top-k: whose k most likely tokens; policy is the student
    rest: Literal["tail", "renormalise", "drop"] = "tail"  # jsd-top-k: the others: one token, scaled away, left out
    reduction: Reduction = "token-mean"  # How tokens add up

    @property
    def has_teacher(self) -> bool:
        """Always."""
        return True


METHODS: dict[str, type[Run]] = {
    "reinforce": ReinforceOptions,
    "ppo": PPOOptions,
    "grpo": GRPOOptions,
    "dpo": DPOOptions,
    "sft": SFTOptions,
    "reward": RewardOptions,
    "distill": DistillOptions,
    "recipe": RecipeOptions,
}
# What may change when a run goes on: how long it is, where things are, and what bears on memory and speed alone.
RESUMABLE = (
    "steps", "data", "reward", "reward_workers", "reward_timeout", "reward_model", "model", "teacher", "device",
    "shard", "micro_batch", "micro_batch_tokens", "rollout_tokens", "eval_every", "keep", "log",
    "gradient_checkpointing", "trust_remote_code",
)  # fmt: skip


def file_name(label: str) -> str:
    """A label as part of a path: ``grpo:penalty=none`` is ``grpo_penalty=none``."""
    return "".join(c if c.isalnum() or c in "-._=+@" else "_" for c in label)


def defaults(method: str, large: bool) -> Run:
    """A method's options as they are if left out; ``large``: with ``--model``."""
    if not large:
        return METHODS[method]()
    rounds = {"steps": 50, "prompts": 4, "group_size": 8, "minibatches": 1}
    if method in ("dpo", "reward"):
        rounds = {"samples": 256, "pairs": 8, "epochs": 1}
    if method == "sft":
        rounds = {"batch_size": 8, "epochs": 1, "demonstrations": 256}
    return METHODS[method](task="", lr=1e-5, max_new_tokens=64, micro_batch=8, eval_prompts=32, eval_every=10, **rounds)  # type: ignore[arg-type]
