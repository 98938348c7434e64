// Requests to /v1, with the key where the service asks for one. The key lives as long as the tab, and nowhere else.
import { signal } from "@preact/signals";

const KEPT = "kdrift-key";
export const key = signal(sessionStorage.getItem(KEPT) ?? "");

/** An answer that is an error: its sentence is for people. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail: string,
  ) {
    super(detail);
  }
}

/** Raises an error for what no header can hold. */
export function keepKey(text: string): void {
  if (!/^[!-~]*$/.test(text.trim())) throw new Error("An API key has letters, digits and signs of ASCII alone.");
  key.value = text.trim();
  if (key.value) sessionStorage.setItem(KEPT, key.value);
  else sessionStorage.removeItem(KEPT);
}

export function headers(more: Record<string, string> = {}): Record<string, string> {
  return key.value ? { ...more, Authorization: `Bearer ${key.value}` } : more;
}

export function problem(status: number, text: string): Problem {
  try {
    return new Problem(status, JSON.parse(text).detail);
  } catch {
    return new Problem(status, `the service answered ${status}: try again in a moment`);
  }
}

export async function call(path: string, options: RequestInit = {}): Promise<Response> {
  const given = options.headers as Record<string, string> | undefined;
  const response = await fetch(path, { ...options, headers: headers(given) }).catch((error: Error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the service does not answer: is it running?");
  });
  if (response.ok) return response;
  throw problem(response.status, await response.text());
}

export async function getJson<T>(path: string, options: RequestInit = {}): Promise<T> {
  return (await call(path, options)).json();
}

/** Sends a request in JSON. */
export async function post<T>(path: string, values: object, stop?: AbortSignal): Promise<T> {
  const options = { method: "POST", body: JSON.stringify(values), headers: { "Content-Type": "application/json" } };
  return (await call(path, { ...options, signal: stop ?? null })).json();
}

/** Nested options as those of a query: plan.num_samples=8. */
export function query(values: object, prefix = "", found = new URLSearchParams()): URLSearchParams {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined || value === null) continue;
    if (typeof value === "object" && !Array.isArray(value)) query(value, `${prefix}${name}.`, found);
    else found.append(prefix + name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return found;
}

/** Server-sent events, which `EventSource` cannot ask for with a key. Ends with the stream. */
export async function follow(path: string, told: (name: string, data: never) => void, stop: AbortSignal): Promise<void> {
  const response = await call(path, { signal: stop });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) told(name, JSON.parse(data) as never);
    }
  }
}

/** The numbers of a NumPy file of float32, in the order of rows. */
export function fromNpy(buffer: ArrayBuffer): Float32Array {
  const view = new DataView(buffer);
  const [start, length] = view.getUint8(6) === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)];
  const head = new TextDecoder().decode(new Uint8Array(buffer, start, length));
  if (!head.includes("'<f4'") || head.includes("True")) throw new Error(`expected float32 by rows, got ${head}`);
  return new Float32Array(buffer.slice(start + length));
}

export async function download(path: string, fallback: string): Promise<void> {
  const response = await call(path);
  const said = /filename\*=utf-8''([^;]+)/i.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = said ? decodeURIComponent(said) : fallback;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
