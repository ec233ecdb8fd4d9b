// The explorers' pages in a real Chromium, opened from the disk: what is shown is what the mathematics gives.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { batch } from "./explorers/batch_of.mjs";
import { differentiate } from "./maths/autodiff.mjs";
import { kl_exact, kl_k1, kl_k2, kl_k3, row_sums, sequence_mean, token_mean } from "./maths/core.mjs";
import * as dpo from "./maths/dpo.mjs";
import { group_advantages } from "./maths/grpo.mjs";
import { clipped_surrogate, gae } from "./maths/ppo.mjs";
import { filled, lacking, update } from "./maths/recipes.mjs";
import { leave_one_out_advantages } from "./maths/reinforce.mjs";

const PAGES = fileURLToPath(new URL("../build/site/explorers/", import.meta.url));
const NAMES = readdirSync(PAGES)
  .filter((name) => name.endsWith(".html") && !["index.html", "recipes.html"].includes(name))
  .map((name) => name.replace(".html", ""));
const address = (name, hash = "") => pathToFileURL(join(PAGES, `${name}.html`)).href + hash;
const DESK = { viewport: { width: 1200, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

let browser;
before(async () => (browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" })));
after(() => browser.close());

/** A page that is open, and closed at the end; what it says to the console fails the test. */
async function open(t, name, hash = "", settings = DESK) {
  const context = await browser.newContext(settings);
  t.after(() => context.close());
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(`${error}`));
  page.on("request", (request) => request.url().startsWith("file:") || said.push(`asks for ${request.url()}`));
  t.after(() => assert.deepEqual(said, []));
  await page.goto(address(name, hash));
  return page;
}

/** All that is drawn, in an order that does not depend on what was drawn before. */
const drawn = (page) =>
  page.locator("main").evaluate((main) => {
    const told = (node) =>
      node.nodeType !== 1
        ? (node.data ?? "").trim()
        : [
            node.nodeName,
            ...[...node.attributes].map((a) => `${a.name}=${a.value}`).sort(),
            "(",
            ...[...node.childNodes].map(told),
            ")",
          ].join(" ");
    return told(main);
  });
const settled = (page) =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const numeric = (text) => Number(text.replace("−", "-").replace("∞", "Infinity"));
const numbers = async (page, where) => (await page.locator(where).allTextContents()).map(numeric);
const about = (a, b, tolerance = 0.0051) =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} is shown, where ${b} is right`);

async function drag(page, handle, dx, dy) {
  const { x, y, width, height } = await handle.boundingBox();
  const [from, to] = [
    [x + width / 2, y + height / 2],
    [x + width / 2 + dx, y + height / 2 + dy],
  ];
  await page.mouse.move(...from);
  await page.mouse.down();
  await page.mouse.move((from[0] + to[0]) / 2, (from[1] + to[1]) / 2);
  await page.mouse.move(...to);
  await page.mouse.up();
  await settled(page);
}

// ------------------------------------------------------------------------------------------------------- of every page

test("every explorer is there", () =>
  assert.deepEqual(NAMES.sort(), ["batch", "gae", "groups", "kl", "pairs", "ratio", "reductions"]));

for (const name of NAMES) {
  test(`${name}: at most 80 kB, nothing from elsewhere, and its links lead somewhere`, () => {
    const text = readFileSync(join(PAGES, `${name}.html`), "utf8");
    assert.ok(Buffer.byteLength(text) <= 80_000, `${Buffer.byteLength(text)} bytes`);
    const markup = text.replace(/<script>.*?<\/script>/gs, "");
    assert.doesNotMatch(markup, /(src|href)="(https?:)?\/\//);
    const links = [...markup.matchAll(/<a [^>]*href="([^"#]+)(?:#(L\d+))?"/g)];
    assert.ok(
      links.some(([, , line]) => line),
      "a line of code is linked",
    );
    for (const [, link, line] of links) {
      const target = join(dirname(join(PAGES, name)), link);
      assert.ok(existsSync(target), link);
      if (line) assert.match(readFileSync(target, "utf8"), new RegExp(`id="${line}"`));
    }
  });

  for (const [kind, settings] of Object.entries({ desk: DESK, dark: { ...DESK, colorScheme: "dark" }, phone: PHONE })) {
    test(`${name}, ${kind}: opens from the disk, fits the screen, and says nothing to the console`, async (t) => {
      const page = await open(t, name, "", settings);
      await settled(page);
      assert.ok(
        (await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0,
        "wider than the screen",
      );
      assert.ok((await page.locator("main svg.picture").count()) > 0);
      assert.ok((await page.locator("main .equation b.num").count()) > 0);
      assert.doesNotMatch(await page.locator("main").innerText(), /undefined|NaN|not a number|\[object/);
    });
  }

  test(`${name}: without scripts a message and a still picture`, async (t) => {
    const page = await open(t, name, "", { ...DESK, javaScriptEnabled: false });
    assert.match(await page.locator("noscript").innerText(), /scripts are off/);
    assert.ok(await page.locator("main svg.picture").first().isVisible());
  });

  test(`${name}: the build's first picture is the one that the script draws`, async (t) => {
    const still = await (
      await open(t, name, "", { ...DESK, javaScriptEnabled: false })
    )
      .locator(".equation")
      .first()
      .innerText();
    assert.equal(await (await open(t, name)).locator(".equation").first().innerText(), still);
  });

  test(`${name}: nonsense in the address is as no address`, async (t) => {
    const plain = await drawn(await open(t, name));
    const keys = await (
      await open(t, name)
    )
      .locator("[data-key]")
      .evaluateAll((all) => all.map((one) => one.dataset.key));
    const nonsense = [...new Set(keys), "guess", "x"].map((key) => `${key}=%7Bnonsense,,1e999`).join("&");
    for (const hash of [`#${nonsense}`, "#&&==%E0%A4%A&", "#%00<script>"]) {
      assert.equal(await drawn(await open(t, name, hash)), plain);
    }
  });

  test(`${name}: a guess is answered, and the address holds it for another reader`, async (t) => {
    const page = await open(t, name);
    await page.locator(".answers button").nth(1).click();
    await page.locator(".because").waitFor();
    await page.waitForTimeout(300);
    const there = page.url().replace(/^[^#]*/, "");
    assert.match(there, /guess=1/);
    const other = await open(t, name, there);
    assert.equal(await drawn(other), await drawn(page));
  });

  test(`${name}: every control has a name and a value that is spoken, and the keyboard reaches and moves it`, async (t) => {
    const page = await open(t, name);
    const sliders = page.locator("[role=slider], input[type=range]");
    for (const one of await sliders.all()) {
      const [label, value] = await one.evaluate((x) => [
        x.getAttribute("aria-label") ?? x.closest("label").innerText,
        x.getAttribute("aria-valuetext"),
      ]);
      assert.ok(label.trim() && value.trim());
      await one.focus();
      assert.ok(await one.evaluate((x) => x === document.activeElement && x.matches(":focus-visible")));
      const was = await one.evaluate((x) => x.value ?? x.getAttribute("aria-valuenow"));
      for (const key of ["ArrowRight", "ArrowLeft", "ArrowLeft"]) {
        await page.keyboard.press(key);
        await settled(page);
        if ((await one.evaluate((x) => x.value ?? x.getAttribute("aria-valuenow"))) !== was) break;
      }
      assert.notEqual(await one.evaluate((x) => x.value ?? x.getAttribute("aria-valuenow")), was, label);
      assert.ok(await one.evaluate((x) => x === document.activeElement), "the focus stays");
    }
  });

  test(`${name}: a finger drags what a mouse drags`, async (t) => {
    const page = await open(t, name, "", PHONE);
    const handle = page.locator("[data-drag]").first();
    await handle.scrollIntoViewIfNeeded();
    const [along, , most] = (await handle.getAttribute("data-drag")).split(",");
    const was = await handle.getAttribute("aria-valuenow");
    const way = was === most ? -1 : 1;
    const { x, y, width, height } = await handle.boundingBox();
    const client = await page.context().newCDPSession(page);
    const at = (by) => [{ x: x + width / 2 + (along === "x" ? by : 0), y: y + height / 2 - (along === "y" ? by : 0) }];
    await client.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: at(0) });
    for (const by of [8 * way, 16 * way, 24 * way])
      await client.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: at(by) });
    await client.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await settled(page);
    assert.notEqual(await handle.getAttribute("aria-valuenow"), was);
  });
}

