"""Every page as a visitor meets it: its equations as GitHub renders them, its links, its code, its commands."""

import argparse
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from torchstone import cli

ROOT = Path(__file__).parent.parent
LISTED = [
    "git",
    "ls-files",
    "--cached",
    "--others",
    "--exclude-standard",
    "*.md",
    ":!site/sphinx",
]  # the site checks its own links
NAMES = subprocess.run(LISTED, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in sorted(NAMES) if (ROOT / name).exists()}
GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TOKENS = {name: GITHUB.parse(text) for name, text in PAGES.items()}


def fences(name):
    """(the word behind the fence, the text) of each fenced block of a page."""
    return [(t.info.strip(), t.content) for t in TOKENS[name] if t.type == "fence"]


def inline(name):
    """The parsed content of every paragraph, heading and cell of a page."""
    return [t for t in TOKENS[name] if t.type == "inline"]


def with_blocks(*kinds):
    return [name for name in PAGES if any(kind in kinds for kind, _ in fences(name))]


# ------------------------------------------------------------------------------------------------------------ equations

CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
EQUATION = re.compile(r"\$\$((?:(?!\n\n).)+?)\$\$|\$(?=\S)((?:(?!\n\n)[^$])+?)(?<=\S)\$", re.S)


def equations(text):
    """What stands between dollars, white space aside."""
    return [" ".join((displayed or short).split()) for displayed, short in EQUATION.findall(text)]


def visible(token):
    """The text that a browser gets of a parsed paragraph: no emphasis, no tags; code as one character."""
    kept = {
        "text": lambda t: t.content,
        "code_inline": lambda t: "`",
        "softbreak": lambda t: "\n",
        "hardbreak": lambda t: "\n",
    }
    return "".join(kept[t.type](t) for t in token.children if t.type in kept)


def source_equations(text):
    """The equations of a page as they are written, fenced blocks and code aside."""
    return equations(CODE.sub("`", re.sub(r"^( *)```.*?^\1```", "", text, flags=re.S | re.M)))


def rendered_equations(text):
    """The equations of a page as GitHub hands them to its typesetter: after Markdown."""
    return [e for token in GITHUB.parse(text) if token.type == "inline" for e in equations(visible(token))]


@pytest.mark.parametrize("name", PAGES)
def test_markdown_changes_no_equation(name):
    assert rendered_equations(PAGES[name]) == source_equations(PAGES[name])


@pytest.mark.parametrize("name", PAGES)
def test_displayed_equations_are_fenced_and_every_dollar_has_its_pair(name):
    for text in map(visible, inline(name)):
        assert "$$" not in text, f"put it into a block ```math: {text[:60]}"
        assert "$" not in EQUATION.sub("", text), f"a dollar alone: {text[:60]}"
        for found in EQUATION.finditer(text):
            around = text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1]
            assert not any(map(str.isalnum, around)), f"GitHub wants no letter beside a dollar: {text[:60]}"
    blocks = [text for kind, text in fences(name) if kind == "math"]
    assert len(blocks) == len(re.findall(r"^ *```math$", PAGES[name], re.M))
    for text in blocks:
        assert "$" not in text and text.count("{") == text.count("}"), text
        assert re.findall(r"\\begin{(\w+\*?)}", text) == re.findall(r"\\end{(\w+\*?)}", text)[::-1], text


@pytest.mark.parametrize(
    "written",
    [r"$a \, b$", r"$a\_b$", r"$x^*_i + y^*_j$", r"$\{a\}$", "$a &lt; b$", "$a <b> c$", "$[a](b)$", r"$\mathrm{a\_b}$"],
)
def test_an_equation_that_markdown_changes_is_seen(written):
    assert rendered_equations(written) != source_equations(written)


@pytest.mark.parametrize(
    "written", [r"$a_{i} \thinspace b_j$", r"$\log \pi(y_t \mid x, y_{<t})$", r"$`a \, b`$", "`$x`"]
)
def test_an_equation_that_markdown_leaves_alone_is_not(written):
    assert rendered_equations(written) == source_equations(written)


# ---------------------------------------------------------------------------------------------------------------- links


