// Where the page is: #/ a new job (?upload= the file that was sent for it), #/jobs the list, #/jobs/ID one of them (?slice= the slice on show).
import { signal } from "@preact/signals";

export type Route = { view: "new"; upload: string | null } | { view: "jobs" } | { view: "job"; id: string; slice: number | null };

function read(): Route {
  const [path = "", options = ""] = location.hash.replace(/^#/, "").split("?");
  const found = new URLSearchParams(options);
  const id = /^\/jobs\/([0-9a-f]{32})$/.exec(path)?.[1];
  const slice = found.get("slice");
  if (id) return { view: "job", id, slice: slice && /^\d+$/.test(slice) ? Number(slice) : null };
  if (path === "/jobs") return { view: "jobs" };
  return { view: "new", upload: /^[0-9a-f]{32}$/.exec(found.get("upload") ?? "")?.[0] ?? null };
}

export const route = signal<Route>(read());
addEventListener("hashchange", () => (route.value = read()));

export const toJob = (id: string) => `#/jobs/${id}`;

export function go(hash: string): void {
  location.hash = hash;
}

/** Notes the file that was sent in the address, without a step to go back over. */
export function noteUpload(id: string): void {
  if (location.hash || id) history.replaceState(null, "", id ? `#/?upload=${id}` : "#/");
}

/** Notes the slice on show in the address, without a step to go back over. */
export function noteSlice(id: string, slice: number): void {
  history.replaceState(null, "", `${toJob(id)}?slice=${slice}`);
}
