// A new job: a drop or a choice reads the file first and proposes what fits it.
import type { Signal } from "@preact/signals";
import { effect, untracked, useSignal, useSignalEffect } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { busy, choose, errors, expect, facts, fields, held, method, numSlices, source, submit, times } from "./form";
import { Jobs } from "./jobs";
import { noteUpload, route } from "./route";
import { Methods } from "./methods";
import { catalogue, priors } from "./state";
import { duration, many, methodName, sentence, size } from "./words";

const ACCEPTED = ".h5,.hdf5,.mrd,.npy,.npz,.mat,.dat,.zip";

export function NewJob() {
  const over = useSignal(false);
  useEffect(() => {
    const noted = effect(() => noteUpload(held())); // a reload reads it again
    const drag = (event: DragEvent) => {
      event.preventDefault();
      over.value = event.type === "dragover";
      const file = event.type === "drop" ? event.dataTransfer?.files[0] : undefined;
      if (file) void choose(file);
    };
    const names = ["dragover", "dragleave", "drop"] as const;
    for (const name of names) addEventListener(name, drag);
    return () => {
      noted();
      names.forEach((name) => removeEventListener(name, drag));
    };
  }, []);
  useSignalEffect(() => {
    const at = route.value;
    const wanted = at.view === "new" && at.upload;
    if (wanted && wanted !== untracked(held)) untracked(() => void choose({ upload: wanted }));
  });
  useSignalEffect(() => {
    void [facts.value, numSlices.value, fields.samples.value, fields.steps.value, fields.prior.value, fields.method.value];
    const stop = new AbortController();
    const timer = setTimeout(() => void expect(stop.signal), 200);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  });
  const send = (event: Event) => {
    event.preventDefault();
    void submit();
  };
  return (
    <form class="new" id="form" noValidate onSubmit={send}>
      <header class="lead">
        <h1>New reconstruction</h1>
        <p class="dim">Undersampled k-space in; posterior mean, how sure it is, and whether to believe it out.</p>
      </header>
      <SourceCard over={over.value} />
      {!source.value && <Jobs recent={4} />}
      {facts.value && (
        <>
          <div class={facts.value.slices > 1 ? "two" : ""}>
            <Undersampling />
            {facts.value.slices > 1 && <Slices />}
          </div>
          <Methods />
          <Settings />
          <Bar />
        </>
      )}
    </form>
  );
}

function SourceCard({ over }: { over: boolean }) {
  const chosen = source.value;
  const found = facts.value;
  const picked = (event: Event) => {
    const input = event.currentTarget as HTMLInputElement;
    if (input.files?.[0]) void choose(input.files[0]);
    input.value = ""; // the same file again is a choice too
  };
  return (
    <section class="card" aria-labelledby="data-title">
      <h2 id="data-title">Data</h2>
      <div class={`drop ${over ? "over" : ""} ${found ? "small" : ""}`}>
        <label class="pick">
          <input id="file" type="file" accept={ACCEPTED} onChange={picked} aria-describedby={errors.value.source ? "source-error" : "kinds"} />
          <span class="button main">{chosen ? "Choose another file" : "Choose a k-space file"}</span>
        </label>
        <span class="dim">or drop one anywhere here</span>
        <button type="button" id="example" onClick={() => void choose("example")}>Use the example</button>
        {!found && <p class="dim" id="kinds">ISMRMRD, fastMRI and other HDF5, NumPy .npy and .npz. The example is a simulated head, one slice.</p>}
      </div>
      {busy.value && !found && <p class="busy" role="status"><span class="spin" aria-hidden="true" /> {busy} …</p>}
      {errors.value.source && <p class="error" role="alert" id="source-error">{sentence(errors.value.source)}</p>}
      {found && (
        <div id="facts">
          <p class="found">
            <strong>{found.name}</strong>
            {chosen && chosen !== "example" && <span class="dim">{size(chosen.bytes)}</span>}
            {found.simulated && <span class="tag">simulated</span>}
            <span class={`tag ${found.undersampled ? "gaps" : ""}`}>{found.undersampled ? "undersampled" : "fully sampled"}</span>
          </p>
          <dl class="facts">
            {([
              ["Slices", found.slices], ["Coils", found.coils], ["k-space", found.shape.join(" × ")],
              ["Image", found.image_shape.join(" × ")],
              ["Reference", found.has_reference ? "stored" : found.undersampled ? "none" : "from full data"],
              ...Object.entries({ acquisition: "Acquisition", field_T: "Field, T" }).filter(([name]) => found.stated[name]).map(([name, shown]) => [shown, found.stated[name]!] as const),
            ] as [string, string | number][]).map(([name, value]) => (<div><dt>{name}</dt><dd>{value}</dd></div>))}
          </dl>
          <p class="why"><span aria-hidden="true">→</span> {sentence(found.why)}</p>
          {found.notes.length > 0 && (
            <details><summary>{many(found.notes.length, "note")} on these data</summary><ul>{found.notes.map((note) => (<li>{sentence(note)}</li>))}</ul></details>
          )}
        </div>
      )}
    </section>
  );
}

interface FieldGiven {
  name: keyof typeof fields;
  label: string;
  hint?: ComponentChildren;
  min?: number;
  step?: string;
  placeholder?: string;
  disabled?: boolean;
  required?: boolean;
  options?: [string, string][];
}

