"""docs/recipes.md, written by ``torchstone recipes --markdown`` from the rows themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torchstone.recipes import RECIPES
from torchstone.recipes.choices import Option, Recipe
from torchstone.recipes.table import KINDS, by_algorithm, in_words, linked

HEAD = """\
# Recipes: the field in one table

"GRPO", "Dr. GRPO", "CISPO" or "IPO" are different numbers in different code. Here each is one row of choices: as its
paper has it, and as frameworks compute it. Every row runs, and every dialect is held against the framework itself, in
value and in gradient (`make test-frameworks`).

```python
import torch
from torchstone.recipes import RECIPES

rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])  # [P G]: two prompts, four completions each
mask = torch.ones(8, 6, dtype=torch.bool)  # [B T], B = P * G: True where the policy chose the token
old_log_probs = -torch.rand(8, 6)  # of the sampled tokens, when the update begins
log_probs = old_log_probs.clone().requires_grad_()

recipe = RECIPES["dapo"]
earned = recipe.advantages(rewards, mask, max_length=20480)
loss = recipe.loss(log_probs, earned.advantages, mask, old_log_probs=old_log_probs, group_size=4)
loss.value.backward()
```

What sets a row apart stands here; the rest is in the terminal:

- `torchstone recipes dapo`: what each choice does, where each number is stated, what is left out
- `torchstone recipes grpo dapo`: what differs, and what that does to the update
- `torchstone recipes --choices`: every option of every column
- `torchstone trace dapo`: one update with all its numbers
- `torchstone recipes grpo:advantage=group-mean`: a row with a choice of your own; in Python, `find` takes it

This page is written by `torchstone recipes --markdown`.

**How to read a line.** A row is told from another one: "grpo with clip high 0.28" makes all other choices as `grpo`
does. Choices stand in the order in which data flows: how a completion's advantage is made from the rewards; whether
the ratio is of each token or each completion, to the policy that the update began with unless `anchor` names another;
the loss of a token; what the sampler's own log-probs do (`weights`); where the KL to the reference is paid, its
estimator and weight; how the losses become one number. `clip 0.2, high 0.28` is $\\epsilon = 0.2$,
$\\epsilon_{high} = 0.28$; `n` and `n-1` are the divisor of the variance.
"""
TWELVE = (
    "ppo", "rloo", "reinforce++", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "opd", "dpo", "simpo", "kto",
)  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {  # every published row once, by what is changed
    "Policy gradient: the baseline and its scale": (
        "reinforce", "remax", "rloo", "opo", "otb", "maxrl", "gpg", "reinforce++", "reinforce++-baseline",
        "lite-ppo", "gdpo", "pass-at-k", "grpo-passk",
    ),
    "Policy gradient: a critic, or the group in its place": (
        "ppo", "ppo-dual-clip", "vc-ppo", "vapo", "grpo", "dr_grpo", "dapo", "deepseek-v3.2",
    ),
    "Policy gradient: another ratio, or another bound on it": (
        "gspo", "gspo-token", "luspo", "gmpo", "cispo", "sapo", "intellect-2",
    ),
    "Policy gradient: samples of an older policy, or of another engine": (
        "vespo", "dppo", "dppo-kl", "tis", "icepop", "scalerl",
        "decoupled-ppo", "seq-mis", "geo-rs", "geo-rs-token-tis",
    ),
    "Policy gradient: only some of the tokens, or some of them more": (
        "high-entropy", "clip-cov", "kl-cov", "m2po", "fipo",
    ),
    "Policy gradient: a regression in place of a clip": (
        "dro", "kimi-k1.5", "rebel", "a*-po",
    ),
    "Policy gradient: good and bad told apart, or an expert asked": (
        "topr", "real", "chord",
    ),
    "Pairs: the loss of a comparison": (
        "dpo", "cdpo", "robust_dpo", "ipo", "ipo-mean", "slic", "rso", "exo", "discopop", "aot", "aot_unpaired",
    ),
    "Pairs: each completion by itself": ("kto", "apo_zero", "apo_down", "nca", "bco", "sppo"),
    "Pairs: no reference": ("simpo", "cpo", "triple-po", "orpo"),
    "Pairs: another shape of the reward": ("f-dpo", "alphapo"),
    "Pairs: weights, another reference, supervised learning beside": (
        "dpo-norm", "ld-dpo", "wpo", "tr-dpo", "iterative-rpo", "rpo", "dpop", "xpo", "mpo",
    ),
    "A teacher's word in place of a reward": (
        "opd", "opd-sequence", "opd-exact", "opd-forward", "opd-topk-tail", "opd-k3", "gkd", "mopd", "sdpo", "iw-opd",
    ),
}  # fmt: skip
NO_ROW = """\
### What has no row

