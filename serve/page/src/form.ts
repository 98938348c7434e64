// What a new job is to be: the source with what it holds, and the options; kept while one looks at other views.
import { batch, computed, signal } from "@preact/signals";
import { getJson, post, query } from "./api";
import { go, toJob } from "./route";
import { announced, catalogue } from "./state";
import type { Expected, Inspection, Job } from "./types";
import { forget, upload, uploaded } from "./upload";

/** The example, or a file; `id` is that of its upload, empty until all of it was sent. */
export type Source = "example" | { name: string; bytes: number; id: string };
const FEW_SLICES = 4;

export const source = signal<Source | null>(null);
export const facts = signal<Inspection | null>(null);
/** What goes on, with the part that was sent; empty: nothing. */
export const busy = signal("");
export const times = signal<Record<string, Expected>>({});
export const errors = signal<Record<string, string>>({});

export const fields = {
  first: signal(""),
  last: signal(""),
  mask: signal(""),
  acceleration: signal("4"),
  acs: signal(""),
  method: signal(""),
  prior: signal(""),
  samples: signal("4"),
  steps: signal(""),
  seed: signal("0"),
  seconds: signal(""),
  check: signal(""),
  mistrust: signal("keep"),
  keep: signal(true),
};

const numeric = (text: string) => (text.trim() === "" || Number.isNaN(Number(text)) ? undefined : Number(text));
export const method = computed(() => catalogue.value?.methods[fields.method.value]);
export const numSlices = computed(() => {
  const count = facts.value?.slices ?? 1;
  const first = numeric(fields.first.value) ?? 0;
  const last = numeric(fields.last.value) ?? (fields.first.value ? first : count - 1);
  return Math.max(1, Math.min(count, last + 1) - Math.max(0, first));
});

let stop = new AbortController();

/** The upload of the source. */
export const held = () => (source.value && source.value !== "example" ? source.value.id : "");

/** Reads a file, or the example, or what an upload of before holds, and proposes what fits it. */
export async function choose(chosen: File | "example" | { upload: string }): Promise<void> {
  stop.abort();
  const mine = (stop = new AbortController());
  if (held()) forget(held());
  batch(() => {
    [source.value, facts.value, errors.value, times.value] = [begun(chosen), null, {}, {}];
    busy.value = chosen === "example" ? "Making the example" : chosen instanceof File ? "Sending the file" : "Reading the file";
  });
  try {
    if (chosen instanceof File) {
      const id = await upload(chosen, (part) => (busy.value = `Sending the file: ${Math.round(100 * part)} %`), mine.signal);
      batch(() => ([source.value, busy.value] = [{ name: chosen.name, bytes: chosen.size, id }, "Reading the file"]));
    } else if (chosen !== "example") {
      source.value = await uploaded(chosen.upload);
    }
    const found = await post<Inspection>("v1/inspections", named(source.value!), mine.signal);
    propose(found);
    announced.value = `${found.name}: ${found.why}`;
  } catch (error) {
    if (mine.signal.aborted) return;
    if (held() && chosen instanceof File) forget(held());
    batch(() => ([errors.value, source.value] = [{ source: (error as Error).message }, null]));
  } finally {
    if (!mine.signal.aborted) busy.value = "";
  }
}

function begun(chosen: File | "example" | { upload: string }): Source {
  if (chosen === "example") return chosen;
  return chosen instanceof File ? { name: chosen.name, bytes: chosen.size, id: "" } : { name: "", bytes: 0, id: chosen.upload };
}

const named = (chosen: Source) => (chosen === "example" ? { example: "phantom" } : { upload: chosen.id });

function propose(found: Inspection): void {
  batch(() => {
    facts.value = found;
    const middle = String(found.slices >> 1);
    const few = found.slices <= FEW_SLICES;
    [fields.first.value, fields.last.value] = few ? ["", ""] : [middle, middle];
    fields.mask.value = found.mask?.kind ?? "";
    fields.acceleration.value = String(found.mask?.acceleration ?? 4);
    fields.acs.value = "";
    if (!fields.method.value) fields.method.value = usable(found.method) ? found.method : Object.keys(catalogue.value!.methods).find(usable)!;
  });
}

