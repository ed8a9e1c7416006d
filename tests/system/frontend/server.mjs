// Stands where Next.js stands: serves the routes of the folder where it runs, and a page that has its modules.
import { existsSync } from "node:fs";
import http from "node:http";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { build } from "esbuild";

/** Make a module for Node of this one, and import it. */
async function load(path) {
  const outfile = resolve("built", path.replaceAll(/\W/g, "_") + ".mjs");
  await build({ entryPoints: [path], outfile, bundle: true, format: "esm", platform: "node", packages: "external" });
  return import(pathToFileURL(outfile));
}

async function handler(path) {
  const route = await load(path);
  return toNodeHandler((request) => route[request.method](request));
}

function page(_, response, query) {
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  if (query.has("sandbox")) response.setHeader("Content-Security-Policy", "sandbox allow-scripts"); // Origin: null
  response.end(`<script type="module" src="/page.js?${query}"></script>`);
}

async function script(_, response, query) {
  // Next.js puts the NEXT_PUBLIC_ variables into what the browser gets, and no other.
  const define = { "process.env.NEXT_PUBLIC_API_URL": JSON.stringify(query.get("api")) };
  const { outputFiles } = await build({ entryPoints: ["page.ts"], bundle: true, format: "esm", write: false, define });
  response.writeHead(200, { "Content-Type": "text/javascript; charset=utf-8" }).end(outputFiles[0].text);
}

const { auth } = await load("lib/auth.ts");
await (await getMigrations(auth.options)).runMigrations();
const routes = { "/": page, "/page.js": script };
const token = "app/api/auth/token/route.ts";
if (existsSync(token)) routes["/api/auth/token"] = await handler(token);
const allOthers = await handler("app/api/auth/[...all]/route.ts");

http
  .createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    (routes[pathname] ?? allOthers)(request, response, searchParams);
  })
  .listen(process.env.PORT, "127.0.0.1");
