"""The API reference: every public function, from its signature and its docstring, read without importing anything."""

from __future__ import annotations

import ast
import html
import re
import textwrap
from pathlib import Path

PACKAGES = ["core", "reinforce", "ppo", "grpo", "dpo", "distill", "fast"]
NAMED = {  # of these, what the package itself offers, and where it stands
    "recipes": {"choices": ["Choice"], "online": ["PolicyRecipe", "Advantages"], "pairs": ["PreferenceRecipe"],
                "distill": ["DistillRecipe"], "named": ["find"]},
    "conformance": {"checker": ["check"], "identifier": ["identify"], "relations/__init__": ["check_relations"],
                    "vectors": ["load"], "result": ["Report"], "pytest_plugin": ["cases"]},
}  # fmt: skip
MODULES = {  # of these, what is imported from each module by a user with a script of their own
    "train": {
        "run": ["train", "Interrupted", "first_policy", "make_and_save_start"],
        "options": ["Run", "Online", "ReinforceOptions", "PPOOptions", "GRPOOptions", "RecipeOptions", "DistillOptions",
                    "Pairs", "DPOOptions", "RewardOptions", "SFTOptions", "defaults"],
        "loading": ["load_policy", "load_teacher"], "model": ["Policy", "Outputs", "small_policy"],
        "rollout": ["Rollout", "sample", "as_rollout", "outputs_of"],
        "methods": ["Batch", "Method", "Reinforce", "PPO", "GRPO", "Recipe", "method_of"],
        "distill": ["Distill", "DistillRow"], "learner": ["Learner"], "online": ["learn_online"],
        "offline": ["learn_offline", "sample_pairs", "pair_up", "add_reference"], "reward": ["learn_reward"],
        "supervised": ["learn_sft"], "metrics": ["of_round", "held_out", "of_samples"], "lesson": ["nothing_learned"],
    },
    "data": {
        "tasks": ["Task", "load_task", "take"], "find": ["find_task", "reasoning_gym_task"],
        "files": ["Rows", "open_rows"], "formats": ["recognise", "to_example", "completion_of", "text_of"],
        "examples": ["Examples", "split", "read_pairs"], "chat": ["choose_template", "render"],
    },
    "rewards": {
        "library": ["exact", "last_number", "lenient"], "mathematics": ["math"],
        "calling": ["log_metric", "log_extra", "State", "Reward"], "loading": ["load_reward"],
        "several": ["Rewards", "load_rewards"], "judging": ["judge", "judged", "Judged"],
        "reward_model": ["RewardModel", "reward_model_of", "load_reward_model", "load_critic", "judge_pairs"],
        "scores": ["Scores"], "metrics": ["of_rewards"],
    },
    "evaluate": {
        "options": ["Compare", "Measured", "Eval", "Ask", "Sanity"], "compare": ["compare"],
        "models": ["load", "config_for", "task_of"],
        "passes": ["sampled", "summary", "paired", "pass_at_k", "estimate", "difference", "Estimate"],
        "plot": ["read_run", "metrics_of", "mean_curve", "draw"], "pipeline": ["Pipeline"],
        "sanity": ["find_prompts", "rates_of", "verdict", "Found", "flipped", "shifted", "shuffled"],
        "dry": ["dry_step"],
    },
    "store": {
        "files": ["load_config", "read_records", "save", "save_model", "append", "claimed"],
        "checkpoint": ["files", "write", "read", "read_file", "check_same_run"],
    },
    "frameworks": {
        "trl/plug": ["RecipeGRPOTrainer"], "trl/plug_pairs": ["RecipeDPOTrainer"],
        "trl/plug_distill": ["RecipeDistillationTrainer"], "verl/plug": ["register"],
        "skyrl/plug": ["register_loss", "register_advantages"], "tinker/plug": ["tinker_loss"], "slime/plug": ["loss"],
        "prime_rl/plug": ["loss"], "engines": ["look", "Found", "Engine"],
        "contract/find": ["find"], "contract/plugged": ["Plugged", "Findings", "Finding"],
        "contract/hand": ["Hand", "Piece", "Given"], "run": ["run", "PeerReport", "Difference"],
        "registry": ["Framework", "Peer", "theirs"], "unit": ["Unit"], "refusals": ["changed", "allowed"],
    },
    "cost": {
        "formulas": ["Shape", "read_config", "estimate", "Plan", "plan", "Precision", "memory", "peaks", "work",
                     "as_data", "Quantity", "optimizer_bytes", "kv_cache_bytes", "logits_bytes", "tiled_bytes",
                     "activation_bytes", "forward_flops", "sampling_flops"],
    },
}  # fmt: skip
SHOWN = {  # where the house gives a shorter way to import a name than the module it stands in
    "frameworks/trl/plug": "frameworks/trl", "frameworks/trl/plug_pairs": "frameworks/trl",
    "frameworks/trl/plug_distill": "frameworks/trl",
}  # fmt: skip
SECTIONS = ("Args:", "Returns:", "Raises ValueError:", "Facts", "Source:", "Example:", "Returns ")


