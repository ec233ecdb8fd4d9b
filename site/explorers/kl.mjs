// (b) Estimators of the KL over a small vocabulary: value, variance, and whose gradient each has on average.

import k1_line from 'code:torchstone/core/kl.py?return log_ratios(log_probs, ref_log_probs, mask, "ref_log_probs")';
import k2_line from "code:torchstone/core/kl.py?.square() / 2";
import k3_line from "code:torchstone/core/kl.py?return bounded_expm1(u) - u";
import exact_line from "code:torchstone/core/kl.py?return (p * (log_p - log_q)";
import jsd_line from "code:torchstone/distill/divergence.py?return beta * _kl(log_q, log_m)";
import { differentiate, mul, sg, sum } from "../maths/autodiff.mjs";
import { kl_exact, kl_k1, kl_k2, kl_k3, log_softmax } from "../maths/core.mjs";
import { jsd_exact } from "../maths/distill.mjs";
import { kl_k3_with_k2_gradient } from "../maths/grpo.mjs";
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
  options,
  par,
  picture,
  predict,
  room,
  show,
  slider,
  stage,
  sym,
} from "./kit.mjs";

const WORDS = ["yes", "no", "so", "if", "the", "."];
const P = [0.35, 0.25, 0.16, 0.12, 0.08, 0.04];
const Q = [0.1, 0.18, 0.3, 0.12, 0.1, 0.2];
const normal = (w) => w.map((x) => x / w.reduce((a, b) => a + b, 0));
const logs = (w) => normal(w).map(Math.log);

/** A measure of two distributions by their logits, its value and its gradient by the policy's logits. */
const measured = (f, logits, ref_logits) => {
  const { value, gradients } = differentiate((b) => f(b.logits, ref_logits), { logits }, ["logits"]);
  return { mean: value, gradient: gradients.logits };
};
/** The average over y ~ pi of an estimator, as a loss: the samples are drawn, so their probabilities are constants. */
const averaged = (estimator) => (logits, ref) => {
  const log_probs = [log_softmax(logits, 1)];
  const each = estimator({ log_probs, ref_log_probs: [log_softmax(ref, 1)], mask: [logits.map(() => true)] })[0];
  return sum(each.map((x, v) => mul(Math.exp(sg(log_probs[0][v])), x)));
};
const exact = (logits, ref) => kl_exact({ logits: [[logits]], ref_logits: [[ref]], temperature: 1 })[0][0];
const backward = (logits, ref) =>
  jsd_exact({ logits: [[logits]], teacher_logits: [[ref]], beta: 0, temperature: 1 })[0][0];

const u_ = sym("u");
const ESTIMATORS = {
  k1: {
    run: kl_k1,
    tag: "KL.1",
    line: k1_line,
    equation: (u) => html`−${u_} = ${num(-u)}`,
    slope: "1",
    why: "the same for every token, so on average 0",
  },
  k2: {
    run: kl_k2,
    tag: "KL.2",
    line: k2_line,
    equation: (u) => html`${u_}² / 2 = ${num((u * u) / 2)}`,
    slope: html`−${u_}`,
    why: "each token is charged its log-ratio: on average the policy gradient of KL(π ‖ ref)",
  },
  k3: {
    run: kl_k3,
    tag: "KL.3",
    line: k3_line,
    equation: (u) => html`e<sup>${u_}</sup> − 1 − ${u_} = ${num(Math.expm1(u) - u)}`,
    slope: html`1 − e<sup>${u_}</sup>`,
    why: html`the 1 averages to 0, and e<sup>${u_}</sup> = π ref / π makes the mean over π one over ref: on average ∇KL(ref ‖ π)`,
  },
};

const cosine = (a, b) => {
  const dot = (x, y) => x.reduce((total, v, i) => total + v * y[i], 0);
  const size = Math.sqrt(dot(a, a) * dot(b, b));
  return size < 1e-12 ? NaN : dot(a, b) / size;
};