// -------------------------------------------------------------------------------- what is shown, against the mathematics

test("ratio: a dragged ratio's loss and push are the clipped surrogate's", async (t) => {
  const page = await open(t, "ratio");
  for (const [dx, A] of [
    [120, 1],
    [-60, -1],
    [200, 0.5],
  ]) {
    await page.locator("input[data-key=A]").fill(`${A}`);
    await drag(page, page.locator("[data-drag]").first(), dx, 0);
    const rho = Number(await page.locator("[data-drag]").first().getAttribute("aria-valuenow"));
    const batch = { log_probs: [[Math.log(rho)]], old_log_probs: [[0]], advantages: [A], mask: [[true]], epsilon: 0.2 };
    const { value, gradients } = differentiate(clipped_surrogate, batch, ["log_probs"]);
    about(await page.locator(".equation .orange").first().textContent().then(numeric), value[0][0]);
    about(await page.locator(".equation .blue").first().textContent().then(numeric), -gradients.log_probs[0][0]);
  }
});

test("ratio: each surrogate of the table draws its loss and its push, for both signs of A", async (t) => {
  const page = await open(t, "ratio");
  for (const surrogate of await page
    .locator("input[name=surrogate]")
    .evaluateAll((all) => all.map((one) => one.value))) {
    for (const A of [1, -1]) {
      const other = await open(t, "ratio", `#surrogate=${surrogate}&A=${A}&rho=1`);
      const push = (await numbers(other, ".equation .blue"))[0];
      about(push, A); // at ratio 1 all of them are the policy gradient
      assert.equal(await other.locator("path.curve").count(), 2);
    }
  }
});

