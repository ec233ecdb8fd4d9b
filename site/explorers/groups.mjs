// (d) The rewards of one prompt's samples, and the advantage that each method gives them.

import centred_line from "code:torchstone/reinforce/returns.py?return (rewards - mean).masked_fill(";
import std_line from "code:torchstone/grpo/advantages.py?return by_deviation(centred,";
import loo_line from "code:torchstone/reinforce/returns.py?return centred * n / (n - 1)";
import maxrl_line from "code:torchstone/reinforce/variants.py?return centred / torch.where(mean > 0";
import { group_advantages } from "../maths/grpo.mjs";
import { centred_rewards, leave_one_out_advantages, max_likelihood_advantages } from "../maths/reinforce.mjs";
import { root_mean_square } from "../maths/core.mjs";
import {
  axes,
  bar,
  button,
  choice,
  code,
  equation,
  frame,
  guessed,
  handle,
  html,
  inside,
  note,
  num,
  numbers,
  options,
  picture,
  predict,
  press,
  room,
  show,
  stage,
  sym,
} from "./kit.mjs";

const METHODS = {
  std: {
    label: "GRPO",
    tag: "GRPO.2",
    code: [centred_line, std_line],
    run: (s, batch) =>
      group_advantages({ ...batch, divide_by_std: true, correction: Number(s.correction), eps: Number(s.eps) }),
    equation: (r, g, s) => html`(${num(r)} − ${num(g.mean, "blue")}) / (${num(g.std, "gold")} + ${s.eps})`,
  },
  mean: {
    label: "Dr. GRPO",
    tag: "GRPO.1",
    code: [centred_line],
    run: (s, batch) => group_advantages({ ...batch, divide_by_std: false, correction: 0, eps: 0 }),
    equation: (r, g) => html`${num(r)} − ${num(g.mean, "blue")}`,
  },
  loo: {
    label: "leave one out",
    tag: "REINFORCE.5",
    code: [centred_line, loo_line],
    run: (s, batch) => leave_one_out_advantages(batch),
    equation: (r, g) => html`${num(g.n, "", 0)}/${num(g.n - 1, "", 0)} · (${num(r)} − ${num(g.mean, "blue")})`,
  },
  maxrl: {
    label: "MaxRL",
    tag: "REINFORCE.9",
    code: [centred_line, maxrl_line],
    run: (s, batch) => max_likelihood_advantages(batch),
    equation: (r, g) => html`(${num(r)} − ${num(g.mean, "blue")}) / ${num(g.mean, "blue")}`,
  },
};
const EPS = ["0", "1e-8", "1e-4", "0.1"];
const SCENES = [
  ["1 of 8", [1, 0, 0, 0, 0, 0, 0, 0]],
  ["4 of 8", [1, 1, 0, 1, 0, 0, 1, 0]],
  ["7 of 8", [1, 1, 1, 1, 0, 1, 1, 1]],
  ["all right", [1, 1, 1, 1, 1, 1, 1, 1]],
  ["nearly tied", [0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.71]],
];
const all = (n) => Array.from({ length: n }, () => 1);

export default {
  name: "groups",
  title: "Group advantages",
  lede: "Several answers to one prompt are scored. Who is raised and who is lowered, and how much, is a choice of the method.",
  hue: "green",
  state: {
    guess: guessed(3),
    r: numbers(SCENES[1][1], 0, 1, 0.01, [2, 8]),
    scored: numbers(all(8), 0, 1, 1, [2, 8]),
    method: choice("std", Object.keys(METHODS)),
    correction: choice("1", ["0", "1"]),
    eps: choice("1e-4", EPS),
    who: choice(
      "0",
      all(8).map((_, i) => String(i)),
    ),
  },
  render(s, { width }) {
    const scored = s.r.map((_, i) => (s.scored[i] ?? 1) === 1);
    const batch = { rewards: [s.r], scored: [scored] };
    const [group] = centred_rewards([s.r], [scored]);
    group.std = root_mean_square(group.centred, group.n - Number(s.correction));
    const chosen = METHODS[s.method];
    const [advantages] = chosen.run(s, batch);
    const who = Math.min(Number(s.who), s.r.length - 1);
    const tied = group.centred.every((x) => x === 0);
    const why = !scored[who] ? "not scored" : tied ? "the rewards are all equal" : "";
    return html`
      ${predict(
        s.guess,
        "One of eight answers is right. Divided by the group's deviation (GRPO), its advantage is, beside that of a right answer when four of eight are right,",
        ["smaller", "the same", "2.6 times as large"],
        2,
        "2.47 against 0.94. The rarer the success, the smaller the deviation: prompts that are nearly hopeless, and nearly solved ones, weigh more. Dr. GRPO leaves the division out.",
        { r: SCENES[0][1], scored: all(8), method: "std", correction: "1", eps: "1e-4", who: "0" },
      )}
      ${stage(
        draw(s, room(width), scored, group, advantages, who),
        html`
        ${options(
          "method",
          s.method,
          "Method",
          Object.entries(METHODS).map(([k, v]) => [k, v.label]),
        )}
        ${
          s.method === "std" &&
          html`${options("correction", s.correction, "Deviation over", [
            ["1", "n − 1"],
            ["0", "n"],
          ])}
          ${options(
            "eps",
            s.eps,
            "eps, added to it",
            EPS.map((x) => [x, x]),
          )}`
        }
        <div><p class="note">Rewards</p><div class="row">${SCENES.map(([name, r]) => button({ r, scored: all(r.length) }, name))}
          ${s.r.length > 2 && button({ r: s.r.slice(0, -1), scored: scored.slice(0, -1).map(Number) }, "one fewer")}
          ${s.r.length < 8 && button({ r: [...s.r, 0], scored: [...scored.map(Number), 1] }, "one more")}</div></div>
        ${note(
          tied
            ? "All scored rewards are equal: every advantage is exactly 0, whatever eps is. The prompt teaches nothing in this step."
            : "Drag a reward, or press its name for 0 or 1. Press the mark below it if the answer could not be scored: it then counts in no mean.",
        )}`,
      )}
      ${equation(
        chosen.tag,
        html`${sym("A", String(who + 1))} = ${
          why
            ? html`${num(0, "green")} <small>${why}</small>`
            : html`${chosen.equation(s.r[who], group, s)} = ${num(advantages[who], "green")}`
        }`,
        html`mean = ${num(group.mean, "blue")}, &nbsp;deviation = ${num(group.std, "gold")}
          <small>of ${group.n} scored samples; the advantages add up to ${show(advantages.reduce((a, b) => a + b, 0))}</small>`,
      )}
      ${table(s, batch)}
      ${code(...chosen.code)}`;
  },
};

