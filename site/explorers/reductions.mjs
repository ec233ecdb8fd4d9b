// (e) How a ragged batch becomes one number: what each token weighs.

import token_line from "code:torchstone/core/reduce.py?return _divide(x.sum(), mask.count_nonzero()";
import mean_line from "code:torchstone/core/reduce.py?return _divide(means.sum(),";
import sum_line from "code:torchstone/core/reduce.py?return _divide(x.sum(), mask.sum(1).count_nonzero()";
import fixed_line from "code:torchstone/core/reduce.py?return sequence_sum(x, mask, denominator=denominator) / length";
import group_line from "code:torchstone/grpo/variants.py?return sequence_mean(x.reshape(groups, -1)";
import { differentiate } from "../maths/autodiff.mjs";
import {
  chunks,
  fixed_length_mean,
  group_token_mean,
  row_lengths,
  sequence_mean,
  sequence_sum,
  token_mean,
} from "../maths/core.mjs";
import {
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
  room,
  show,
  slider,
  stage,
} from "./kit.mjs";

const MOST = 12;
const total = (xs) => xs.reduce((a, b) => a + b, 0);
const rows = (n) => html`${num(n, "", 0)} rows`;
const REDUCTIONS = {
  sequence_mean: {
    label: "GRPO: mean of row means",
    tag: "CORE.6",
    code: [mean_line],
    run: sequence_mean,
    weight: (b, lengths, s) => html`1 / (${num(lengths[b], "", 0)} tokens · ${rows(s.n)})`,
    about:
      "Every completion weighs the same, so a token of a long one weighs less: long wrong answers are punished less.",
  },
  token_mean: {
    label: "token mean",
    tag: "CORE.5",
    code: [token_line],
    run: token_mean,
    weight: (b, lengths) => html`1 / (${num(total(lengths), "", 0)} tokens)`,
    about: "Every token of the batch weighs the same, so long completions weigh more. What most frameworks call DAPO.",
  },
  group_token_mean: {
    label: "DAPO: within groups",
    tag: "GRPO.17",
    code: [group_line],
    run: (batch) => group_token_mean({ ...batch, group_size: 2 }),
    weight: (b, lengths, s) =>
      html`1 / (${num(lengths[b - (b % 2)] + lengths[b - (b % 2) + 1], "", 0)} tokens of its group · ${num(s.groups, "", 0)} groups)`,
    about:
      "Every token weighs the same within its prompt's group, and every group the same: DAPO as its paper prints it.",
  },
  fixed_length_mean: {
    label: "Dr. GRPO: one length",
    tag: "CORE.8",
    code: [fixed_line, sum_line],
    run: (batch, s) => fixed_length_mean({ ...batch, length: s.length }),
    weight: (b, lengths, s) => html`1 / (${num(s.length, "", 0)} · ${rows(s.n)})`,
    about: "A constant length divides: every token weighs the same, in this batch and in the next one.",
  },
  sequence_sum: {
    label: "sum of each row",
    tag: "CORE.7",
    code: [sum_line],
    run: sequence_sum,
    weight: (b, lengths, s) => html`1 / (${rows(s.n)})`,
    about: "The completion's log-probability as a sum: the policy gradient as derived.",
  },
};

/** The weight of each token: the gradient of the reduced number by what is reduced. */
function weights(s, mask) {
  const { run } = REDUCTIONS[s.reduce];
  const of = (part) =>
    differentiate((batch) => run(batch, s), { x: part.map((row) => row.map(() => 1)), mask: part }, ["x"]).gradients.x;
  const parts = s.split === "whole" ? [mask] : chunks(mask, 2);
  return parts.flatMap((part) => of(part).map((row) => row.map((w) => w / parts.length)));
}

