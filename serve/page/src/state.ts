// What the whole page knows: the service, who asks, how it looks.
import { effect, signal } from "@preact/signals";
import { getJson, key, keepKey, Problem } from "./api";
import type { Catalogue, Prior } from "./types";

export const asksForKey = signal(false);
export const catalogue = signal<Catalogue | null>(null);
export const priors = signal<Prior[]>([]);
export const version = signal("");
export const trouble = signal("");
/** Said to screen readers. */
export const announced = signal("");

/** Learns what the service has; where it needs a key and none is known, the page asks for it. */
export async function begin(): Promise<void> {
  trouble.value = "";
  try {
    const health = await getJson<{ version: string; api_keys: boolean }>("v1/health");
    [version.value, asksForKey.value] = [health.version, health.api_keys];
    if (health.api_keys && !key.value) return;
    const [known, found] = await Promise.all([getJson<Catalogue>("v1/methods"), getJson<Prior[]>("v1/priors")]);
    [priors.value, catalogue.value] = [found, known];
  } catch (error) {
    if (error instanceof Problem && error.status === 401) keepKey("");
    trouble.value = (error as Error).message;
  }
}

export function forgetKey(): void {
  keepKey("");
  catalogue.value = null;
}

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];
const kept = localStorage.getItem("kdrift-theme") as Theme | null;
export const theme = signal<Theme>(kept && THEMES.includes(kept) ? kept : "system");
effect(() => {
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("kdrift-theme", theme.value);
});