GFPO, ASPO, BAPO, CE-GPPO, GEPO, QAE, Step-DPO: no framework has them by name, of TRL f2cd577, verl 1dda039, OpenRLHF
3c3be62, SkyRL a956457, NeMo-RL 7ea279a, slime 624b824, ROLL 8eb27cc, AReaL 4aef98d, prime-rl 559b447, ms-swift 3602360.
`dpo` on other data: Step-DPO (a completion is one step), SPIN (the rejected one is the last round's own), online DPO
(pairs sampled and judged in each step). Nash-MD (TRL f2cd577, not 1.16.0): a policy gradient, its reward the win rate
less 1/2. SkyRL 0.3.0's `rollout_is`, `kl_cov`, `cross_entropy`: [why](../torchstone/frameworks/skyrl/rows.py).
"""
DIALECTS = """\
## The same rows as frameworks compute them

What a framework does beside its row (where it cuts log-ratios, what it makes of equal rewards) stands under "left out":
`torchstone recipes dapo@verl-0.9.1`. The number after a framework is the version that was run. A row that is not
published under its name is told from the nearest that is.
"""
BEGIN = """\
## Where to begin

- **A sampler some updates behind**: `decoupled-ppo`, `m2po`, `vespo`, `scalerl`, `topr`, `intellect-2`.
- **Another engine's log-probs, such as vLLM's**: `tis` bounds a token's weight, `icepop` drops tokens, `seq-mis`
  completions; each goes onto other rows: `RECIPES["gspo"].but(sampler=RECIPES["tis"].sampler)`.
- **A mixture of experts**: the same, and `gspo`, `deepseek-v3.2`, which were made on such models.
- **Long answers**: `dapo`, `dr_grpo`; with a critic `vapo`.
- **Several rewards**: `gdpo`.
- **pass@k**: `pass-at-k`, `grpo-passk`, `maxrl`; against lost entropy `clip-cov`, `kl-cov`.
- **Pairs with wrong labels**, of a share that you know: `cdpo`, `robust_dpo`. Written by another model: `wpo`.
- **No pairs**: `kto`, `aot_unpaired`. **No reference**: `simpo`, `cpo`, `orpo`.
"""
SURPRISES = """\
## What surprises people

Each of these is a row below, run against that version. None is called wrong here: a name is not a specification.

- **DAPO and CISPO**, as printed, take the mean over the tokens of each prompt's group and then over prompts. Every
  framework takes it over the tokens of the batch, so prompts with long answers weigh more, unless SkyRL is asked
  for `prompt_mean`.
- **`loss_type="dr_grpo"` in TRL** changes the length divisor alone; the group's deviation still divides, since that is
  another setting (`scale_rewards`). OpenRLHF's `dr_grpo` is the other half: no deviation, and no constant length.
- **CISPO's `epsilon_high`** is the cap itself in TRL and Liger, and 0.2 by default: a token on policy then weighs 0.2.
  In verl it is a distance from 1, and there is a lower bound too; in SkyRL 0.3.0 that bound is 1.
- **RLOO in TRL** is PPO's clip on the ratio of the whole completion; in verl, OpenRLHF and SkyRL on that of each token.
  The paper has no clip.
- **The KL**: TRL multiplies it by the ratio (which makes its gradient right), Liger does not, at the same `beta`.
  OpenRLHF pays it in the reward by default, in GRPO and Dr. GRPO too. verl has none unless asked. SkyRL's, on by
  default, is a mean over completions beside a loss that is one over tokens.
- **Clip-Cov in SkyRL 0.3.0** drops no token: its covariances are of advantages already divided by the batch's tokens.
- **PPO and GRPO in verl** have a dual clip at 3 unless it is turned off.
- **GPG in verl** counts completions whose reward is not 0; the paper counts groups that teach something.
- **"Reverse KL"** by default is k3 back-propagated in verl's YAML and in TorchRL: its gradient is forward KL's
  ([distillation.md](distillation.md) has all of them).
- **SDPO in TRL** rescales the k likeliest tokens, by TRL's own index of papers; its authors keep the rest as one more.
- **`label_smoothing` with DPO's default loss** is not read by TRL and Liger: cDPO there is DPO, without a warning.
- **IPO** is on sums by the letter of its paper and in OpenRLHF, per token in TRL: the same beta is another loss.
- **f-DPO's alpha in TRL** is counted from the other end: there 0 is the forward KL and 1 the reverse KL, DPO.
- **SimPO in TRL and Liger** adds supervised learning unless it is turned off; its beta is a twentieth of the paper's.
"""


def markdown() -> str:
    """The whole page."""
    parts = [HEAD, f"## The twelve that most people mean\n\n{listed(TWELVE)}\n", BEGIN, SURPRISES]
    parts.append("## The others, by what they change\n")
    for title, names in GROUPS.items():
        parts.append(f"### {title}\n\n{listed(name for name in names if name not in TWELVE)}\n")
    parts += [NO_ROW, DIALECTS]
    for kind, (_, title) in KINDS.items():
        groups = by_algorithm(row for row in RECIPES.values() if isinstance(row, kind))
        parts.append(f"### {title}, by framework\n\n{dialects(groups)}\n")
    return "\n".join(parts).rstrip()


def listed(names: Iterable[str]) -> str:
    """A line of a table for each row: what it is, what sets it apart, and where it is from."""
    lines = ["| row | what it is | its choices | source |", "|---|---|---|---|"]
    for row in (RECIPES[name] for name in names):
        lines.append(f"| `{row.name}` | {row.about} | {piped(in_words(row, RECIPES))} | {origin(row)} |")
    return "\n".join(lines)


def piped(text: str) -> str:
    """Text for a cell."""
    return text.replace("|", "\\|")


def origin(row: Recipe) -> str:
    """The first arXiv id of a source as a link, or its first words."""
    found = re.search(r"arXiv:\d{4}\.\d{5}(v\d+)?", row.source)
    return linked(found[0]) if found else row.source.partition(",")[0]


def dialects(groups: dict[str, list[Recipe]]) -> str:
    """A line for each row that a framework has, a column for each framework: what differs there."""
    cells: dict[str, dict[str, str]] = {}
    for name, group in groups.items():
        for row in (row for row in group if "@" in row.name):
            told = in_words(row, RECIPES)
            told = "same" if told == f"as {name}" else told.removeprefix(f"{name} with ") if name in RECIPES else told
            cells.setdefault(name, {})[row.name.partition("@")[2].replace("-", " ")] = piped(told)
    columns = sorted(
        {at for line in cells.values() for at in line}, key=lambda at: (-sum(at in c for c in cells.values()), at)
    )
    lines = [f"| row | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, line in cells.items():
        said = (f" {line[at]} " if at in line else "" for at in columns)
        lines.append(f"| `{name}` |{'|'.join(said)}|")
    return "\n".join(lines)


def in_full(option: Option) -> str:
    """An option's sentence, and what is said in its place beside a ratio of the whole completion."""
    beside: dict[str, list[str]] = {}
    for ratio, text in option.beside.items():
        beside.setdefault(text, []).append(f"`{ratio}`")
    return " ".join([option.effect, *(f"Beside the ratio {' or '.join(ratios)}: {t}" for t, ratios in beside.items())])
