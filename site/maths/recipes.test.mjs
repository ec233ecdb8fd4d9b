// Every policy row of the table, on batches of every kind: the push on each token is the one that torchstone gives.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { differences, spelled } from "../explorers/compare.mjs";
import { filled, lacking, update } from "./recipes.mjs";

const read = (name) => JSON.parse(readFileSync(new URL(`../../build/${name}.json`, import.meta.url), "utf8"));
const table = filled(read("recipes")); // python site/table.py
const rows = table.filter((row) => lacking(row).length === 0);
const updates = read("updates"); // python site/table.py --updates

const largest = (push) => Math.max(...push.flat().map(Math.abs));
const distance = (a, b) => largest(a.map((row, i) => row.map((x, j) => x - b[i][j])));

for (const row of rows) {
  test(`${row.name} pushes each token as torchstone does`, () => {
    for (const { batch, push } of updates) {
      const right = push[row.name];
      assert.ok(distance(update(row, batch).push, right) <= 1e-12 * (largest(right) || 1));
    }
  });
}

test("the rows are torchstone's, those that are not here are few, and the batches tell rows apart", () => {
  const pushed = Object.keys(updates[0].push);
  assert.deepEqual(new Set(table.filter(({ lacks }) => lacks.length === 0).map(({ name }) => name)), new Set(pushed));
  const away = table.filter((row) => lacking(row).length > 0);
  console.log(
    `${rows.length} rows; not here: ${away.map((row) => `${row.name} (${lacking(row).join(", ")})`).join(", ")}`,
  );
  assert.ok(rows.length >= 105 && away.length <= table.length / 5, `${rows.length} rows, ${away.length} not here`);
  const grpo = rows.find(({ name }) => name === "grpo");
  const changes = {
    surrogate: ["clip", { epsilon: 0.1 }],
    advantage: ["group-mean", {}],
    reduction: ["token-mean", {}],
    loss_kl: ["k2", { beta: 0.04 }],
  };
  for (const [column, option] of Object.entries(changes)) {
    for (const { batch, push } of updates)
      assert.ok(distance(update({ ...grpo, [column]: option }, batch).push, push.grpo) > 1e-6, column);
  }
});

test("a row that is made of something else says what it lacks", () => {
  const grpo = rows.find(({ name }) => name === "grpo");
  assert.deepEqual(lacking(grpo), []);
  assert.deepEqual(lacking({ ...grpo, ratio: ["spiral", {}], twist: ["left", {}], lacks: ["right"] }), [
    "ratio spiral",
    "twist left",
    "right",
  ]);
});

test("what differs between two rows is what torchstone says", () => {
  const all = Object.fromEntries(spelled(read("table")).map((row) => [row.name, row])); // python site/table.py --all
  const pairs = read("compared"); // python site/table.py --compared
  for (const [a, b, right] of pairs) {
    const found = differences(all[a], all[b]).map(({ at, values, effects }) => [at, ...values, ...effects]);
    assert.deepEqual(found, right, `${a} and ${b}`);
  }
  assert.ok(pairs.length >= 150 && Object.keys(all).length >= 180);
});