export function usable(name: string): boolean {
  const known = catalogue.value?.methods[name];
  return Boolean(known && (known.needs === null || known.priors.length));
}

/** Asks how long each method is expected to take with the options on show. */
export async function expect(stopped: AbortSignal): Promise<void> {
  const found = facts.value;
  if (!found) return;
  const options = query({
    shape: found.shape.join("x"), coils: found.coils, slices: numSlices.value, samples: numeric(fields.samples.value),
    steps: numeric(fields.steps.value), method: fields.prior.value ? fields.method.value : undefined, prior: fields.prior.value || undefined,
  });
  try {
    times.value = await getJson<Record<string, Expected>>(`v1/times?${options}`, { signal: stopped });
  } catch {
    if (!stopped.aborted) times.value = {}; // an option that cannot be is told when it is sent
  }
}

function request(): object {
  const { first, last, mask, acceleration, acs, samples, steps, seed, seconds, check, mistrust, keep, prior } = fields;
  const plan: Record<string, unknown> = { method: fields.method.value };
  const values: Record<string, unknown> = { plan };
  if (method.value?.needs) values.prior = prior.value || undefined;
  if (method.value?.samples) {
    plan.num_samples = numeric(samples.value);
    plan.seed = numeric(seed.value);
    plan.settings = numeric(steps.value) === undefined ? undefined : { num_steps: numeric(steps.value) };
    plan.check = check.value ? check.value === "true" : undefined;
    plan.on_mistrust = mistrust.value;
    plan.keep_samples = keep.value;
    values.max_seconds = numeric(seconds.value);
  }
  if (mask.value) values.mask = { kind: mask.value, acceleration: numeric(acceleration.value), acs_lines: numeric(acs.value) };
  const [from, to] = [numeric(first.value), numeric(last.value)];
  if (from !== undefined || to !== undefined) values.slices = [from ?? 0, (to ?? from!) + 1];
  return JSON.parse(JSON.stringify(values)); // without what is undefined
}

// Which field a sentence of the service is about: its words for options, the first that fits.
const ABOUT: [RegExp, string][] = [
  [/num_samples|\bsamples\b/, "samples"],
  [/num_steps|network evaluations|\bsteps\b/, "steps"],
  [/max_seconds/, "seconds"],
  [/\bseed\b/, "seed"],
  [/acs_lines|\bACS\b/, "acs"],
  [/acceleration/, "acceleration"],
  [/\bmask\b|undersampl|gaps/, "mask"],
  [/\bslices?\b/, "first"],
  [/\bprior\b/, "prior"],
];

export async function submit(): Promise<void> {
  const chosen = source.value;
  if (!chosen) {
    errors.value = { source: "Choose a file first, or the example." };
    document.getElementById("file")?.focus();
    return;
  }
  const wrong = noNumber();
  if (wrong) {
    errors.value = { [wrong]: "Give a number." };
    return show(wrong);
  }
  batch(() => ([errors.value, busy.value] = [{}, "Sending"]));
  try {
    const job = await post<Job>("v1/reconstructions", { ...request(), ...named(chosen) });
    busy.value = "";
    go(toJob(job.id));
  } catch (error) {
    const { message, status } = error as Error & { status?: number };
    const field = status === 422 ? ABOUT.find(([words]) => words.test(message))?.[1] : undefined;
    batch(() => ([errors.value, busy.value] = [{ [field ?? "submit"]: message }, ""]));
    show(field ?? "");
  }
}

/** The first field whose text is no number, or that is empty where a number was proposed. */
function noNumber(): string | undefined {
  const inputs = [...document.querySelectorAll<HTMLInputElement>("#form input[type=number]")];
  return inputs.find((each) => each.validity.badInput || (each.required && !each.value))?.id;
}

function show(field: string): void {
  const element = document.getElementById(field);
  element?.closest("details")?.setAttribute("open", "");
  element?.focus();
}
