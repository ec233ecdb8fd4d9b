"""Write docs/map.md and draw docs/map.png from the edges in tests/test_reductions.py (part of ``make docs``).

An edge stands once, as a decorator of the test that proves it. docs/map.typ holds the place of each method; an edge
between methods without a place, or in its list table-only, stands in the table only.
"""

import ast
import hashlib
import io
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PPI = 108  # 1,160 pt wide: 1,740 pixels, where a page shows about 830
PAGE = """\
# How the methods reduce to one another

[![The table below, drawn: advantages, ratio, preferences, distillation, KL, means](map.png)](map.png)

Follow an arrow: the method at its tail is the method at its head under the condition above the line. Each arrow is a
test in [tests/test_reductions.py](../tests/test_reductions.py), most of them to 1e-12.

| from | becomes | when | test |
|---|---|---|---|
"""


def edges() -> list[dict[str, str]]:
    """What ``@edge(start, end, when, note)`` says above each test, in the order of the file."""
    found = []
    for test in ast.parse((ROOT / "tests" / "test_reductions.py").read_text(encoding="utf-8")).body:
        for call in getattr(test, "decorator_list", []):
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "edge":
                start, end, when, *note = (a.value.replace(" - ", " \N{MINUS SIGN} ") for a in call.args)
                row = {"start": start, "end": end, "when": when, "note": "".join(note)}
                found.append(row | {"test": test.name})
    return found


def page() -> str:
    """The text of docs/map.md."""
    row = "| {start} | {end} | {when}{semicolon}{note} | `{test}` |\n"
    return PAGE + "".join(row.format(**e, semicolon="; " if e["note"] else "") for e in edges())


def layout() -> str:
    return (ROOT / "docs" / "map.typ").read_text(encoding="utf-8")


def drawn() -> list[dict[str, str]]:
    """The edges between methods that docs/map.typ has a place for."""
    placed = set(re.findall(r'^  "(.+?)": \(', layout(), re.M))
    return [e for e in edges() if {e["start"], e["end"]} <= placed]


def digest() -> str:
    """Of what is drawn, and the layout. It is written into docs/map.png, where a test looks for it."""
    arrows = [{name: text for name, text in e.items() if name != "test"} for e in drawn()]
    return hashlib.sha256((json.dumps(arrows) + layout()).encode()).hexdigest()


def main() -> None:
    import typst  # here and not above: a test reads the edges without the extra "docs"
    from PIL import Image, PngImagePlugin

    (ROOT / "docs" / "map.md").write_text(page(), encoding="utf-8")
    inputs = {"edges": json.dumps(drawn())}
    how = {"root": ROOT, "ppi": PPI, "ignore_system_fonts": True, "timestamp": 0}
    picture = Image.open(io.BytesIO(typst.compile(ROOT / "docs" / "map.typ", format="png", sys_inputs=inputs, **how)))
    panel = typst.compile(ROOT / "docs" / "map.typ", format="svg", sys_inputs=inputs | {"panel": "Advantages"}, **how)
    (ROOT / "build" / "docs").mkdir(parents=True, exist_ok=True)
    (ROOT / "build" / "docs" / "panel.svg").write_bytes(panel)  # for notes.typ
    info = PngImagePlugin.PngInfo()
    info.add_text("sources", digest())
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        ROOT / "docs" / "map.png", optimize=True, pnginfo=info, dpi=(PPI, PPI)
    )


if __name__ == "__main__":
    main()
