// Where the page is: #/ a new job, #/jobs the list, #/jobs/ID one of them (?slice= the slice on show).
import { signal } from "@preact/signals";

export type Route = { view: "new" } | { view: "jobs" } | { view: "job"; id: string; slice: number | null };

function read(): Route {
  const [path = "", options = ""] = location.hash.replace(/^#/, "").split("?");
  const id = /^\/jobs\/([0-9a-f]{32})$/.exec(path)?.[1];
  const slice = new URLSearchParams(options).get("slice");
  if (id) return { view: "job", id, slice: slice && /^\d+$/.test(slice) ? Number(slice) : null };
  return { view: path === "/jobs" ? "jobs" : "new" };
}

export const route = signal<Route>(read());
addEventListener("hashchange", () => (route.value = read()));

export const toJob = (id: string) => `#/jobs/${id}`;

export function go(hash: string): void {
  location.hash = hash;
}

/** Notes the slice on show in the address, without a step to go back over. */
export function noteSlice(id: string, slice: number): void {
  history.replaceState(null, "", `${toJob(id)}?slice=${slice}`);
}
