"""The site's sources, from the Markdown as it stands: pages, code with line numbers, an API reference, the equations.

    python site/pages.py SOURCES OUT

SOURCES is what Sphinx reads; under OUT/code stands every file of code that a page points into. A link that leads
nowhere is an error.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).parent.parent.resolve()
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")),
    ROOT / "docs/comparisons/README.md", *sorted(ROOT.glob("torchstone/*/README.md")),
    *sorted(ROOT.glob("torchstone/*/variants.md")),
]  # fmt: skip
IMAGES = {".png", ".jpg", ".pdf", ".csv"}  # as they are, beside the page that shows them
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\)|\[[^\]]*\])*)\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)


def fail(page: Path, why: str) -> NoReturn:
    raise SystemExit(f"{page.relative_to(ROOT)}: {why}")


# What the page of recipes begins with on the site, which has another page of them.
BESIDE_RECIPES = (
    '\n\nTo filter, sort and compare: <a href="../explorers/recipes.html">the same rows as a table</a>, '
    '<a href="../explorers/recipes.html#of=all&amp;by=reduction">those with another denominator than GRPO</a>, '
    'or <a href="../explorers/batch.html">what each makes of one batch</a>.\n'
)

# Where each method of the map leads to: the equation that defines it.
NODES = {
    "GAE": "PPO.4", "return \N{MINUS SIGN} V": "PPO.5", "reward-to-go": "REINFORCE.1", "TD error": "PPO.3",
    "optimal token baseline": "REINFORCE.10", "MaxRL": "REINFORCE.9", "OPO": "REINFORCE.7", "GPG": "REINFORCE.8",
    "leave-one-out": "REINFORCE.5", "reward \N{MINUS SIGN} group mean": "GRPO.1", "GMPO": "GRPO.11", "GSPO": "GRPO.4",
    "GSPO-token": "GRPO.5", "GRPO": "GRPO.3", "PPO": "PPO.8", "importance sampling": "PPO.12", "CISPO": "GRPO.8",
    "SAPO": "GRPO.10", "VESPO": "GRPO.12", "DPPO": "GRPO.13", "SFT": "DPO.26", "distillation": "DISTILL.4",
    "REINFORCE": "REINFORCE.3", "importance weights": "PPO.13", "off-policy mask": "GRPO.16", "weight 1": "PPO.13",
    "robust DPO": "DPO.8", "WPO": "DPO.19", "AOT": "DPO.25", "SimPO": "DPO.10", "ORPO": "DPO.12", "BCO": "DPO.22",
    "EXO": "DPO.20", "DPO": "DPO.4", "Bradley-Terry": "DPO.6", "a symmetric loss": "DPO.4", "outcome model": "DPO.28",
    "process model": "DPO.29", "APO zero": "DPO.15", "KTO": "DPO.14", "hard SPPO": "DPO.23", "IPO": "DPO.7",
    "hinge": "DPO.9", "SLiC": "DPO.9", "teacher advantages": "DISTILL.1", "k2 in the loss": "KL.2",
    "k3 in the loss": "KL.3", "reverse KL": "KL.4", "forward KL": "DISTILL.2", "JSD": "DISTILL.2",
    "top-k JSD": "DISTILL.3", "k3": "KL.3", "k3, gradient of k2": "GRPO.14", "ratio-weighted k3": "GRPO.15",
    "k2": "KL.2", "group token mean": "GRPO.17", "sequence mean": "CORE.6", "fixed-length mean": "CORE.8",
    "sequence sum": "CORE.7", "token mean": "CORE.5", "decoupled GAE": "PPO.16", "length-adaptive GAE": "PPO.17",
    "best of G": "REINFORCE.15", "pass@k advantage": "REINFORCE.14", "GiGPO's turns": "REINFORCE.17",
    "GDPO advantage": "REINFORCE.12", "GRPO advantage": "GRPO.2", "Lite PPO advantage": "REINFORCE.11",
    "ScaleRL advantage": "REINFORCE.11", "whitened completions": "REINFORCE.13", "whitened tokens": "CORE.9",
    "decoupled PPO": "PPO.13", "quadratic regression": "GRPO.24", "TOPR": "GRPO.26",
    "likelihood of right answers": "PPO.18", "KL-Cov": "GRPO.21", "Clip-Cov": "GRPO.20",
    "high-entropy tokens": "GRPO.18", "M2PO": "GRPO.22", "FIPO": "GRPO.23", "A*-PO": "REINFORCE.16",
    "Kimi's regression": "GRPO.24", "CHORD": "GRPO.28", "LD-DPO": "DPO.30", "DPOP": "DPO.39", "AlphaPO": "DPO.37",
    "BCO, unpaired": "DPO.34", "MPO": "DPO.31", "f-DPO": "DPO.36", "f-DPO, power 1": "DPO.35", "XPO": "DPO.38",
    "TPO": "DPO.26", "CPO": "DPO.10", "REBEL": "GRPO.25",
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- Markdown


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that a page has as HTML, beside those of its headings."""
    return set(re.findall(r'<a (?:id|name)="([\w-]+)"', page.read_text(encoding="utf-8")))


