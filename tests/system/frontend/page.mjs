// A todo page as a frontend would have it. In its address: `api`, where the service is; `token`, which token it sends
// (published, shared or expired); `slash`, what it puts behind /tasks.
import { createAuthClient } from "better-auth/client";
import { jwtClient } from "better-auth/client/plugins";

const settings = new URLSearchParams(location.search);
const auth = createAuthClient({ plugins: [jwtClient()] });
const $ = (selector) => document.querySelector(selector);
let user;

const tokens = {
  published: async () => (await auth.token()).data.token,
  shared: async () => (await (await fetch("/token")).json()).token,
  expired: async () => (await (await fetch("/token?seconds=-60")).json()).token,
};

async function request(method, path, body) {
  const token = await tokens[settings.get("token") ?? "shared"]();
  const response = await fetch(`${settings.get("api")}/api/${user.id}/tasks${path}`, {
    method,
    credentials: "include",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(`${response.status} ${answer.detail}`);
  return answer;
}

/** Do something, then show all tasks again; show as text what went wrong. */
const act = (action) => async (event) => {
  event?.preventDefault();
  $("[role=alert]").textContent = "";
  try {
    await action?.(event);
    const tasks = await request("GET", settings.get("slash") ?? "");
    $("ul").replaceChildren(...tasks.map(item));
    $("ul").dataset.shown = Number($("ul").dataset.shown) + 1;
  } catch (error) {
    $("[role=alert]").textContent = error.message;
  }
};

function item(task) {
  const element = $("template").content.cloneNode(true).firstElementChild;
  const [completed, title, save, remove] = element.children;
  completed.checked = task.completed;
  title.value = task.title;
  completed.onchange = act(() => request("PATCH", `/${task.id}/complete`));
  save.onclick = act(() => request("PUT", `/${task.id}`, { ...task, title: title.value }));
  remove.onclick = act(() => request("DELETE", `/${task.id}`));
  return element;
}

async function show() {
  user = (await auth.getSession()).data?.user;
  $("#sign-up").hidden = Boolean(user);
  $("#add").hidden = !user;
  if (user) await act()();
}

$("#sign-up").onsubmit = async (event) => {
  event.preventDefault();
  const { error } = await auth.signUp.email(Object.fromEntries(new FormData(event.target)));
  if (error) $("[role=alert]").textContent = error.message;
  else await show();
};
$("#add").onsubmit = act(({ target }) =>
  request("POST", settings.get("slash") ?? "", { title: new FormData(target).get("title") }),
);
await show();
