"""What ``torchstone peers`` found, as the page docs/peers.md."""

from __future__ import annotations

from collections.abc import Sequence

from torchstone.frameworks.run import Difference, PeerReport

OUTCOMES = {
    "matches": "matches",
    "edges": "matches, but for edge cases",
    "variant": "a variant with a name",
    "differs": "differs",
    "error": "could not be run",
}

INTRO = """\
# What public frameworks compute

Torchstone defines each objective by an equation of a paper ([the equations](../README.md), [how they are
checked](conformance.md)), and makes its own choice wherever papers leave one: what lies under a mask is never read, a
batch without a chosen token gives loss 0 with gradient 0, equal rewards give advantage 0, a group of one is refused. A
framework is free to choose otherwise, and most of these choices are no one's but ours.

Below are the functions of public frameworks, **run as they were released**, on the same [test
vectors](../torchstone/conformance/vectors): values and gradients, in float64 and float32. What differs is reported
under a name, with the number of cases. It is not a list of bugs: a framework that pads with finite numbers never meets
a NaN under its mask, and one that drops empty batches never divides by their count. Most functions here compute the
published objective on ordinary batches.

If you maintain one of these and a row is unfair or out of date, please open an issue: the adapters, a few lines a
function, are in [torchstone/frameworks](../torchstone/frameworks).

**How to read a row.** *Cases* are those that match, of those that the function can be asked (it may have no argument
for the others). The result is one of:

- **matches**: all of them;
- **matches, but for edge cases**: all ordinary batches; it differs only where no token counts, something under the mask
  is NaN, a group has one member or equal rewards, there are no pairs, and the like;
- **a variant with a name**: on ordinary batches too, it equals an alternative that is published or shipped on purpose;
- **differs**: on ordinary batches it gives other numbers; the last column says which.

A name in `code` is explained [at the end](#names). "NaN" says that NaN or inf comes out in some of these cases. A row
with the mark † was compared to the digits of float32 only, since the function adds a small number to a denominator or
casts to float32.
"""

AGAIN = """\
## Run it again

```bash
torchstone peers                      # those frameworks that are installed, as a table
torchstone peers --only verl trl      # some of them
torchstone peers --markdown           # this page
make test-frameworks                  # all of them, pinned in requirements-frameworks.txt; the page is compared with it
```

Functions are called as their trainers call them, but for what stands under their names. Where a package needs a GPU's
libraries at import, or a trainer needs a model, only that is left out: what computes is the installed file.
"""


def markdown(reports: Sequence[PeerReport], absent: Sequence[str]) -> str:
    """The whole page."""
    parts = [INTRO, summary(reports, absent)]
    for name in dict.fromkeys(r.framework for r in reports):
        members = [r for r in reports if r.framework == name]
        parts.append(f"## {name} {members[0].version}\n\n" + table(members))
    return "\n".join([*parts, names(reports), AGAIN])


def summary(reports: Sequence[PeerReport], absent: Sequence[str]) -> str:
    """One line a framework: how many functions have which result."""
    lines = ["| framework | version | functions | match | but for edge cases | variants | differ |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(r.framework for r in reports):
        members = [r for r in reports if r.framework == name]
        counts = [sum(r.outcome == k for r in members) for k in ("matches", "edges", "variant", "differs")]
        cells = [f"[{name}](#{_anchor(f'{name} {members[0].version}')})", members[0].version, len(members), *counts]
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    if absent:
        lines.append(f"\nNot installed: {', '.join(absent)}.")
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def table(reports: Sequence[PeerReport]) -> str:
    """One line a function of one framework: what it is, which cases match, and where it differs."""
    lines = ["| what | their function | ours | cases | result | where it differs |", "|---|---|---|---|---|---|"]
    for r in reports:
        function = r.of.partition(":")[2]
        theirs = f"[`{function}`]({r.link})" if r.link else f"`{function}`"
        using = f"<br>{r.using}" if r.using else ""
        mark = " †" if r.digits < 10 else ""
        cells = [r.what, theirs + using, f"`{r.objective}`", f"{r.passed} of {r.cases}{mark}", OUTCOMES[r.outcome]]
        lines.append("| " + " | ".join([*cells, where(r)]) + " |")
    return "\n".join(lines) + "\n"


def where(report: PeerReport) -> str:
    """The differences of one function in a cell."""
    said = [f"{_names(d)} ({d.cases} of {d.of})" for d in report.differences]
    if report.outcome == "error":
        said += list(report.notes)
    return ". ".join(x for x in (", ".join(said), report.remark) if x)


def _names(d: Difference) -> str:
    raised = d.about.split(":")[0].endswith(("Error", "Exception"))
    joined = " + ".join(f"`{n}`" for n in d.names) or ("an error" if raised else "other numbers")
    return f"{joined}: NaN" if d.kind == "NaN" else joined


def names(reports: Sequence[PeerReport]) -> str:
    """What the names mean, from the vectors."""
    from torchstone.conformance.vectors import load

    about: dict[str, str] = {}
    for r in reports:
        flags = load(r.objective).flags
        for d in r.differences:
            for n in d.names:
                if n in flags:
                    about.setdefault(n, flags[n].about)
                elif len(d.names) == 1 and d.kind != "edge":  # a mistake of any code, which no vectors have
                    about.setdefault(n, d.about)
    lines = [f"- `{n}`: {text}" for n, text in sorted(about.items())]
    return (
        "## Names\n\nAs the vectors explain them; all of them are in [flags.md](flags.md).\n\n"
        + "\n".join(lines)
        + "\n"
    )