function Field({ name, label, hint, options, ...input }: FieldGiven) {
  const value = fields[name] as Signal<string>;
  const trouble = errors.value[name];
  const about = [trouble && `${name}-error`, hint && `${name}-hint`].filter(Boolean).join(" ") || undefined;
  const set = (event: { currentTarget: HTMLInputElement | HTMLSelectElement }) => {
    value.value = event.currentTarget.value;
    if (trouble) errors.value = {};
  };
  return (
    <div class="field">
      <label for={name}>{label}</label>
      {options ? (
        <select id={name} value={value} onChange={set} disabled={input.disabled} aria-describedby={about} aria-invalid={trouble ? true : undefined}>
          {options.map(([key, text]) => (<option value={key}>{text}</option>))}
        </select>
      ) : (
        <input id={name} type="number" value={value} onInput={set} aria-describedby={about} aria-invalid={trouble ? true : undefined} {...input} />
      )}
      {hint && <span class="dim" id={`${name}-hint`}>{hint}</span>}
      {trouble && <span class="error" role="alert" id={`${name}-error`}>{sentence(trouble)}</span>}
    </div>
  );
}

function Undersampling() {
  const found = facts.value!;
  const kinds: [string, string][] = [
    ["", found.undersampled ? "none: as measured" : "none: all that was measured"],
    ...Object.keys(catalogue.value!.masks).map((kind): [string, string] => [kind, kind]),
  ];
  const kind = fields.mask.value;
  return (
    <section class="card" aria-labelledby="mask-title">
      <h2 id="mask-title">Undersampling</h2>
      <div class="grid">
        <Field name="mask" label="Mask" options={kinds} hint={kind ? catalogue.value!.masks[kind] : undefined} />
        {kind && <Field name="acceleration" label="Acceleration" min={1} step="any" required />}
        {kind && <Field name="acs" label="Centre lines (ACS)" min={0} placeholder="by acceleration" />}
      </div>
      {found.undersampled && kind && <p class="note">These data have gaps already: the service will refuse to draw another mask.</p>}
    </section>
  );
}

function Slices() {
  const count = facts.value!.slices;
  return (
    <section class="card" aria-labelledby="slices-title">
      <h2 id="slices-title">Slices</h2>
      <div class="grid pair">
        <Field name="first" label="First" min={0} placeholder="0" />
        <Field name="last" label="Last" min={0} placeholder={String(count - 1)} />
        <p class="dim">{many(numSlices.value, "slice")} of {count}, numbered 0 to {count - 1}. Leave both empty for all.</p>
      </div>
    </section>
  );
}

function Settings() {
  const known = method.value;
  if (!known) return null;
  const names = known.priors.map((name): [string, string] => {
    const version = priors.value.find((each) => each.name === name)?.prior.version;
    return [name, version ? `${name}, version ${version}` : name];
  });
  return (
    <section class="card" aria-labelledby="settings-title">
      <h2 id="settings-title">Settings</h2>
      {!known.samples && known.needs === null ? (
        <p class="dim">{methodName(fields.method.value)} makes one image from the data alone: it has no samples and no prior.</p>
      ) : (
        <div class="grid wide">
          {known.samples && <Field name="samples" label="Samples" min={1} required hint="two or more show the deviation" />}
          {known.samples && <Field name="steps" label="Steps" min={2} placeholder={presetSteps()} hint="fewer are faster and worse" />}
          {known.needs !== null && <Field name="prior" label={known.samples ? "Prior" : "Network"} options={[["", `${names[0]?.[1] ?? "none"} (default)`], ...names.slice(1)]} />}
        </div>
      )}
      {known.samples && (
        <details>
          <summary>More settings</summary>
          <div class="grid wide">
            <Field name="seed" label="Seed" min={0} />
            <Field name="seconds" label="At most, in seconds" min={1} placeholder="all steps" hint="does fewer steps where it would take longer" />
            <Field name="check" label="Judge by left-out samples" options={[["", "by default"], ["true", "always"], ["false", "never"]]} />
            <Field name="mistrust" label="Where not trusted, give" options={[["keep", "the mean nevertheless"], ["fallback", "the best classical image"]]} />
            <label class="check">
              <input type="checkbox" id="keep" checked={fields.keep.value} onChange={(event) => (fields.keep.value = event.currentTarget.checked)} />
              Keep each sample
            </label>
          </div>
        </details>
      )}
    </section>
  );
}

function presetSteps(): string {
  const known = method.value!;
  const steps = known.presets[known.default_preset ?? ""]?.["num_steps"];
  return steps === undefined ? "of the preset" : String(steps);
}

function Bar() {
  const time = times.value[fields.method.value];
  const said = busy.value ? `${busy.value} …` : time?.fault ? sentence(time.fault)
    : time?.seconds != null ? `About ${duration(time.seconds)} once a sampler is free${time.measured ? "" : ", as the slowest method here took"}.`
    : time?.evaluations ? `${many(time.evaluations, "network evaluation")}; no job with this prior was timed here yet.` : "";
  return (
    <div class="bar">
      <button type="submit" id="submit" class="main" disabled={busy.value !== ""}>Reconstruct</button>
      <p role="status" id="expected">{said}</p>
      {errors.value.submit && <p class="error" role="alert" id="error">{sentence(errors.value.submit)}</p>}
    </div>
  );
}