/** The numbers that the handles of one kind stand at. */
const handles = (page, key) =>
  page
    .locator(`[data-drag][data-key=${key}]`)
    .evaluateAll((all) => all.map((one) => Number(one.getAttribute("aria-valuenow"))));
const nth = (page, key, at) => page.locator(`[data-drag][data-key=${key}][data-at="${at}"]`);
const all_about = (got, want, tolerance) => {
  assert.equal(got.length, want.length);
  got.forEach((x, i) => about(x, want[i], tolerance));
};

test("kl: dragged probabilities sum to 1, and each estimator's mean is that over the vocabulary", async (t) => {
  const page = await open(t, "kl");
  for (const [key, at, dy] of [
    ["p", 0, 40],
    ["q", 5, -60],
    ["p", 3, -90],
  ]) {
    await drag(page, nth(page, key, at), 0, dy);
    const [p, q] = [await handles(page, "p"), await handles(page, "q")];
    for (const w of [p, q])
      about(
        w.reduce((a, b) => a + b, 0),
        1,
        1e-3,
      );
    const [log_p, log_q] = [p.map(Math.log), q.map(Math.log)];
    const means = [kl_k1, kl_k2, kl_k3].map((k) =>
      k({ log_probs: [log_p], ref_log_probs: [log_q], mask: [p.map(() => true)] })[0].reduce(
        (total, x, v) => total + p[v] * x,
        0,
      ),
    );
    const exact = kl_exact({ logits: [[log_p]], ref_logits: [[log_q]], temperature: 1 })[0][0];
    const shown = await numbers(page, "tbody tr td:nth-child(2)");
    all_about(shown.slice(0, 5), [...means, means[2], exact], 2e-3);
  }
  const told = await page
    .locator("tbody tr")
    .evaluateAll((all) => all.map((row) => [...row.cells].slice(2, 4).map((cell) => cell.innerText)));
  assert.deepEqual(told[0], ["–", "–"]); // k1 as a loss has no gradient
  assert.deepEqual([told[1][0], told[2][1], told[3][0]], ["the same", "the same", "the same"]);
  assert.notEqual(told[2][0], "the same");
});

test("gae: dragged values and rewards, a gap, and the numbers of gae", async (t) => {
  const page = await open(t, "gae", "#mask=1,1,1,0,0,1,1,1&lam=0.9&gamma=0.95&t=1");
  await drag(page, nth(page, "values", 2), 0, 50);
  await drag(page, nth(page, "rewards", 5), 0, -30);
  const mask = [true, true, true, false, false, true, true, true];
  const [rewards, values] = [await handles(page, "rewards"), await handles(page, "values")];
  const right = gae({ rewards: [rewards], values: [values], mask: [mask], gamma: 0.95, lam: 0.9 });
  all_about(
    await numbers(page, "svg.picture text.label"),
    right.advantages[0].filter((_, i) => mask[i]),
  );
  about((await numbers(page, ".equation .orange"))[0], right.advantages[0][1]);
  about((await numbers(page, ".equation .blue"))[0], right.deltas[0][1]);
});

