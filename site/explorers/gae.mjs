// (c) Generalised advantage estimation over the tokens of one completion.

import delta_line from "code:torchstone/ppo/gae.py?deltas = torch.where(";
import advantage_line from "code:torchstone/ppo/gae.py?advantages = recur(deltas";
import next_line from "code:torchstone/ppo/gae.py?next_values = next_column(";
import { gae } from "../maths/ppo.mjs";
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
  note,
  num,
  number,
  numbers,
  par,
  path,
  picture,
  predict,
  press,
  room,
  show,
  slider,
  stage,
  sym,
} from "./kit.mjs";

const T = 8;
const every = (x) => Array.from({ length: T }, () => x);
const LAST = every(0).with(T - 1, 1);
const VALUES = [0.4, 0.45, 0.35, 0.5, 0.55, 0.5, 0.7, 0.8];

export default {
  name: "gae",
  title: "Advantages from a critic",
  lede: "One reward at the end, a critic's guess before each token. GAE sends each surprise back to the tokens before it.",
  hue: "orange",
  state: {
    guess: guessed(3),
    rewards: numbers(LAST, -1, 1, 0.05),
    values: numbers(VALUES, -1, 1, 0.05),
    mask: numbers(every(1), 0, 1, 1),
    gamma: number(1, 0, 1, 0.01),
    lam: number(0.8, 0, 1, 0.01),
    t: choice(
      "1",
      every(0).map((_, i) => String(i)),
    ),
  },
  render(s, { width }) {
    const mask = s.mask.map((x) => x === 1);
    const found = gae({ rewards: [s.rewards], values: [s.values], mask: [mask], gamma: s.gamma, lam: s.lam });
    const [A, R, delta] = [found.advantages[0], found.returns[0], found.deltas[0]];
    const t = Number(s.t);
    const later = mask.flatMap((on, i) => (on && i >= t ? [i] : []));
    const next = later[1];
    const weights = later.map((_, k) => (s.gamma * s.lam) ** k);
    return html`
      ${predict(
        s.guess,
        "The critic says 0.5 before every token, and the reward 1 comes with the last one. With λ = 0 and γ = 1, which tokens get an advantage?",
        ["all of them", "the last one only", "none"],
        1,
        "With λ = 0 a token hears only of its own surprise, r + V(next) − V. Before the last token nothing surprises: 0.5 follows 0.5. The news walks back one token for each time the critic learns; with λ = 1 it reaches all tokens at once, with its noise.",
        { rewards: LAST, values: every(0.5), mask: every(1), gamma: 1, lam: 0, t: String(T - 1) },
      )}
      ${stage(
        draw(s, room(width), { mask, A, delta, t, later, weights }),
        html`
        ${slider("lam", { min: 0, max: 1, step: 0.01 }, s.lam, "λ: how far a surprise is sent back")}
        ${slider("gamma", { min: 0, max: 1, step: 0.01 }, s.gamma, "γ: discount per chosen token")}
        <div><p class="note">Scenes</p><div class="row">
          ${button({ lam: 0 }, "λ = 0")}${button({ lam: 1 }, "λ = 1")}
          ${button({ mask: every(1).with(3, 0).with(4, 0) }, "a tool speaks")}
          ${button({ mask: every(1).with(6, 0).with(7, 0), rewards: every(0).with(5, 1) }, "ends early")}
          ${button({ mask: every(1), rewards: LAST, values: VALUES, gamma: 1, lam: 0.8 }, "as at first")}</div></div>
        ${note("Drag the critic's values (circles) and the rewards (bars). Press a token to follow its advantage; press ✓ below it for a token that the policy did not choose: it is stepped over, and costs neither a γ nor a λ.")}`,
      )}
      ${equation(
        "PPO.3, PPO.4, PPO.5",
        mask[t]
          ? html`${sym("δ", String(t + 1))} = ${sym("r")} + γ${sym("V", "next")} − ${sym("V")} = ${num(s.rewards[t])} + ${num(s.gamma)} ·
          ${par(next === undefined ? 0 : s.values[next])} − ${par(s.values[t])} = ${num(delta[t], "blue")}`
          : html`token ${t + 1} was not chosen by the policy: <small>its advantage is 0, its value is not read</small>`,
        mask[t] &&
          html`${sym("A", String(t + 1))} = ${later.map((i, k) => html`${k > 0 && " + "}${k > 0 && html`${num(weights[k])} · `}${k > 0 ? par(delta[i], "blue") : num(delta[i], "blue")}`)}
          = ${num(A[t], "orange")}`,
        mask[t] &&
          html`${sym("R", String(t + 1))} = ${sym("A")} + ${sym("V")} = ${num(R[t])} <small>what the critic learns here</small>`,
      )}
      ${code(next_line, delta_line, advantage_line)}`;
  },
};

