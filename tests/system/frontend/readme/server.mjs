// Stands where Next.js stands: serves the modules that README.md shows, from the folder where it runs.
import { existsSync } from "node:fs";
import http from "node:http";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { toNodeHandler } from "better-auth/node";
import { build } from "esbuild";

const { PORT, BETTER_AUTH_URL, NEXT_PUBLIC_API_URL } = process.env;

async function page() {
  // Next.js puts the NEXT_PUBLIC_ variables into what the browser gets, and no other.
  const define = { "process.env.NEXT_PUBLIC_API_URL": JSON.stringify(NEXT_PUBLIC_API_URL) };
  const options = { bundle: true, format: "esm", write: false, define };
  const { outputFiles } = await build({ entryPoints: ["page.ts"], ...options });
  return outputFiles[0].text;
}

/** Make modules that Node can import of these; those that are not there are left out. */
async function modules(...paths) {
  const entryPoints = paths.filter(existsSync);
  const options = { bundle: true, format: "esm", platform: "node", packages: "external", splitting: true };
  await build({ entryPoints, ...options, outdir: "built", outbase: ".", outExtension: { ".js": ".mjs" } });
  const built = entryPoints.map((path) => resolve("built", path.replace(".ts", ".mjs")));
  return Promise.all(built.map((path) => import(pathToFileURL(path))));
}

const [{ auth }, token] = await modules("lib/auth.ts", "app/api/token/route.ts");
const script = await page();
const betterAuth = toNodeHandler(auth);

async function getToken(request, response) {
  const answer = await token.GET(new Request(BETTER_AUTH_URL, { headers: new Headers(request.headers) }));
  response.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text());
}

http
  .createServer((request, response) => {
    const html = { "Content-Type": "text/html; charset=utf-8" };
    if (request.url.startsWith("/api/auth/")) betterAuth(request, response);
    else if (request.url === "/api/token" && token) getToken(request, response);
    else if (request.url === "/page.js") response.writeHead(200, { "Content-Type": "text/javascript" }).end(script);
    else if (request.url === "/") response.writeHead(200, html).end('<script type="module" src="/page.js"></script>');
    else response.writeHead(404).end();
  })
  .listen(PORT, "127.0.0.1");