def slugs(name):
    """The anchors of a page: its headings as GitHub makes links of them, and <a id=...>."""
    seen = {}
    for opening, heading in zip(TOKENS[name], TOKENS[name][1:], strict=False):
        if opening.type == "heading_open":
            text = "".join(t.content for t in heading.children if t.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            seen[slug] = seen.get(slug, -1) + 1
            if seen[slug]:
                seen[f"{slug}-{seen[slug]}"] = 0
    return set(seen) | set(re.findall(r'<a id="([^"]+)">', PAGES[name]))


def targets(name):
    """Where the links and pictures of a page lead."""
    for token in inline(name):
        for part in token.children:
            target = part.attrGet("href") if part.type == "link_open" else part.attrGet("src")
            if target and not re.match(r"\w+:", target):
                yield target


ANCHORS = {name: slugs(name) for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in targets(name):
        path, _, anchor = target.partition("#")
        aim = (ROOT / name).parent / path if path else ROOT / name
        assert aim.exists(), target
        page = os.path.relpath(aim.resolve() / ("README.md" if aim.is_dir() else ""), ROOT.resolve())
        assert not anchor or anchor in ANCHORS[page.replace(os.sep, "/")], target


@pytest.mark.parametrize("name", PAGES)
def test_installing_is_from_this_checkout_and_not_from_an_index(name):
    assert not re.search(r"pip install[^\n`]*\btorchstone\b(?![\w./-]*\.whl)", PAGES[name])


# --------------------------------------------------------------------------------------------------------------- Python

BATCH = """
import torch
torch.manual_seed(0)
tensor = lambda: (torch.randn(8, 5) / 8 - 1).requires_grad_()
log_probs, old_log_probs, ref_log_probs, sampler_log_probs, values = (tensor() for _ in range(5))
mask = torch.arange(5) < torch.tensor([5, 3, 4, 5, 1, 2, 5, 4])[:, None]
rewards, scored = torch.rand(2, 4), torch.tensor([[True, True, True, False], [True] * 4])
advantages, scores, old_values = torch.randn(8), rewards.flatten(), values.detach()
right, token_rewards = scores > 0.5, torch.rand(8, 5)
entropies, micro_batches = torch.rand(8, 5), (slice(0, 4), slice(4, 8))
"""
TEACHER = """
teacher_log_probs = ref_log_probs.detach()
logits, teacher_logits = torch.randn(2, 8, 5, 11).unbind()
logits.requires_grad_()
"""
FILES = """
import shutil
from pathlib import Path
from torchstone import conformance
Path("my_trainer.py").write_text("def compute_loss(batch, kl_coef, clip): return {'loss': batch['logps'].sum()}")
shutil.copy(Path(conformance.__file__).parent / "vectors" / "kl_k3.json", ".")
"""
NEEDS = {  # what stands before a page's first block; the others need nothing
    "docs/conformance.md": FILES,
    "torchstone/distill/README.md": BATCH + TEACHER,
    "torchstone/dpo/README.md": BATCH,
    "torchstone/grpo/README.md": BATCH,
    "torchstone/grpo/variants.md": BATCH,
    "torchstone/ppo/README.md": BATCH,
    "torchstone/ppo/variants.md": BATCH,
    "torchstone/reinforce/README.md": BATCH,
    "torchstone/reinforce/variants.md": BATCH,
}
SHORTER = {  # what takes minutes as it stands, and what is run in its place
    "docs/train.md": ("steps=50", "steps=2, pretrain_steps=4, warmup_steps=1, demonstrations=8, eval_prompts=8"),
}


@pytest.mark.parametrize("name", with_blocks("python"))
def test_python_on_a_page_runs(name, tmp_path, monkeypatch):
    """A block goes on from those before it on its page; one that begins with ``# name.py`` is a file of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {"__name__": "page"}
    exec(NEEDS.get(name, ""), names)
    for text in (text for kind, text in fences(name) if kind == "python"):
        file = re.match(r"# (\w+\.py)\n", text)
        if file:
            Path(file[1]).write_text(text)
        exec(compile(text.replace(*SHORTER.get(name, ("", ""))), f"{name}: {text.splitlines()[0]}", "exec"), names)


def test_every_entry_of_these_lists_has_its_page():
    assert set(NEEDS) | set(SHORTER) <= set(with_blocks("python"))
    for name, (long, _) in SHORTER.items():
        assert any(long in text for _, text in fences(name))


# ------------------------------------------------------------------------------------------------------------- commands

SHELL = ("", "bash", "sh", "console")
QUICK = re.compile(r"cost |recipes|check --list|--help|--version")


class Parsed(BaseException):
    """The command has understood its options; past here it would run."""


def commands(name):
    """Every ``torchstone ...`` of a page as arguments: lines of fenced blocks, and code in a sentence if it has any."""
    text = "\n".join(text for kind, text in fences(name) if kind in SHELL).replace("\\\n", " ")
    spans = [part.content for token in inline(name) for part in token.children if part.type == "code_inline"]
    whole = [
        span for span in spans if len(span.split()) > 2 and not re.search(r"\b[A-Z]+\b|\.\.\.", span)
    ]  # NAME and A B stand for something
    for line in [*text.splitlines(), *whole]:
        if re.match(r"(\$ )?torchstone (?!\w+:)", line):  # "torchstone train: ..." is what it says
            shell = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|>&;")
            shell.whitespace_split = True
            words = list(shell)
            end = next((i for i, word in enumerate(words) if word[0] in "|>&;"), len(words))
            yield words[1:end]


OF_THIS_VERSION = [name for name in PAGES if name != "CHANGELOG.md"]
COMMANDS = {" ".join(words): (name, words) for name in OF_THIS_VERSION for words in commands(name)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the pages call FOLDER and the like: a model's config, a run to go on with."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "config.json").write_text(json.dumps(shape | {"model_type": "llama", "vocab_size": 100}))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_page_parses(command, files, monkeypatch, capsys):
    parse = argparse.ArgumentParser.parse_known_args

    def stop(*arguments, **options):
        raise Parsed

    def then_stop(*arguments, **options):
        _, unknown = parse(*arguments, **options)
        assert not unknown
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", then_stop)
    monkeypatch.setattr("torchstone.train.run.train", stop)
    monkeypatch.setattr("torchstone.evaluate.compare.compare", stop)
    name, words = COMMANDS[command]
    try:
        status = cli.main(words)
    except Parsed:
        return
    except SystemExit as e:
        status = e.code
    printed = capsys.readouterr()
    going_on = "--resume" in words and re.search(r"there \(\w+\.json is missing\)", printed.err)
    assert status == 0 or going_on, f"{name}: {printed.err}"


@pytest.mark.parametrize("command", [command for command in COMMANDS if QUICK.match(command)])
def test_a_quick_command_on_a_page_runs(command, files, capsys):
    assert cli.main(COMMANDS[command][1]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", OF_THIS_VERSION)
def test_scripts_and_make_targets_of_a_page_exist(name):
    spans = [part.content for token in inline(name) for part in token.children if part.type == "code_inline"]
    code = "\n".join([*spans, *(text for kind, text in fences(name) if kind in SHELL)])
    for script in re.findall(r"^python ([\w/]+\.py)", code, re.M):
        assert (ROOT / script).exists(), script
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"^make ([a-z-]+)", code, re.M)) <= set(targets)


def test_the_commands_of_the_pages_are_found():
    assert {"cost", "recipes", "train", "compare", "check"} <= {words[0] for _, words in COMMANDS.values()}


def test_the_memory_on_the_page_of_symptoms_is_what_cost_says(capsys):
    rows = re.findall(r"^\| .*?`(?:torchstone cost )?(--[^`]+)`.* \| (\d+) \|$", PAGES["docs/symptoms.md"], re.M)
    (usual, _), *changes = rows
    assert len(changes) == 6
    for options, gib in rows:
        chosen = usual.split() + (options.split() if options != usual else [])
        assert cli.main(["cost", "--json", *chosen]) == 0
        assert round(json.loads(capsys.readouterr().out)["peaks"]["updating"] / 2**30) == int(gib), options


def test_the_loss_on_the_page_of_symptoms_is_0_and_its_gradient_is_not(capsys):
    exec(next(text for kind, text in fences("docs/symptoms.md") if kind == "python"), {})
    assert [round(float(x), 3) for x in capsys.readouterr().out.split()] == [0.0, 0.25]


CODE_LINE = re.compile(r"""from (["'])code:([^?#]+)(?:#(\w+))?\?(.+)\1;""")


def test_every_line_of_code_that_an_explorer_shows_is_there_once():
    """As site/build.mjs finds it, which needs Node: a line that was changed here fails here."""
    shown = [found for path in (ROOT / "site/explorers").glob("*.mjs") for found in CODE_LINE.findall(path.read_text())]
    assert len(shown) >= 30
    for _, file, name, text in shown:
        code = (ROOT / file).read_text(encoding="utf-8")
        if name:
            (code,) = re.findall(rf"^def {name}\(.*?(?=^(?:def|class|@)|\Z)", code, re.M | re.S)
        lines = code.split("\n")
        whole = [line for line in lines if line.strip() == text]
        assert len(whole or [line for line in lines if text in line]) == 1, (file, name, text)
