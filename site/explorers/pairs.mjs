// (f) Losses on a pair of answers: the margin, the gradient, and which log-prob moves.

import margin_line from "code:torchstone/dpo/loss.py?h = chosen - rejected";
import dpo_line from "code:torchstone/dpo/loss.py?losses = -logsigmoid(h)";
import cdpo_line from "code:torchstone/dpo/loss.py?losses = (1 - label_smoothing) * losses";
import ipo_line from "code:torchstone/dpo/variants.py?return Loss(mean_of_pairs(((r_w - r_l - 0.5)";
import hinge_line from "code:torchstone/dpo/variants.py?return Loss(mean_of_pairs(torch.relu(delta";
import simpo_line from "code:torchstone/dpo/variants.py#simpo_loss?return Loss(mean_of_pairs(-logsigmoid(r_w - r_l - gamma)";
import kto_line from "code:torchstone/dpo/variants.py?losses = torch.where(desirable, desirable_weight * missed";
import { differentiate } from "../maths/autodiff.mjs";
import { dpo_loss, hinge_loss, ipo_loss, kto_loss, simpo_loss } from "../maths/dpo.mjs";
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
  number,
  options,
  par,
  path,
  picture,
  predict,
  room,
  show,
  slider,
  stage,
  sym,
} from "./kit.mjs";

const MOST = 20; // nats
const h = sym("h");
const L = sym("L");
const pair = (run) => (batch, s) =>
  run({ ...batch, ...(s.objective === "simpo" ? {} : { ref_chosen_log_probs: [0], ref_rejected_log_probs: [0] }) });
const log_sigma = (x) => html`−log σ(${x})`;
const OBJECTIVES = {
  dpo: {
    label: "DPO",
    tag: "DPO.3, DPO.4",
    takes: ["beta"],
    run: pair(dpo_loss),
    code: [margin_line, dpo_line],
    equation: (s, v) => html`${L} = ${log_sigma(num(v.h))}`,
    about:
      "The push is β σ(−h): strong while the pair is the wrong way round, and never quite 0, however large the margin.",
  },
  cdpo: {
    label: "cDPO",
    tag: "DPO.4",
    takes: ["beta", "label_smoothing"],
    run: pair(dpo_loss),
    code: [margin_line, cdpo_line],
    equation: (s, v) =>
      html`${L} = ${num(1 - s.label_smoothing)} · ${log_sigma(num(v.h))} + ${num(s.label_smoothing)} · ${log_sigma(num(-v.h))}`,
    about: (s) =>
      s.label_smoothing === 0
        ? "Without flipped labels it is DPO."
        : html`If a share of the labels is flipped, a margin can be too large: the push turns at h =
          ${show(Math.log((1 - s.label_smoothing) / s.label_smoothing))}.`,
  },
  ipo: {
    label: "IPO",
    tag: "DPO.7",
    takes: ["beta"],
    run: pair(ipo_loss),
    code: [ipo_line],
    equation: (s, v) => html`${L} = (${h}/β − 1/(2β))² = (${num(v.h / s.beta)} − ${par(0.5 / s.beta)})²`,
    about: (s) =>
      html`A square: the log-ratio difference is pulled to 1/(2β) = ${show(0.5 / s.beta)} nats, from both sides.`,
  },
  hinge: {
    label: "hinge",
    tag: "DPO.9",
    takes: ["beta", "delta"],
    run: pair(hinge_loss),
    code: [hinge_line],
    equation: (s, v) => html`${L} = max(0, ${num(s.delta)} − ${par(v.h)})`,
    about: "Below the margin δ all pairs are pushed alike, beyond it none.",
  },
  simpo: {
    label: "SimPO",
    tag: "DPO.10",
    takes: ["beta", "gamma"],
    run: pair(simpo_loss),
    code: [simpo_line],
    equation: (s, v) => html`${L} = ${log_sigma(html`${num(v.h)} − ${num(s.gamma)}`)}`,
    about:
      "No reference: the bars are log-probs per token, from a common level, and a margin γ is asked for. (Its paper's β for means is 2 and more.)",
  },
  kto: {
    label: "KTO",
    tag: "DPO.14",
    takes: ["beta", "reference_point"],
    code: [kto_line],
    run: ({ chosen_log_probs, rejected_log_probs, beta, reference_point }) =>
      kto_loss({
        log_probs: [chosen_log_probs[0], rejected_log_probs[0]],
        ref_log_probs: [0, 0],
        desirable: [true, false],
        beta,
        reference_point,
        desirable_weight: 1,
        undesirable_weight: 1,
        denominator: 1,
      }),
    equation: (s) =>
      html`${L} = 1 − σ(β(${num(s.chosen)} − ${num(s.reference_point)})) + 1 − σ(−β(${num(s.rejected)} − ${num(s.reference_point)}))`,
    about:
      "No pair: one answer with a thumb up, one with a thumb down, each against the reference point z. The two pushes differ.",
  },
};
const NUMBERS = {
  beta: number(0.1, 0.02, 1, 0.01),
  label_smoothing: number(0.1, 0, 0.5, 0.01),
  delta: number(1, 0, 3, 0.05),
  gamma: number(0.5, 0, 3, 0.05),
  reference_point: number(0, 0, 10, 0.5),
};
const NAMES = {
  beta: "β, strength of the reference",
  label_smoothing: "share of flipped labels",
  delta: "margin δ",
  gamma: "margin γ",
  reference_point: "reference point z, in nats",
};

