// (a) One token's ratio, and what each surrogate makes of it: the loss, and the push on the token's log-prob.

import { differentiate } from "../maths/autodiff.mjs";
import {
  axes,
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
  number,
  options,
  path,
  picture,
  predict,
  room,
  show,
  slider,
  stage,
  sym,
} from "./kit.mjs";
import { SURROGATES } from "./surrogates.mjs";

const rho = sym("ρ");
const A = sym("A");
const L = sym("L");
const NUMBERS = {
  epsilon: number(0.2, 0, 0.6, 0.01),
  epsilon_high: number(0.2, 0, 0.6, 0.01),
  dual_clip: number(3, 1.1, 4, 0.1),
  cap: number(2, 0.5, 5, 0.1),
  tau: number(1, 0.2, 4, 0.1),
  epsilon_nats: number(0.4, 0, 1, 0.01),
  p_old: number(0.2, 0.01, 0.25, 0.01),
};
const NAMES = {
  epsilon: "ε, below 1",
  epsilon_high: "ε high, above 1",
  dual_clip: "dual clip c",
  cap: "cap",
  tau: "τ",
  epsilon_nats: "ε, in nats",
  p_old: "π old of the token",
};
const MOST = 4; // ratios are drawn from 0 to here

/** Loss and push of one token at each of these ratios; each ratio is a completion of one token. */
function at(s, ratios) {
  const { run, takes } = SURROGATES[s.surrogate];
  const numbers = Object.fromEntries(
    takes.filter((k) => ["epsilon", "epsilon_high", "dual_clip", "cap"].includes(k)).map((k) => [k, s[k]]),
  );
  const more = {
    sapo: { tau_positive: s.tau, tau_negative: s.tau * 1.05 },
    gmpo: { epsilon: s.epsilon_nats },
    vespo: { k_positive: 2, lambda_positive: 3, k_negative: 3, lambda_negative: 2 },
    dppo: { divergence: "tv" },
    cispo: { epsilon: null },
  }[s.surrogate];
  const batch = {
    old_log_probs: ratios.map(() => [Math.log(s.p_old)]),
    log_probs: ratios.map((r) => [Math.log(s.p_old * r)]),
    advantages: ratios.map(() => s.A),
    mask: ratios.map(() => [true]),
    ...numbers,
    ...more,
  };
  const { value, gradients } = differentiate(run, batch, ["log_probs"]);
  return ratios.map((r, i) => ({ rho: r, loss: value[i][0], push: -gradients.log_probs[i][0] + 0 }));
}

const SCENE = { surrogate: "clip", rho: 1.35, A: 1, epsilon: 0.2, epsilon_high: 0.2 };

export default {
  name: "ratio",
  title: "The ratio and the clip",
  lede: "A batch is reused: the policy has moved since it sampled a token, by the ratio ρ. What does each loss still want of the token?",
  hue: "orange",
  state: {
    guess: guessed(3),
    surrogate: choice("clip", Object.keys(SURROGATES)),
    rho: number(0.9, 0.02, MOST, 0.01),
    A: number(1, -2, 2, 0.1),
    ...NUMBERS,
  },
  render(s, { width }) {
    const chosen = SURROGATES[s.surrogate];
    const [here] = at(s, [s.rho]);
    const clipped = Math.max(1 - s.epsilon, Math.min(1 + s.epsilon_high, s.rho));
    return html`
      ${predict(
        s.guess,
        "A good token (A = +1) has become more likely: ρ = 1.35, with PPO's clip at ε = 0.2. What is its gradient?",
        ["0: it is clipped", "−1.20: that of the clipped ratio", "−1.35: the whole one"],
        0,
        "The loss is −min(1.35, 1.20) = −1.20, a constant: no gradient flows. With A = −1 the minimum would be the plain −1.35, and the whole gradient stays: the clip never forbids to undo harm.",
        SCENE,
      )}
      ${stage(
        draw(s, here, room(width)),
        html`
          ${options(
            "surrogate",
            s.surrogate,
            "Surrogate",
            Object.entries(SURROGATES).map(([k, v]) => [k, v.label]),
          )}
          ${slider("rho", { min: 0.02, max: MOST, step: 0.01 }, s.rho, html`ratio ${rho}`, { said: spoken(here) })}
          ${slider("A", { min: -2, max: 2, step: 0.1 }, s.A, html`advantage ${A}`, { digits: 1 })}
          ${chosen.takes.map((k) => slider(k, NUMBERS[k], s[k], NAMES[k]))}
          ${note(chosen.about(s, { ...here, clipped }))}`,
      )}
      ${equation(
        chosen.tag,
        html`${chosen.equation(s, { ...here, clipped })}${s.surrogate !== "dppo" && s.surrogate !== "vespo" && html` = ${num(here.loss, "orange")}`}`,
        html`−∂${L}/∂log π = ${num(here.push, "blue")} <small>${
          here.push > 0 ? "the token is raised" : here.push < 0 ? "the token is lowered" : "the token gets no push"
        }</small>`,
      )}
      ${code(...chosen.code)}`;
  },
};