test("groups: dragged and pressed rewards, an unscored answer, a tie", async (t) => {
  const page = await open(t, "groups");
  const labels = () => numbers(page, "svg.picture text.label:not(.small)");
  const scored = Array(8).fill(true);
  const right = async () =>
    group_advantages({
      rewards: [await handles(page, "r")],
      scored: [scored],
      divide_by_std: true,
      correction: 1,
      eps: 1e-4,
    })[0];
  await drag(page, nth(page, "r", 2), 0, -70);
  all_about(await labels(), await right());
  await page.getByRole("button", { name: "sample 2: reward 0" }).click();
  await page.getByRole("button", { name: "sample 5 is scored" }).press("Enter");
  await settled(page);
  scored[4] = false;
  all_about(await labels(), await right());
  await page.getByText("leave one out", { exact: true }).first().click();
  await settled(page);
  all_about(await labels(), leave_one_out_advantages({ rewards: [await handles(page, "r")], scored: [scored] })[0]);
  await page.getByRole("button", { name: "all right" }).click();
  await settled(page);
  assert.deepEqual(await labels(), Array(8).fill(0));
});

test("reductions: the weight of each row, as dragged, and what two micro-batches make of it", async (t) => {
  for (const [name, reduce] of Object.entries({ token_mean, sequence_mean })) {
    const page = await open(t, "reductions", `#reduce=${name}`);
    await drag(page, nth(page, "lengths", 2), 130, 0);
    const lengths = await handles(page, "lengths");
    assert.notEqual(lengths[2], 6);
    const weigh = (ns) => {
      const mask = ns.map((n) => Array.from({ length: 12 }, (_, i) => i < n));
      return row_sums(differentiate(reduce, { x: mask.map((row) => row.map(() => 1)), mask }, ["x"]).gradients.x, mask);
    };
    all_about(await numbers(page, ".equation .orange"), weigh(lengths), 6e-4);
    await page.getByText("two micro-batches").click();
    await settled(page);
    const halves = [lengths.slice(0, 2), lengths.slice(2)].flatMap((half) => weigh(half).map((w) => w / 2));
    all_about(await numbers(page, ".equation .orange"), halves, 6e-4);
  }
});

// Each loss of the page: its function, and what its controls say at first.
const [beta, means] = [{ beta: 0.1 }, { beta: 2, gamma: 0.5 }];
const PAIRS = {
  dpo: [dpo.dpo_loss, beta],
  cdpo: [dpo.dpo_loss, { ...beta, label_smoothing: 0.1 }],
  robust: [dpo.robust_dpo_loss, { ...beta, flip_rate: 0.1 }],
  ipo: [dpo.ipo_loss, beta],
  hinge: [dpo.hinge_loss, { ...beta, delta: 1 }],
  exo: [dpo.exo_loss, { ...beta, label_smoothing: 0.1 }],
  discopop: [dpo.discopop_loss, { ...beta, tau: 0.05 }],
  f_dpo: [dpo.f_dpo_loss, { ...beta, divergence: "alpha", alpha: 0.5 }],
  f_dpo_js: [dpo.f_dpo_loss, { ...beta, divergence: "js" }],
  dpop: [dpo.dpop_loss, { ...beta, penalty_coef: 5 }],
  apo_down: [dpo.apo_down_loss, beta],
  mpo: [dpo.mpo_loss, { ...beta, preference_coef: 0.8, quality_coef: 0.2, reward_shift: 0 }],
  bco: [dpo.bco_loss, { ...beta, reward_shift: 0 }],
  nca: [dpo.nca_loss, beta],
  apo_zero: [dpo.apo_zero_loss, beta],
  sppo: [dpo.sppo_loss, beta],
  kto: [
    ({ chosen_log_probs, rejected_log_probs, ...others }) =>
      dpo.kto_loss({
        log_probs: [...chosen_log_probs, ...rejected_log_probs],
        ref_log_probs: [0, 0],
        desirable: [true, false],
        denominator: 1,
        ...others,
      }),
    { ...beta, reference_point: 0, desirable_weight: 1, undesirable_weight: 1 },
  ],
  simpo: [dpo.simpo_loss, means],
  alphapo: [dpo.alphapo_loss, { ...means, alpha: 0.25 }],
  orpo: [dpo.orpo_loss, { odds_coef: 0.1, sft_coef: 1 }],
};
const PER_TOKEN = ["simpo", "alphapo", "orpo"]; // their axis is from -4 to 0, where it is from -20 to 20 elsewhere

