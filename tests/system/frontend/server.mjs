// Stands where the Next.js frontend stands, at BETTER_AUTH_URL: Better Auth, a page, and switches for the tests.
import { readFile } from "node:fs/promises";
import http from "node:http";
import { fileURLToPath } from "node:url";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt, oneTimeToken } from "better-auth/plugins";
import { build } from "esbuild";
import { SignJWT } from "jose";

const {
  PORT,
  BETTER_AUTH_URL,
  BETTER_AUTH_SECRET,
  JWT_ALGORITHM, // the jwt plugin's own default without it
  JWT_ISSUER,
  JWT_AUDIENCE,
  COOKIE_CACHE = "jwt", // the strategy: compact, jwt or jwe
  COOKIE_CACHE_KEYS, // sign the cookie cache with the published keys, not with the secret
} = process.env;
const url = new URL(BETTER_AUTH_URL);
const basePath = url.pathname === "/" ? "/api/auth" : url.pathname.replace(/\/$/, "");

const stored = { user: [], session: [], account: [], verification: [], jwks: [] };
const mailed = []; // every token that was sent by e-mail
const mail = (kind) => async ({ token }) => void mailed.push({ kind, token });

const auth = betterAuth({
  baseURL: BETTER_AUTH_URL,
  secret: BETTER_AUTH_SECRET,
  database: memoryAdapter(stored),
  emailAndPassword: { enabled: true, sendResetPassword: mail("reset password") },
  emailVerification: { sendOnSignUp: true, sendVerificationEmail: mail("verify e-mail") },
  user: {
    changeEmail: { enabled: true, sendChangeEmailConfirmation: mail("change e-mail") },
    deleteUser: { enabled: true, sendDeleteAccountVerification: mail("delete account") },
  },
  session: { cookieCache: { enabled: true, strategy: COOKIE_CACHE } },
  plugins: [
    jwt({
      jwks: JWT_ALGORITHM && { keyPairConfig: { alg: JWT_ALGORITHM } },
      jwt: { issuer: JWT_ISSUER, audience: JWT_AUDIENCE },
      sessionCookieCache: Boolean(COOKIE_CACHE_KEYS),
    }),
    bearer(),
    oneTimeToken(),
  ],
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
});

let keys = "normal"; // or down, html, hanging
let fetches = 0; // of the keys

function jwks(request, response) {
  fetches += 1;
  if (keys === "down") response.writeHead(503).end();
  else if (keys === "html") response.writeHead(200, { "Content-Type": "text/html" }).end("<h1>Sign in</h1>");
  else if (keys === "normal") toNodeHandler(auth)(request, response);
}

/** What most frontends do: sign a token for the session's user with the shared secret. */
async function token(request, response, query) {
  const { user } = await auth.api.getSession({ headers: new Headers({ cookie: request.headers.cookie ?? "" }) });
  const now = Math.floor(Date.now() / 1000);
  const signed = await new SignJWT({ sub: user.id, email: user.email, name: user.name })
    .setProtectedHeader({ alg: "HS256" })
    .setIssuedAt()
    .setExpirationTime(now + Number(query.get("seconds") ?? 3600))
    .sign(new TextEncoder().encode(BETTER_AUTH_SECRET));
  json(response, { token: signed });
}

/** Let the key in use expire, as the jwt plugin's `rotationInterval` does: it stays published, the next is made. */
function rotate() {
  for (const key of stored.jwks) key.expiresAt = new Date();
}

function json(response, body) {
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(body));
}

async function page(_, response, query) {
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  if (query.has("sandbox")) response.setHeader("Content-Security-Policy", "sandbox allow-scripts"); // Origin: null
  response.end(await readFile(new URL("page.html", import.meta.url)));
}

async function script(_, response) {
  const entry = fileURLToPath(new URL("page.mjs", import.meta.url));
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, format: "esm", write: false });
  response.writeHead(200, { "Content-Type": "text/javascript; charset=utf-8" }).end(outputFiles[0].text);
}

const routes = {
  [`GET ${basePath}/jwks`]: jwks,
  "GET /": page,
  "GET /page.js": script,
  "GET /token": token,
  "GET /control": (_, response) => json(response, { fetches, mailed }),
  "POST /control/keys": (_, response, query) => json(response, { keys: (keys = query.get("mode")) }),
  "POST /control/rotate": (_, response) => json(response, { rotated: rotate() }),
  "POST /control/withdraw": (_, response) => json(response, { withdrawn: stored.jwks.splice(0).length }),
};

http
  .createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, BETTER_AUTH_URL);
    const route = routes[`${request.method} ${pathname}`] ?? toNodeHandler(auth);
    Promise.resolve(route(request, response, searchParams)).catch((error) => {
      console.error(error);
      response.writeHead(500).end();
    });
  })
  .listen(PORT, "127.0.0.1", () => console.log("listening"));