class Site:
    def __init__(self, sources: Path, out: Path) -> None:
        self.sources, self.out = sources, out
        self.code: set[Path] = set()  # files and folders that something points into

    def page(self, path: Path) -> None:
        """One Markdown page, its links to code turned into links to the code's own pages."""
        text = path.read_text(encoding="utf-8")
        text = self.map(text) if path == ROOT / "docs/map.md" else text
        text = text.replace("\n", BESIDE_RECIPES, 1) if path == ROOT / "docs/recipes.md" else text
        parts, at = [], 0
        for fence in FENCE.finditer(text):
            parts += [self.linked(path, text[at : fence.start()]), fence.group().replace("```jsonc", "```js")]
            at = fence.end()
        parts.append(self.linked(path, text[at:]))
        target = self.sources / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(parts), encoding="utf-8")

    def map(self, text: str) -> str:
        """The map with a link over each method: its picture, and the places that docs/map.typ gives them."""
        layout = (ROOT / "docs/map.typ").read_text(encoding="utf-8")
        width, height = map(int, re.search(r"let \(W, H\) = \((\d+), (\d+)\)", layout).groups())
        boxes = re.findall(r'^  "(.+?)": \((\d+), (\d+), (\d+), (\d+), ', layout, re.M)
        if {name for name, *_ in boxes} != set(NODES):
            fail(
                ROOT / "docs/map.typ",
                f"NODES of site/pages.py and the map differ: {set(NODES) ^ {b[0] for b in boxes}}",
            )
        links = ""
        for name, *numbers in boxes:
            left, middle, wide, high = map(int, numbers)
            at = {
                "left": left / width,
                "top": (middle - high / 2) / height,
                "width": wide / width,
                "height": high / height,
            }
            style = "; ".join(f"{side}: {100 * share:.2f}%" for side, share in at.items())
            target = f'href="../{where(NODES[name])}" title="{name}: ({NODES[name]})"'
            links += f'<a {target} aria-label="{name}" style="{style}"></a>'
        (self.out / "docs").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs/map.png", self.out / "docs/map.png")
        picture = re.compile(r"\[!\[([^\]]*)\]\(map\.png\)\]\(map\.png\)")
        if len(picture.findall(text)) != 1:
            fail(ROOT / "docs/map.md", "expected the map once")
        return picture.sub(lambda m: f'<div class="map"><img src="map.png" alt="{m.group(1)}">{links}</div>', text)

    def linked(self, page: Path, text: str) -> str:
        text = re.sub(r"`(test_\w+)`", lambda found: self.test(page, found.group(1)), text)
        for image in IMAGE.findall(text):
            self.copied(page, (page.parent / image).resolve())
        return LINK.sub(lambda found: self.link(page, *found.groups()), text)

    def link(self, page: Path, words: str, target: str) -> str:
        words = LINK.sub(lambda found: self.link(page, *found.groups()), words)
        if target[1:] in anchors(page) and target.startswith("#"):
            return f'<a href="{target}">{words}</a>'
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return f"[{words}]({target})"
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve()
        if not path.exists() or ROOT not in [path, *path.parents]:
            fail(page, f"[{words}]({target}) leads nowhere")
        if path == ROOT / "site":  # the explorers themselves, not what they are made of
            up = "../" * len(page.relative_to(ROOT).parent.parts)
            return f'<a href="{up}explorers/index.html">{words}</a>'
        if path.is_dir() and path / "README.md" in PAGES:
            path = path / "README.md"
        if path in PAGES:
            relative = os.path.relpath(path, page.parent) + (f"#{anchor}" if anchor else "")
            if anchor in anchors(path):  # of a row of a table, which Sphinx does not know
                return f'<a href="{relative.replace(".md#", ".html#")}">{words}</a>'
            return f"[{words}]({relative})"
        if path.suffix.lower() in IMAGES:
            self.copied(page, path)
            return f"[{words}]({target})"
        return f'<a class="to-code" href="{self.to_code(page, path, anchor)}">{words}</a>'

    def test(self, page: Path, name: str) -> str:
        """A test by its name, as a link to where it stands."""
        found = [(p, i) for p, i, line in lines_of("tests") if re.match(rf"\s*def {name}\(", line)]
        if len(found) != 1:
            return f"`{name}`"
        return f'<a class="to-code" href="{self.to_code(page, found[0][0], f"L{found[0][1]}")}"><code>{name}</code></a>'

    def copied(self, page: Path, path: Path) -> None:
        if not path.is_file():
            fail(page, f"{path.name} is not there")
        target = self.sources / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)

    def to_code(self, page: Path, path: Path, anchor: str = "") -> str:
        self.code.add(path)
        up = "../" * len(page.relative_to(ROOT).parent.parts)
        return f"{up}code/{code_page(path)}" + (f"#{anchor}" if anchor else "")

    # ---------------------------------------------------------------------------------------------------------- code

    def write_code(self) -> None:
        """A page for each file and folder that is pointed into, and for all of torchstone."""
        todo = {*self.code, *ROOT.glob("torchstone/**/*.py")}
        done: set[Path] = set()
        (self.out / "code").mkdir(parents=True)
        (self.out / "code/style.css").write_text(code_style(), encoding="utf-8")
        shutil.copy(ROOT / "site/explorers/theme.js", self.out / "code/theme.js")
        while todo:
            path = todo.pop()
            done.add(path)
            if path.is_dir():
                todo |= set(listed(path)) - done
            target = self.out / "code" / code_page(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                shutil.copy(path, target)
            else:
                target.write_text(folder_page(path) if path.is_dir() else file_page(path), encoding="utf-8")
        print(f"{len(done)} pages of code")


def code_page(path: Path) -> str:
    """Where a file or folder stands under code/; JSON stands there as it is."""
    name = path.relative_to(ROOT).as_posix()
    return f"{name}/index.html" if path.is_dir() else name if path.suffix == ".json" else f"{name}.html"


def listed(folder: Path) -> list[Path]:
    """What a folder's page lists: code, data and further folders with any of them."""
    kept = [p for p in sorted(folder.iterdir()) if not p.name.startswith((".", "__pycache__"))]
    return [p for p in kept if (p.is_dir() and listed(p)) or p.suffix in {".py", ".json", ".mjs"}]


def code_style() -> str:
    """Of the pages of code: the colours of Python, dark where the reader chose so or the system is."""
    night = HtmlFormatter(style="github-dark").get_style_defs("pre")
    by_day = HtmlFormatter(style="default").get_style_defs("pre")
    system = f'@media (prefers-color-scheme: dark) {{ body:not([data-theme="light"]) {{ {night} }} }}'
    own = (Path(__file__).parent / "sphinx/code.css").read_text(encoding="utf-8")
    return "\n".join([by_day, system, f'body[data-theme="dark"] {{ {night} }}', own])


def code_shell(path: Path, body: str) -> str:
    name = path.relative_to(ROOT).as_posix()
    up = "../" * (len(Path(code_page(path)).parts))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name} · Torchstone</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}code/style.css"></head>