function draw(s, width, scored, group, advantages, who) {
  const n = s.r.length;
  const height = Math.max(200, Math.min(240, width * 0.5));
  const x = [-0.5, n - 0.5];
  const upper = frame({ width, height, x, y: [0, 1.05], top: 24, bottom: 8, left: 40, right: 6 });
  const most = Math.max(1, ...advantages.map(Math.abs)) * 1.25;
  const lower = frame({ width, height, x, y: [-most, most], top: 26, bottom: 10, left: 40, right: 6 });
  const wide = Math.min(44, ((upper.right - upper.left) / n) * 0.62);
  const step = [0.5, 1, 2, 5].find((d) => most / d <= 3) ?? 10;
  const ticks = Array.from({ length: 9 }, (_, i) => (i - 4) * step).filter((v) => Math.abs(v) <= most);
  const level = (
    v,
    kind,
    text,
  ) => html`<g class="${kind}"><line x1="${upper.left}" x2="${upper.right}" y1="${upper.Y(v)}"
    y2="${upper.Y(v)}" stroke="var(--c)" stroke-width="1.5" stroke-dasharray="6 4"/><text class="label small paint" x="${upper.right}"
    y="${upper.Y(v) - 5}" text-anchor="end">${text} ${show(v)}</text></g>`;
  const sample = (r, i) => {
    const at = upper.X(i);
    const flipped = s.r.map((v, j) => (j === i ? (v >= 0.5 ? 0 : 1) : v));
    const marked = s.r.map((_, j) => (j === i ? (scored[j] ? 0 : 1) : Number(scored[j])));
    const w = Math.min(40, wide);
    return html`
      <g class="${scored[i] ? "blue" : "grey"}">${bar(upper, i, r, wide, scored[i] ? "pale" : "outline")}
        ${handle(upper, "r", {
          at: i,
          along: "y",
          min: 0,
          max: 1,
          step: 0.01,
          value: r,
          x: at,
          y: upper.Y(r),
          colour: scored[i] ? "blue" : "grey",
          label: `reward of sample ${i + 1}`,
          said: `reward ${show(r)}, advantage ${show(advantages[i])}`,
        })}</g>
      <g transform="translate(0 ${height})">${press(
        { r: flipped, who: String(i) },
        `sample ${i + 1}: reward ${r >= 0.5 ? "0" : "1"}`,
        undefined,
        html`<rect x="${at - w / 2}" y="2" width="${w}" height="26" rx="6"/><text class="serif" x="${at}" y="20" text-anchor="middle">y${sub(i + 1)}</text>`,
      )}
      ${press(
        { scored: marked, who: String(i) },
        `sample ${i + 1} is scored`,
        scored[i],
        html`<rect x="${at - w / 2}" y="32" width="${w}" height="24" rx="6"/><text x="${at}" y="49" text-anchor="middle">${scored[i] ? "✓" : "?"}</text>`,
      )}</g>`;
  };
  return picture(
    width,
    2 * height + 68,
    "Rewards above, advantages below",
    axes(upper, { yticks: [0, 0.5, 1], ylabel: "reward" }),
    group.n > 0 && level(group.mean, "blue", "mean"),
    s.r.map(sample),
    html`<g transform="translate(0 ${height + 60})">${axes(lower, { yticks: ticks, ylabel: "advantage" })}
      ${inside(
        lower,
        advantages.map(
          (a, i) =>
            html`<g class="${a >= 0 ? "green" : "purple"}">${bar(lower, i, a, wide, i === who ? "fill" : "pale")}</g>`,
        ),
      )}
      ${advantages.map(
        (a, i) => html`<text class="label" x="${lower.X(i)}" y="${lower.Y(a) + (a >= 0 ? -7 : 17)}"
        text-anchor="middle">${show(a, n > 6 && width < 420 ? 1 : 2)}</text>`,
      )}</g>`,
  );
}

const sub = (i) => "₀₁₂₃₄₅₆₇₈"[i];

const table = (
  s,
  batch,
) => html`<section><p class="kicker">The same rewards, under each method</p><div style="overflow-x:auto"><table>
  <thead><tr><th>method</th>${s.r.map((r, i) => html`<th class="n">${show(r)}</th>`)}</tr></thead>
  <tbody>${Object.entries(METHODS).map(
    ([key, { label, run }]) => html`<tr><td>${key === s.method ? html`<b>${label}</b>` : label}</td>
    ${run(s, batch)[0].map((a) => html`<td class="n">${show(a)}</td>`)}</tr>`,
  )}</tbody></table></div></section>`;
