// Headless Chromium does one scenario; what it saw is printed as one line of JSON.
// node browser.mjs <scenario> <chromium> <page's address> <the scenario's argument>
import { chromium } from "playwright-core";

const [scenario, executablePath, address, argument] = process.argv.slice(2);
const ARGUMENTS = [
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

async function signUp(page) {
  await page.getByPlaceholder("Name").fill("Zoë Ñandú");
  await page.getByPlaceholder("E-mail").fill(argument);
  await page.getByPlaceholder("Password").fill("correct horse battery");
  await page.getByRole("button", { name: "Sign up" }).click();
}

/** Do something, and wait until the page shows the tasks again. */
async function shows(page, action) {
  const list = page.locator("ul");
  const before = Number(await list.getAttribute("data-shown"));
  await action();
  const alert = page.locator("[role=alert]");
  const shown = page.locator(`ul[data-shown="${before + 1}"]`);
  await shown.or(alert.filter({ hasText: /./ })).first().waitFor({ state: "attached" });
  if (await alert.textContent()) throw new Error(`the page shows: ${await alert.textContent()}`);
  return page
    .locator("li")
    .evaluateAll((items) => items.map((item) => `${item.children[0].checked ? "x" : " "} ${item.children[1].value}`));
}

async function add(page, title) {
  await page.locator("#add [name=title]").fill(title);
  await page.locator("#add button").click();
}

const error = async (page) => {
  const alert = page.locator("[role=alert]:not(:empty)");
  await alert.waitFor();
  return alert.textContent();
};

const scenarios = {
  /** List, create, edit, toggle and delete, with every request to another origin on record. */
  async everything(page) {
    // Chromium would ask once for several verbs of an address, and remember the answer.
    const debug = await page.context().newCDPSession(page);
    await debug.send("Network.enable");
    await debug.send("Network.setCacheDisabled", { cacheDisabled: true });
    const preflights = [];
    debug.on("Network.requestWillBeSent", ({ request }) => {
      if (request.method === "OPTIONS") preflights.push(request.headers["Access-Control-Request-Method"]);
    });
    const requests = [];
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== new URL(address).origin) requests.push(request);
    });

    const shown = [await shows(page, () => signUp(page))];
    shown.push(await shows(page, () => add(page, "Bread")));
    shown.push(await shows(page, () => add(page, "Milk")));
    const first = page.locator("li").first();
    await first.locator("[name=title]").fill("Oat milk");
    shown.push(await shows(page, () => first.locator("[name=save]").click()));
    shown.push(await shows(page, () => first.locator("[name=completed]").click()));
    await page.reload();
    await page.locator("li").first().waitFor();
    shown.push(await shows(page, () => page.locator("li").last().locator("[name=delete]").click()));

    const sent = await Promise.all(
      requests.map(async (request) => ({
        method: request.method(),
        path: new URL(request.url()).pathname,
        cookies: (await request.allHeaders()).cookie ?? "",
      })),
    );
    return { shown, sent, preflights };
  },

  /** Add a task with a title that the service refuses, then one that it takes. */
  async blank(page) {
    await shows(page, () => signUp(page));
    await add(page, "   ");
    const refused = await error(page);
    const shown = await shows(page, () => add(page, "Milk"));
    return { refused, shown, left: await page.locator("[role=alert]").textContent() };
  },

  /** Delete a task that another tab has deleted. */
  async gone(page) {
    await shows(page, () => signUp(page));
    await shows(page, () => add(page, "Milk"));
    const other = await page.context().newPage();
    await other.goto(address);
    await other.locator("li").waitFor();
    await shows(other, () => other.locator("[name=delete]").first().click());
    await page.locator("li [name=delete]").click();
    return { refused: await error(page) };
  },

  /** Sign up, and see why there is no list. */
  async refused(page) {
    await signUp(page);
    return { refused: await error(page) };
  },

  /** Sign up and use the routes, with the functions that README.md shows. */
  async readme(page) {
    await page.waitForFunction(() => "callTasks" in window);
    return page.evaluate(async (email) => {
      const refused = await callTasks("GET").catch((error) => error.message);
      await authClient.signUp.email({ email, name: "Zoë Ñandú", password: "correct horse battery" });
      const token = await getToken();
      const created = await callTasks("POST", "", { title: "Buy milk" });
      const completed = await callTasks("PATCH", `/${created.id}/complete`);
      const listed = await callTasks("GET");
      const blank = await callTasks("POST", "", { title: " " }).catch((error) => error.message);
      const deleted = await callTasks("DELETE", `/${created.id}`);
      return { refused, token, created, completed, listed, blank, deleted, left: await callTasks("GET") };
    }, argument);
  },

  /** Try every verb from whatever origin the page has, with a genuine token, and without one. */
  async fetches(page) {
    const [tasks, id, token] = JSON.parse(argument);
    return page.evaluate(
      async ([tasks, id, token]) => {
        const attempt = async (method, path, headers = { Authorization: `Bearer ${token}` }, body = undefined) => {
          try {
            const response = await fetch(tasks + path, { method, headers, body, credentials: "include" });
            return `${response.status} ${await response.text()}`;
          } catch (error) {
            return error.name;
          }
        };
        const json = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
        return {
          list: await attempt("GET", ""),
          create: await attempt("POST", "", json, '{"title": "from elsewhere"}'),
          read: await attempt("GET", `/${id}`),
          update: await attempt("PUT", `/${id}`, json, '{"title": "from elsewhere"}'),
          toggle: await attempt("PATCH", `/${id}/complete`),
          delete: await attempt("DELETE", `/${id}`),
          // These need no preflight: they reach the service, and the page may still not read the answer.
          "list without a token": await attempt("GET", "", {}),
          "create as a form does": await attempt("POST", "", { "Content-Type": "text/plain" }, '{"title": "a"}'),
        };
      },
      [tasks, id, token],
    );
  },
};

const browser = await chromium.launch({ executablePath, args: ARGUMENTS, timeout: 20_000 });
try {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(10_000);
  await page.goto(address);
  console.log(JSON.stringify(await scenarios[scenario](page)));
} finally {
  await browser.close();
}