<body><script src="{up}code/theme.js"></script>
<p class="top"><a href="{up}index.html">Torchstone</a> <b>{name}</b></p>{body}</body></html>
"""


def file_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    lines = highlight(text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n").split("\n")
    rows = (f'<span id="L{i}"><a href="#L{i}">{i}</a>{line}</span>' for i, line in enumerate(lines, 1))
    return code_shell(path, f"<pre>{''.join(rows)}</pre>")


def folder_page(path: Path) -> str:
    rows = (
        f'<li><a href="{os.path.relpath(code_page(p), Path(code_page(path)).parent)}">{html.escape(p.name)}</a></li>'
        for p in listed(path)
    )
    return code_shell(path, f"<ul>{''.join(rows)}</ul>")


# --------------------------------------------------------------------------------------------------------- equations


@cache
def lines_of(folder: str) -> list[tuple[Path, int, str]]:
    files = sorted(ROOT.glob(f"{folder}/**/*.py"))
    return [(p, i, line) for p in files for i, line in enumerate(p.read_text(encoding="utf-8").split("\n"), 1)]


def places(tag: str) -> dict[str, tuple[str, int]]:
    """Where an equation stands: in the code (its line, else its docstring), and in a test that is named after it."""
    exact = re.compile(rf"(?<![\w.]){re.escape(tag)}(?![\w.]*\d)")
    named = re.compile(rf"def test_(\w*_)?{tag.replace('.', '_')}(?!\d)")
    code = [(p, i, line) for p, i, line in lines_of("torchstone") if exact.search(line) and "recipes" not in p.parts]
    # the plain form before the tuned one; the comment at the line itself before the docstring
    code.sort(key=lambda found: ("fast" in found[0].parts, "# " not in found[2].partition(tag)[0]))
    tests = [(p, i) for p, i, line in lines_of("tests") if named.search(line)]
    found = {"code": code[0][:2]} if code else {}
    found |= {"test": tests[0]} if tests else {}
    return {kind: (p.relative_to(ROOT).as_posix(), i) for kind, (p, i) in found.items()}


@cache
def where(tag: str) -> str:
    """The place on the site that explains an equation, from the root."""
    for page in PAGES:
        if page.parent.parent == ROOT / "torchstone" and f"\\tag{{{tag}}}" in page.read_text(encoding="utf-8"):
            return page.relative_to(ROOT).with_suffix(".html").as_posix() + f"#eq-{tag}"
    raise SystemExit(f"({tag}) is an equation of no family")


def explorers() -> dict[str, str]:
    """The explorer of each equation: the first whose source has its tag."""
    found: dict[str, str] = {}
    for name in ("ratio", "kl", "gae", "groups", "reductions", "pairs"):
        files = [name, "surrogates"] if name == "ratio" else [name]
        text = "".join((ROOT / f"site/explorers/{file}.mjs").read_text(encoding="utf-8") for file in files)
        for tag in re.findall(r"\b[A-Z]+\.\d+\b", text):
            found.setdefault(tag, name)
    return found


def equations(site: Site) -> dict[str, dict[str, str]]:
    """For each tag its links, from the root of the site; and a page that lists them."""
    told, by_tag = explorers(), {}
    for page in PAGES:
        for tag in re.findall(r"\\tag\{([A-Z]+\.\d+)\}", page.read_text(encoding="utf-8")):
            if page.parent.parent != ROOT / "torchstone":
                continue  # it repeats an equation of a family
            links = {"page": where(tag)}
            for kind, (file, line) in places(tag).items():
                site.code.add(ROOT / file)
                links[kind] = f"code/{file}.html#L{line}"
            if tag in told:
                links["explorer"] = f"explorers/{told[tag]}.html"
            if "code" not in links or "test" not in links:
                fail(page, f"({tag}) has no line of code or no test")
            by_tag[tag] = links
    rows = "".join(
        f'<tr id="eq-{tag}"><td>{tag}</td>'
        + "".join(
            f'<td><a href="{links[kind]}">{label(links[kind])}</a></td>' if kind in links else "<td></td>"
            for kind in ("page", "code", "test", "explorer")
        )
        + "</tr>\n"
        for tag, links in by_tag.items()
    )
    head = "".join(f"<th>{name}</th>" for name in ("equation", "in words", "line of code", "test", "explorer"))
    text = f"""# Every equation: its line of code, its test

