// What a job has when it is done: the verdict, the images, the figures, what was run, the files.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { download, getJson } from "./api";
import { catalogue } from "./state";
import type { Images, Job } from "./types";
import { Viewer } from "./viewer/viewer";
import { duration, many, MARKS, methodName, NAMES, ranges, sentence, whatWasRun } from "./words";

export function Result({ job, slice }: { job: Job; slice: number | null }) {
  const images = useSignal<Images | null>(null);
  const position = useSignal(0);
  const trouble = useSignal("");
  useEffect(() => {
    getJson<Images>(`v1/reconstructions/${job.id}/images`)
      .then((found) => (images.value = found))
      .catch((error: Error) => (trouble.value = error.message));
  }, [job.id]);
  const asked = slice === null ? -1 : job.slices.indexOf(slice);
  const first = asked >= 0 ? asked : job.slices.length >> 1;
  const shown = job.slices[images.value ? position.value : first]!;
  return (
    <div id="result">
      <VerdictOf job={job} slice={shown} />
      {trouble.value && <p class="error" role="alert">{trouble}</p>}
      {images.value && <Viewer job={job} images={images.value} first={first} moved={(at) => (position.value = at)} />}
      <div class="columns">
        <Figures job={job} />
        <Ran job={job} />
        <Files job={job} />
      </div>
    </div>
  );
}

function VerdictOf({ job, slice }: { job: Job; slice: number }) {
  const verdict = job.verdicts[slice];
  if (!verdict) {
    return <p class="verdict not-checked" id="verdict"><span id="sentence">{methodName(job.config.method)} draws no samples: nothing here says whether its image is to be believed.</span></p>;
  }
  const { level, given } = verdict;
  return (
    <div class={`verdict ${level.replace(" ", "-")}`} id="verdict">
      <strong><span aria-hidden="true" class="verdict-mark">{MARKS[level]}</span> <span id="level">{level}</span></strong>
      <span id="sentence">{sentence(verdict.sentence.replace(`${level}: `, ""))}{given ? ` The image is that of ${NAMES[given] ?? methodName(given)}.` : ""}</span>
    </div>
  );
}

function Figures({ job }: { job: Job }) {
  const { report, config } = job;
  const [now, before] = [report.metrics, report.metrics_zero_filled];
  const rows: [string, string, string?][] = [];
  const both = (name: string, key: "psnr" | "ssim" | "nmse", digits: number, unit = "") => {
    if (now?.[key] === undefined) return;
    rows.push([name, `${now[key].toFixed(digits)}${unit}`, before?.[key] === undefined ? "" : `${before[key].toFixed(digits)}${unit}`]);
  };
  both("PSNR", "psnr", 2, " dB");
  both("SSIM", "ssim", 3);
  both("NMSE", "nmse", 4);
  const more: [string, string][] = [];
  if (report.coverage !== undefined) more.push([`Object within the ${Math.round(100 * config.level)} % intervals`, `${Math.round(100 * report.coverage)} %`]);
  if (report.std_error_rank_correlation !== undefined) more.push(["Rank correlation of deviation and error", report.std_error_rank_correlation.toFixed(2)]);
  more.push(["Net acceleration", `${report.net_acceleration.toFixed(2)} ×`], ["Computing time", duration(report.seconds)]);
  if (report.network_images) more.push(["Network images", String(report.network_images)]);
  for (const [slice, samples] of Object.entries(report.diverged)) {
    more.push([`Slice ${slice} diverged`, report.fallback.includes(Number(slice)) ? "all samples: CG-SENSE is shown" : `${many(Object.keys(samples).length, "sample")} left out`]);
  }
  return (
    <section class="card" aria-labelledby="figures-title">
      <h2 id="figures-title">Figures</h2>
      {rows.length > 0 && (
        <table id="figures">
          <thead><tr><td /><th scope="col">This image</th><th scope="col">Zero-filled</th></tr></thead>
          <tbody>{rows.map(([name, own, other]) => (<tr><th scope="row">{name}</th><td>{own}</td><td class="dim">{other}</td></tr>))}</tbody>
        </table>
      )}
      {rows.length === 0 && <p class="dim">{job.report.net_acceleration > 1 ? "There is no reference to compare with: the data were measured undersampled." : "Nothing was left out of the data, so there is nothing to compare with: choose a mask for that."}</p>}
      <dl class="pairs">{more.map(([name, value]) => (<div><dt>{name}</dt><dd>{value}</dd></div>))}</dl>
    </section>
  );
}

function Ran({ job }: { job: Job }) {
  const known = catalogue.value!;
  const source = known.methods[job.config.method]?.source;
  const notes = [...new Set([...job.notes, ...job.report.notes])];
  const all = JSON.stringify({ request: job.request, config: job.config, stages_seconds: job.report.stages_seconds }, null, 2);
  return (
    <section class="card" aria-labelledby="ran-title">
      <h2 id="ran-title">What was run</h2>
      <div id="ran">{whatWasRun(job, known).map((each) => (<p>{each}</p>))}</div>
      {source && <p class="source"><span class="dim">Source.</span> {source}</p>}
      {notes.length > 0 && (
        <>
          <h3>To be known of these data</h3>
          <ul>{notes.map((note) => (<li>{sentence(note)}</li>))}</ul>
        </>
      )}
      <details><summary>All settings</summary><pre tabIndex={0}>{all}</pre></details>
    </section>
  );
}

function Files({ job }: { job: Job }) {
  const trouble = useSignal("");
  const busy = useSignal("");
  const get = (name: string, path: string, fallback: string) => {
    [busy.value, trouble.value] = [name, ""];
    download(`v1/reconstructions/${job.id}/${path}`, fallback)
      .catch((error: Error) => (trouble.value = `${name}: ${error.message}`))
      .finally(() => (busy.value = ""));
  };
  const button = (name: string, path: string, fallback: string, what: string) => (
    <li>
      <button type="button" id={`get-${name}`} disabled={busy.value === name} onClick={() => get(name, path, fallback)}>
        <span aria-hidden="true">↓</span> {name}
      </button>
      <span class="dim">{what}</span>
    </li>
  );
  return (
    <section class="card" aria-labelledby="files-title">
      <h2 id="files-title">Downloads</h2>
      <ul class="files">
        {Object.entries(catalogue.value!.forms).map(([form, what]) => button(form, `result?format=${form}`, form === "h5" ? "reconstruction.h5" : `reconstruction.${form}`, what))}
        {button("panel", "panel.png", "panel.png", "a figure of the middle slice")}
        {job.links["outputs.zip"] && button("outputs", "outputs.zip", "outputs.zip", "what the request asked for besides")}
      </ul>
      {trouble.value && <p class="error" role="alert">{trouble}</p>}
      {(job.report.geometry?.notes ?? []).map((note) => (<p class="note">{sentence(note)}</p>))}
      <p class="dim">Each has {job.slices.length > 1 ? `the slices ${ranges(job.slices)}` : `slice ${job.slices[0]}`}.</p>
    </section>
  );
}
