// One round of the six routes by the types that openapi-typescript has made: schema.ts, beside this file.
// node client.js <address of the service> <user> <token>; what came back is printed as one line of JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Task = components["schemas"]["Task"];

const [baseUrl, user_id, token] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
const tasks = { params: { path: { user_id } } };

/** Return the task of an answer, or throw the sentence of a problem. */
function task(answer: { data?: Task; error?: components["schemas"]["Problem"] }): Task {
  if (!answer.data) throw new Error(answer.error?.detail);
  return answer.data;
}

const created = task(
  await client.POST("/api/{user_id}/tasks", { ...tasks, body: { title: "Buy milk", description: "2 litres" } }),
);
const one = { params: { path: { user_id, task_id: created.id } } };
const read = task(await client.GET("/api/{user_id}/tasks/{task_id}", one));
const updated = task(
  await client.PUT("/api/{user_id}/tasks/{task_id}", { ...one, body: { title: "Buy oat milk", description: null } }),
);
const toggled = task(await client.PATCH("/api/{user_id}/tasks/{task_id}/complete", one));
const reopened = task(await client.PATCH("/api/{user_id}/tasks/{task_id}/complete", one));
const { data: pending } = await client.GET("/api/{user_id}/tasks", {
  params: { ...tasks.params, query: { status: "pending", sort: "title" } },
});
const { response: deleted } = await client.DELETE("/api/{user_id}/tasks/{task_id}", one);
const { error: gone } = await client.GET("/api/{user_id}/tasks/{task_id}", one);
const { data: health } = await client.GET("/health");

const statuses = { deleted: deleted.status, gone: gone?.detail, health: health?.status };
console.log(JSON.stringify({ created, read, updated, toggled, reopened, pending, ...statuses }));
