// A page with what the modules of docs/frontend.md export, for browser.mjs to call.
import { authClient } from "@/lib/auth-client";
import * as tasks from "@/lib/tasks";
import { getAccess } from "@/lib/token";

Object.assign(window, { authClient, getAccess, ...tasks });
