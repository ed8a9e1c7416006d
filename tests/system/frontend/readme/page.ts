// The page of the frontend that README.md describes: what its modules export, for a scenario of browser.mjs to call.
import { authClient } from "@/lib/auth-client";
import { callTasks } from "@/lib/tasks";
import { getToken } from "@/lib/token";

Object.assign(window, { authClient, callTasks, getToken });