/** Loss, margin and the two pushes (minus the gradient) of one pair. */
function at(s, chosen, rejected) {
  const { run, takes } = OBJECTIVES[s.objective];
  const batch = {
    chosen_log_probs: [chosen],
    rejected_log_probs: [rejected],
    ...Object.fromEntries(takes.map((k) => [k, s[k]])),
  };
  const { value, gradients } = differentiate((b) => run(b, s), batch, ["chosen_log_probs", "rejected_log_probs"]);
  const pushes = ["chosen_log_probs", "rejected_log_probs"].map((k) => -gradients[k][0] + 0);
  return { h: s.beta * (chosen - rejected), loss: value, pushes };
}

export default {
  name: "pairs",
  title: "Pairs: margin and push",
  lede: "Of two answers people chose one. Each loss sees little more than how far apart the two are; what happens to the two log-probs is another matter.",
  hue: "purple",
  state: {
    guess: guessed(2),
    objective: choice("dpo", Object.keys(OBJECTIVES)),
    chosen: number(2, -MOST, MOST, 0.5),
    rejected: number(-3, -MOST, MOST, 0.5),
    ...NUMBERS,
  },
  render(s, { width }) {
    const v = at(s, s.chosen, s.rejected);
    const o = OBJECTIVES[s.objective];
    const verb = (push) => (Math.abs(push) < 5e-5 ? "stays" : push > 0 ? "is raised" : "is lowered");
    return html`
      ${predict(
        s.guess,
        "In training with DPO (β = 0.1) the chosen answer has become e⁵ times less likely, the rejected one e¹⁵ times less. Is the loss higher than at the start?",
        ["yes: the chosen answer is less likely", "no: it has fallen"],
        1,
        "It fell from 0.69 to 0.31. DPO sees the margin alone, 0.1 · (−5 + 15) = 1: both answers may lose, as long as the rejected one loses more. Watch logps/chosen beside the loss.",
        { objective: "dpo", beta: 0.1, chosen: -5, rejected: -15 },
      )}
      ${stage(
        draw(s, room(width), v),
        html`
        ${options(
          "objective",
          s.objective,
          "Loss",
          Object.entries(OBJECTIVES).map(([k, x]) => [k, x.label]),
        )}
        ${o.takes.map((k) => slider(k, NUMBERS[k], s[k], NAMES[k]))}
        <div class="row">${button({ chosen: 0, rejected: 0 }, "at the reference")}${button({ chosen: -4, rejected: 4 }, "the wrong way round")}
          ${button({ chosen: 15, rejected: -15 }, "far apart")}</div>
        ${note(typeof o.about === "function" ? o.about(s) : o.about)}`,
      )}
      ${equation(
        o.tag,
        s.objective !== "kto" &&
          html`${h} = β(${s.objective === "simpo" ? "log π" : "log-ratio"} chosen − rejected) = ${num(s.beta)} ·
          (${num(s.chosen, "green")} − ${par(s.rejected, "bad")}) = ${num(v.h)}`,
        html`${o.equation(s, v)} = ${num(v.loss, "purple")}`,
        html`push on log π: chosen ${num(v.pushes[0], "green", 4)} <small>${verb(v.pushes[0])}</small>, rejected ${num(v.pushes[1], "bad", 4)}
          <small>${verb(v.pushes[1])}</small>`,
      )}
      ${code(...o.code)}`;
  },
};

