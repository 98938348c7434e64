// One job: what becomes of it, as it happens, and what it has when it is done.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, follow, getJson } from "./api";
import { StateChip } from "./jobs";
import { Result } from "./result";
import { announced } from "./state";
import type { Job, Preview, Progress } from "./types";
import { age, duration, isActive, methodName, sentence } from "./words";

export function JobView({ id, slice }: { id: string; slice: number | null }) {
  const job = useSignal<Job | null>(null);
  const progress = useSignal<Progress>({});
  const preview = useSignal<Preview | null>(null);
  const residuals = useSignal<number[]>([]);
  const trouble = useSignal("");
  const cancelling = useSignal(false);
  const address = `v1/reconstructions/${id}`;

  useEffect(() => {
    const stop = new AbortController();
    void watch(stop.signal);
    return () => stop.abort();
  }, [id]);

  async function watch(stop: AbortSignal): Promise<void> {
    const told = (name: string, data: never) => {
      if (name === "state") {
        job.value = data as Job;
        progress.value = job.value.progress ?? {};
        announced.value = `${job.value.name}: ${job.value.state}`;
      } else if (name === "progress") {
        announce(progress.value, data as Progress);
        progress.value = data as Progress;
      } else if (name === "preview") {
        const shown = (preview.value = data as Preview);
        residuals.value = [...residuals.value.slice(-299), shown.data_residual];
      } else if (name === "gone") throw new Error((data as { detail: string }).detail);
    };
    for (;;) {
      try {
        job.value ??= await getJson<Job>(address, { signal: stop });
        progress.value = job.value.progress ?? {};
        trouble.value = "";
        if (!isActive(job.value.state)) return;
        await follow(`${address}/events`, told, stop);
        if (!isActive(job.value.state)) return;
      } catch (error) {
        if (stop.aborted) return;
        trouble.value = (error as Error).message;
        if ([401, 403, 404].includes((error as { status?: number }).status ?? 0)) return;
      }
      await new Promise((wake) => setTimeout(wake, 2000));
      if (stop.aborted) return;
    }
  }

  const cancel = () => {
    cancelling.value = true;
    call(address, { method: "DELETE" })
      .then((answer) => answer.json())
      .then((found: Job) => (job.value = found))
      .catch((error: Error) => (trouble.value = error.message))
      .finally(() => (cancelling.value = false));
  };

  const found = job.value;
  if (!found) {
    if (!trouble.value) return <p class="dim center">Looking for the job …</p>;
    return (
      <div class="card narrow">
        <p class="error" role="alert">{trouble}</p>
        <a class="button" href="#/jobs">Jobs</a>
      </div>
    );
  }
  return (
    <article class="job">
      <header class="job-head">
        <div>
          <h1 id="title">{found.name}{found.report.simulated && <span class="tag">simulated</span>}</h1>
          <p class="dim">{methodName(found.config.method)} · {age(found.created)}{found.sampling ? ` · ${found.sampling}` : ""}</p>
        </div>
        <StateChip state={found.state} />
      </header>
      {trouble.value && <p class="error" role="alert">{trouble}</p>}
      {isActive(found.state) && (
        <Running job={found} progress={progress.value} preview={preview.value} residuals={residuals.value} cancel={cancel} cancelling={cancelling.value} />
      )}
      {found.state === "done" && <Result job={found} slice={slice} />}
      {!isActive(found.state) && found.state !== "done" && (
        <div class="card">
          <p class={found.state === "cancelled" ? "note" : "error"} role="alert" id="why">{sentence(found.detail || `it is ${found.state}`)}</p>
          <a class="button main" href="#/">New reconstruction</a>
        </div>
      )}
    </article>
  );
}

/** Tells screen readers every quarter, no more. */
function announce(before: Progress, now: Progress): void {
  const quarter = (progress: Progress) => Math.floor(4 * (progress.fraction ?? 0));
  if (quarter(now) > quarter(before)) announced.value = `${25 * quarter(now)} per cent done`;
}

/** How the data residual fell so far, in per cent. */
function Trace({ values }: { values: number[] }) {
  if (values.length < 3) return null;
  const top = Math.max(...values);
  const points = values.map((value, i) => `${(100 * i) / (values.length - 1)},${100 - (100 * value) / top}`).join(" ");
  return (
    <figure class="trace">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
        <line x1="0" y1="100" x2="100" y2="100" />
        <polyline points={points} />
      </svg>
      <figcaption><span>Data residual over time</span><span>{(100 * values.at(-1)!).toFixed(1)} %</span></figcaption>
    </figure>
  );
}

interface RunningGiven {
  job: Job;
  progress: Progress;
  preview: Preview | null;
  residuals: number[];
  cancel: () => void;
  cancelling: boolean;
}

function Running({ job, progress, preview, residuals, cancel, cancelling }: RunningGiven) {
  const { evaluations_done: done, evaluations_total: total, slices_done, slices_total } = progress;
  const part = progress.fraction ?? 0;
  const waits = job.state === "queued";
  const what = waits
    ? progress.jobs_ahead ? `Waiting, ${progress.jobs_ahead} before it` : "Waiting for a sampler"
    : total && done ? `Evaluation ${done} of ${total}` : part > 0 ? "Working" : "Estimating coil maps";
  const facts: [string, string][] = [
    ["Time left", progress.seconds_left == null ? "–" : `about ${duration(progress.seconds_left)}`],
    ["Slices done", slices_total ? `${slices_done} of ${slices_total}` : "–"],
    ["Chains", preview ? `${preview.chains}` : "–"],
    ["Data residual", preview ? `${(100 * preview.data_residual).toFixed(1)} %` : "–"],
  ];
  return (
    <section aria-label="Progress" class="watch">
      <div class="card running">
        <div class="running-head">
          <strong id="step">{what}</strong>
          <button type="button" id="cancel" disabled={cancelling} onClick={cancel}>{cancelling ? "Cancelling …" : "Cancel"}</button>
        </div>
        <progress max={1} value={waits || part === 0 ? undefined : part} aria-label="Part that is done" />
        <dl class="facts">
          {facts.map(([name, value]) => (<div><dt>{name}</dt><dd>{value}</dd></div>))}
        </dl>
        <Trace values={residuals} />
      </div>
      <div class="forming">
        {(["mean", "std"] as const).map((kind) => (
          <figure class="panel">
            <figcaption><span class="panel-title">{kind === "mean" ? "Mean so far" : "Deviation so far"}</span>
              {preview && job.slices.length > 1 && <span class="value">slice {preview.slice}</span>}</figcaption>
            {preview ? (
              <img src={preview[kind]} alt={`${kind === "mean" ? "mean" : "standard deviation"} of the chains so far`} />
            ) : (
              <div class="blank">{waits ? "Waiting" : "The image forms here once sampling has begun"}</div>
            )}
          </figure>
        ))}
      </div>
    </section>
  );
}
