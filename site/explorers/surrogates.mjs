// The surrogates of explorer (a): each with its equation, the numbers it takes, and the line of code.

import clip_line from "code:torchstone/ppo/loss.py?losses = -minimum(";
import dual_line from "code:torchstone/ppo/loss.py?torch.minimum(losses, -dual_clip";
import importance_line from "code:torchstone/ppo/variants.py?return -ratios * per_token(";
import pg_line from "code:torchstone/reinforce/loss.py?return -per_token(";
import gspo_line from "code:torchstone/grpo/variants.py?sequence = (token.sum(1";
import cispo_line from "code:torchstone/grpo/variants.py?return ratios.clamp(low, high) *";
import sapo_line from "code:torchstone/grpo/variants.py?return -4 / tau *";
import gmpo_line from "code:torchstone/grpo/variants.py?return -bounded_exp(means)";
import vespo_line from "code:torchstone/grpo/variants.py?phi = bounded_exp(";
import dppo_line from "code:torchstone/grpo/variants.py?return keep * ratios";
import * as grpo from "../maths/grpo.mjs";
import { clipped_surrogate, importance_surrogate } from "../maths/ppo.mjs";
import { reinforce_surrogate } from "../maths/reinforce.mjs";
import { html, num, par, show, sym } from "./kit.mjs";

const rho = sym("ρ");
const A = sym("A");
const L = sym("L");
const word = (text) => html`<span class="rm">${text}</span>`;