test("pairs: every loss that the page offers is held here", async (t) => {
  const page = await open(t, "pairs");
  const offered = await page.locator("input[name=objective]").evaluateAll((all) => all.map((one) => one.value));
  assert.deepEqual(offered.sort(), Object.keys(PAIRS).sort());
});

for (const [name, [run, settings]] of Object.entries(PAIRS)) {
  test(`pairs: dragged log-probs under ${name}, their loss and both pushes`, async (t) => {
    const page = await open(t, "pairs", `#objective=${name}`);
    await drag(page, page.locator("[data-drag][data-key=chosen]"), 0, 60);
    await drag(page, page.locator("[data-drag][data-key=rejected]"), 0, -40);
    const [[chosen], [rejected]] = [await handles(page, "chosen"), await handles(page, "rejected")];
    assert.ok(chosen < 0 && rejected > 0);
    const [log_w, log_l] = [chosen, rejected].map((x) => (PER_TOKEN.includes(name) ? (x - 20) / 10 : x));
    const given = {
      chosen_log_probs: [log_w],
      rejected_log_probs: [log_l],
      ...(!PER_TOKEN.includes(name) && { ref_chosen_log_probs: [0], ref_rejected_log_probs: [0] }),
      ...settings,
    };
    const { value, gradients } = differentiate(run, given, ["chosen_log_probs", "rejected_log_probs"]);
    const pushes = await numbers(page, ".equation .line:last-child .num");
    about((await numbers(page, ".equation .purple"))[0], value);
    all_about(pushes, [-gradients.chosen_log_probs[0], -gradients.rejected_log_probs[0]], 6e-5);
    assert.equal(await page.locator("path.curve").count(), 2);
    assert.doesNotMatch(await page.locator("main").innerHTML(), /NaN|undefined|not a number/);
  });
}

test("batch: a changed batch, and the angle of every row of the table", async (t) => {
  const page = await open(t, "batch", "#rows=all&away=0.4&engine=0.3");
  await drag(page, nth(page, "ratios", 3), 0, -30);
  await drag(page, nth(page, "rewards", 1), 0, -50);
  await drag(page, nth(page, "lengths", 6), 0, 40);
  const state = { away: 0.4, engine: 0.3 };
  for (const key of ["rewards", "lengths", "ratios"]) state[key] = await handles(page, key);
  const table = filled(JSON.parse(readFileSync(new URL("../build/recipes.json", import.meta.url), "utf8")));
  const rows = table.filter((row) => lacking(row).length === 0);
  const pushes = Object.fromEntries(rows.map((row) => [row.name, update(row, batch(state)).push.flat()]));
  const dot = (a, b) => a.reduce((total, x, i) => total + x * b[i], 0);
  const angle = (a, b) => (Math.acos(Math.min(1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)))) * 180) / Math.PI;
  const shown = await page
    .locator("tbody tr")
    .evaluateAll((all) => all.map((row) => [row.cells[0].innerText, row.cells[1].innerText]));
  assert.equal(shown.length, rows.length);
  for (const [name, text] of shown) about(numeric(text.replace("°", "")), angle(pushes[name], pushes.grpo), 0.06);
  const angles = shown.map(([, text]) => numeric(text.replace("°", "")));
  assert.deepEqual(
    angles,
    [...angles].sort((a, b) => a - b),
  );
});

