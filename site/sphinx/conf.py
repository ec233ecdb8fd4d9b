"""Sphinx: the Markdown pages, with formulas rendered by KaTeX while the site is built."""

import json
import os
import subprocess
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

HERE = Path(__file__).parent
SITE = HERE.parent
project, author, copyright = "Torchstone", "The Torchstone authors", "The Torchstone authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may begin with a heading of the second level
exclude_patterns = []
html_theme = "furo"
html_title = "Torchstone"
html_math_renderer = "katex"
html_static_path = ["static"]
html_js_files = ["filter.js"]
html_css_files = ["katex/katex.min.css", "torchstone.css"]
html_favicon = "static/favicon.svg"
html_show_search_summary = False  # it would fetch the pages found, which a browser refuses from the disk
html_copy_source = False
html_show_sphinx = False
html_show_sourcelink = False
templates_path = []
pygments_style, pygments_dark_style = "default", "github-dark"
SERIF = '"Libertinus Serif", "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif'
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#1F6FA8", "color-brand-content": "#1F6FA8", "color-brand-visited": "#5B4F8A",
        "color-foreground-primary": "#22303C", "color-foreground-secondary": "#5B6873",
        "color-background-secondary": "#F5F7F8", "font-stack--headings": SERIF,
    },
    "dark_css_variables": {
        "color-brand-primary": "#67B0E4", "color-brand-content": "#67B0E4", "color-brand-visited": "#B4A6E0",
        "color-background-primary": "#12181D", "color-background-secondary": "#1A2229",
        "color-foreground-primary": "#E4EAEF",
    },
}  # fmt: skip


class Katex:
    """KaTeX in a process of its own: a line in, a line out."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["node", str(SITE / "katex.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, tex: str, display: bool, where: str) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"tex": tex, "display": display}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise SphinxError(f"{where}: {answer['error']}")
        return answer["html"]


def place(writer, node: nodes.Node) -> str:
    return f"{writer.builder.current_docname}:{node.line or (node.parent and node.parent.line) or '?'}"


def inline_math(writer, node: nodes.math) -> None:
    tex = node.astext().strip("`")  # $`...`$ is GitHub's way to keep Markdown out
    writer.body.append(writer.builder.app.katex(tex, False, place(writer, node)))
    raise nodes.SkipNode


def block_math(writer, node: nodes.math_block) -> None:
    tex = node.astext()
    up = "../" * writer.builder.current_docname.count("/")
    tags = [t.split("}")[0] for t in tex.split("\\tag{")[1:]]
    known = [tag for tag in tags if tag in writer.builder.app.equations]
    links = "".join(
        f'<a href="{up}{href}">{kind}</a>'
        for tag in known
        for kind, href in writer.builder.app.equations[tag].items()
        if kind != "page"
    )
    anchor = f' id="eq-{known[0]}"' if known else ""
    writer.body.append(f'<div class="equation"{anchor}>{writer.builder.app.katex(tex, True, place(writer, node))}')
    writer.body.append(f'<p class="of-equation">{links}</p></div>' if links else "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.katex = Katex()
    app.equations = json.loads((Path(app.srcdir) / "equations.json").read_text(encoding="utf-8"))
    app.add_html_math_renderer("katex", (inline_math, None), (block_math, None))
    app.connect("build-finished", lambda app, error: app.katex.process.stdin.close())
    assert os.path.exists(HERE / "static/katex/katex.min.css"), "make site copies KaTeX's style and fonts there"