const spoken = ({ rho, loss, push }) => `ratio ${show(rho)}, loss ${show(loss)}, push ${show(push)}`;

function draw(s, here, width) {
  const ratios = Array.from({ length: 321 }, (_, i) => Math.max((i / 320) * MOST, 0.002));
  const points = at(s, ratios);
  const plain = at({ ...s, surrogate: "importance" }, ratios);
  const most = 4.2 * Math.max(Math.abs(s.A), 0.25);
  const range = (ys) => {
    const [low, high] = [Math.max(Math.min(...ys, 0), -most), Math.min(Math.max(...ys, 0), most)];
    const pad = Math.max(high - low, 0.5) * 0.1;
    return [low - pad, high + pad];
  };
  const height = Math.min(250, Math.max(190, width * 0.42));
  const panel = (name, key, colour, ylabel) => {
    const ys = points.map((p) => p[key]);
    const plainly = plain.map((p) => p[key]).filter((_, i) => ratios[i] <= 2);
    const y = range([
      ...ys,
      ...(["pg", "cispo", "cispo_interval", "vespo", "dppo"].includes(s.surrogate) && key === "loss" ? [] : plainly),
    ]);
    const f = frame({ width, height, x: [0, MOST], y, top: 26 });
    const step = [0.25, 0.5, 1, 2, 4].find((d) => (y[1] - y[0]) / d <= 6) ?? 8;
    const ticks = Array.from({ length: 41 }, (_, i) => (i - 20) * step).filter((v) => v >= y[0] && v <= y[1]);
    const bounded = chosenBand(s);
    const jump = (y[1] - y[0]) / 8;
    return html`<g class="${colour}">${axes(f, { xticks: [0, 1, 2, 3, 4], yticks: ticks, xlabel: "ρ", ylabel, digits: step < 0.5 ? 2 : 1 })}
      ${
        bounded &&
        html`<g class="grey">${inside(
          f,
          html`<rect class="band" x="${f.X(bounded[0])}" y="${f.top}"
        width="${f.X(bounded[1]) - f.X(bounded[0])}" height="${f.bottom - f.top}"/>`,
        )}</g>`
      }
      <line class="guide" x1="${f.X(1)}" x2="${f.X(1)}" y1="${f.top}" y2="${f.bottom}"/>
      ${inside(
        f,
        path(
          f,
          ratios.map((r, i) => [r, plain[i][key]]),
          "ghost",
        ),
        path(
          f,
          ratios.map((r, i) => [r, ys[i]]),
          "curve",
          jump,
        ),
      )}
      ${point(f, key, colour)}</g>`;
  };
  const point = (f, key, colour) => {
    const y = Math.max(f.y[0], Math.min(f.y[1], here[key]));
    const [x0, y0] = [f.X(s.rho), f.Y(y)];
    const left = x0 > f.right - 90;
    return html`<line class="guide" x1="${x0}" x2="${x0}" y1="${f.top}" y2="${f.bottom}"/>
      <text class="label paint" x="${x0 + (left ? -16 : 16)}" y="${Math.max(y0 - 12, f.top + 12)}"
        text-anchor="${left ? "end" : "start"}">${show(here[key])}</text>
      ${handle(f, "rho", { along: "x", min: 0.02, max: MOST, step: 0.01, value: s.rho, x: x0, y: y0, label: "ratio", said: spoken(here), colour })}`;
  };
  return picture(
    width,
    2 * height + 8,
    "Loss and push against the ratio",
    panel("loss", "loss", "orange", "loss L"),
    html`<g transform="translate(0 ${height + 8})">${panel("push", "push", "blue", "push on log π: −∂L/∂log π")}</g>`,
  );
}

/** Where the surrogate leaves the ratio alone, if it has such a range. */
function chosenBand(s) {
  if (["clip", "dual", "gspo", "cispo_interval"].includes(s.surrogate)) return [1 - s.epsilon, 1 + s.epsilon_high];
  if (s.surrogate === "gmpo") return [Math.exp(-s.epsilon_nats), Math.exp(s.epsilon_nats)];
  if (s.surrogate === "cispo") return [0, s.cap];
  if (s.surrogate === "dppo") return [Math.max(0, 1 - s.epsilon / s.p_old), Math.min(MOST, 1 + s.epsilon / s.p_old)];
  return null;
}