def write(root: Path, sources: Path) -> None:
    """A page for each package under SOURCES/api: its functions in the order of the files."""
    (sources / "api").mkdir()
    for package in [*PACKAGES, *NAMED, *MODULES]:
        text = [f"# torchstone.{package}\n"]
        initial = ast.parse((root / f"torchstone/{package}/__init__.py").read_text(encoding="utf-8"))
        text.append(escaped((ast.get_docstring(initial) or "").split("\n\n")[0]) + "\n")
        folder = root / f"torchstone/{package}"
        if package in NAMED:
            for stem, names in NAMED[package].items():
                text += module(root, folder / f"{stem}.py", names)
        elif package in MODULES:
            for stem, names in MODULES[package].items():
                text += module(root, folder / f"{stem}.py", names, of_module=stem.replace("/", "."))
        else:
            for file in sorted(folder.glob("*.py"), key=order):
                text += module(root, file)
        (sources / f"api/{package}.md").write_text("\n".join(text), encoding="utf-8")


def order(file: Path) -> tuple[bool, str]:
    return file.name == "variants.py", file.name


def module(root: Path, file: Path, names: list[str] | None = None, of_module: str = "") -> list[str]:
    """The public functions of a file, or those with these names in their order; of a class its public methods too.

    A plug overrides its framework's methods: those are left out. With ``of_module`` the section is called so, and
    says how its names are imported.
    """
    source = file.read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.split("\n")
    name = file.relative_to(root).as_posix()
    found = [x for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)]
    public = [x for x in found if not x.name.startswith("_") and ast.get_docstring(x)]
    if names is not None:
        by_name = {x.name: x for x in found if ast.get_docstring(x)}
        if missing := set(names) - set(by_name):
            raise SystemExit(f"{file}: {missing} are not there, or have no docstring")
        public = [by_name[x] for x in names]
    if not public:
        return []
    about = (ast.get_docstring(tree) or "").split("\n\n")[0]
    title = of_module or (file.parent.name if file.stem == "__init__" else file.stem)
    parts = [f"## {title}\n", escaped(about) + "\n"]
    if of_module and names:
        path = name.removesuffix(".py").removeprefix("torchstone/")
        parts.append(f"```python\n{imported(SHOWN.get(path, path), names)}\n```\n")
    for x in public:
        link = f'<a class="to-code" href="../code/{name}.html#L{x.lineno}">{name}:{x.lineno}</a>\n'
        parts += [f"### {x.name}\n", told(x, lines), link]
        for y in x.body if isinstance(x, ast.ClassDef) and not file.stem.startswith("plug") else []:
            if isinstance(y, ast.FunctionDef) and not y.name.startswith("_") and ast.get_docstring(y):
                parts += [f"#### {x.name}.{y.name}\n", told(y, lines)]
    return parts


def imported(path: str, names: list[str]) -> str:
    """How the names are imported, in lines that fit."""
    head, listed = f"from torchstone.{path.replace('/', '.')} import ", ", ".join(names)
    if len(head + listed) <= 88:
        return head + listed
    return head + "(\n" + textwrap.fill(listed + ",", 84, initial_indent="    ", subsequent_indent="    ") + "\n)"


