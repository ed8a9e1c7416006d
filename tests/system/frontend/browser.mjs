// Headless Chromium does one scenario; what it saw is printed as one line of JSON.
// node browser.mjs <scenario> <chromium> <page's address> <the scenario's arguments as JSON>
import { chromium } from "playwright-core";

const [scenario, executablePath, address, json] = process.argv.slice(2);
const given = JSON.parse(json);
const ARGUMENTS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const PASSWORD = "correct horse battery staple";

const scenarios = {
  /** Use the functions that docs/frontend.md shows, and count what they ask the frontend for. */
  async guide(page) {
    const asked = [];
    page.on("request", (request) => {
      const { pathname } = new URL(request.url());
      if (pathname.startsWith("/api/auth/")) asked.push(pathname);
    });
    const call = (name, ...given) =>
      page.evaluate(
        ([name, given]) => window[name](...given).catch(({ status = 0, message }) => ({ status, message })),
        [name, given],
      );
    /** Do something, and return what it asked the frontend for. */
    const asking = async (action) => {
      asked.length = 0;
      await action();
      return [...asked];
    };
    const sign = (how, email) =>
      page.evaluate(
        ([how, email, password]) => authClient[how].email({ email, password, name: "Zoë Ñandú" }),
        [how, email, PASSWORD],
      );
    /** Answer the next call of a task as a proxy might. */
    const intercept = (answer) =>
      page.route("**/api/*/tasks*", (route) => route.fulfill(answer), { times: 1 });
    const seen = {};

    await page.waitForFunction(() => "authClient" in window);
    seen.nobody = await call("listTasks");
    await sign("signUp", "zoe@example.com");
    seen.ten = await asking(() =>
      page.evaluate(() => Promise.all(Array.from({ length: 10 }, () => listTasks()))),
    );
    seen.access = await call("getAccess");
    seen.more = await asking(async () => {
      seen.created = await call("createTask", "Buy milk");
      seen.read = await call("readTask", seen.created.id);
      seen.described = await call("updateTask", seen.created.id, { description: "2 litres" });
      seen.toggled = await call("toggleTask", seen.created.id);
      seen.listed = await call("listTasks", "?status=completed&sort=title");
      seen.deleted = await call("deleteTask", seen.created.id);
      seen.gone = await call("readTask", seen.created.id);
    });
    await page.clock.fastForward("13:50");
    seen.nearTheEnd = await asking(() => call("listTasks"));
    await page.clock.fastForward("00:20");
    seen.atTheEnd = await asking(() => call("listTasks"));

    const html = { contentType: "text/html", body: "<h1>Sorry</h1>", headers: { "Access-Control-Allow-Origin": "*" } };
    await intercept({ status: 502, ...html });
    seen.badGateway = await call("listTasks");
    await intercept({ status: 200, ...html });
    seen.portal = await call("listTasks");
    await intercept({ status: 401, headers: html.headers, json: { detail: "The token is invalid." } });
    seen.refused = await call("listTasks");
    seen.afterwards = await asking(() => call("listTasks"));

    await page.evaluate(() => authClient.signOut());
    seen.signedOut = await call("listTasks");
    await sign("signUp", "bob@example.com");
    seen.bobs = await call("createTask", "Mine");
    await sign("signIn", "zoe@example.com");
    seen.zoes = await call("createTask", "Mine");
    return seen;
  },

  /** Try every verb, and return each answer's status, or the error's name. */
  async fetches(page) {
    return page.evaluate(async ({ tasks, id, token }) => {
      const authorization = { Authorization: `Bearer ${token}` };
      const json = { ...authorization, "Content-Type": "application/json" };
      const attempt = async (method, path, headers = authorization, body = undefined) => {
        try {
          return (await fetch(tasks + path, { method, headers, body, credentials: "include" })).status;
        } catch (error) {
          return error.name;
        }
      };
      return {
        list: await attempt("GET", ""),
        "list with a slash": await attempt("GET", "/"),
        create: await attempt("POST", "", json, '{"title": "from a page"}'),
        read: await attempt("GET", `/${id}`),
        update: await attempt("PUT", `/${id}`, json, '{"title": "from a page"}'),
        toggle: await attempt("PATCH", `/${id}/complete`),
        delete: await attempt("DELETE", `/${id}`),
        // These need no preflight: they reach the service, and a page of another origin may still not read the answer.
        "list without a token": await attempt("GET", "", {}),
        "create as a form does": await attempt("POST", "", { "Content-Type": "text/plain" }, '{"title": "a"}'),
      };
    }, given);
  },
};

const browser = await chromium.launch({ executablePath, args: ARGUMENTS, timeout: 20_000 });
try {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(10_000);
  await page.clock.install();
  await page.goto(address);
  console.log(JSON.stringify(await scenarios[scenario](page)));
} finally {
  await browser.close();
}