export default {
  name: "reductions",
  title: "Whose tokens weigh what",
  lede: "A loss per token becomes one number. The divisor decides whose tokens count: of the short answers, or of the long ones.",
  hue: "blue",
  state: {
    guess: guessed(3),
    lengths: numbers([3, 12, 6, 8], 0, MOST, 1),
    reduce: choice("token_mean", Object.keys(REDUCTIONS)),
    length: number(12, 1, 24, 1),
    split: choice("whole", ["whole", "parts"]),
  },
  render(s, { width }) {
    const mask = s.lengths.map((n) => Array.from({ length: MOST }, (_, t) => t < n));
    const lengths = row_lengths(mask);
    const w = weights(s, mask);
    const right = weights({ ...s, split: "whole" }, mask);
    const chosen = REDUCTIONS[s.reduce];
    const b = Math.max(
      lengths.findIndex((n) => n > 0),
      0,
    );
    const counts = {
      ...s,
      n: lengths.filter((n) => n > 0).length,
      groups: chunks(lengths, 2).filter((pair) => total(pair) > 0).length,
    };
    const off = Math.max(...w.flat().map((x, i) => (right.flat()[i] ? Math.abs(x / right.flat()[i] - 1) : 0)));
    return html`
      ${predict(
        s.guess,
        "Two wrong answers, one of 3 tokens, one of 12. Under GRPO's reduction, a token of the long one is punished",
        ["as hard as one of the short", "4 times less", "4 times more"],
        1,
        "The mean is taken in each row first: 1/12 against 1/3. To be wrong at length is cheap, token for token, and answers grow. Dr. GRPO and the token means take that away.",
        { reduce: "sequence_mean", lengths: [3, 12, 6, 8], split: "whole" },
      )}
      ${stage(
        draw(s, room(width), mask, w),
        html`
        ${options(
          "reduce",
          s.reduce,
          "Reduction",
          Object.entries(REDUCTIONS).map(([k, v]) => [k, v.label]),
        )}
        ${s.reduce === "fixed_length_mean" && slider("length", { min: 1, max: 24, step: 1 }, s.length, "the constant length", { digits: 0 })}
        ${options("split", s.split, "The update sees", [
          ["whole", "the whole batch"],
          ["parts", "two micro-batches, each by its own count"],
        ])}
        ${
          s.split === "parts" &&
          note(html`<b>${off > 1e-9 ? html`Up to ${show(off * 100, 0)}% off.` : "No difference here."}</b>
          ${
            off > 1e-9
              ? "Each part divides by its own count, and the mean of means is another number: give every part the count of the whole batch (denominator=...)."
              : "Both parts have the same count: drag a row."
          }`)
        }
        ${note(chosen.about)}
        <div class="row">${button({ lengths: [6, 6, 6, 6] }, "all of one length")}${button({ lengths: [1, 12, 12, 12] }, "one short")}
          ${button({ lengths: [0, 12, 6, 8] }, "an empty row")}</div>`,
      )}
      ${equation(
        chosen.tag,
        html`a token of row ${b + 1} weighs ${s.split === "whole" ? chosen.weight(b, lengths, counts) : "1/2 of its weight in its part"} =
        ${num(w[b][0], "blue", 4)}`,
        html`the rows weigh ${w.map((row, i) => html`${i > 0 && ", "}${num(total(row), "orange", 3)}`)} <small>together ${show(total(w.flat()), 2)}</small>`,
      )}
      ${code(...chosen.code)}`;
  },
};

function draw(s, width, mask, w) {
  const side = (width - 92) / MOST;
  const band = Math.max(side, 34) + 16;
  const most = Math.max(...w.flat(), 1e-9);
  const height = 4 * band + 44;
  return picture(
    width,
    height,
    "Each token's weight as the area of its square; drag a row's end to change its length",
    [0, 1, 2, 3].map((b) => {
      const top = 26 + b * band + (b > 1 ? 14 : 0);
      const middle = top + (band - 16) / 2;
      const f = frame({
        width,
        height,
        x: [0, MOST],
        y: [0, 1],
        left: 30,
        right: width - 30 - MOST * side,
        top,
        bottom: height - top - band,
      });
      const n = s.lengths[b];
      return html`<text class="serif" x="0" y="${middle + 5}">y${"₁₂₃₄"[b]}</text>
        <g class="${b < 2 ? "blue" : "green"}">${mask[b].map((on, t) => {
          const size = Math.sqrt(w[b][t] / most) * (side - 3);
          const centre = f.X(t + 0.5);
          return html`<rect class="outline" opacity="0.25" x="${centre - side / 2 + 1.5}" y="${middle - side / 2 + 1.5}" width="${side - 3}" height="${side - 3}" rx="3"/>
            ${on && html`<rect class="fill" opacity="0.82" x="${(centre - size / 2).toFixed(1)}" y="${(middle - size / 2).toFixed(1)}" width="${size.toFixed(1)}" height="${size.toFixed(1)}" rx="3"/>`}
            ${on && side >= 36 && html`<text class="${size > 34 ? "on" : ""}" x="${centre}" y="${size > 34 ? middle + 4 : middle + side / 2 + 9}" text-anchor="middle" font-size="11">${show(w[b][t], 3).replace("0.", ".")}</text>`}`;
        })}</g>
        ${handle(f, "lengths", {
          at: b,
          along: "x",
          min: 0,
          max: MOST,
          step: 1,
          value: n,
          x: f.X(n),
          y: middle,
          label: `length of completion ${b + 1}`,
          said: `${n} tokens, each weighs ${show(w[b][0], 4)}, together ${show(total(w[b]), 3)}`,
          colour: b < 2 ? "blue" : "green",
        })}
        <g class="orange"><text class="label paint" x="${width}" y="${middle + 5}" text-anchor="end">${show(total(w[b]), 3)}</text></g>`;
    }),
    html`<text class="serif" x="30" y="14">two prompts, two completions each</text><text class="serif" x="${width}" y="14" text-anchor="end">row</text>`,
  );
}
