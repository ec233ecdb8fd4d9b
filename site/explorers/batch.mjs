// (g) One batch under every recipe: each row's update, sorted by its angle to GRPO's.

import run_line from "code:torchstone/recipes/online.py?loss, metrics = with_metrics(self.run(";
import reduce_line from 'code:torchstone/recipes/online.py?self.run("reduction", batch | {"x": loss})';
import table from "../../build/recipes.json";
import { filled, lacking, update } from "../maths/recipes.mjs";
import { B, G, T, batch } from "./batch_of.mjs";
import {
  axes,
  bar,
  bars,
  button,
  choice,
  code,
  equation,
  frame,
  guessed,
  handle,
  html,
  note,
  num,
  number,
  numbers,
  options,
  picture,
  predict,
  press,
  room,
  show,
  slider,
  stage,
  sym,
} from "./kit.mjs";

const [rows, away] = [[], []];
for (const row of filled(table)) (lacking(row).length ? away : rows).push(row);
const NAMES = rows.map(({ name }) => name);
const all = (x) => Array.from({ length: B }, () => x);
const FIRST = {
  rewards: [1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0],
  lengths: [3, 6, 5, 4, 2, 3, 6, 3, 6, 6, 4, 5],
  ratios: [1.3, 0.9, 1, 0.8, 1.1, 1.4, 1.2, 0.95, 1, 0.85, 1.6, 1.1],
};
const dot = (a, b) => a.reduce((total, row, i) => total + row.reduce((sum, x, t) => sum + x * b[i][t], 0), 0);
const degrees = (cosine) => (Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI;

/** Each row's push, its size, and its angle to GRPO's; a row without a push has none. */
function updates(s) {
  const given = batch(s);
  const grpo = update(
    rows.find(({ name }) => name === "grpo"),
    given,
  ).push;
  const size = Math.sqrt(dot(grpo, grpo));
  const shown = rows.filter(({ name }) => s.rows === "all" || !name.includes("@") || name === s.row);
  const found = shown.map((row) => {
    const { push } = update(row, given);
    const own = Math.sqrt(dot(push, push));
    const cosine = dot(push, grpo) / (own * size);
    return {
      row,
      push,
      own,
      size,
      inner: dot(push, grpo),
      cosine,
      angle: own < 1e-12 || size < 1e-12 ? NaN : cosine > 1 - 1e-9 ? 0 : degrees(cosine),
    };
  });
  return found.sort((x, y) => Number.isNaN(x.angle) - Number.isNaN(y.angle) || x.angle - y.angle);
}

const total = (push) => push.map((row) => row.reduce((a, b) => a + b, 0));

export default {
  name: "batch",
  title: "One batch under every recipe",
  lede: "Three prompts, four answers each, and the policy-gradient rows of the table of recipes. Change the batch, and see whose update turns away from GRPO's.",
  hue: "green",
  state: {
    guess: guessed(3),
    rewards: numbers(FIRST.rewards, 0, 1, 0.05),
    lengths: numbers(FIRST.lengths, 1, T, 1),
    ratios: numbers(FIRST.ratios, 0.5, 2, 0.01),
    away: number(0, 0, 1, 0.05),
    engine: number(0, 0, 1, 0.05),
    row: choice("dapo", NAMES),
    rows: choice("published", ["published", "all"]),
  },
  render(s, { width, still }) {
    const found = updates(s);
    const chosen = found.find(({ row }) => row.name === s.row);
    const grpo = found.find(({ row }) => row.name === "grpo");
    return html`
      ${predict(
        s.guess,
        "The policy has not moved yet: every ratio is 1. All answers are of one length, and no KL pulls. Do GRPO, DAPO, GSPO, CISPO and SAPO push in different directions?",
        ["yes, in five", "in two or three", "no, all in one"],
        2,
        "At ratio 1 every clip, cap and gate has slope 1, and with one length the means agree: the angle is 0. What sets these methods apart shows when the policy moves, and when lengths differ. Dr. GRPO turns away even here: it leaves out the group's deviation.",
        { rewards: FIRST.rewards, lengths: all(4), ratios: all(1), away: 0, engine: 0, row: "sapo" },
      )}
      ${stage(
        draw(s, room(width), chosen, grpo),
        html`
        <div><p class="note">The batch</p><div class="row">${button({ ratios: all(1) }, "on policy")}${button({ lengths: all(4) }, "one length")}
          ${button({ rewards: [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0] }, "two groups tied")}${button({ ratios: s.ratios.map((r) => Math.min(2, Math.max(0.5, r * r))) }, "move further")}
          ${button({ ...FIRST, away: 0, engine: 0 }, "as at first")}</div></div>
        ${slider("away", { min: 0, max: 1, step: 0.05 }, s.away, "how far the reference is, in nats a token")}
        ${slider("engine", { min: 0, max: 1, step: 0.05 }, s.engine, "how far the engine that sampled is")}
        ${options("rows", s.rows, "Rows", [
          ["published", "as published"],
          ["all", "and as frameworks compute them"],
        ])}
        ${note("Rewards and lengths: drag, or press a name for 0 or 1. Ratios: how far the policy has moved on each answer; its tokens differ a little. Where a row asks for more: the critic says 0.5, the greedy answer scored 0.5, as much as each prompt is worth, entropies differ between tokens, each token's score has norm 1; no answer is near the longest length, 20480 tokens, by which Dr. GRPO divides.")}`,
      )}
      ${equation(
        "angle to GRPO",
        chosen &&
          html`cos ${sym("θ")} = ⟨${sym("g")}, ${sym("g", "GRPO")}⟩ / (|${sym("g")}| |${sym("g", "GRPO")}|) = ${num(chosen.inner, "", 4)} / (${num(chosen.own, "", 4)} ·
          ${num(chosen.size, "", 4)})${Number.isNaN(chosen.angle) ? html` <small>one of the two has no update</small>` : html` = ${num(chosen.cosine, "", 4)}, &nbsp;${sym("θ")} = ${num(chosen.angle, "green", 1)}°`}`,
        html`<small><code>${s.row}</code>${chosen.row.about && `: ${chosen.row.about}`} ${compared(s.row)}</small>`,
      )}
      ${list(found, s, still)}
      ${
        away.length > 0 &&
        note(
          `Not here, for what this batch or this page does not have: ${away.map((row) => `${row.name} (${lacking(row).join(", ")})`).join("; ")}.`,
        )
      }
      ${code(run_line, reduce_line)}`;
  },
};

/** To the page that says in words what a row does otherwise than the one that it is made from. */
function compared(name) {
  const [published] = name.split("@");
  const other = name.includes("@") && NAMES.includes(published) ? published : "grpo";
  const found = new URLSearchParams({ ...(name.includes("@") && { of: "all" }), a: other, b: name });
  return name !== other && html`<a href="recipes.html#${found}">What differs from ${other}</a>`;
}

function draw(s, width, chosen, grpo) {
  const x = [-0.8, B + 0.4];
  const at = (b) => b + Math.floor(b / G) * 0.4 - 0.1;
  const high = 104;
  const frames = (y, top = 24) => frame({ width, height: high, x, y, left: 42, right: 4, top, bottom: 8 });
  const [one, two, three] = [
    frames([0, 1.05]),
    frames([0, T + 0.3]),
    frames([-Math.log(2) - 0.04, Math.log(2) + 0.04]),
  ];
  const wide = Math.min(26, ((one.right - one.left) / (B + 1.2)) * 0.66);
  const line = (i, f, ...parts) => html`<g transform="translate(0 ${i * (high + 8)})">${parts}</g>`;
  const dots = "₁₂₃₄";
  const pushes = [
    ["ink", total(grpo?.push ?? chosen.push), grpo?.own ?? 1],
    ["green", total(chosen.push), chosen.own],
  ];
  const unit = pushes.map(([colour, push, own]) => [colour, push.map((v) => (own > 1e-12 ? v / own : 0))]);
  const most = Math.max(0.3, ...unit.flatMap(([, push]) => push.map(Math.abs))) * 1.15;
  const low = frame({ width, height: 130, x, y: [-most, most], left: 42, right: 4, top: 24, bottom: 8 });
  return picture(
    width,
    3 * (high + 8) + 30 + 140,
    "The batch: reward, length and ratio of each answer; below, the push on each",
    line(
      0,
      one,
      axes(one, { yticks: [0, 1], digits: 0, ylabel: "reward" }),
      s.rewards.map(
        (r, b) => html`<g class="blue">${bar(one, at(b), r, wide, "pale")}</g>
      ${handle(one, "rewards", { at: b, along: "y", min: 0, max: 1, step: 0.05, value: r, x: one.X(at(b)), y: one.Y(r), reach: 13, colour: "blue", label: `reward of answer ${(b % G) + 1} to prompt ${Math.floor(b / G) + 1}`, said: show(r) })}`,
      ),
    ),
    line(
      1,
      two,
      axes(two, { yticks: [0, 3, 6], digits: 0, ylabel: "length in tokens" }),
      s.lengths.map(
        (n, b) => html`<g class="orange">${tokens(two, at(b), n, wide)}</g>
      ${handle(two, "lengths", { at: b, along: "y", min: 1, max: T, step: 1, value: n, x: two.X(at(b)), y: two.Y(n), reach: 13, colour: "orange", label: `length of answer ${(b % G) + 1} to prompt ${Math.floor(b / G) + 1}`, said: `${n} tokens` })}`,
      ),
    ),
    line(
      2,
      three,
      axes(three, { yticks: [Math.log(0.5), 0, Math.log(2)].map((v) => v), digits: 1, ylabel: "" }).replaceAll(
        />(−?0\.7|0\.0)</g,
        (_, v) => `>${{ "−0.7": "½", "0.0": "1", 0.7: "2" }[v]}<`,
      ),
      html`<g class="axes"><text class="name" x="${three.left}" y="${three.top - 8}">ratio: policy now / when it sampled</text></g>`,
      s.ratios.map((r, b) => {
        const log = { ...three, y: [0.5, 2] };
        return html`<g class="purple"><line x1="${three.X(at(b))}" x2="${three.X(at(b))}" y1="${three.Y(0)}" y2="${three.Y(Math.log(r))}" stroke="var(--c)" stroke-width="3"/></g>
          ${handle(log, "ratios", { at: b, along: "y", min: 0.5, max: 2, step: 0.01, value: r, x: three.X(at(b)), y: three.Y(Math.log(r)), reach: 13, colour: "purple", label: `ratio of answer ${(b % G) + 1} to prompt ${Math.floor(b / G) + 1}`, said: show(r) })}`;
      }),
    ),
    html`<g transform="translate(0 ${3 * (high + 8)})">${s.rewards.map((r, b) =>
      press(
        { rewards: s.rewards.map((x, i) => (i === b ? (r >= 0.5 ? 0 : 1) : x)) },
        `answer ${(b % G) + 1} to prompt ${Math.floor(b / G) + 1}: reward ${r >= 0.5 ? 0 : 1}`,
        undefined,
        html`<rect x="${one.X(at(b)) - wide / 2 - 1}" y="0" width="${wide + 2}" height="24" rx="5"/><text class="serif" x="${one.X(at(b))}" y="16" text-anchor="middle">y${dots[b % G]}</text>`,
      ),
    )}</g>`,
    html`<g transform="translate(0 ${3 * (high + 8) + 30})">${axes(low, { yticks: [0], digits: 0 })}
      <text x="${low.left}" y="16"><tspan class="serif">push on each answer${width > 480 && ", at unit length"}:</tspan> <tspan class="muted">grpo</tspan></text>
      <g class="green"><text class="paint" x="${low.right}" y="16" text-anchor="end">${chosen.row.name}</text></g>
      ${unit.map(([colour, push], k) => html`<g class="${k ? colour : "grey"}">${push.map((v, b) => bar(low, at(b) + (k ? 0.2 : -0.2), v, wide * 0.5, "fill"))}</g>`)}</g>`,
  );
}

const sized = (x) => (x > 0 && x < 0.095 ? x.toPrecision(1) : show(x, 2));

/** A square for each token, as one shape. */
const tokens = (f, x, n, wide) =>
  html`<path class="pale" d="${Array.from(
    { length: n },
    (_, t) =>
      `M${(f.X(x) - wide / 2).toFixed(1)} ${(f.Y(t) - 1).toFixed(1)}h${wide.toFixed(1)}V${(f.Y(t + 1) + 1).toFixed(1)}h${-wide.toFixed(1)}z`,
  ).join("")}"/>`;

function list(found, s, still) {
  const small = ({ push, own }) => {
    const values = total(push).map((v, b) => [b + Math.floor(b / G) * 0.4 - 0.1, own > 1e-12 ? v / own : 0]);
    const sides = [
      ["green", values.filter(([, v]) => v > 1e-9)],
      ["purple", values.filter(([, v]) => v < -1e-9)],
    ];
    const f = frame({ width: 150, height: 30, x: [-0.8, B + 0.4], y: [-1, 1], left: 0, right: 0, top: 1, bottom: 1 });
    return html`<svg width="150" height="30" viewBox="0 0 150 30" aria-hidden="true"><line x1="0" x2="150" y1="15" y2="15" stroke="var(--line)"/>${sides.map(
      ([colour, side]) => side.length > 0 && html`<g class="${colour}">${bars(f, side, 8, "fill")}</g>`,
    )}</svg>`;
  };
  return html`<section><p class="kicker">${found.length} rows, by their angle to GRPO's update</p><div style="overflow-x:auto"><table>
    <thead><tr><th>row</th><th class="n">angle</th><th class="n">size</th><th>push on each answer</th></tr></thead>
    <tbody>${found.slice(0, still ? 10 : undefined).map(
      (
        one,
      ) => html`<tr><td>${button({ row: one.row.name }, one.row.name, { pressed: one.row.name === s.row, label: `show ${one.row.name}` })}</td>
      <td class="n">${Number.isNaN(one.angle) ? "no update" : html`<b>${show(one.angle, 1)}°</b>`}</td><td class="n">×${sized(one.own / (one.size || 1))}</td>
      <td class="wide">${!still && small(one)}</td></tr>`,
    )}</tbody></table></div>${still && note("These are the first ten: the others need the script.")}</section>`;
}