export default {
  name: "kl",
  title: "Estimates of the KL",
  lede: "How far is the policy from the reference? From one sampled token there are several answers: equal on average, or not; and as a loss, with another gradient each.",
  hue: "blue",
  state: {
    guess: guessed(3),
    p: numbers(P, 0.01, 0.95, 0.01),
    q: numbers(Q, 0.01, 0.95, 0.01),
    which: choice("k3", Object.keys(ESTIMATORS)),
    token: choice(
      "0",
      WORDS.map((_, i) => String(i)),
    ),
    beta: number(0.5, 0, 1, 0.01),
  },
  /** A probability that is dragged takes its share from the others, in proportion. */
  adjust: (state, key, at, value) => {
    const w = normal(state[key]);
    const rest = 1 - w[at];
    const moved = w.map((x, i) => (i === at ? value : Math.max((x * (1 - value)) / rest, 0.01)));
    return { [key]: normal(moved).map((x) => Number(Math.min(Math.max(x, 0.01), 0.95).toFixed(4))) };
  },
  render(s, { width }) {
    const [logits, ref] = [logs(s.p), logs(s.q)];
    const p = normal(s.p);
    const forward = measured(exact, logits, ref);
    const other = measured(backward, logits, ref);
    const rows = [
      ...Object.entries(ESTIMATORS).map(([name, { run }]) => {
        const each = run({ log_probs: [logits], ref_log_probs: [ref], mask: [WORDS.map(() => true)] })[0];
        const found = measured(averaged(run), logits, ref);
        const deviation = Math.sqrt(each.reduce((total, x, v) => total + p[v] * (x - found.mean) ** 2, 0));
        return { name, deviation, ...found };
      }),
      { name: "k3, gradient of k2", ...measured(averaged(kl_k3_with_k2_gradient), logits, ref) },
      { name: "KL(π ‖ ref), exact", ...forward },
      { name: "KL(ref ‖ π), exact", ...other },
      {
        name: html`JSD at β = ${show(s.beta)}`,
        ...measured(
          (x, y) => jsd_exact({ logits: [[x]], teacher_logits: [[y]], beta: s.beta, temperature: 1 })[0][0],
          logits,
          ref,
        ),
      },
    ];
    const v = Number(s.token);
    const u = ref[v] - logits[v];
    const chosen = ESTIMATORS[s.which];
    const one = { log_probs: [[logits[v]]], ref_log_probs: [[ref[v]]], mask: [[true]] };
    const slope = differentiate(chosen.run, one, ["log_probs"]).gradients.log_probs[0][0];
    const row = rows.find(({ name }) => name === s.which);
    return html`
      ${predict(
        s.guess,
        "GRPO adds k3 to the loss. On average over the policy's own samples its value is KL(π ‖ ref). Whose gradient does it have, on average?",
        ["that of KL(π ‖ ref)", "that of KL(ref ‖ π), the other direction", "none: it averages to 0"],
        1,
        "On the logits it is π − π ref, the gradient of KL(ref ‖ π), to the last digit. k2, which estimates no KL, has the gradient of KL(π ‖ ref); and k1 as a loss has none at all.",
        { which: "k3" },
      )}
      ${stage(
        draw(s, room(width), p, normal(s.q), v),
        html`
        ${options(
          "which",
          s.which,
          "Estimator",
          Object.keys(ESTIMATORS).map((k) => [k, k]),
        )}
        ${options(
          "token",
          s.token,
          "The sampled token",
          WORDS.map((w, i) => [String(i), w]),
        )}
        ${slider("beta", { min: 0, max: 1, step: 0.01 }, s.beta, "β of the JSD: from KL(teacher ‖ π) to KL(π ‖ teacher)")}
        <div class="row">${button({ p: Q, q: Q }, "π is the reference")}${button({ p: [0.95, 0.01, 0.01, 0.01, 0.01, 0.01], q: [0.2, 0.2, 0.2, 0.2, 0.1, 0.1] }, "π is narrow")}
          ${button({ p: [0.3, 0.3, 0.3, 0.08, 0.01, 0.01], q: [0.01, 0.01, 0.3, 0.28, 0.2, 0.2] }, "far apart")}${button({ p: P, q: Q }, "as at first")}</div>
        ${note("Drag a bar: the others share what is left. In distillation the reference is the teacher.")}`,
      )}
      ${equation(
        chosen.tag,
        html`${sym("u")} = log π<sub>ref</sub> − log π = ${num(ref[v])} − ${par(logits[v])} = ${num(u)} <small>for “${WORDS[v]}”</small>`,
        html`${s.which} = ${chosen.equation(u)}`,
        html`∇${s.which} = ${chosen.slope === "1" ? "" : html`(${chosen.slope})`}∇log π = ${num(slope)} ∇log π <small>${chosen.why}</small>`,
        html`mean over ${sym("y")} ~ π: ${num(row.mean, "blue", 3)} <small>±</small> ${num(row.deviation, "", 3)}, &nbsp;KL(π ‖ ref) = ${num(forward.mean, "green", 3)}`,
      )}
      ${table(rows, forward, other, s)}
      ${code(chosen.line, exact_line, jsd_line)}`;
  },
};

