"""The API reference: every public function, from its signature and its docstring, read without importing anything."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path

PACKAGES = ["core", "reinforce", "ppo", "grpo", "dpo", "distill", "fast"]
NAMED = {  # of these, what the package itself offers, and where it stands
    "recipes": {"choices": ["Choice"], "online": ["PolicyRecipe", "Advantages"], "pairs": ["PreferenceRecipe"],
                "distill": ["DistillRecipe"], "named": ["find"]},
    "conformance": {"checker": ["check"], "identifier": ["identify"], "relations/__init__": ["check_relations"],
                    "vectors": ["load"], "result": ["Report"], "pytest_plugin": ["cases"]},
}  # fmt: skip
SECTIONS = ("Args:", "Returns:", "Raises ValueError:", "Facts", "Source:", "Example:", "Returns ")


def write(root: Path, sources: Path) -> None:
    """A page for each package under SOURCES/api: its functions in the order of the files."""
    (sources / "api").mkdir()
    for package in [*PACKAGES, *NAMED]:
        text = [f"# torchstone.{package}\n"]
        initial = ast.parse((root / f"torchstone/{package}/__init__.py").read_text(encoding="utf-8"))
        text.append(escaped((ast.get_docstring(initial) or "").split("\n\n")[0]) + "\n")
        folder = root / f"torchstone/{package}"
        if package in NAMED:
            for stem, names in NAMED[package].items():
                text += module(root, folder / f"{stem}.py", names)
        else:
            for file in sorted(folder.glob("*.py"), key=order):
                text += module(root, file)
        (sources / f"api/{package}.md").write_text("\n".join(text), encoding="utf-8")


def order(file: Path) -> tuple[bool, str]:
    return file.name == "variants.py", file.name


def module(root: Path, file: Path, names: list[str] | None = None) -> list[str]:
    """The public functions of a file, or those with these names; of a class its public methods too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    name = file.relative_to(root).as_posix()
    found = [x for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)]
    public = [x for x in found if not x.name.startswith("_") and ast.get_docstring(x)]
    if names is not None:
        public = [x for x in found if x.name in names]
        if missing := set(names) - {x.name for x in public}:
            raise SystemExit(f"{file}: {missing} are not there")
    if not public:
        return []
    about = (ast.get_docstring(tree) or "").split("\n\n")[0]
    parts = [f"## {file.parent.name if file.stem == '__init__' else file.stem}\n", escaped(about) + "\n"]
    for x in public:
        link = f'<a class="to-code" href="../code/{name}.html#L{x.lineno}">{name}:{x.lineno}</a>\n'
        parts += [f"### {x.name}\n", told(x), link]
        for y in x.body if isinstance(x, ast.ClassDef) else []:
            if isinstance(y, ast.FunctionDef) and not y.name.startswith("_") and ast.get_docstring(y):
                parts += [f"#### {x.name}.{y.name}\n", told(y)]
    return parts


def told(x: ast.FunctionDef | ast.ClassDef) -> str:
    return f"```python\n{signature(x)}\n```\n\n{documented(ast.get_docstring(x) or '')}"


def signature(x: ast.FunctionDef | ast.ClassDef) -> str:
    """As it is written, on one line or a line an argument."""
    if isinstance(x, ast.ClassDef):
        fields = [ast.unparse(y) for y in x.body if isinstance(y, ast.AnnAssign)]
        fields = [line.replace("'", '"') for line in fields if "ClassVar" not in line]
        bases = ", ".join(ast.unparse(b) for b in x.bases)
        return "\n    ".join([f"class {x.name}({bases}):" if bases else f"class {x.name}:", *fields])
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
