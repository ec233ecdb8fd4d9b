"""Write docs/flags.md, and the last column of docs/pitfalls.md, from the vectors (part of ``make vectors``).

    python docs/flags.py        needs nothing beyond Python

In torchstone_oracle/contracts a flag stands in the file of its objective, or in shared/. Here all vector files are
merged: one row a flag, and the mistakes that each shows.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "torchstone" / "conformance" / "vectors"
PAGE = """\
# Flags: what each one does to a training run, and who has had it

A flag is a kind of case, or a named way to be different, in the [vectors](../torchstone/conformance/vectors). The
checker prints these names; [conformance.md](conformance.md) is how to run it. This page is written from the vectors by
`python docs/flags.py`.

- **Bug**: somebody's mistake, computed. Each case that shows it has the numbers that the mistake gives.
- **Variant**: a choice that is published, or shipped, under this objective's name or another. If you mean it, say so:
  `--accept NAME`.
- **Edge**: an input that code forgets. There are no other numbers, only the right ones.

A flag stands in the first family, in reading order, that has it. A numbered link says where the mistake or the choice
was met or discussed: often where it was mended. It does not say that a current version has it. C01 and R01 are rows of
[pitfalls.md](pitfalls.md). A row without a name is the flag above it, as other objectives have it.
"""
FAMILIES = {  # in reading order; the first part of an equation's tag
    "CORE": "Core",
    "REINFORCE": "REINFORCE",
    "PPO": "PPO",
    "GRPO": "GRPO",
    "DPO": "DPO and reward models",
    "DISTILL": "On-policy distillation",
}
KINDS = {"bug": "Bugs", "variant": "Variants", "edge": "Edges"}
HEADER = "| flag | what it is; *what it does to your run*; objectives that have it | seen |\n|---|---|---|\n"
FILES = "| objective | | cases | named alternatives |\n|---|---|---|---|\n"
NAMES = {  # owner/repository, and what people call it
    "DLR-RM/stable-baselines3": "stable-baselines3",
    "EleutherAI/gpt-neox": "gpt-neox",
    "FunAudioLLM/CosyVoice": "CosyVoice",
    "Human-Agent-Society/reef": "reef",
    "InternLM/xtuner": "xtuner",
    "NVIDIA-NeMo/RL": "NeMo-RL",
    "NovaSky-AI/SkyRL": "SkyRL",
    "OpenRLHF/OpenRLHF": "OpenRLHF",
    "PrimeIntellect-ai/prime-rl": "prime-rl",
    "Rolv-Arild/rocket-learn": "rocket-learn",
    "ServiceNow/PipelineRL": "PipelineRL",
    "THUDM/slime": "slime",
    "XU-YIJIE/grpo-flat": "grpo-flat",
    "alibaba/ROLL": "ROLL",
    "allenai/open-instruct": "open-instruct",
    "allenai/reward-bench": "reward-bench",
    "axolotl-ai-cloud/axolotl": "axolotl",
    "eric-mitchell/direct-preference-optimization": "DPO's authors",
    "hiyouga/LLaMA-Factory": "LLaMA-Factory",
    "hpcaitech/ColossalAI": "ColossalAI",
    "huggingface/transformers": "transformers",
    "huggingface/trl": "TRL",
    "inclusionAI/AReaL": "AReaL",
    "inclusionAI/AReno": "AReno",
    "karpathy/nanochat": "nanochat",
    "labmlai/annotated_deep_learning_paper_implementations": "labml",
    "langfengQ/verl-agent": "verl-agent",
    "linkedin/Liger-Kernel": "Liger",
    "lucidrains/PaLM-rlhf-pytorch": "PaLM-rlhf",
    "meta-pytorch/torchtune": "torchtune",
    "modelscope/ms-swift": "ms-swift",
    "natolambert/rlhf-book": "rlhf-book",
    "nebuly-ai/optimate": "optimate",
    "open-thought/tiny-grpo": "tiny-grpo",
    "opendilab/LightRFT": "LightRFT",
    "princeton-nlp/SimPO": "SimPO",
    "pytorch/rl": "torchrl",
    "pytorch/torchtune": "torchtune",
    "radixark/miles": "miles",
    "sail-sg/oat": "oat",
    "thinking-machines-lab/tinker-cookbook": "tinker-cookbook",
    "thu-ml/tianshou": "tianshou",
    "unslothai/unsloth-zoo": "unsloth-zoo",
    "verl-project/verl": "verl",
    "volcengine/verl": "verl",
    "vwxyzjn/cleanrl": "cleanrl",
    "wyf3/llm_related": "llm_related",
    "zafstojano/policy-gradients": "policy-gradients",
}
FIRST = ("grpo_loss", "ppo_loss", "reinforce_loss", "dpo_loss", "gae", "group_advantages", "kl_k3", "token_mean")
ROW = re.compile(r'^\| <a id="(?P<id>\w+)"></a>.* \| (?P<caught>[^|]*) ?\|$', re.M)


def files(folder: Path = VECTORS) -> list[dict]:
    """Every vector file, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def merged(vectors: list[dict]) -> dict[tuple[str, str], dict[tuple[str, str], dict[str, dict]]]:
    """(kind, flag) -> (what it is, what it does) -> objective -> the flag as its file has it."""
    found: dict = {}
    for data in vectors:
        for name, flag in data["flags"].items():
            texts = found.setdefault((flag["kind"], name), {})
            texts.setdefault((flag["about"], flag["effect"]), {})[data["objective"]] = flag
    return dict(sorted(found.items()))