function draw(s, width, p, q, v) {
  const height = Math.max(250, Math.min(330, width * 0.55));
  const most = Math.min(1, Math.max(0.5, ...p, ...q) + 0.05);
  const f = frame({
    width,
    height,
    x: [-0.5, WORDS.length - 0.5],
    y: [0, most],
    top: 28,
    bottom: 34,
    left: 42,
    right: 6,
  });
  const wide = Math.min(34, ((f.right - f.left) / WORDS.length) * 0.36);
  const ticks = most > 0.7 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.2, 0.4, 0.6];
  const half = wide / 2 / ((f.right - f.left) / WORDS.length) + 0.02;
  const one = (
    key,
    value,
    i,
    x,
    colour,
    whose,
  ) => html`<g class="${colour}">${bar(f, x, value, wide, i === v ? "fill" : "pale")}</g>
    ${handle(f, key, {
      at: i,
      along: "y",
      min: 0.01,
      max: 0.95,
      step: 0.01,
      value: Number(value.toFixed(4)),
      x: f.X(x),
      y: f.Y(value),
      reach: 15,
      colour,
      label: `probability of “${WORDS[i]}” under ${whose}`,
      said: `${show(value)} under ${whose}`,
    })}`;
  return picture(
    width,
    height,
    "The policy and the reference over six tokens",
    axes(f, { yticks: ticks.filter((t) => t <= most), digits: most > 0.7 ? 2 : 1 }),
    html`<text x="${f.left}" y="14"><tspan class="serif">probability under</tspan></text><g class="blue"><text class="paint" x="${f.left + 122}" y="14">π</text></g>
      <g class="orange"><text class="paint" x="${f.left + 140}" y="14">reference</text></g>`,
    WORDS.map(
      (
        word,
        i,
      ) => html`${one("p", p[i], i, i - half, "blue", "the policy")}${one("q", q[i], i, i + half, "orange", "the reference")}
      <text x="${f.X(i)}" y="${f.bottom + 20}" text-anchor="middle" class="serif">${word}</text>`,
    ),
  );
}

/** Each measure's gradient as six small bars, and how it points beside the two directions. */
function table(rows, forward, other, s) {
  const most = Math.max(1e-9, ...rows.flatMap(({ gradient }) => gradient.map(Math.abs)));
  const small = (gradient) => {
    const f = frame({ width: 132, height: 34, x: [-0.5, 5.5], y: [-most, most], left: 0, right: 0, top: 1, bottom: 1 });
    return html`<svg width="132" height="34" viewBox="0 0 132 34" role="img" aria-label="gradient ${gradient.map((x) => show(x)).join(", ")}">
      <line x1="0" x2="132" y1="17" y2="17" stroke="var(--line)"/>${gradient.map((g, i) => Math.abs(g) > 1e-9 && html`<g class="${g >= 0 ? "blue" : "orange"}">${bar(f, i, g, 14, "fill")}</g>`)}</svg>`;
  };
  const angle = (a, b) => {
    const c = cosine(a, b);
    return Number.isNaN(c) ? "–" : c > 1 - 1e-9 ? html`<b>the same</b>` : show(c, 2);
  };
  return html`<section><p class="kicker">Mean, deviation, and the expected gradient on the six logits: its cosine with that of either KL</p><div style="overflow-x:auto"><table>
    <thead><tr><th>as a loss term</th><th class="n">mean</th><th class="n">along ∇KL(π‖ref)</th><th class="n">along ∇KL(ref‖π)</th><th class="n">deviation</th><th>gradient</th></tr></thead>
    <tbody>${rows.map(
      ({ name, mean, deviation, gradient }) => html`<tr><td>${name === s.which ? html`<b>${name}</b>` : name}</td>
      <td class="n">${show(mean, 3)}</td><td class="n">${angle(gradient, forward.gradient)}</td><td class="n">${angle(gradient, other.gradient)}</td>
      <td class="n">${deviation === undefined ? "" : show(deviation, 3)}</td><td class="wide">${small(gradient)}</td></tr>`,
    )}</tbody></table></div></section>`;
}
