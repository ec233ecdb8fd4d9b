"""docs/recipes.md, written by ``torchstone recipes --markdown`` from the rows themselves."""

from __future__ import annotations

from torchstone.recipes import RECIPES
from torchstone.recipes.choices import Option, Recipe, show
from torchstone.recipes.table import KINDS, by_algorithm, markdown_table

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

`torchstone recipes` prints the table, `torchstone recipes dapo` one row with the place in the paper where each number
stands, `torchstone recipes grpo dapo` what differs and what that does to the update. A row with a choice of your own is
`find("grpo:advantage=group-mean")`. This page is written by `torchstone recipes --markdown`.

**How to read a row.** From left to right as data flows: how a completion's advantage is made from the rewards; whether
a ratio to the sampling policy is taken for each token or each completion; the loss per token; where the KL to the
reference is paid, its estimator and weight; how the losses become one number. Everything that is off is left out.
`clip 0.2, high 0.28` is $\\epsilon = 0.2$, $\\epsilon_{high} = 0.28$; `n` and `n-1` are the divisor of the variance.
[What each choice does](#what-each-choice-does) has a sentence for every option.

## What surprises people

Each of these is a row below, run against that version. None is called wrong here: a name is not a specification.

- **DAPO and CISPO**, as printed, take the mean over the tokens of each prompt's group and then over prompts. Every
  framework takes it over the tokens of the batch, so prompts with long answers weigh more.
- **`loss_type="dr_grpo"` in TRL** changes the length divisor alone; the group's deviation still divides, since that is
  another setting (`scale_rewards`). OpenRLHF's `dr_grpo` is the other half: no deviation, and no constant length.
- **CISPO's `epsilon_high`** is the cap itself in TRL and Liger, and 0.2 by default: a token on policy then weighs 0.2.
  In verl it is a distance from 1, and there is a lower bound too.
- **RLOO in TRL** is PPO's clip on the ratio of the whole completion; in verl and OpenRLHF on that of each token. The
  paper has no clip.
- **The KL**: TRL multiplies it by the ratio (which makes its gradient right), Liger does not, at the same `beta`.
  OpenRLHF pays it in the reward by default, in GRPO and Dr. GRPO too. verl has none unless asked.
- **PPO and GRPO in verl** have a dual clip at 3 unless it is turned off.
- **GPG in verl** counts completions whose reward is not 0; the paper counts groups that teach something.
- **"Reverse KL"** by default is k3 back-propagated in verl's YAML and in TorchRL: its gradient is forward KL's
  ([distillation.md](distillation.md) has all of them).
- **SDPO in TRL** rescales the k likeliest tokens, by TRL's own index of papers; its authors keep the rest as one more.
- **`label_smoothing` with DPO's default loss** is not read by TRL and Liger: cDPO there is DPO, without a warning.
- **IPO** is on sums by the letter of its paper and in OpenRLHF, per token in TRL: the same beta is another loss.
- **SimPO in TRL and Liger** adds supervised learning unless it is turned off; its beta is a twentieth of the paper's.
"""


def markdown() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, (_, title) in KINDS.items():
        rows = [row for row in RECIPES.values() if isinstance(row, kind)]
        published = [row for row in rows if "@" not in row.name]
        parts += [f"## {title}, as published\n", markdown_table(list(published)) + "\n"]
        dialects = {name: group for name, group in by_algorithm(rows).items() if any("@" in row.name for row in group)}
        if dialects:
            parts.append(f"## {title}, as frameworks compute it\n")
            parts.append(
                "**Bold** is not as published. The number after the framework's name is the version that was run.\n"
            )
            parts += left_out([row for group in dialects.values() for row in group])
        for name, group in dialects.items():
            known = RECIPES.get(name)
            parts += [f"### {name}\n", markdown_table(group, known) + "\n"]
    parts.append(choices())
    parts.append(numbers([row for row in RECIPES.values() if "@" not in row.name]))
    return "\n".join(parts).rstrip()


def left_out(dialects: list[Recipe]) -> list[str]:
    """What each framework has beside these rows, once, and in which of them."""
    told: dict[str, dict[str, list[str]]] = {}
    rows: dict[str, list[str]] = {}
    for row in dialects:
        name, at, framework = row.name.partition("@")
        if not at:
            continue
        rows.setdefault(framework, []).append(name)
        for text in row.left_out.split("; ") if row.left_out != "nothing" else []:
            told.setdefault(framework, {}).setdefault(text, []).append(name)
    return [*(f"- Left out of {framework}'s: {text}{where(names, rows[framework])}."
              for framework, texts in told.items() for text, names in texts.items()), ""]  # fmt: skip


def where(names: list[str], rows: list[str]) -> str:
    """The rows that a sentence is about, by what is shorter: those, or the others."""
    others = [name for name in rows if name not in names]
    if not others:
        return ""
    few, word = (names, "in") if len(names) <= len(others) else (others, "not in")
    return f" ({word} {', '.join(f'`{name}`' for name in few)})"


def choices() -> str:
    """What each option does to the update, one sentence each."""
    parts, told = ["## What each choice does\n"], set[str]()
    for kind, (word, _) in KINDS.items():
        for at, options in kind.COLUMNS.items():
            lines = [f"| `{k}` | {', '.join(o.numbers)} | {in_full(o)} |" for k, o in options.items()]
            new, heading = [line for line in lines if line not in told], f"### {at}"
            if new:
                heading += f" ({word})" if any(part.startswith(heading) for part in parts) else ""
                parts += [
                    f"{heading}\n",
                    "| option | numbers | what it does to the update |",
                    "|---|---|---|",
                    *new,
                    "",
                ]
            told |= set(lines)
    return "\n".join(parts)


def in_full(option: Option) -> str:
    """An option's sentence, and what is said in its place beside a ratio of the whole completion."""
    beside: dict[str, list[str]] = {}
    for ratio, text in option.beside.items():
        beside.setdefault(text, []).append(f"`{ratio}`")
    return " ".join([option.effect, *(f"Beside the ratio {' or '.join(ratios)}: {t}" for t, ratios in beside.items())])


def numbers(rows: list[Recipe]) -> str:
    """Where each number of a published row is stated."""
    lines = [
        "## Where the numbers stand\n",
        "Quotation marks stand only around text that was read ([sources.md](sources.md) says how each paper was read).",
        "Seen in the paper, in its authors' code, in a framework's recipe for it, or in an account of others. A number",
        "that none of them states is the usual one, so that the row runs.\n",
        "| row | number | value | where it was seen |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines += [f"| `{row.name}` | {k} | {show(v)} | {row.stated.get(k, '')} |" for k, v in row.numbers().items()]
    return "\n".join(lines)
