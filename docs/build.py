"""Build notes.pdf, summary.JPG, the map of reductions and every plot of the pages (``make docs``).

    python docs/build.py            needs the extra "docs": typst, matplotlib, pillow

Typst brings its own fonts. System fonts and dates are left out: the output depends on the sources only.
"""

import io
from pathlib import Path

import figures
import map as reductions
import pictures
import typst
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PPI = 220  # A4 landscape: 2572 x 1819 pixels


def compile_page(name: str, format: str) -> bytes:
    source = ROOT / "docs" / name
    return typst.compile(source, root=ROOT, format=format, ppi=PPI, ignore_system_fonts=True, timestamp=0)


def main() -> None:
    reductions.main()
    pictures.main()
    figures.main(ROOT / "build" / "docs")
    (ROOT / "notes.pdf").write_bytes(compile_page("notes.typ", "pdf"))
    page = Image.open(io.BytesIO(compile_page("summary.typ", "png"))).convert("RGB")
    page.save(ROOT / "summary.JPG", "JPEG", quality=85, optimize=True, progressive=True, subsampling=0, dpi=(PPI, PPI))


if __name__ == "__main__":
    main()
