// Takes pictures of a report at the widths of a phone, a tablet and a screen, light and dark, as printed, and with an
// image opened by keyboard alone; and checks it with axe-core, at every width, light and dark.
//
//     apt-get install chromium
//     npm install --prefix /tmp/look axe-core puppeteer-core
//     NODE_MODULES=/tmp/look/node_modules node tests/by_hand/look_at_report.mjs scores/report/report.html /tmp/look
//
// Exits with 1 if there are violations, messages in the console, requests to elsewhere, or a page wider than its window.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [page_path, out] = process.argv.slice(2).map((path) => resolve(path));
const address = `file://${page_path}`;
const problems = [];

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu"],
});

async function open(width, scheme, javascript = true) {
  const page = await browser.newPage();
  page.on("console", (message) => problems.push(`${width} ${scheme}: console: ${message.text()}`));
  page.on("request", (request) => {
    if (!/^(file|data):/.test(request.url())) problems.push(`${width} ${scheme}: asks for ${request.url()}`);
  });
  await page.setJavaScriptEnabled(javascript);
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(address);
  return page;
}

for (const width of [360, 800, 1400])
  for (const scheme of ["light", "dark"]) {
    const page = await open(width, scheme);
    await page.screenshot({ path: `${out}/${width}-${scheme}.png`, fullPage: true });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    if (wide > width) problems.push(`${width} ${scheme}: the page is ${wide} wide`);
    await page.close();
    // axe is no script of the page, which allows only its own.
    const checked = await browser.newPage();
    await checked.setBypassCSP(true);
    await checked.setViewport({ width, height: 900 });
    await checked.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await checked.goto(address);
    // With an image open, so that what is in it is checked, too.
    await checked.evaluate(() => document.querySelector("details")?.setAttribute("open", ""));
    await checked.evaluate(axe);
    const { violations, passes } = await checked.evaluate(() => globalThis.axe.run());
    console.log(`${width} ${scheme}: ${passes.length} rules of axe-core passed, ${violations.length} violated`);
    for (const { id, help, nodes } of violations)
      problems.push(`${width} ${scheme}: ${id}: ${help}: ${nodes.length} times, the first ${nodes[0].html}`);
    await checked.close();
  }

// By keyboard: the first image opens with Enter, its path is the next stop, and Copy follows.
const page = await open(800, "light");
await page.focus("summary");
await page.keyboard.press("Enter");
if (!(await page.$("details[open]"))) problems.push("Enter opens no image");
await page.keyboard.press("Tab");
if (!(await page.evaluate(() => document.activeElement.matches("details[open] input"))))
  problems.push("after the image, Tab does not lead to its path");
await page.screenshot({ path: `${out}/opened.png` });
await page.pdf({ path: `${out}/printed.pdf`, format: "A4" });
await page.close();

const plain = await open(800, "light", false);
if (await plain.$("button:not([hidden])")) problems.push("without script, buttons are shown that do nothing");
await plain.close();
await browser.close();
console.log(problems.join("\n") || "no problems");
process.exit(problems.length ? 1 : 0);
