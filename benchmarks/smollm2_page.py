"""docs/smollm2.md from the results of benchmarks/smollm2.py: tables, completions, CSVs."""

import csv
import json
import statistics
from pathlib import Path

from torchstone.evaluate.passes import difference, estimate

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "distill": "distillation", "ppo": "PPO, reward model"}
WHO = {"ours": "ours", "trl": "TRL"}
SCORES = ("pass@1 strict", "pass@1 lenient", "pass@8 strict", "pass@8 lenient")
PAGE = """\
# SmolLM2-135M beside TRL, from equal samples

What GRPO, RLOO and DPO learn here and in TRL 1.16.0, with the same model, data, samples, batches, optimizer and
precision. A page to check a trainer by, not a ranking: one small model, one easy task, one setting a method.

**Task.** Sums of a number of two digits and one of one digit, 810 prompts, 200 of them held out:

```
{prompt}
```

SmolLM2-135M-Instruct reads them as plain text, without its chat template, and a completion ends at the end of its line
(at most {tokens} tokens). Reward: 1 for the right sum and nothing else, 0 otherwise. `strict` is that reward;
`lenient` asks for the last number alone.

**Runs.** {rounds} rounds of {prompts} prompts with {group} completions, so {samples:,} samples a run; Adam at {lr:g},
constant, no weight decay; one optimizer step a round in passes of {micro_batch} rows; float32, one thread. DPO has the
pairs of as many samples of the start model, {pairs} a step, at {dpo_lr:g}, beta {beta:g}. What TRL does by default and
is switched off: bfloat16, gradient checkpointing. PPO is paid by a reward model made of DPO's {made} pairs alone;
distillation's teacher is the first GRPO run. Seeds: {seeds}.

```
python benchmarks/smollm2.py --model SMOLLM2
python benchmarks/smollm2.py --page
python docs/pictures.py smollm2
```

A run that has its result is not run again. The second line writes this page and its data, the third its picture.

## What was learned

Share of held-out prompts, in %: pass@1 from one sample of each of {held_out}, pass@8 from eight of each of
{held_out_8}. Means over the seeds; in brackets the 95% interval over prompts, of values that are means over the seeds.

{learned}

What each has more than the start model, prompt by prompt:

{gained}

What ours has more than TRL's, prompt by prompt; an interval that holds 0 shows no difference:

{ours_more}

![reward of the samples of each round](smollm2.png)

Means over the seeds. A round has {prompts} prompts, here others than in TRL's runs, and its reward depends on them too.

## What it cost

Median over rounds after the first, and over runs; memory is the most that the process held while it trained. The runs
shared two cores with other work, which processor time feels less than the clock.

{cost}

## Completions

Of the first five held-out prompts, the first sample.

{completions}

Data: [runs](../benchmarks/results/smollm2.csv), [curves](../benchmarks/results/smollm2-curves.csv).
"""


