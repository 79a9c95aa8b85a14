// Drives a page with Chromium through the steps of a JSON file, and writes what happened to another.
// node browse.mjs PLAYWRIGHT CHROMIUM STEPS.json REPORT.json
// Every step is a list: a name from `actions` and its arguments. The report holds what the steps gave, every request,
// and everything that the page complained about.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , playwright, executablePath, stepsFile, reportFile] = process.argv;
const { chromium } = createRequire(import.meta.url)(playwright);
const { url, viewport, dark, flags, steps } = JSON.parse(readFileSync(stepsFile, "utf8"));

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...(flags ?? [])] });
const context = await browser.newContext({
  viewport: viewport ?? { width: 1280, height: 900 },
  colorScheme: dark ? "dark" : "light",
  acceptDownloads: true,
});
const page = await context.newPage();
const report = { requests: [], complaints: [], values: {} };
page.on("request", (request) => report.requests.push(request.url()));
page.on("console", (line) => {
  if (["error", "warning"].includes(line.type())) report.complaints.push(`${line.type()}: ${line.text()}`);
});
page.on("pageerror", (error) => report.complaints.push(`uncaught: ${error.message}`));
page.on("requestfailed", (request) => report.complaints.push(`failed: ${request.url()}`));

/** waitForFunction evaluates strings, which the page's policy forbids. */
async function until(probe, argument, what) {
  const end = Date.now() + 120_000;
  while (!(await page.evaluate(probe, argument))) {
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await page.waitForTimeout(25);
  }
}

const actions = {
  idle: () => until(() => document.body.dataset.state === "idle", null, "the page to be idle"),
  text: async (key, selector) => (report.values[key] = await page.textContent(selector)),
  all: async (key, selector) => (report.values[key] = await page.locator(selector).allTextContents()),
  visible: async (key, selector) => (report.values[key] = await page.isVisible(selector)),
  attribute: async (key, selector, name) => (report.values[key] = await page.getAttribute(selector, name)),
  until: (selector, name, value) =>
    until(([s, n, v]) => document.querySelector(s)?.getAttribute(n) === v, [selector, name, value], `${selector} ${name}`),
  untilText: (selector, part) =>
    until(([s, p]) => document.querySelector(s)?.textContent.includes(p), [selector, part], `${selector} ${part}`),
  upload: (file) => page.setInputFiles("#file", file),
  drop: async (file, type) => {
    const bytes = readFileSync(file).toString("base64");
    const transfer = await page.evaluateHandle(([data, name, kind]) => {
      const found = new DataTransfer();
      found.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type: kind }));
      return found;
    }, [bytes, file.split("/").pop(), type]);
    await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
  },
  click: (selector) => page.click(selector),
  fill: (selector, text) => page.fill(selector, text),
  press: (selector, key) => page.press(selector, key),
  select: (selector, value) => page.selectOption(selector, value),
  hover: async (selector, x, y) => {
    const canvas = page.locator(selector);
    await canvas.scrollIntoViewIfNeeded();
    const box = await canvas.boundingBox();
    const [width, height] = await canvas.evaluate((node) => [node.width, node.height]);
    await page.mouse.move(box.x + ((x + 0.5) * box.width) / width, box.y + ((y + 0.5) * box.height) / height);
  },
  download: async (selector, to) => {
    const [found] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
    await found.saveAs(to);
  },
  screenshot: (path, selector) => (selector ? page.locator(selector).screenshot({ path }) : page.screenshot({ path, fullPage: true })),
  wait: (ms) => page.waitForTimeout(ms),
  overflow: async (key) => {
    report.values[key] = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  },
  isolated: async (key) => (report.values[key] = await page.evaluate(() => window.crossOriginIsolated)),
  /** [tensor, ...] of the explorer's files, run by the page's own engine at the pixels of a prepared picture. */
  module: async (key, path, name, ...args) => {
    report.values[key] = await page.evaluate(
      async ([p, n, a]) => {
        const found = await (await import(new URL(p, location.href).href))[n](...a);
        return JSON.parse(JSON.stringify(found, (_, v) => (ArrayBuffer.isView(v) ? Array.from(v, Number) : v)));
      },
      [path, name, args],
    );
  },
};

let failure = null;
try {
  await page.goto(url);
  for (const [name, ...rest] of steps) {
    try {
      await actions[name](...rest);
    } catch (error) {
      throw new Error(`${name} ${JSON.stringify(rest).slice(0, 200)}: ${error.message}`);
    }
  }
} catch (error) {
  failure = error.message;
}
report.failure = failure;
writeFileSync(reportFile, JSON.stringify(report));
await browser.close();
