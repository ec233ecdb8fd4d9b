// The explorers' pages in a real Chromium, opened from the disk: what is shown is what the mathematics gives.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { differentiate } from "./maths/autodiff.mjs";
import { clipped_surrogate } from "./maths/ppo.mjs";

const PAGES = fileURLToPath(new URL("../build/site/explorers/", import.meta.url));
const NAMES = readdirSync(PAGES).filter((name) => name !== "index.html").map((name) => name.replace(".html", ""));
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

const settled = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
const numeric = (text) => Number(text.replace("−", "-").replace("∞", "Infinity"));
const numbers = async (page, where) => (await page.locator(where).allTextContents()).map(numeric);
const about = (a, b, tolerance = 0.0051) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is shown, where ${b} is right`);

async function drag(page, handle, dx, dy) {
  const { x, y, width, height } = await handle.boundingBox();
  const [from, to] = [[x + width / 2, y + height / 2], [x + width / 2 + dx, y + height / 2 + dy]];
  await page.mouse.move(...from);
  await page.mouse.down();
  await page.mouse.move((from[0] + to[0]) / 2, (from[1] + to[1]) / 2);
  await page.mouse.move(...to);
  await page.mouse.up();
  await settled(page);
}

// ------------------------------------------------------------------------------------------------------- of every page

test("every explorer is there", () => assert.deepEqual(NAMES.sort(), ["ratio"].sort()));

for (const name of NAMES) {
  test(`${name}: at most 80 kB, nothing from elsewhere, and its links lead somewhere`, () => {
    const text = readFileSync(join(PAGES, `${name}.html`), "utf8");
    assert.ok(Buffer.byteLength(text) <= 80_000, `${Buffer.byteLength(text)} bytes`);
    const markup = text.replace(/<script>.*<\/script>/s, "");
    assert.doesNotMatch(markup, /(src|href)="(https?:)?\/\//);
    const links = [...markup.matchAll(/<a [^>]*href="([^"#]+)(?:#(L\d+))?"/g)];
    assert.ok(links.some(([, , line]) => line), "a line of code is linked");
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
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, "wider than the screen");
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
    const still = await (await open(t, name, "", { ...DESK, javaScriptEnabled: false })).locator(".equation").first().innerText();
    assert.equal(await (await open(t, name)).locator(".equation").first().innerText(), still);
  });

  test(`${name}: nonsense in the address is as no address`, async (t) => {
    const plain = await (await open(t, name)).locator("main").innerHTML();
    const keys = await (await open(t, name)).locator("[data-key]").evaluateAll((all) => all.map((one) => one.dataset.key));
    const nonsense = [...new Set(keys), "guess", "x"].map((key) => `${key}=%7Bnonsense,,1e999`).join("&");
    for (const hash of [`#${nonsense}`, "#&&==%E0%A4%A&", "#%00<script>"]) {
      assert.equal(await (await open(t, name, hash)).locator("main").innerHTML(), plain);
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
    assert.equal(await other.locator("main").innerHTML(), await page.locator("main").innerHTML());
  });

  test(`${name}: every control has a name and a value that is spoken, and the keyboard reaches and moves it`, async (t) => {
    const page = await open(t, name);
    const sliders = page.locator("[role=slider], input[type=range]");
    for (const one of await sliders.all()) {
      const [label, value] = await one.evaluate((x) => [x.getAttribute("aria-label") ?? x.closest("label").innerText, x.getAttribute("aria-valuetext")]);
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
    const { along } = JSON.parse(await handle.getAttribute("data-drag"));
    const was = await handle.getAttribute("aria-valuenow");
    const { x, y, width, height } = await handle.boundingBox();
    const client = await page.context().newCDPSession(page);
    const at = (by) => [{ x: x + width / 2 + (along === "x" ? by : 0), y: y + height / 2 - (along === "y" ? by : 0) }];
    await client.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: at(0) });
    for (const by of [8, 16, 24]) await client.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: at(by) });
    await client.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await settled(page);
    assert.notEqual(await handle.getAttribute("aria-valuenow"), was);
  });
}

// -------------------------------------------------------------------------------- what is shown, against the mathematics

test("ratio: a dragged ratio's loss and push are the clipped surrogate's", async (t) => {
  const page = await open(t, "ratio");
  for (const [dx, A] of [[120, 1], [-60, -1], [200, 0.5]]) {
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
  for (const surrogate of await page.locator("input[name=surrogate]").evaluateAll((all) => all.map((one) => one.value))) {
    for (const A of [1, -1]) {
      const other = await open(t, "ratio", `#surrogate=${surrogate}&A=${A}&rho=1`);
      const push = (await numbers(other, ".equation .blue"))[0];
      about(push, A); // at ratio 1 all of them are the policy gradient
      assert.equal(await other.locator("path.curve").count(), 2);
    }
  }
});