def told(x: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> str:
    """Signature and docstring; a class's fields in a list where a comment stands beside each of most."""
    noted = fields_told(x, lines) if isinstance(x, ast.ClassDef) else []
    items = "".join(f"<li><code>{html.escape(field)}</code><br>{inline(note)}</li>" for field, note in noted)
    listed = f"<p class='section'><b>Fields</b></p><ul class='entries'>{items}</ul>\n" if items else ""
    return f"```python\n{signature(x, bare=bool(items))}\n```\n\n{documented(ast.get_docstring(x) or '')}{listed}"


def fields(x: ast.ClassDef) -> list[ast.AnnAssign]:
    return [y for y in x.body if isinstance(y, ast.AnnAssign) and "ClassVar" not in ast.unparse(y)]


def fields_told(x: ast.ClassDef, lines: list[str]) -> list[tuple[str, str]]:
    """Each field as it is written, and the comment behind it; none unless most have one."""
    notes = [(y, lines[(y.end_lineno or y.lineno) - 1].encode()[y.end_col_offset or 0 :].decode()) for y in fields(x)]
    found = [(ast.unparse(y).replace("'", '"'), note.strip().removeprefix("# ")) for y, note in notes]
    return found if found and sum(bool(note) for _, note in found) > len(found) / 2 else []


def signature(x: ast.FunctionDef | ast.ClassDef, bare: bool = False) -> str:
    """As it is written, on one line or a line an argument; ``bare``: a class without its fields."""
    if isinstance(x, ast.ClassDef):
        listed = [] if bare else [ast.unparse(y).replace("'", '"') for y in fields(x)]
        bases = ", ".join(ast.unparse(b) for b in x.bases)
        return "\n    ".join([f"class {x.name}({bases}):" if bases else f"class {x.name}:", *listed])
    a = x.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    told = [argument(arg, default) for arg, default in zip(plain, defaults, strict=True)]
    if a.vararg:
        told.append(f"*{argument(a.vararg, None)}")
    elif a.kwonlyargs:
        told.append("*")
    told += [argument(arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg:
        told.append(f"**{argument(a.kwarg, None)}")
    end = f" -> {ast.unparse(x.returns)}" if x.returns else ""
    line = f"{x.name}({', '.join(told)}){end}".replace("'", '"')
    return (
        line
        if len(line) <= 88
        else f"{x.name}(\n    " + ",\n    ".join(told).replace("'", '"') + f",\n){end}".replace("'", '"')
    )


def argument(arg: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
    return arg.arg + kind + (f" = {ast.unparse(default)}" if default is not None else "")


def documented(text: str) -> str:
    """A docstring of this house as markup: paragraphs, equations as they are spaced, and its named sections."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    parts = []
    for block in blocks:
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            parts.append(f"<pre class='spaced'>{inline(dedent(lines))}</pre>")
            continue
        for group in sections(lines):
            parts.append(section(group))
    return "\n".join(parts) + "\n"


def sections(lines: list[str]) -> list[list[str]]:
    """The lines of each named section, or of what stands before the first."""
    groups: list[list[str]] = [[]]
    for line in lines:
        if line.startswith(SECTIONS) and groups[-1]:
            groups.append([])
        groups[-1].append(line)
    return groups


def section(lines: list[str]) -> str:
    head, rest = lines[0], [line for line in lines[1:] if line.strip()]
    if not head.startswith(SECTIONS):
        return f"<p>{inline(' '.join(line.strip() for line in lines))}</p>"
    name, _, first = head.partition(":")
    if head.startswith(("Args", "Facts")):
        items = "".join(f"<li>{inline(item)}</li>" for item in entries(rest))
        return f"<p class='section'><b>{html.escape(name)}</b></p><ul class='entries'>{items}</ul>"
    return f"<p><b>{html.escape(name)}</b> {inline(' '.join([first.strip(), *(line.strip() for line in rest)]))}</p>"


def entries(lines: list[str]) -> list[str]:
    """Entries begin at the least indentation; further lines belong to the one above."""
    least = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    found: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) == least:
            found.append(line.strip())
        else:
            found[-1] += " " + line.strip()
    return [re.sub(r"^([\w, *]+?):", lambda m: "``" + m.group(1) + "``:", x) for x in found]


def dedent(lines: list[str]) -> str:
    least = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[least:] for line in lines)


def inline(text: str) -> str:
    """Text as markup that Markdown leaves alone: code in double backticks, arXiv ids as links."""
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"arXiv:(\d{4}\.\d{5}(?:v\d+)?)", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text)


def escaped(text: str) -> str:
    return f"<p>{inline(text.replace(chr(10), ' '))}</p>"