// Each surrogate: its name, its tag, the numbers it takes, its function, its equation, the line of code.
export const SURROGATES = {
  clip: {
    label: "PPO clip",
    tag: "PPO.8",
    takes: ["epsilon", "epsilon_high"],
    run: clipped_surrogate,
    code: [clip_line],
    equation: (s, v) => html`${L} = −${word("min")}(${rho}${A}, ${word("clip")}(${rho}, ${num(1 - s.epsilon)},
      ${num(1 + s.epsilon_high)}) ${A}) = −${word("min")}(${num(s.rho * s.A)}, ${num(v.clipped * s.A)})`,
    about: (s, v) =>
      v.push === 0 && s.A !== 0
        ? "The clip has taken over: the loss is flat here, and the token gets no gradient."
        : "The plain term is the smaller one: the gradient is whole.",
  },
  dual: {
    label: "dual clip",
    tag: "PPO.8, PPO.9",
    takes: ["epsilon", "epsilon_high", "dual_clip"],
    run: clipped_surrogate,
    code: [clip_line, dual_line],
    equation: (s, v) => html`${L} = ${word("min")}(−${word("min")}(${num(s.rho * s.A)}, ${num(v.clipped * s.A)}),
      −${num(s.dual_clip)}${A}) <small>the outer bound where A &lt; 0</small>`,
    about: (s) =>
      s.A < 0 && s.rho > s.dual_clip
        ? "A bad token beyond the outer bound: PPO would push it down with the whole ratio, the dual clip not at all."
        : "As PPO's clip, until a bad token's ratio passes the outer bound.",
  },
  importance: {
    label: "no clip",
    tag: "PPO.12",
    takes: [],
    run: importance_surrogate,
    code: [importance_line],
    equation: (s) => html`${L} = −${rho}${A} = −${num(s.rho)} · ${par(s.A)}`,
    about: () => "Nothing holds the ratio: the more likely the token has become, the harder it is pushed.",
  },
  pg: {
    label: "REINFORCE",
    tag: "REINFORCE.3",
    takes: ["p_old"],
    run: reinforce_surrogate,
    code: [pg_line],
    equation: (s) => html`${L} = −${A} log π = −${par(s.A)} · ${par(Math.log(s.p_old * s.rho))}`,
    about: () => "No ratio: wherever the policy is, the push is A. The value means nothing, only its slope does.",
  },
  gspo: {
    label: "GSPO",
    tag: "GRPO.4 in PPO.8",
    takes: ["epsilon", "epsilon_high"],
    code: [gspo_line, clip_line],
    run: ({ log_probs, old_log_probs, mask, ...others }) =>
      clipped_surrogate({
        log_probs: grpo.sequence_log_ratios({ log_probs, old_log_probs, mask, token_gradient: false }),
        old_log_probs: mask.map((row) => row.map(() => 0)),
        mask,
        ...others,
      }),
    equation: (s, v) => html`${L} = −${word("min")}(${sym("s")}${A}, ${word("clip")}(${sym("s")}) ${A}) =
      −${word("min")}(${num(s.rho * s.A)}, ${num(v.clipped * s.A)}), ${sym("s")} the geometric mean of the
      completion's ratios`,
    about: () =>
      "For a completion of one token, as here, GSPO is PPO's clip. Its paper sets ε to 3e-4 and 4e-4: averaged over many tokens, a ratio hardly leaves 1.",
  },
  cispo: {
    label: "CISPO, a cap",
    tag: "GRPO.9",
    takes: ["cap", "p_old"],
    run: grpo.cispo_surrogate,
    code: [cispo_line],
    equation: (s) => html`${L} = −${word("sg")}[${word("min")}(${rho}, ${num(s.cap)})] ${A} log π =
      −${num(Math.min(s.rho, s.cap))} · ${par(s.A)} · ${par(Math.log(s.p_old * s.rho))}`,
    about: (s) =>
      s.rho > s.cap
        ? "The weight is bounded, and the token keeps a gradient: PPO would have none left for a good one."
        : "Below the cap the push is ρA, on either side of 1.",
  },
  cispo_interval: {
    label: "CISPO, two bounds",
    tag: "GRPO.8",
    takes: ["epsilon", "epsilon_high", "p_old"],
    run: grpo.cispo_surrogate,
    code: [cispo_line],
    equation: (s, v) => html`${L} = −${word("sg")}[${word("clip")}(${rho}, ${num(1 - s.epsilon)},
      ${num(1 + s.epsilon_high)})] ${A} log π = −${num(v.clipped)} · ${par(s.A)} · ${par(Math.log(s.p_old * s.rho))}`,
    about: (s, v) =>
      v.clipped === s.rho
        ? "Inside the two bounds the push is ρA."
        : v.clipped > s.rho
          ? "The lower bound holds the weight up: a token that has become rare is still pushed by more than ρA."
          : "The upper bound holds the weight down, and the token keeps a gradient.",
  },
  sapo: {
    label: "SAPO",
    tag: "GRPO.10",
    takes: ["tau"],
    run: grpo.sapo_surrogate,
    code: [sapo_line],
    equation: (s) => html`${L} = −(4/τ) σ(τ(${rho} − 1)) ${A}, &nbsp;τ = ${num(s.A > 0 ? s.tau : s.tau * 1.05)}`,
    about: () =>
      "A soft gate: the further from 1, the less gradient is left, and never none. (τ for bad tokens is 1.05 times that for good ones.)",
  },
  gmpo: {
    label: "GMPO",
    tag: "GRPO.11",
    takes: ["epsilon_nats"],
    run: grpo.gmpo_surrogate,
    code: [gmpo_line],
    equation: (
      s,
    ) => html`${L} = −exp(mean ${sym("c")}) ${A}, &nbsp;${sym("c")} = clip(log ${rho}) of ${num(Math.log(s.rho))}
      at ±${num(s.epsilon_nats)} nats`,
    about: (s) => html`The clip is in nats: ρ between ${show(Math.exp(-s.epsilon_nats))} and
      ${show(Math.exp(s.epsilon_nats))}. Of a longer completion it takes the geometric mean.`,
  },
  vespo: {
    label: "VESPO",
    tag: "GRPO.12",
    takes: ["p_old"],
    run: grpo.vespo_surrogate,
    code: [vespo_line],
    equation: (s) => {
      const [k, rate] = s.A >= 0 ? [2, 3] : [3, 2];
      return html`φ = ${rho}<sup>${k}</sup> exp(${rate}(1 − ${rho})) =
        ${num(s.rho ** k * Math.exp(rate * (1 - s.rho)))}, &nbsp;${L} = −${word("sg")}[φ] ${A} log π`;
    },
    about: () =>
      "A smooth weight of the whole completion's ratio, falling to 0 on both sides: a good token counts most at ρ = 2/3, a bad one at 3/2.",
  },
  dppo: {
    label: "DPPO",
    tag: "GRPO.13",
    takes: ["epsilon", "cap", "p_old"],
    run: grpo.dppo_surrogate,
    code: [dppo_line],
    equation: (s) => html`|${sym("p")} − ${sym("q")}| = |${num(s.p_old * s.rho)} − ${num(s.p_old)}| =
      ${num(s.p_old * Math.abs(s.rho - 1))} ${s.p_old * Math.abs(s.rho - 1) > s.epsilon ? "&gt;" : "≤"}
      ${sym("δ")} = ${num(s.epsilon)}`,
    about: () =>
      "The trust region is around the probability: a rare token may grow by any factor. Try a smaller probability.",
  },
};