def source(link: str) -> tuple[str, str]:
    """The short name that people use of the place a link leads to, and the link; text that is no link stays a name."""
    github = re.match(r"https://github\.com/([\w.-]+/[\w.-]+)", link)
    if github and github[1] not in NAMES:
        raise ValueError(f"{link}: give {github[1]} a name in docs/flags.py, if it is the right repository")
    paper = re.fullmatch(r"https://arxiv\.org/(?:abs|pdf)/([\w./-]+)", link)
    release = re.search(r"/tree/v?([\w.]+)$", link)
    if github or paper:
        return " ".join([NAMES[github[1]], *([release[1]] if release else [])]) if github else f"arXiv:{paper[1]}", link
    return (link.split("/")[2], link) if link.startswith("http") else (plain(link), "")


def cited(links: list[str]) -> list[str]:
    """One entry for each place: its name, and its links as numbers."""
    numbers: dict[str, list[str]] = {}
    for number, (name, link) in enumerate(map(source, links), 1):
        numbers.setdefault(name, []).extend([f"[[{number}]]({link})"] if link else [])
    return [" ".join([name, *found]) for name, found in numbers.items()]


def plain(text: str) -> str:
    """Text that Markdown would take for something else."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def some(names: list[str], most: int = 4) -> str:
    """A few names, the best known first, and how many more there are."""
    names = sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def unique(lists: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(x for part in lists for x in part))


def family(data: dict) -> str:
    """The family of a vector file, by the tag of its equation."""
    tag = data["tags"][0].partition(".")[0] if data["tags"] else "CORE"
    return {"KL": "CORE"}.get(tag, tag)


def flag_page(vectors: list[dict]) -> str:
    """The text of docs/flags.md."""
    families = {data["objective"]: family(data) for data in vectors}
    rows = {place: [""] * len(KINDS) for place in FAMILIES}
    anchored: set[str] = set()
    for (kind, name), texts in merged(vectors).items():
        place = min((families[o] for objectives in texts.values() for o in objectives), key=list(FAMILIES).index)
        rows[place][list(KINDS).index(kind)] += flag_rows(name, texts, anchored)
    page = PAGE
    for place, title in FAMILIES.items():
        page += f"\n## {title}\n\n{FILES}" + "".join(file_row(d) for d in vectors if family(d) == place)
        for heading, table in zip(KINDS.values(), rows[place], strict=True):
            page += f"\n### {heading}: {title}\n\n{HEADER}{table}" if table else ""
    return page


def flag_rows(name: str, texts: dict, anchored: set[str]) -> str:
    """The rows of one flag, one for each text; the first place of a name on the page bears its anchor."""
    title = f"`{name}`" if name in anchored else f'<a id="{name}"></a>`{name}`'
    anchored.add(name)
    rows = ""
    for (about, effect), objectives in texts.items():
        seen = cited(unique([f["links"] for f in objectives.values()]))
        ids = sorted(unique([f["pitfalls"] for f in objectives.values()]))
        seen += [f"[{x}](pitfalls.md#{x.lower()})" for x in ids]
        what = f"{plain(about)} *{plain(effect)}*<br><sub>{some(list(objectives))}</sub>"
        rows += f"| {title} | {what} | {', '.join(seen)} |\n"
        title = ""
    return rows


def file_row(data: dict) -> str:
    cases = sum(len(group["cases"]) for group in data["groups"])
    named = sum(flag["kind"] != "edge" for flag in data["flags"].values())
    name = data["objective"]
    return (
        f"| [`{name}`](../torchstone/conformance/vectors/{name}.json) | {plain(data['about'])} | {cases} | {named} |\n"
    )


def catches(vectors: list[dict]) -> dict[str, str]:
    """Pitfall -> the flags that show it, with the objectives whose vectors have them."""
    found: dict[str, dict[str, list[str]]] = {}
    for (_, name), texts in merged(vectors).items():
        for objectives in texts.values():
            for objective, flag in objectives.items():
                for pitfall in flag["pitfalls"]:
                    found.setdefault(pitfall, {}).setdefault(name, []).append(objective)
    return {
        pitfall: "; ".join(f"[{name}](flags.md#{name}): {some(o, most=2)}" for name, o in flags.items())
        for pitfall, flags in found.items()
    }


def pitfall_page(old: str, vectors: list[dict]) -> str:
    """docs/pitfalls.md with its last column filled in; what stands there in italics is written by hand, and stays."""
    caught = catches(vectors)

    def fill(row: re.Match) -> str:
        by_hand = re.findall(r"\*[^*]+\*$", row["caught"].strip())
        text = "; ".join([*([caught[row["id"].upper()]] if row["id"].upper() in caught else []), *by_hand])
        return row[0][: row.start("caught") - row.start()] + f"{text} |"

    return ROW.sub(fill, old)


def main() -> None:
    vectors, pitfalls = files(), ROOT / "docs" / "pitfalls.md"
    text = pitfall_page(pitfalls.read_text(encoding="utf-8"), vectors)
    pitfalls.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "flags.md").write_text(flag_page(vectors), encoding="utf-8")
    open_rows = [row["id"].upper() for row in ROW.finditer(text) if not row["caught"].strip()]
    if open_rows:
        print(f"docs/pitfalls.md: neither a flag nor a reason for {', '.join(open_rows)}", file=sys.stderr)


if __name__ == "__main__":
    main()