// What the answer to each question says, found in the picture that it leads to.
const ANSWERS = {
  ratio: [
    0,
    async (page) =>
      assert.deepEqual(
        [await numbers(page, ".equation .orange"), await numbers(page, ".equation .blue")],
        [[-1.2], [0]],
      ),
  ],
  kl: [
    1,
    async (page) => assert.equal(await page.locator("tbody tr:nth-child(3) td:nth-child(4)").innerText(), "the same"),
  ],
  gae: [1, async (page) => assert.deepEqual(await numbers(page, "svg.picture text.label"), [0, 0, 0, 0, 0, 0, 0, 0.5])],
  groups: [
    2,
    async (page) => {
      about((await numbers(page, ".equation .green"))[0], 2.47);
      await page.getByRole("button", { name: "4 of 8" }).click();
      await settled(page);
      about((await numbers(page, ".equation .green"))[0], 2.47 / 2.64);
    },
  ],
  reductions: [
    1,
    async (page) => {
      const said = await page
        .locator("[data-drag]")
        .evaluateAll((all) => all.map((one) => one.getAttribute("aria-valuetext")));
      const [short, long] = said.map((text) => Number(/weighs ([\d.]+)/.exec(text)[1]));
      about(short / long, 4, 0.02);
    },
  ],
  pairs: [1, async (page) => assert.deepEqual(await numbers(page, ".equation .purple"), [0.31])],
  batch: [
    2,
    async (page) => {
      const shown = Object.fromEntries(
        await page
          .locator("tbody tr")
          .evaluateAll((all) => all.map((row) => [row.cells[0].innerText, row.cells[1].innerText])),
      );
      for (const name of ["grpo", "dapo", "gspo", "cispo", "sapo"]) assert.equal(shown[name], "0.0°", name);
      assert.ok(numeric(shown.dr_grpo.replace("°", "")) > 1, shown.dr_grpo);
    },
  ],
};
for (const [name, [right, holds]] of Object.entries(ANSWERS)) {
  test(`${name}: the answer to its question is so in the picture`, async (t) => {
    const page = await open(t, name);
    await page.locator(".answers button").nth(right).click();
    await page.locator(".because strong").getByText("Yes.").waitFor();
    await settled(page);
    await holds(page);
    await page
      .locator(".answers button")
      .nth(right === 0 ? 1 : 0)
      .click();
    await page.locator(".because strong").getByText("No.").waitFor();
  });
}

test("recipes: filtered, sorted, compared, from the address too", async (t) => {
  const page = await open(t, "recipes");
  const names = async () => page.locator("main tbody tr td:first-child button").allTextContents();
  const table = JSON.parse(readFileSync(new URL("../build/table.json", import.meta.url), "utf8"));
  const published = table.rows.filter(({ kind, name }) => kind === "policy" && !name.includes("@"));
  assert.equal((await names()).length, published.length);
  await page.locator("input[type=search]").fill("clip token-mean");
  await settled(page);
  const found = await names();
  assert.ok(found.length > 2 && found.length < published.length && found.includes("ppo"), `${found}`);
  assert.ok(await page.locator("input[type=search]").evaluate((x) => x === document.activeElement), "the focus stays");
  await page.locator("thead").getByText("reduction", { exact: true }).click();
  await page.locator("select[data-key=b]").selectOption("intellect-2");
  await settled(page);
  assert.match(await page.locator(".compared").innerText(), /surrogate.dual_clip[\s\S]*none[\s\S]*4/);
  await page.locator("input[type=search]").fill("");
  await page.locator("thead").getByText("reduction ↑").click(); // no longer sorted by it
  await page.locator("select[data-key=by]").selectOption("reduction");
  await settled(page);
  const unlike = await names();
  assert.ok(unlike[0] === "grpo" && unlike.includes("dapo") && !unlike.includes("gspo"), `${unlike}`);
  assert.match(await page.locator("main").innerText(), /None of these rows differs from grpo in reduction alone/);
  const counts = [];
  for (const name of unlike.slice(1, 6)) {
    await page.locator("select[data-key=b]").selectOption(name);
    await settled(page);
    const told = (await page.locator(".compared tbody td:first-child").allTextContents()).map((at) => at.split(".")[0]);
    assert.ok(told.includes("reduction"), `${name}: ${told}`);
    counts.push(new Set(told).size);
  }
  assert.deepEqual(
    counts,
    [...counts].sort((x, y) => x - y),
  );
  await page.waitForTimeout(300);
  const other = await open(t, "recipes", page.url().replace(/^[^#]*/, ""));
  assert.equal(await drawn(other), await drawn(page));
  const hostile = await open(
    t,
    "recipes",
    `#q=${encodeURIComponent('"><img src=x onerror=alert(1)>')}&sort=${encodeURIComponent("<b>")}&a=nobody&kind=dpo`,
  );
  assert.equal(await hostile.locator("main img").count(), 0);
  assert.match(await hostile.locator("main").innerText(), /No row has all of these words/);
});
