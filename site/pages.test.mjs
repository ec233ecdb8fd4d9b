// The whole site as it was built: every link leads somewhere, nothing comes from elsewhere, and pages read well.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join, relative } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const SITE = join(HERE, "../build/site");
const files = readdirSync(SITE, { recursive: true }).filter((name) => statSync(join(SITE, name)).isFile());
const pages = files.filter((name) => name.endsWith(".html"));
const text = new Map(
  pages.map((name) => [name, readFileSync(join(SITE, name), "utf8").replace(/<script\b.*?<\/script>/gs, "")]),
);
const anchors = new Map(
  [...text].map(([name, body]) => [name, new Set([...body.matchAll(/\b(?:id|name)="([^"]+)"/g)].map(([, id]) => id))]),
);
const unescaped = (href) => href.replaceAll("&amp;", "&").replaceAll("&quot;", '"');

/** The links of a page that lead nowhere. */
function dead(name, body) {
  return [...body.matchAll(/<(?:a|img|link|script|source)\b[^>]*?\b(?:href|src)="([^"]*)"/g)]
    .map(([, href]) => unescaped(href))
    .filter((href) => {
      if (/^(https?|mailto|data|javascript):/.test(href)) return false;
      const [path, anchor] = href.split("#").map(decodeURIComponent);
      const target = path === "" ? name : relative(SITE, join(SITE, dirname(name), path.split("?")[0]));
      if (href.startsWith("/") || target.startsWith("..") || !existsSync(join(SITE, target))) return true;
      if (anchor?.includes("=")) return false; // no place of a page: what an explorer is to show
      return Boolean(anchor) && anchors.has(target) && !anchors.get(target).has(anchor);
    });
}

test("every link of every page leads to a page and a place that are there", () => {
  const found = [...text].flatMap(([name, body]) => dead(name, body).map((href) => `${name}: ${href}`));
  assert.deepEqual(found, []);
  assert.ok(pages.length > 500, `${pages.length} pages`);
});

test("a dead link is seen", () => {
  const name = "index.html";
  for (const href of ["nowhere.html", "docs/primer.html#nowhere", "/docs/primer.html", "../../outside.html"]) {
    assert.deepEqual(dead(name, `<a href="${href}">x</a>`), [href]);
  }
});

test("no page loads anything from elsewhere", () => {
  for (const [name, body] of text) {
    const loaded = [
      ...body.matchAll(/<(?:img|script|link|iframe|source)\b[^>]*\b(?:src|href)="((?:https?:)?\/\/[^"]*)"/g),
    ];
    assert.deepEqual(
      loaded.map(([, href]) => href),
      [],
      name,
    );
  }
  for (const name of files.filter((one) => one.endsWith(".css"))) {
    assert.doesNotMatch(readFileSync(join(SITE, name), "utf8"), /url\(["']?(https?:)?\/\//, name);
  }
});

test("every formula is rendered, and every equation of a family has its links", () => {
  let tagged = 0;
  for (const [name, body] of text) {
    if (/^(code|explorers)\//.test(name)) continue;
    assert.doesNotMatch(
      body.replace(/<annotation.*?<\/annotation>/gs, ""),
      /\\(frac|mathrm|tag|big)\b(?![^<]*<\/(code|pre|span)>)/,
      name,
    );
    tagged += [...body.matchAll(/<div class="equation" id="eq-/g)].length;
  }
  assert.ok(tagged >= 89, `${tagged} equations`);
  const listed = [...text.get("equations.html").matchAll(/<tr id="eq-[^"]+"><td>([A-Z]+\.\d+)<\/td>/g)].length;
  assert.ok(listed >= 89, `${listed} listed`);
});

test("from an equation to its explorer, and back", () => {
  for (const [page, tag, explorer] of [
    ["torchstone/ppo/README", "PPO.8", "ratio"],
    ["torchstone/grpo/variants", "GRPO.9", "ratio"],
    ["torchstone/ppo/README", "PPO.4", "gae"],
    ["torchstone/core/README", "KL.3", "kl"],
    ["torchstone/dpo/README", "DPO.4", "pairs"],
  ]) {
    const body = text.get(`${page}.html`);
    const at = body.indexOf(`id="eq-${tag}"`);
    const links = body.slice(body.indexOf('class="of-equation"', at), body.indexOf("</div>", at));
    assert.ok(links.includes(`explorers/${explorer}.html`), tag);
  }
  for (const [explorer, tag] of Object.entries({
    ratio: "PPO.8",
    gae: "PPO.4",
    kl: "KL.3",
    pairs: "DPO.4",
    groups: "GRPO.2",
  })) {
    assert.match(
      text.get(`explorers/${explorer}.html`),
      new RegExp(`href="../equations\\.html#eq-${tag.replace(".", "\\.")}"`),
    );
  }
});

test("every package that a script imports has its page of the reference", () => {
  const root = join(HERE, "../torchstone");
  const packages = readdirSync(root).filter((name) => existsSync(join(root, name, "__init__.py")));
  const commands = ["learn", "trace"]; // what they do, the command line does
  for (const name of packages.filter((one) => !commands.includes(one))) {
    assert.match(text.get(`api/${name}.html`) ?? "", /class="to-code" href="\.\.\/code\/torchstone\//, name);
  }
});

test("a formula that does not parse is refused", () => {
  const asked = ["\\frac{1}{2}", "\\frac{1}{", "\\nosuchcommand"]
    .map((tex) => JSON.stringify({ tex, display: true }))
    .join("\n");
  const { stdout } = spawnSync("node", [join(HERE, "katex.mjs")], { input: asked, encoding: "utf8" });
  const answers = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    answers.map(({ error }) => error !== undefined),
    [false, true, true],
  );
});

test("a Markdown page with a dead link, or a formula that does not parse, fails the build", () => {
  const folder = mkdtempSync(join(tmpdir(), "torchstone-site-"));
  after(() => rmSync(folder, { recursive: true }));
  const python = join(HERE, "../.venv-site/bin/python");
  const link =
    "import sys; sys.path.insert(0, 'site'); import pages; from pathlib import Path; " +
    `s = pages.Site(Path(${JSON.stringify(folder)}), Path(${JSON.stringify(folder)})); print(s.linked(pages.ROOT / 'README.md', sys.argv[1]))`;
  const run = (words) => spawnSync(python, ["-c", link, words], { cwd: join(HERE, ".."), encoding: "utf8" });
  assert.match(
    run("[a](docs/primer.md) [b](torchstone/ppo/loss.py)").stdout,
    /\[a\]\(docs\/primer.md\) <a class="to-code" href="code\/torchstone\/ppo\/loss.py.html">b/,
  );
  assert.match(run("[a](docs/nowhere.md)").stderr, /README.md: \[a\]\(docs\/nowhere.md\) leads nowhere/);
  for (const [words, why] of [
    ["$\\frac{1}{$", /ParseError|KaTeX parse error/],
    ["[a](other.md)", /xref_missing/],
  ]) {
    writeFileSync(join(folder, "index.md"), `# A page\n\n${words}\n`);
    writeFileSync(join(folder, "equations.json"), "{}");
    const built = spawnSync(
      python,
      ["-m", "sphinx", "-q", "-W", "-b", "html", "-c", join(HERE, "sphinx"), folder, join(folder, "out")],
      { encoding: "utf8" },
    );
    assert.notEqual(built.status, 0);
    assert.match(built.stderr, why);
  }
});

// ------------------------------------------------------------------------------------------------------- in the browser

let browser;
before(async () => (browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" })));
after(() => browser.close());
const SCREENS = {
  desk: { viewport: { width: 1200, height: 900 } },
  dark: { viewport: { width: 1200, height: 900 }, colorScheme: "dark" },
  phone: { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true },
};

async function open(t, url, settings) {
  const context = await browser.newContext(settings);
  t.after(() => context.close());
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => message.type() === "error" && said.push(message.text()));
  page.on("pageerror", (error) => said.push(`${error}`));
  const allowed = new URL(url).origin;
  page.on("request", (request) => new URL(request.url()).origin === allowed || said.push(`asks for ${request.url()}`));
  t.after(() => assert.deepEqual(said, []));
  await page.goto(url);
  return page;
}

const SEEN = [
  "index",
  "docs/primer",
  "torchstone/grpo/README",
  "docs/recipes",
  "docs/pitfalls",
  "equations",
  "api/grpo",
  "explorers/index",
];
for (const name of SEEN) {
  for (const [kind, settings] of Object.entries(SCREENS)) {
    test(`${name}, ${kind}: opens from the disk and fits the screen`, async (t) => {
      const page = await open(t, pathToFileURL(join(SITE, `${name}.html`)).href, settings);
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
      assert.ok((await page.locator("h1").first().innerText()).length > 2);
    });
  }
}

test("formulas are set in KaTeX's own type", async (t) => {
  const page = await open(t, pathToFileURL(join(SITE, "torchstone/grpo/README.html")).href, SCREENS.desk);
  await page.evaluate(() => document.fonts.ready);
  assert.ok(
    await page.evaluate(
      () =>
        document.fonts.check("16px KaTeX_Math") &&
        [...document.fonts].some((f) => f.family.includes("KaTeX_Math") && f.status === "loaded"),
    ),
  );
});

test("explorers, their pictures and the code are as light or dark as was chosen, else as the system is", async (t) => {
  const at = (name) => pathToFileURL(join(SITE, name)).href;
  const colour = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const [light, dark] = ["rgb(245, 247, 248)", "rgb(18, 24, 29)"];
  for (const [settings, system, other, chosen] of [
    [SCREENS.desk, light, dark, "dark"],
    [SCREENS.dark, dark, light, "light"],
  ]) {
    const page = await open(t, at("explorers/index.html"), settings);
    assert.equal(await colour(page), system);
    await page.goto(at("index.html"));
    const brightness = async () => {
      const shot = (await page.locator(".stills img").first().screenshot()).toString("base64");
      return page.evaluate(async (png) => {
        const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
        const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
        context.drawImage(bitmap, 0, 0);
        const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
        return data.reduce((total, x) => total + x, 0) / data.length / 255;
      }, shot);
    };
    const before = await brightness();
    await page.locator(".theme-toggle").filter({ visible: true }).first().click();
    assert.equal(await page.evaluate(() => document.body.dataset.theme), chosen);
    assert.equal(before > 0.5, system === light);
    assert.equal((await brightness()) > 0.5, other === light);
    for (const name of ["explorers/ratio.html", "code/torchstone/ppo/loss.py.html"]) {
      await page.goto(at(name));
      assert.equal(await colour(page), other, name);
    }
  }
});

test("every picture of the home page is drawn", async (t) => {
  const page = await open(t, pathToFileURL(join(SITE, "index.html")).href, SCREENS.desk);
  const widths = await page.locator("article img").evaluateAll((all) =>
    Promise.all(
      all.map((one) =>
        one.decode().then(
          () => one.naturalWidth,
          () => 0,
        ),
      ),
    ),
  );
  assert.ok(widths.length >= 6 && widths.every((width) => width > 0), `${widths}`);
});

test("a long table is filtered by words", async (t) => {
  const page = await open(t, pathToFileURL(join(SITE, "docs/flags.html")).href, SCREENS.desk);
  const rows = page.locator("article table tbody tr");
  const all = await rows.count();
  await page.locator(".table-filter input").fill("padding mean");
  const left = await rows.filter({ visible: true }).count();
  assert.ok(left > 0 && left < all / 4, `${left} of ${all}`);
  assert.match(await page.locator(".table-filter output").innerText(), new RegExp(`^${left} of \\d+ rows$`));
});

test("every method of the map leads to its equation", async (t) => {
  const page = await open(t, pathToFileURL(join(SITE, "docs/map.html")).href, SCREENS.desk);
  assert.ok((await page.locator(".map a").count()) >= 55);
  await page.getByLabel("CISPO", { exact: true }).click();
  assert.match(page.url(), /torchstone\/grpo\/variants\.html#eq-GRPO\.8$/);
  assert.ok(await page.locator("#eq-GRPO\\.8").isVisible());
});

test("every arrow of the map leads to its test", () => {
  const links = [
    ...text.get("docs/map.html").matchAll(/href="\.\.\/code\/tests\/[\w/]+\.py\.html#L\d+"><code[^>]*>test_/g),
  ];
  assert.ok(links.length >= 45, `${links.length} links`);
});

test("the search finds a page, from the disk", async (t) => {
  const page = await open(t, pathToFileURL(join(SITE, "search.html")).href + "?q=clipped_surrogate", SCREENS.desk);
  await page.locator("#search-results li a").first().waitFor();
});

test("the site works from a sub-path of a server", async (t) => {
  const types = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".woff2": "font/woff2",
    ".png": "image/png",
  };
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://x").pathname).replace(/^\/some\/where\//, "");
    const file = join(SITE, path);
    if (!request.url.startsWith("/some/where/") || !existsSync(file)) return response.writeHead(404).end();
    return response
      .writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" })
      .end(readFileSync(file));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  t.after(() => server.close());
  const page = await open(t, `http://127.0.0.1:${server.address().port}/some/where/index.html`, SCREENS.desk);
  for (const words of ["The primer", "GRPO"]) {
    await page.locator(".sidebar-tree").getByText(words, { exact: true }).click();
    await page.locator("h1").first().waitFor();
  }
  await page.getByText("explorer", { exact: true }).first().click();
  await page.locator("main svg.picture").first().waitFor();
  assert.match(page.url(), /\/some\/where\/explorers\/groups\.html$/);
  await page.locator(".code a").first().click();
  assert.match(page.url(), /\/some\/where\/code\/torchstone\/reinforce\/returns\.py\.html#L\d+$/);
});
