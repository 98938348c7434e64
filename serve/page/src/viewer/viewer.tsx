// The images of a result: all panels with one cursor, one zoom and one window, and the controls that they share.
import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { help } from "../help";
import { noteSlice } from "../route";
import { announced } from "../state";
import type { Images, Job } from "../types";
import { LEVELS, MARKS, methodName, NAMES } from "../words";
import { press } from "./keys";
import { Panel } from "./panel";
import { type Kind, View } from "./view";

interface Given {
  job: Job;
  images: Images;
  first: number;
  moved: (position: number) => void;
}

export function Viewer({ job, images, first, moved }: Given) {
  const view = useMemo(() => {
    const made = new View(job.links["images"]!.replace(/^\//, ""), images);
    made.goTo(first);
    return made;
  }, [job.id]);
  const pans = useSignal(false);
  useEffect(() => {
    view.scale(view.position.peek()).catch((error: Error) => (view.trouble.value = error.message));
  }, [view]);
  useSignalEffect(() => {
    const slice = images.slices[view.position.value]!;
    moved(view.position.value);
    if (images.slices.length > 1) {
      noteSlice(job.id, slice);
      announced.value = `slice ${slice}${job.verdicts[slice] ? `, ${job.verdicts[slice].level}` : ""}`;
    }
  });
  const title = (kind: Kind) => titleOf(kind, job, view);
  const pressed = (event: KeyboardEvent) => {
    if (event.key === "?") help.value = true;
    else if (!press(view, event)) return;
    event.preventDefault();
  };
  const kinds = useComputed(() => view.kinds.filter((kind) => view.shown.value[kind]));
  return (
    <section class="viewer" aria-label="Images">
      {images.slices.length > 1 && <Slices view={view} job={job} />}
      <Tools view={view} job={job} pans={pans} title={title} />
      {view.trouble.value && <p class="error" role="alert">{view.trouble}</p>}
      <div class="panels" data-count={kinds.value.length} role="application" tabIndex={0} onKeyDown={pressed}
        aria-label="Images. Arrow keys move the cursor, question mark lists all keys">
        {kinds.value.map((kind) => {
          const [name, note] = title(kind);
          return <Panel key={kind} view={view} kind={kind} title={name} note={note} pans={() => pans.value} />;
        })}
      </div>
      <p class="dim place"><Place view={view} /></p>
    </section>
  );
}

function Place({ view }: { view: View }) {
  const at = view.cursor.value;
  const where = at ? `Row ${at.row}, column ${at.col}. ` : "";
  const [row, col] = view.images.voxel_mm;
  return (
    <>
      {where}{view.rows} × {view.cols} pixels of {row.toPrecision(3)} × {col.toPrecision(3)} mm; values in the unit of the data.{" "}
      Deviation and error share one scale of colours.
    </>
  );
}

function titleOf(kind: Kind, job: Job, view: View): [string, string?] {
  const slice = view.images.slices[view.position.value]!;
  const given = job.verdicts[slice]?.given || (job.report.fallback.includes(slice) ? "cg_sense" : "");
  const level = `${Math.round(100 * job.config.level)} % interval`;
  if (kind === "mean" && given) return [`${NAMES[given] ?? methodName(given)}, in place of the mean`, "not the mean"];
  if (kind === "mean") return [view.hasSpread ? "Posterior mean" : methodName(job.config.method)];
  if (kind === "samples") return [`Sample ${view.sample.value + 1} of ${view.images.samples}`];
  return [{
    std: "Standard deviation", lower: `Lower, ${level}`, upper: `Upper, ${level}`,
    zero_filled: "Zero-filled", reference: "Reference", error: "Error |mean − reference|",
  }[kind]];
}

interface ToolsGiven {
  view: View;
  job: Job;
  pans: { value: boolean };
  title: (kind: Kind) => [string, string?];
}

const SHORT: Record<Kind, string> = {
  mean: "Mean", std: "Deviation", lower: "Lower", upper: "Upper", samples: "Samples", zero_filled: "Zero-filled",
  reference: "Reference", error: "Error",
};

function Tools({ view, job, pans }: ToolsGiven) {
  const toggle = (kind: Kind) => (view.shown.value = { ...view.shown.value, [kind]: !view.shown.value[kind] });
  const range = (label: string, value: number, low: number, high: number, step: number, set: (value: number) => void, shown: string) => (
    <label class="range">
      <span>{label}</span>
      <input type="range" min={low} max={high} step={step} value={value} aria-valuetext={shown}
        onInput={(event) => set(event.currentTarget.valueAsNumber)} />
      <output>{shown}</output>
    </label>
  );
  const percent = (value: number) => `${Math.round(100 * value)} %`;
  return (
    <div class="tools">
      <div class="chips" role="group" aria-label="Images on show">
        {view.kinds.map((kind) => (
          <button type="button" class="chip" aria-pressed={view.shown.value[kind]} onClick={() => toggle(kind)}>{SHORT[kind]}</button>
        ))}
      </div>
      <div class="buttons">
        <span class="zoom" role="group" aria-label="Zoom">
          <button type="button" aria-label="Zoom out" onClick={() => view.zoomBy(0.8)}>−</button>
          <output aria-label="Zoom">{Math.round(100 * view.zoom.value.by)} %</output>
          <button type="button" aria-label="Zoom in" onClick={() => view.zoomBy(1.25)}>+</button>
        </span>
        <button type="button" class="mouse" aria-pressed={pans.value} onClick={() => (pans.value = !pans.value)}>Drag moves</button>
        <button type="button" onClick={() => view.reset()}>Reset</button>
        <button type="button" class="mouse" onClick={() => (help.value = true)}>Keys</button>
      </div>
      <details class="adjust" open={!matchMedia("(max-width: 40rem)").matches}>
      <summary>Window, level and uncertainty</summary>
      <div class="ranges">
        {range("Level", view.level.value, 0, 1.5, 0.01, (value) => (view.level.value = value), percent(view.level.value))}
        {range("Window", view.width.value, 0.02, 2, 0.01, (value) => (view.width.value = value), percent(view.width.value))}
        {view.hasSpread && range("Deviation to", view.spreadTop.value, 0.05, 2, 0.01, (value) => (view.spreadTop.value = value), percent(view.spreadTop.value))}
        {view.images.samples > 0 && view.shown.value["samples"] && range("Sample", view.sample.value + 1, 1, view.images.samples, 1, (value) => (view.sample.value = value - 1), `${view.sample.value + 1} of ${view.images.samples}`)}
      </div>
      {view.hasSpread && (
        <div class="ranges overlay">
          <label class="check">
            <input type="checkbox" checked={view.overlay.value} onChange={(event) => (view.overlay.value = event.currentTarget.checked)} />
            Uncertainty on the {job.config.num_samples ? "mean" : "image"}
          </label>
          {range("above", view.threshold.value, 0, view.mostThreshold.value, 0.1, (value) => (view.threshold.value = value),
            `${view.threshold.value.toFixed(1)} % of white${view.overlay.value ? `: ${(100 * view.above.value).toFixed(0)} % of pixels` : ""}`)}
        </div>
      )}
      </details>
    </div>
  );
}

function Slices({ view, job }: { view: View; job: Job }) {
  const slices = view.images.slices;
  const counts = LEVELS.map((level) => [level, slices.filter((each) => job.verdicts[each]?.level === level).length] as const);
  const at = view.position.value;
  return (
    <div class="slices">
      <label class="range wide">
        <span>Slice</span>
        <input id="slice" type="range" min={0} max={slices.length - 1} value={at} aria-valuetext={`slice ${slices[at]}`}
          onInput={(event) => view.goTo(event.currentTarget.valueAsNumber)} />
        <output id="slice-number">{slices[at]}</output>
      </label>
      <ol class="strip" aria-label="Slices and their verdicts">
        {slices.map((slice, position) => {
          const level = job.verdicts[slice]?.level;
          return (
            <li>
              <button type="button" class={`mark ${level?.replace(" ", "-") ?? ""}`} aria-current={position === at}
                aria-label={`slice ${slice}${level ? `, ${level}` : ""}`} onClick={() => view.goTo(position)}>
                {slice}{level && <span aria-hidden="true"> {MARKS[level]}</span>}
              </button>
            </li>
          );
        })}
      </ol>
      <p class="dim" id="verdicts">{counts.filter(([, count]) => count).map(([level, count]) => `${count} ${level}`).join(", ")}</p>
    </div>
  );
}
