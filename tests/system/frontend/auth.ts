// The Better Auth of docs/frontend.md, with the further options that a test gives as JSON.
import { betterAuth } from "better-auth";
import { bearer, jwt } from "better-auth/plugins";
import { auth as documented } from "./documented";

const more = JSON.parse(process.env.MORE ?? "{}");

export const auth = betterAuth({
  ...documented.options,
  emailVerification: {
    sendOnSignUp: true,
    sendVerificationEmail: async ({ token }) => console.log(`mailed ${token}`),
  },
  ...more.options,
  plugins: more.jwt ? [jwt(more.jwt), bearer()] : documented.options.plugins,
});
