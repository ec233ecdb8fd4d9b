// (f) Losses on a pair of answers: the margin, the gradient, and which log-prob moves.

import margin_line from "code:torchstone/dpo/loss.py?h = chosen - rejected";
import dpo_line from "code:torchstone/dpo/loss.py?losses = -logsigmoid(h)";
import cdpo_line from "code:torchstone/dpo/loss.py?losses = (1 - label_smoothing) * losses";
import robust_line from "code:torchstone/dpo/variants.py?losses = -(1 - flip_rate) * logsigmoid(";
import ipo_line from "code:torchstone/dpo/variants.py?return Loss(mean_of_pairs(((r_w - r_l - 0.5)";
import hinge_line from "code:torchstone/dpo/variants.py?return Loss(mean_of_pairs(torch.relu(delta";
import simpo_line from "code:torchstone/dpo/variants.py#simpo_loss?return Loss(mean_of_pairs(-logsigmoid(r_w - r_l - gamma)";
import orpo_line from "code:torchstone/dpo/variants.py#orpo_loss?losses = -sft_coef * chosen";
import kto_line from "code:torchstone/dpo/variants.py?losses = torch.where(desirable, desirable_weight * missed";
import apo_zero_line from "code:torchstone/dpo/variants.py#apo_zero_loss?return Loss(";
import apo_down_line from "code:torchstone/dpo/variants.py#apo_down_loss?return Loss(";
import exo_line from "code:torchstone/dpo/variants.py#exo_loss?losses = torch.sigmoid(h)";
import exo_other_line from "code:torchstone/dpo/variants.py#exo_loss?losses = losses + ";
import nca_line from "code:torchstone/dpo/variants.py#nca_loss?losses = ";
import bco_line from "code:torchstone/dpo/variants.py#bco_loss?return Loss(";
import mpo_line from "code:torchstone/dpo/variants.py#mpo_loss?return Loss(";
import sppo_line from "code:torchstone/dpo/variants.py#sppo_loss?losses = ";
import discopop_line from "code:torchstone/dpo/variants.py#discopop_loss?losses = ";
import power_line from "code:torchstone/dpo/variants.py#power_reward?return x if ";
import js_line from "code:torchstone/dpo/variants.py?return lambda s: math.log(2)";
import f_dpo_line from "code:torchstone/dpo/variants.py#f_dpo_loss?return Loss(";
import alphapo_line from "code:torchstone/dpo/variants.py#alphapo_loss?return Loss(";
import dpop_line from "code:torchstone/dpo/variants.py#dpop_loss?charged = ";
import { differentiate } from "../maths/autodiff.mjs";
import * as dpo from "../maths/dpo.mjs";
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
const [r_w, r_l] = [sym("r", "w"), sym("r", "l")];
const log_sigma = (x) => html`−log σ(${x})`;
const beside = (run) => (batch) => run({ ...batch, ref_chosen_log_probs: [0], ref_rejected_log_probs: [0] });

/** h of two log-ratios, or of two mean log-probs; and the two rewards. */
const margin = (s, v) =>
  html`${h} = β(log-ratio chosen − rejected) = ${num(s.beta)} · (${num(v.chosen, "green")} − ${par(v.rejected, "bad")}) = ${num(v.h)}`;
const rewards = (s, v) =>
  html`${r_w} = β · chosen log-ratio = ${num(v.r_w, "green")}, &nbsp;${r_l} = β · rejected = ${num(v.r_l, "bad")}`;
const per_token = (s, v) =>
  html`${h} = β(log π per token, chosen − rejected) = ${num(s.beta_mean)} · (${num(v.chosen, "green")} − ${par(v.rejected, "bad")}) = ${num(s.beta_mean * (v.chosen - v.rejected))}`;
const g = (alpha, x) => dpo.power_reward({ x, alpha });
const js = (x) => Math.log(2) - Math.log1p(Math.exp(-x));
const shaped = (beta, f) => (s, v) =>
  html`${h} = β(${sym("g")}(chosen) − ${sym("g")}(rejected)) = ${num(s[beta])} · (${num(f(s, v.chosen), "green")} − ${par(f(s, v.rejected), "bad")})
  = ${num(s[beta] * (f(s, v.chosen) - f(s, v.rejected)))}`;