{len(by_tag)} equations, each with the place that explains it, the line that computes it, the first test named after it
and, where there is one, the explorer that moves it.

<div class="wide"><table class="equations"><thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table></div>
"""
    (site.sources / "equations.md").write_text(text, encoding="utf-8")
    return by_tag


def label(href: str) -> str:
    name, _, anchor = href.partition("#")
    short = name.removeprefix("code/").removesuffix(".html")
    short = short.removeprefix("explorers/").removeprefix("torchstone/").removeprefix("tests/").removesuffix("/README")
    return html.escape(short + (f":{anchor[1:]}" if anchor.startswith("L") else ""))


def main() -> None:
    sources, out = (Path(x).resolve() for x in sys.argv[1:3])
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    site = Site(sources, out)
    for page in PAGES:
        site.page(page)
    for own in (Path(__file__).parent / "sphinx").glob("*.md"):
        shutil.copy(own, sources)
    index = sources / "index.md"
    listed_there = index.read_text(encoding="utf-8")
    names = [page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES]
    others = [name for name in names if not re.search(rf"[<\n]{name}[>\n]", listed_there)]
    index.write_text(listed_there.replace("OTHER PAGES", "\n".join(others)), encoding="utf-8")
    (sources / "equations.json").write_text(json.dumps(equations(site)), encoding="utf-8")
    reference.write(ROOT, sources)
    site.write_code()


if __name__ == "__main__":
    main()
