// The recipes as a table: filter, sort, compare two rows. The rows and their words are those of torchstone.recipes.

import data from "../../build/table.json";
import { differences, spelled } from "./compare.mjs";
import { button, choice, escaped, html, note, options, search, select, words } from "./kit.mjs";

const ALL = spelled(data);
const KINDS = Object.keys(data.kinds);
const ROWS = Object.fromEntries(KINDS.map((kind) => [kind, ALL.filter((row) => row.kind === kind)]));
const NAMES = ALL.map(({ name }) => name);
const FIRST = { policy: ["grpo", "dapo"], preference: ["dpo", "ipo"], distillation: ["opd", "gkd"] };
const of_whom = ({ name }) => (name.includes("@") ? name.split("@")[1].replace(/-[\d.]+$/, "") : "published");
const WHOM = ["all", ...new Set(ALL.map(of_whom))];

/** The two rows that are compared: of the kind at hand, whatever the address says. */
function pair(s) {
  const rows = ROWS[s.kind];
  return [s.a, s.b].map(
    (name, i) => rows.find((row) => row.name === name) ?? rows.find((row) => row.name === FIRST[s.kind][i]),
  );
}

const columns_of = (kind) => Object.keys(ROWS[kind][0].choices);
const ANYTHING = "anything";

/** The choice in which rows are to differ: one of the kind at hand, whatever the address says. */
const asked_for = (s) => (columns_of(s.kind).includes(s.by) ? s.by : ANYTHING);

/** The choices in which two rows differ, by name. */
const differing = (a, b) => [...new Set(differences(a, b).map(({ at }) => at.split(".")[0]))];

const text_of = (row) => [row.name, row.about, ...row.cells, row.source, row.left_out].join(" ").toLowerCase();

function shown(s, a) {
  const asked = s.q.toLowerCase().split(/\s+/).filter(Boolean);
  const by = asked_for(s);
  const kept = ROWS[s.kind].filter(
    (row) =>
      (s.of === "all" || of_whom(row) === s.of) &&
      asked.every((word) => text_of(row).includes(word)) &&
      (by === ANYTHING || row === a || differing(a, row).includes(by)),
  );
  const column = data.kinds[s.kind].headings.indexOf(s.sort);
  const key = (row) => (s.sort === "name" ? row.name : column < 0 ? "" : row.cells[column] || "~");
  if (s.sort === "" && by !== ANYTHING) {
    return kept.sort((x, y) => differing(a, x).length - differing(a, y).length || x.name.localeCompare(y.name));
  }
  return s.sort === "" ? kept : [...kept].sort((x, y) => key(x).localeCompare(key(y)) || x.name.localeCompare(y.name));
}

/** What else a row differs in, below its name. */
function also(by, a, row) {
  const others = differing(a, row).filter((at) => at !== by);
  return html`<br><small class="muted">${others.length ? `also ${others.join(", ")}` : "in this alone"}</small>`;
}

/** Which rows differ in this alone, or that none does. */
function alone(by, a, rows) {
  const found = rows.filter((row) => row !== a && differing(a, row).length === 1).map(({ name }) => name);
  return found.length
    ? `In ${by} alone: ${found.join(", ")}.`
    : `None of these rows differs from ${a.name} in ${by} alone; the nearest stand first.`;
}

export default {
  name: "recipes",
  title: "Recipes to filter, sort and compare",
  lede: "Every named algorithm as one row of choices: as its paper has it, and as frameworks compute it. Two of them side by side say what differs, and what that does to the update.",
  hue: "green",
  state: {
    kind: choice("policy", KINDS),
    of: choice("published", WHOM),
    q: words(60),
    by: choice(ANYTHING, [ANYTHING, ...new Set(KINDS.flatMap(columns_of))]),
    sort: words(30),
    a: choice("", ["", ...NAMES]),
    b: choice("", ["", ...NAMES]),
  },
  render(s) {
    const [a, b] = pair(s);
    const rows = shown(s, a);
    const by = asked_for(s);
    const names = ROWS[s.kind].map(({ name }) => name);
    const { headings } = data.kinds[s.kind];
    const found = differences(a, b);
    return html`
      <section class="filters">
        ${options(
          "kind",
          s.kind,
          "Kind",
          KINDS.map((kind) => [kind, data.kinds[kind].title]),
        )}
        ${options(
          "of",
          s.of,
          "As computed by",
          WHOM.map((x) => [x, x]),
        )}
        ${search("q", s.q, "With these words", "token-mean, clip, 2402.03300 ...")}
        ${select("by", by, html`Differ from <b>${a.name}</b> in`, [ANYTHING, ...columns_of(s.kind)])}
      </section>
      <section class="compared" aria-label="Two rows compared"><p class="kicker">Compare</p>
        <div class="pair">${select("a", a.name, "this row", names)}${select("b", b.name, "with this one", names)}</div>
        <div role="status">${
          a === b
            ? note("Two rows of your choice.")
            : found.length === 0
              ? note("They compute the same numbers.")
              : html`<div style="overflow-x:auto"><table>
          <thead><tr><th>what differs</th><th>${a.name}</th><th>${b.name}</th></tr></thead><tbody>${found.map(
            ({ at, values, effects }) => html`<tr>
            <td><b>${at.replaceAll(/[._]/g, "$&<wbr>")}</b></td>${values.map((value, i) => html`<td><code>${escaped(value)}</code><br><span class="muted">${escaped(effects[i] ?? effects[0])}</span></td>`)}</tr>`,
          )}</tbody></table></div>`
        }</div>
      </section>
      <section aria-label="The rows"><p class="kicker">${rows.length} of ${ROWS[s.kind].length} rows</p>${by !== ANYTHING && note(alone(by, a, rows))}<div class="wide-table" tabindex="0" role="region" aria-label="Table of recipes"><table>
        <thead><tr>${["name", ...headings].map((heading) => html`<th aria-sort="${s.sort === heading ? "ascending" : "none"}">${button({ sort: s.sort === heading ? "" : heading }, html`${heading}${s.sort === heading && " ↑"}`)}</th>`)}
          <th>in words; source</th></tr></thead>
        <tbody>${rows.map(
          (
            row,
          ) => html`<tr><td>${button(row.name === a.name ? { b: a.name, a: b.name } : { a: a.name, b: row.name }, row.name, { pressed: row === a || row === b, label: `compare ${row.name} with ${a.name}` })}${by !== ANYTHING && row !== a && also(by, a, row)}</td>
          ${row.cells.map((cell) => html`<td>${cell ? escaped(cell) : html`<span class="off">–</span>`}</td>`)}
          <td>${escaped(row.about)} <i>${row.source}</i></td></tr>`,
        )}</tbody></table></div>
        ${rows.length === 0 && note("No row has all of these words.")}
        ${note("Press a name to compare it with the first row. From the terminal: ", html`<code>torchstone recipes ${a.name} ${b.name}</code>.`)}</section>`;
  },
};