const about_h = (f, beta) => (s, v) => s[beta] * (f(s, v.chosen) - f(s, v.rejected));
const stops_at = (share) => show(Math.log((1 - share) / share));

const OBJECTIVES = {
  dpo: {
    label: "DPO",
    tag: "DPO.3, DPO.4",
    takes: ["beta"],
    run: beside(dpo.dpo_loss),
    code: [margin_line, dpo_line],
    first: margin,
    equation: (s, v) => html`${L} = ${log_sigma(num(v.h))}`,
    about:
      "The push is β σ(−h): strong while the pair is the wrong way round, and never quite 0, however large the margin.",
  },
  cdpo: {
    label: "cDPO",
    tag: "DPO.4",
    takes: ["beta", "label_smoothing"],
    run: beside(dpo.dpo_loss),
    code: [margin_line, cdpo_line],
    first: margin,
    equation: (s, v) =>
      html`${L} = ${num(1 - s.label_smoothing)} · ${log_sigma(num(v.h))} + ${num(s.label_smoothing)} · ${log_sigma(num(-v.h))}`,
    about: (s) =>
      s.label_smoothing === 0
        ? "Without flipped labels it is DPO."
        : html`If a share of the labels is flipped, a margin can be too large: the push turns at h =
          ${stops_at(s.label_smoothing)}.`,
  },
  robust: {
    label: "robust DPO",
    tag: "DPO.8",
    takes: ["beta", "flip_rate"],
    run: beside(dpo.robust_dpo_loss),
    code: [robust_line],
    first: margin,
    equation: (s, v) =>
      html`${L} = (${num(1 - s.flip_rate)} · ${log_sigma(num(v.h))} − ${num(s.flip_rate)} · ${log_sigma(num(-v.h))}) / ${num(1 - 2 * s.flip_rate)}`,
    about: (s) =>
      html`The second term has the opposite sign of cDPO's. Over labels flipped at this rate it is DPO on the right
        ones, on average; no margin is enough: the push stays above βe/(1 − 2e) =
        ${show((s.beta * s.flip_rate) / (1 - 2 * s.flip_rate), 4)}.`,
  },
  ipo: {
    label: "IPO",
    tag: "DPO.7",
    takes: ["beta"],
    run: beside(dpo.ipo_loss),
    code: [ipo_line],
    first: margin,
    equation: (s, v) => html`${L} = (${h}/β − 1/(2β))² = (${num(v.h / s.beta)} − ${par(0.5 / s.beta)})²`,
    about: (s) =>
      html`A square: the log-ratio difference is pulled to 1/(2β) = ${show(0.5 / s.beta)} nats, from both sides.`,
  },
  hinge: {
    label: "hinge",
    tag: "DPO.9",
    takes: ["beta", "delta"],
    run: beside(dpo.hinge_loss),
    code: [hinge_line],
    first: margin,
    equation: (s, v) => html`${L} = max(0, ${num(s.delta)} − ${par(v.h)})`,
    about: "Below the margin δ all pairs are pushed alike, beyond it none.",
  },
  exo: {
    label: "EXO",
    tag: "DPO.20",
    takes: ["beta", "doubt"],
    run: beside(({ doubt, ...batch }) => dpo.exo_loss({ ...batch, label_smoothing: doubt })),
    code: [exo_line, exo_other_line],
    first: margin,
    equation: (s, v) =>
      html`${L} = KL((σ(${h}), σ(−${h})) ‖ (1 − e, e)) = KL((${num(sigma(v.h))}, ${num(sigma(-v.h))}) ‖ (${num(1 - s.doubt)}, ${num(s.doubt)}))`,
    about: (s) =>
      html`The KL of cDPO the other way round. It stops where cDPO does, at h = ${stops_at(s.doubt)}; but its push
        fades where a pair is far the wrong way round, too.`,
  },
  discopop: {
    label: "DiscoPOP",
    tag: "DPO.24",
    takes: ["beta", "tau"],
    run: beside(dpo.discopop_loss),
    code: [discopop_line],
    first: margin,
    equation: (s, v) => {
      const gate = sigma(v.h / s.tau);
      return html`${sym("g")} = σ(${h}/τ) = ${num(gate)}, &nbsp;${L} = ${num(1 - gate)} · ${log_sigma(num(v.h))} + ${num(gate)} · exp(${num(-v.h)})`;
    },
    about: (s) =>
      s.tau < (1 - Math.log(2)) / 3
        ? "Found by a search: logistic where the pair is wrong, exponential where it is right. With so small a τ the loss rises around h = 0: pairs that are just wrong are pushed back."
        : "Found by a search: logistic where the pair is wrong, exponential where it is right.",
  },
  f_dpo: {
    label: "f-DPO",
    tag: "DPO.35, DPO.36",
    takes: ["beta", "alpha"],
    run: beside((batch) => dpo.f_dpo_loss({ ...batch, divergence: "alpha" })),
    code: [power_line, f_dpo_line],
    first: shaped("beta", (s, x) => g(s.alpha, x)),
    margin: about_h((s, x) => g(s.alpha, x), "beta"),
    steep: true,
    equation: (s, v) =>
      html`${sym("g")}(${sym("x")}) = (1 − exp(−α${sym("x")}))/α, &nbsp;${L} = ${log_sigma(num(v.h))}`,
    about:
      "Another divergence holds the policy to the reference: α = 1 is the forward KL, near 0 it is DPO. The reward levels off above the reference and falls faster below it.",
  },
  f_dpo_js: {
    label: "f-DPO, Jensen-Shannon",
    tag: "DPO.36",
    takes: ["beta"],
    run: beside((batch) => dpo.f_dpo_loss({ ...batch, divergence: "js" })),
    code: [js_line, f_dpo_line],
    first: shaped("beta", (s, x) => js(x)),
    margin: about_h((s, x) => js(x), "beta"),
    equation: (s, v) =>
      html`${sym("g")}(${sym("x")}) = log 2 + log σ(${sym("x")}), &nbsp;${L} = ${log_sigma(num(v.h))}`,
    about:
      "No reward is above β log 2, so a chosen answer that is far above the reference gets no push. At the reference it has half of DPO's.",
  },
  dpop: {
    label: "DPOP",
    tag: "DPO.39",
    takes: ["beta", "penalty_coef"],
    run: beside(dpo.dpop_loss),
    code: [dpop_line],
    first: margin,
    equation: (s, v) =>
      html`${L} = −log σ(${h} − λ max(0, −${r_w})) = ${log_sigma(html`${num(v.h)} − ${num(s.penalty_coef)} · ${num(Math.max(0, -v.r_w))}`)}`,
    about: (s, v) =>
      v.chosen < 0
        ? "The chosen answer has fallen below the reference, and the comparison is charged for it: its push is 1 + λ times that of the rejected one."
        : "While the chosen answer is not below the reference it is DPO. Drag it below 0.",
  },
  apo_down: {
    label: "APO down",
    tag: "DPO.16",
    takes: ["beta"],
    run: beside(dpo.apo_down_loss),
    code: [apo_down_line],
    first: rewards,
    equation: (s, v) => html`${L} = σ(${num(v.r_w)}) + 1 − σ(${num(v.r_w)} − ${par(v.r_l)})`,
    about:
      "For pairs whose chosen answer is worse than the policy's own: both become less likely, the rejected one more so. At the reference the chosen one does not move.",
  },
  mpo: {
    label: "MPO",
    tag: "DPO.31",
    takes: ["beta", "preference_coef", "quality_coef", "reward_shift"],
    run: beside(dpo.mpo_loss),
    code: [mpo_line],
    first: rewards,
    equation: (s, v) =>
      html`${L} = ${num(s.preference_coef)} · ${log_sigma(num(v.h))} + ${num(s.quality_coef)} · (${log_sigma(num(v.r_w - s.reward_shift))} − log σ(${num(s.reward_shift - v.r_l)}))`,
    about: "DPO's comparison and BCO's two judgements of the same rewards. Its third term, supervised, is not drawn.",
  },
  bco: {
    label: "BCO",
    tag: "DPO.22",
    takes: ["beta", "reward_shift"],
    run: beside(dpo.bco_loss),
    code: [bco_line],
    first: rewards,
    equation: (s, v) => html`${L} = ${log_sigma(num(v.r_w - s.reward_shift))} − log σ(${num(s.reward_shift - v.r_l)})`,
    about:
      "Two judgements in place of a comparison: the chosen reward is to lie above the shift d, the rejected one below. Neither push depends on the other answer.",
  },
  nca: {
    label: "NCA",
    tag: "DPO.21",
    takes: ["beta"],
    run: beside(dpo.nca_loss),
    code: [nca_line],
    first: rewards,
    equation: (s, v) => html`${L} = ${log_sigma(num(v.r_w))} − ½ log σ(${num(-v.r_w)}) − ½ log σ(${num(-v.r_l)})`,
    about: (s) =>
      html`Each answer by itself: the chosen log-ratio is pulled to log 2 / β = ${show(Math.log(2) / s.beta)} nats, from
        both sides; the rejected one only falls.`,
  },
  apo_zero: {
    label: "APO zero",
    tag: "DPO.15",
    takes: ["beta"],
    run: beside(dpo.apo_zero_loss),
    code: [apo_zero_line],
    first: rewards,
    equation: (s, v) => html`${L} = 1 − σ(${num(v.r_w)}) + σ(${num(v.r_l)})`,
    about:
      "Each answer by itself: the chosen one is raised, the rejected one lowered, and either push fades as its answer leaves the reference, up or down.",
  },
  sppo: {
    label: "SPPO",
    tag: "DPO.23",
    takes: ["beta"],
    run: beside(dpo.sppo_loss),
    code: [sppo_line],
    first: rewards,
    equation: (s, v) => html`${L} = ((${num(v.r_w)} − ½) / β)² + ((${num(v.r_l)} + ½) / β)²`,
    about: (s) =>
      html`In its hard form each answer has a target of its own: ${show(0.5 / s.beta)} nats above the reference, and as
        many below it.`,
  },
  kto: {
    label: "KTO",
    tag: "DPO.14",
    takes: ["beta", "reference_point"],
    code: [kto_line],
    run: ({ chosen_log_probs, rejected_log_probs, beta, reference_point }) =>
      dpo.kto_loss({
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
  simpo: {
    label: "SimPO",
    tag: "DPO.10",
    takes: ["beta_mean", "gamma"],
    means: true,
    run: ({ beta_mean, ...batch }) => dpo.simpo_loss({ ...batch, beta: beta_mean }),
    code: [simpo_line],
    first: per_token,
    equation: (s, v) => html`${L} = ${log_sigma(html`${num(v.h)} − ${num(s.gamma)}`)}`,
    about: "No reference: the reward is the mean log-prob per token, and a margin γ is asked for.",
  },
  alphapo: {
    label: "AlphaPO",
    tag: "DPO.35, DPO.37",
    takes: ["beta_mean", "gamma", "power"],
    means: true,
    run: ({ beta_mean, power, ...batch }) => dpo.alphapo_loss({ ...batch, beta: beta_mean, alpha: power }),
    code: [power_line, alphapo_line],
    first: shaped("beta_mean", (s, x) => g(s.power, x)),
    margin: about_h((s, x) => g(s.power, x), "beta_mean"),
    steep: true,
    equation: (s, v) =>
      html`${sym("g")}(${sym("x")}) = (1 − exp(−α${sym("x")}))/α, &nbsp;${L} = ${log_sigma(html`${num(v.h)} − ${num(s.gamma)}`)}`,
    about:
      "SimPO's mean log-prob (α = 0) under a power. Above 0 the push grows where an answer is unlikely, the rejected one before all; below 0 it fades there.",
  },
  orpo: {
    label: "ORPO",
    tag: "DPO.11, DPO.12",
    takes: ["odds_coef"],
    means: true,
    run: (batch) => dpo.orpo_loss({ ...batch, sft_coef: 1 }),
    code: [orpo_line],
    first: (s, v) =>
      html`log odds(${sym("P")}) = log ${sym("P")} − log(1 − ${sym("P")}): ${num(odds(v.chosen), "green")}, ${num(odds(v.rejected), "bad")}`,
    steep: true,
    equation: (s, v) =>
      html`${L} = −${par(v.chosen)} + ${num(s.odds_coef)} · ${log_sigma(html`${num(odds(v.chosen))} − ${par(odds(v.rejected))}`)}`,
    about:
      "Supervised fine-tuning on the chosen answer, so its push is at least 1; beside it the odds of the two are compared. No reference.",
  },
};
const GROUPS = [
  ["Losses of a difference", ["dpo", "cdpo", "robust", "ipo", "hinge", "exo", "discopop", "f_dpo", "f_dpo_js"]],
  ["of each answer too", ["dpop", "apo_down", "mpo", "bco", "nca", "apo_zero", "sppo", "kto"]],
  ["per token, without a reference", ["simpo", "alphapo", "orpo"]],
];
const NOT_HERE =
  "Not here, since two log-probs are not enough: LD-DPO (the tokens beyond the shorter answer count less), WPO (weights from all tokens), AOT (sorts a batch), TR-DPO (moves the reference), XPO (which of the two the reference wrote), and the supervised terms that CPO, TPO, MPO and iterative RPO add.";
const NUMBERS = {
  beta: number(0.1, 0.02, 1, 0.01),
  beta_mean: number(2, 0.5, 10, 0.5),
  label_smoothing: number(0.1, 0, 0.5, 0.01),
  doubt: number(0.1, 0.01, 0.5, 0.01),
  flip_rate: number(0.1, 0, 0.45, 0.01),
  delta: number(1, 0, 3, 0.05),
  gamma: number(0.5, 0, 3, 0.05),
  tau: number(0.05, 0.01, 1, 0.01),
  alpha: number(0.5, 0.05, 1, 0.05),
  power: number(0.25, -1, 1, 0.05),
  penalty_coef: number(5, 0, 20, 0.5),
  odds_coef: number(0.1, 0.05, 1, 0.05),
  preference_coef: number(0.8, 0, 1, 0.05),
  quality_coef: number(0.2, 0, 1, 0.05),
  reward_shift: number(0, -2, 2, 0.05),
  reference_point: number(0, 0, 10, 0.5),
};
const NAMES = {
  beta: "β, strength of the reference",
  beta_mean: "β, reward of a nat per token",
  label_smoothing: "share of flipped labels",
  doubt: "e, the label's doubt",
  flip_rate: "e, share of flipped labels",
  delta: "margin δ",
  gamma: "margin γ",
  tau: "τ, how sharp the change is",
  alpha: "α, shape of the reward",
  power: "α, shape of the reward",
  penalty_coef: "λ, charge below the reference",
  odds_coef: "λ, weight of the odds",
  preference_coef: "weight of the comparison",
  quality_coef: "weight of the judgements",
  reward_shift: "shift d of the rewards",
  reference_point: "reference point z, in nats",
};
const sigma = (x) => 1 / (1 + Math.exp(-x));
const odds = (x) => x - Math.log(-Math.expm1(x));

/** The log-probs that stand at these places of the axis: log-ratios, or means per token from -4 to just below 0. */
const placed = (s, x) => (OBJECTIVES[s.objective].means ? Math.min((x - MOST) / 10, -0.05) : x);

/** Loss, margin and the two pushes (minus the gradient) of one pair. */
function at(s, x_chosen, x_rejected) {
  const { run, takes, means, margin: own } = OBJECTIVES[s.objective];
  const [chosen, rejected] = [placed(s, x_chosen), placed(s, x_rejected)];
  const batch = {
    chosen_log_probs: [chosen],
    rejected_log_probs: [rejected],
    ...Object.fromEntries(takes.map((k) => [k, s[k]])),
  };
  const { value, gradients } = differentiate(run, batch, ["chosen_log_probs", "rejected_log_probs"]);
  const pushes = ["chosen_log_probs", "rejected_log_probs"].map((k) => -gradients[k][0] + 0);
  const beta = means ? s.beta_mean : s.beta;
  const found = { chosen, rejected, r_w: beta * chosen, r_l: beta * rejected, loss: value, pushes };
  return { ...found, h: own ? own(s, found) : beta * (chosen - rejected) };
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
      <div class="panel controls across">${GROUPS.map(([legend, names]) =>
        options(
          "objective",
          s.objective,
          legend,
          names.map((k) => [k, OBJECTIVES[k].label]),
        ),
      )}</div>
      ${stage(
        draw(s, room(width), v),
        html`
        ${o.takes.map((k) => slider(k, NUMBERS[k], s[k], NAMES[k]))}
        <div class="row">${button({ chosen: 0, rejected: 0 }, o.means ? "alike" : "at the reference")}${button({ chosen: -4, rejected: 4 }, "the wrong way round")}
          ${button({ chosen: 15, rejected: -15 }, "far apart")}</div>
        ${note(typeof o.about === "function" ? o.about(s, v) : o.about)}`,
      )}
      ${equation(
        o.tag,
        o.first?.(s, v),
        html`${o.equation(s, v)} = ${num(v.loss, "purple")}`,
        html`push on log π${o.means && " per token"}: chosen ${num(v.pushes[0], "green", 4)} <small>${verb(v.pushes[0])}</small>, rejected ${num(v.pushes[1], "bad", 4)}
          <small>${verb(v.pushes[1])}</small>`,
      )}
      ${code(...o.code)}
      ${note(NOT_HERE)}`;
  },
};

function draw(s, width, v) {
  const { means, steep } = OBJECTIVES[s.objective];
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
  const scale = means ? { ...bars, Y: (x) => bars.Y(Math.min(x, 0) * 10 + MOST) } : bars; // of what the axis says
  const two = [
    ["chosen", v.chosen, "green"],
    ["rejected", v.rejected, "bad"],
  ];
  const arrow = (x, y, push, colour) => {
    const length = Math.max(-1, Math.min(1, push / most)) * 46;
    return (
      Math.abs(length) > 1.5 &&
      html`<g class="${colour}"><path d="M${x} ${y}v${(-length).toFixed(1)}m-5 ${length > 0 ? 6 : -6}l5 ${length > 0 ? -6 : 6}l5 ${length > 0 ? 6 : -6}"
      stroke="var(--c)" stroke-width="3"/></g>`
    );
  };
  const left = html`${axes(scale, { yticks: means ? [-4, -3, -2, -1, 0] : [-20, -10, 0, 10, 20], digits: 0, ylabel: means ? "log π per token, nats" : "log π / π ref, nats" })}
    ${two.map(
      ([key, value, colour], i) => html`<g class="${colour}">${bar(scale, i, value, 40, "pale")}</g>
      ${arrow(bars.X(i) + 32, scale.Y(value), v.pushes[i], colour)}
      <text x="${bars.X(i)}" y="${bars.bottom + 18}" text-anchor="middle">${key}</text>
      ${handle(bars, key, {
        along: "y",
        min: -MOST,
        max: MOST,
        step: 0.5,
        value: s[key],
        x: bars.X(i),
        y: scale.Y(value),
        label: `${means ? "log-prob per token" : "log-ratio"} of the ${key} answer`,
        said: `${show(value, means ? 2 : 1)} nats, push ${show(v.pushes[i], 4)}, loss ${show(v.loss)}`,
        colour,
      })}`,
    )}`;
  // The loss and the chosen answer's push, against the difference; the middle of the two stays where it is.
  const centre = (s.chosen + s.rejected) / 2;
  const unit = means ? 0.1 : 1;
  const points = Array.from({ length: 161 }, (_, i) => (i / 80 - 1) * MOST * 2)
    .filter((u) => !means || centre + Math.abs(u / 2) < MOST)
    .map((u) => ({ u: u * unit, ...at(s, centre + u / 2, centre - u / 2) }));
  const size = {
    width: narrow ? width : width - wide - 10,
    height: height / 2 + 14,
    x: [-2 * MOST * unit, 2 * MOST * unit],
    left: 48,
  };
  const curve = (key, name, colour, dy) => {
    const value = (p) => (key === "loss" ? p.loss : p.pushes[0]);
    const ys = points.map(value);
    const limit = Math.max(
      ...points.filter(({ u }) => u >= (key === "loss" || steep ? -16 : -40) * unit).map((p) => Math.abs(value(p))),
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
    const u = v.chosen - v.rejected;
    const y = f.Y(Math.max(f.y[0], Math.min(f.y[1], here)));
    return html`<g class="${colour}" transform="translate(0 ${dy})">${axes(f, { xticks: [-40, -20, 0, 20, 40].map((x) => x * unit), yticks: ticks, digits: step < 0.1 ? 2 : step < 1 ? 1 : 0, ylabel: name })}
      <line class="guide" x1="${f.X(0)}" x2="${f.X(0)}" y1="${f.top}" y2="${f.bottom}"/>
      ${inside(
        f,
        path(
          f,
          points.map((p) => [p.u, value(p)]),
          "curve",
        ),
      )}
      <circle cx="${f.X(u)}" cy="${y}" r="6" class="fill"/><text class="label paint" x="${f.X(u) + (u > 20 * unit ? -10 : 10)}" y="${Math.max(y - 8, f.top + 10)}"
        text-anchor="${u > 20 * unit ? "end" : "start"}">${show(here, key === "loss" ? 2 : 3)}</text></g>`;
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
