// Runs Chromium for test_browser.py. Arguments: the browser, and the address of a page. Each line of stdin is
// [function, ...arguments] of the page; each line of stdout is what the page reports.
const { createInterface } = require("node:readline");
const { chromium } = require("playwright-core");

async function main([executablePath, address]) {
  const args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"];
  const browser = await chromium.launch({ executablePath, args });
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const write = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
  page.on("pageerror", (error) => write({ call: "page", error: String(error) }));
  await page.exposeFunction("report", write);
  await page.goto(address);
  write({ call: "page", data: await page.title() });
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...given] = JSON.parse(line);
    await page.evaluate(([called, values]) => window[called](...values), [name, given]);
  }
  await browser.close();
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