function draw(s, width, v) {
  const height = Math.max(230, Math.min(280, width * 0.46));
  const narrow = width < 480;
  const wide = narrow ? width : width * 0.36;
  const bars = frame({
    width: wide,
    height,
    x: [-0.6, 1.6],
    y: [-MOST, MOST],
    top: 30,
    bottom: 26,
    left: 44,
    right: 30,
  });
  const most = Math.max(
    ...[0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50, 200].filter(
      (x, i, all) => i === 0 || all[i - 1] < Math.max(...v.pushes.map(Math.abs)),
    ),
  );
  const two = [
    ["chosen", s.chosen, "green", "chosen"],
    ["rejected", s.rejected, "bad", "rejected"],
  ];
  const arrow = (x, y, push, colour) => {
    const length = (push / most) * 46;
    return (
      Math.abs(length) > 1.5 &&
      html`<g class="${colour}"><path d="M${x} ${y}v${(-length).toFixed(1)}m-5 ${length > 0 ? 6 : -6}l5 ${length > 0 ? -6 : 6}l5 ${length > 0 ? 6 : -6}"
      stroke="var(--c)" stroke-width="3"/></g>`
    );
  };
  const left = html`${axes(bars, { yticks: [-20, -10, 0, 10, 20], digits: 0, ylabel: s.objective === "simpo" ? "log π per token, nats" : "log π / π ref, nats" })}
    ${two.map(
      ([key, value, colour, label], i) => html`<g class="${colour}">${bar(bars, i, value, 40, "pale")}</g>
      ${arrow(bars.X(i) + 32, bars.Y(value), v.pushes[i], colour)}
      <text x="${bars.X(i)}" y="${bars.bottom + 18}" text-anchor="middle">${label}</text>
      ${handle(bars, key, {
        along: "y",
        min: -MOST,
        max: MOST,
        step: 0.5,
        value,
        x: bars.X(i),
        y: bars.Y(value),
        label: `log-ratio of the ${label} answer`,
        said: `${show(value, 1)} nats, push ${show(v.pushes[i], 4)}, loss ${show(v.loss)}`,
        colour,
      })}`,
    )}`;
  // The loss and the chosen answer's push, against the difference; the middle of the two stays where it is.
  const centre = (s.chosen + s.rejected) / 2;
  const points = Array.from({ length: 161 }, (_, i) => (i / 80 - 1) * MOST * 2).map((u) => ({
    u,
    ...at(s, centre + u / 2, centre - u / 2),
  }));
  const size = {
    width: narrow ? width : width - wide - 10,
    height: height / 2 + 14,
    x: [-2 * MOST, 2 * MOST],
    left: 48,
  };
  const curve = (key, name, colour, dy) => {
    const value = (p) => (key === "loss" ? p.loss : p.pushes[0]);
    const ys = points.map(value);
    const limit = Math.max(
      ...points.filter(({ u }) => u >= (key === "loss" ? -16 : -40)).map((p) => Math.abs(value(p))),
      1e-3,
    );
    const [low, high] = [Math.max(Math.min(0, ...ys), -limit), Math.min(Math.max(...ys), limit)];
    const f = frame({ ...size, y: [low - 0.12 * (high - low), high + 0.15 * (high - low)], top: 24, bottom: 22 });
    const step =
      [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find(
        (d) => (f.y[1] - f.y[0]) / d <= 4.5,
      ) ?? 5000;
    const ticks = Array.from({ length: 13 }, (_, i) => (i - 6) * step).filter((t) => t > f.y[0] && t < f.y[1]);
    const here = key === "loss" ? v.loss : v.pushes[0];
    const u = s.chosen - s.rejected;
    const y = f.Y(Math.max(f.y[0], Math.min(f.y[1], here)));
    return html`<g class="${colour}" transform="translate(0 ${dy})">${axes(f, { xticks: [-40, -20, 0, 20, 40], yticks: ticks, digits: step < 0.1 ? 2 : step < 1 ? 1 : 0, ylabel: name })}
      <line class="guide" x1="${f.X(0)}" x2="${f.X(0)}" y1="${f.top}" y2="${f.bottom}"/>
      ${inside(
        f,
        path(
          f,
          points.map((p) => [p.u, value(p)]),
          "curve",
        ),
      )}
      <circle cx="${f.X(u)}" cy="${y}" r="6" class="fill"/><text class="label paint" x="${f.X(u) + (u > 20 ? -10 : 10)}" y="${Math.max(y - 8, f.top + 10)}"
        text-anchor="${u > 20 ? "end" : "start"}">${show(here, key === "loss" ? 2 : 3)}</text></g>`;
  };
  const right = html`${curve("loss", "loss", "purple", 0)}${curve("push", "push on the chosen, by chosen − rejected (nats)", "green", height / 2 + 14)}`;
  return picture(
    width,
    narrow ? 2 * height + 40 : height + 28,
    "The two log-ratios with their pushes, and the loss against their difference",
    left,
    html`<g transform="translate(${narrow ? 0 : wide + 10} ${narrow ? height + 10 : 0})">${right}</g>`,
  );
}
