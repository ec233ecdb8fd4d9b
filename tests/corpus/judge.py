"""``make corpus``: what ``torchstone check`` says of each function of the corpus, and how often that is right.

    python tests/corpus/judge.py [--only GLOBS] [--folder DIR] [--out FILE] [--page]

All in one process, one command after the other, as a person would give them. The exit status is 1 if a wrong
function passes or a right one is accused.

caught    a wrong function whose exit status is 1
named     of these, where what is said of the cause is what a person would call it (the header's ``named``)
accused   a right function whose exit status is 1, unless all that is said are inputs that plain code forgets
fitted    a function that could be checked: its exit status is not 2
"""

import argparse
import contextlib
import fnmatch
import io
import json
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from functions import entries, read_folder

from torchstone.conformance.command import check
from torchstone.terminal import UserError, table

ROOT = Path(__file__).resolve().parent.parent.parent
EDGES = r"mask_multiplied|multiplied_by_mask|zero_(over|by)_zero|nan_under_mask|empty_rows?(_counted)?|all_masked"
EDGES += r"|group_of_one|float_ties|tie_that_rounds|equal_rewards|no_pairs|(far|extreme|tiny|small)_\w+"
LOOSE = r"Error|Warning|did not|no gradient|not the same|finish"
START, END = "<!-- corpus -->\n", "<!-- /corpus -->"


def ask(entry):
    """What the command says: its exit status, its report as JSON or None, its text, and its seconds of CPU."""
    arguments = [f"{entry.path}:{entry.name}", *(["--objective", entry.objective] if entry.objective else []), "--json"]
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = check(arguments)
        except UserError as error:
            status = error.status
            err.write(str(error))
    seconds = time.process_time() - start
    report = json.loads(out.getvalue()) if out.getvalue().startswith("{") else None
    return status, report, out.getvalue() + err.getvalue(), seconds


def flat(x):
    """All text in a nest of lists and dictionaries."""
    return " ".join(map(flat, x.values() if isinstance(x, dict) else x)) if isinstance(x, (dict, list)) else str(x)


def cause(report, text):
    """What is given as the cause: names and what they are about, edges only if there is nothing else."""
    if report is None:
        return re.sub(r"\s+", " ", text)
    causes = [d for d in report["diagnoses"] if d["kind"] != "edge"] or report["diagnoses"]
    return flat([[[d["names"], d["about"]] for d in causes], [n for n in report["notes"] if re.search(LOOSE, n)]])


def judge(entry):
    """One row: the entry, its state, the seconds, and what was named."""
    status, report, text, seconds = ask(entry)
    names = sorted({n for d in (report or {}).get("diagnoses", []) for n in d["names"]})
    if status == 2:
        state = "unfitted"
    elif entry.wrong:
        found = entry.named and re.search(entry.named, cause(report, text))
        state = "missed" if status == 0 else "named" if found else "caught"
    elif status == 0:
        state = "pass"
    else:
        allowed = re.compile(f"({EDGES}|{entry.allow or '(?!)'})$")
        names = [n for d in report["diagnoses"] for n in (["all_masked"] if d["kind"] == "edge" else d["names"])]
        fine = (
            entry.expect.startswith("edges") and names and all(map(allowed.match, names)) and not report["unexplained"]
        )
        state = "edges" if fine else "accused"
    last = ", ".join([*names, *(report["unasked"] if status == 2 else ())]) if report else text.strip().split("\n")[-1]
    return {"entry": entry, "state": state, "seconds": seconds, "said": last}


def summary(rows):
    """The figures, as one line."""
    states, total = Counter(r["state"] for r in rows), Counter(r["entry"].wrong for r in rows)
    seconds = [r["seconds"] for r in rows] or [0.0]
    return (
        f"caught {states['caught'] + states['named']} of {total[True]}, named {states['named']}; "
        f"accused {states['accused']} of {total[False]}; fitted {len(rows) - states['unfitted']} of {len(rows)}; "
        f"median {statistics.median(seconds):.1f} s, slowest {max(seconds):.0f} s"
    )


def by_kind(rows):
    """A line for each kind of mistake and one for all right functions: how many, and what became of them."""
    kinds = Counter(r["entry"].kind for r in rows if r["entry"].wrong)
    lines = []
    for kind, n in sorted(kinds.items(), key=lambda item: (-item[1], item[0])):
        states = Counter(r["state"] for r in rows if r["entry"].wrong and r["entry"].kind == kind)
        lines.append([kind, n, states["caught"] + states["named"], states["named"], states["unfitted"]])
    return lines


def page(rows):
    """Write the figures into docs/conformance.md, between its two marks."""
    path = ROOT / "docs" / "conformance.md"
    text = path.read_text(encoding="utf-8")
    states, wrong = Counter(r["state"] for r in rows), sum(r["entry"].wrong for r in rows)
    seconds, right = [r["seconds"] for r in rows], len(rows) - wrong
    lines = ["| | |", "|---|---|"]
    lines.append(f"| wrong functions that were caught | {states['caught'] + states['named']} of {wrong} |")
    lines.append(f"| of these, with the cause by name | {states['named']} |")
    lines.append(f"| right functions that were called wrong | {states['accused']} of {right} |")
    lines.append(f"| functions that could not be checked | {states['unfitted']} of {len(rows)} |")
    lines.append(
        f"| seconds of CPU for one, median and slowest | {statistics.median(seconds):.1f} and {max(seconds):.1f} |"
    )
    before, after = text.split(START)[0], text.split(END)[1]
    path.write_text(before + START + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="globs on FOLDER/FILE.NAME, with commas between them")
    parser.add_argument("--folder", type=Path, help="functions of another folder, a file each, named f")
    parser.add_argument("--out", type=Path, help="write every row into this file, as JSON")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/conformance.md")
    options = parser.parse_args()
    asked = read_folder(options.folder) if options.folder else entries()
    asked = [e for e in asked if any(fnmatch.fnmatch(e.label, g) for g in options.only.split(","))]
    rows, live = [], sys.stderr.isatty()
    for i, entry in enumerate(asked):
        rows.append(judge(entry))
        row = rows[-1]
        if live:
            full = 30 * (i + 1) // len(asked)
            print(
                f"\r{'█' * full}{'░' * (30 - full)} {i + 1} of {len(asked)}  {entry.label[:38]:38}",
                end="",
                file=sys.stderr,
            )
        if row["state"] in ("missed", "accused", "unfitted") or options.folder:
            print(
                ("\r\033[K" if live else "")
                + f"{row['state']:9} {entry.label:36} {entry.objective:22} {row['said'][:70]}",
                flush=True,
            )
    if live:
        print("\r\033[K", end="", file=sys.stderr)
    if options.out:
        told = [{**r, "entry": r["entry"].label, **dict(r["entry"].head)} for r in rows]
        options.out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    columns = ["kind", "functions", "caught", "named", "unfitted"]
    print(table(columns, [[str(x) for x in line] for line in by_kind(rows)], right=columns[1:]))
    print(
        "right:",
        ", ".join(
            f"{n} {state}" for state, n in Counter(r["state"] for r in rows if not r["entry"].wrong).most_common()
        ),
    )
    print(summary(rows))
    if options.page:
        page(rows)
    return int(any(r["state"] in ("missed", "accused") for r in rows))


if __name__ == "__main__":
    sys.exit(main())