def markdown(head, rows):
    return "\n".join(["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]])


def read_results(out):
    files = sorted(out.glob("*/result.json"))
    return {result["name"]: result for result in (json.loads(file.read_text()) for file in files)}


def over_seeds(results, score):
    """The mean over the runs of each prompt's score."""
    return [statistics.fmean(column) for column in zip(*(r["scores"][score] for r in results), strict=True)]


def percent(one, sign=""):
    return f"{100 * one.mean:{sign}.1f} [{100 * one.low:{sign}.1f}, {100 * one.high:{sign}.1f}]"


def tables(results):
    """(learned, gained, ours more, cost), each as Markdown."""
    kinds = {}
    for result in results.values():
        if result["method"] != "start":
            kinds.setdefault((result["method"], result["by"]), []).append(result)
    order = sorted(kinds, key=lambda kind: (list(TITLES).index(kind[0]), kind[1]))
    name = {kind: f"{TITLES[kind[0]]}, {WHO[kind[1]]}" for kind in order}
    start = [results["start"]]
    head = ["", "seeds", *SCORES]
    rows = [["start", "", *(percent(estimate(over_seeds(start, s))) for s in SCORES)]]
    rows += [[name[k], len(kinds[k]), *(percent(estimate(over_seeds(kinds[k], s))) for s in SCORES)] for k in order]
    learned = markdown(head, rows)

    def more(a, b, score):
        return percent(difference(over_seeds(a, score), over_seeds(b, score)), "+")

    gained = markdown(head, [[name[k], len(kinds[k]), *(more(kinds[k], start, s) for s in SCORES)] for k in order])
    both = [method for method in TITLES if {(method, "ours"), (method, "trl")} <= kinds.keys()]
    rows = [[TITLES[m], "", *(more(kinds[m, "ours"], kinds[m, "trl"], s) for s in SCORES)] for m in both]
    ours_more = markdown(head, rows) if both else "No method has runs of both yet."

    columns = {
        "round_wall_s": "s a round",
        "round_cpu_s": "processor s a round",
        "peak_mb": "peak MB",
        "wall_s": "s in all",
    }
    middle = {k: {c: statistics.median(r[c] for r in kinds[k]) for c in columns} for k in order}
    digits = {"peak_mb": 0, "wall_s": 0}
    rows = [[name[k], *(f"{middle[k][c]:.{digits.get(c, 1)}f}" for c in columns)] for k in order]
    for m in both:
        ratios = [middle[m, "trl"][c] / max(middle[m, "ours"][c], 1e-9) for c in columns]
        ratios[2] = 1 / ratios[2]
        rows.append([f"{TITLES[m]}: TRL / ours (memory: ours / TRL)", *(f"{x:.2f}" for x in ratios)])
    return learned, gained, ours_more, markdown(["", *columns.values()], rows)


def completions(out, results):
    """The first held-out prompts, and what the start model and the first seed of each kind wrote."""
    names = ["start", *(name for name in results if name.endswith("-0"))]
    files = {name: (out / name / "completions-held-out.jsonl").read_text().splitlines() for name in names}
    rows = []
    for i in range(5):
        some = {name: json.loads(lines[i]) for name, lines in files.items()}
        prompt = some["start"]["prompt"].splitlines()[-1]
        rows.append([f"`{prompt}`", *(f"`{one['completion'].strip() or ' '}`" for one in some.values())])
    return markdown(["prompt", *names], rows)


def write_csvs(results, folder):
    with (folder / "smollm2.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        numbers = ["rounds", "samples", "wall_s", "cpu_s", "round_wall_s", "round_cpu_s", "peak_mb", "mean_length"]
        rows.writerow(["run", "method", "by", "seed", *numbers, *SCORES])
        for name, r in results.items():
            means = [f"{statistics.fmean(r['scores'][score]):.4f}" for score in SCORES]
            rows.writerow(
                [name, r["method"], r["by"], r["seed"], *(f"{r[n]:.4g}" if n in r else "" for n in numbers), *means]
            )
    with (folder / "smollm2-curves.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["run", "samples", "reward"])
        rows.writerows(
            [name, x, f"{y:.4f}"] for name, r in results.items() for x, y in r.get("curve", []) if y is not None
        )


def write_page(out, docs=ROOT / "docs", data=ROOT / "benchmarks" / "results"):
    results = read_results(out)
    if len(results) < 2 or "start" not in results:
        raise SystemExit(f"{out} has no results yet: python benchmarks/smollm2.py --model FOLDER")
    sizes = results["start"]["sizes"]
    learned, gained, ours_more, cost = tables(results)
    held = json.loads((out / "held_out.jsonl").read_text().splitlines()[0])
    seeds = sorted({r["seed"] for r in results.values()})
    made = len((out / "pairs.jsonl").read_text().splitlines())
    text = PAGE.format(
        prompt=held["prompt"], made=made, samples=sizes["rounds"] * sizes["prompts"] * sizes["group"],
        seeds=", ".join(map(str, seeds)) + "; PPO and distillation 0 alone",
        learned=learned, gained=gained, ours_more=ours_more, cost=cost, completions=completions(out, results), **sizes,
    )  # fmt: skip
    (docs / "smollm2.md").write_text(text, encoding="utf-8")
    write_csvs(results, data)
    print(f"{docs / 'smollm2.md'} of {len(results) - 1} runs")