function draw(s, width, { mask, A, delta, t, later, weights }) {
  const x = [-0.5, T - 0.5];
  const height = Math.max(230, Math.min(290, width * 0.5));
  const upper = frame({ width, height, x, y: [-1.05, 1.05], top: 26, bottom: 8, left: 42, right: 6 });
  const most = Math.max(0.6, ...A.map(Math.abs), ...delta.map(Math.abs)) * 1.3;
  const lower = frame({ width, height: 190, x, y: [-most, most], top: 28, bottom: 10, left: 42, right: 6 });
  const pitch = (upper.right - upper.left) / T;
  const [wide, w] = [Math.min(26, pitch * 0.5), Math.min(44, pitch - 4)];
  const chosen = mask.flatMap((on, i) => (on ? [i] : []));
  const flipped = (i) => s.mask.map((m, j) => (j === i ? 1 - m : m));
  const step = most > 1.2 ? 1 : 0.5;
  const arc = (i, k) => {
    const [from, to] = [lower.X(i), lower.X(t)];
    const y = lower.top + 4;
    const rise = Math.min(34, 8 + (from - to) * 0.12);
    return (
      k > 0 &&
      weights[k] > 0.004 &&
      html`<path class="arc" stroke-width="${(1 + 4 * weights[k]).toFixed(1)}" opacity="${(0.25 + 0.6 * weights[k]).toFixed(2)}"
      d="M${from} ${y}C${from} ${y - rise} ${to} ${y - rise} ${to} ${y}"/>`
    );
  };
  return picture(
    width,
    height + 58 + 40 + 190,
    "Values and rewards above, surprises and advantages below",
    axes(upper, { yticks: [-1, -0.5, 0, 0.5, 1], ylabel: "the critic's V (line), reward r (bars)" }),
    s.rewards.map(
      (r, i) => html`<g class="${mask[i] ? "green" : "grey"}">${bar(upper, i + 0.16, r, wide, "pale")}
      ${handle(upper, "rewards", {
        at: i,
        along: "y",
        min: -1,
        max: 1,
        step: 0.05,
        value: r,
        x: upper.X(i + 0.16),
        y: upper.Y(r),
        reach: 15,
        colour: mask[i] ? "green" : "grey",
        label: `reward of token ${i + 1}`,
        said: `reward ${show(r)}, advantage ${show(A[i])}`,
      })}</g>`,
    ),
    html`<g class="orange">${path(
      upper,
      chosen.map((i) => [i - 0.16, s.values[i]]),
      "curve",
    )}</g>`,
    s.values.map((v, i) =>
      handle(upper, "values", {
        at: i,
        along: "y",
        min: -1,
        max: 1,
        step: 0.05,
        value: v,
        x: upper.X(i - 0.16),
        y: upper.Y(v),
        reach: 15,
        colour: mask[i] ? "orange" : "grey",
        label: `value before token ${i + 1}`,
        said: `value ${show(v)}, advantage ${show(A[i])}`,
      }),
    ),
    html`<g transform="translate(0 ${height})">${mask.map(
      (on, i) => html`
      ${press(
        { t: String(i) },
        `follow token ${i + 1}`,
        i === t,
        html`<rect x="${upper.X(i) - w / 2}" y="2" width="${w}" height="26" rx="6"/>
        <text class="serif" x="${upper.X(i)}" y="20" text-anchor="middle">y${"₁₂₃₄₅₆₇₈"[i]}</text>`,
      )}
      <g class="grey">${press(
        { mask: flipped(i) },
        `token ${i + 1} was chosen by the policy`,
        on,
        html`<rect x="${upper.X(i) - w / 2}" y="32" width="${w}" height="24" rx="6"/>
        <text x="${upper.X(i)}" y="49" text-anchor="middle">${on ? "✓" : "–"}</text>`,
      )}</g>`,
    )}</g>`,
    html`<g transform="translate(0 ${height + 98})"><g class="blue">${mask[t] && later.map(arc)}</g>
      ${axes(lower, { yticks: [-2, -1, -0.5, 0, 0.5, 1, 2].filter((v) => Math.abs(v) <= most && v % step === 0) })}
      <text class="serif" x="${lower.left}" y="${-24}">surprise δ (blue), advantage A (orange)</text>
      ${A.map(
        (a, i) =>
          mask[i] &&
          html`<g class="blue">${bar(lower, i - 0.2, delta[i], wide * 0.8, later.includes(i) && mask[t] ? "fill" : "pale")}</g>
        <g class="orange">${bar(lower, i + 0.2, a, wide * 0.8, i === t ? "fill" : "pale")}</g>
        <text class="label ${pitch < 44 ? "small" : ""}" x="${lower.X(i + (pitch < 44 ? 0 : 0.2))}" y="${lower.Y(a) + (a >= 0 ? -6 : 16)}" text-anchor="middle">${show(a)}</text>`,
      )}</g>`,
  );
}
