// The list of one's jobs.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, getJson } from "./api";
import { toJob } from "./route";
import type { Brief } from "./types";
import { age, duration, isActive, methodName, STATES } from "./words";

const EVERY_MS = 3000;
/** Jobs that the service lists at once. */
const MOST = 100;
interface Listed {
  reconstructions: Brief[];
  links: { next: string | null };
}

export function Jobs({ recent = 0 }: { recent?: number }) {
  const jobs = useSignal<Brief[] | null>(null);
  const next = useSignal<string | null>(null);
  const count = useSignal(recent || 20);
  const older = useSignal(""); // where the list begins; empty: with the newest
  const trouble = useSignal("");
  const asked = useSignal("");

  const look = async () => {
    try {
      const found = await getJson<Listed>(older.value || `v1/reconstructions?count=${count.value}`);
      [jobs.value, next.value, trouble.value] = [found.reconstructions, found.links.next, ""];
    } catch (error) {
      trouble.value = (error as Error).message;
    }
  };
  const begin = (at: string) => {
    older.value = at;
    scrollTo(0, 0);
    void look();
  };
  const more = () => {
    if (count.value === MOST) return begin(next.value!.slice(1));
    count.value = Math.min(MOST, count.value + 40);
    void look();
  };
  const act = (work: Promise<unknown>) => work.catch((error: Error) => (trouble.value = error.message)).then(look);
  useEffect(() => {
    void look();
    const timer = setInterval(() => {
      if (jobs.value?.some((job) => isActive(job.state)) && !document.hidden) void look();
    }, EVERY_MS);
    return () => clearInterval(timer);
  }, []);

  const cancel = (id: string) => act(call(`v1/reconstructions/${id}`, { method: "DELETE" }));
  const remove = (id: string) => {
    if (asked.value !== id) {
      asked.value = id;
      return;
    }
    asked.value = "";
    void act(call(`v1/reconstructions/${id}?results=true`, { method: "DELETE" }));
  };
  if (recent && !jobs.value?.length) return null;
  return (
    <section class={recent ? "jobs recent" : "jobs"}>
      {recent ? <h2>Recent jobs</h2> : <h1>Jobs</h1>}
      {trouble.value && <p class="error" role="alert">{trouble}</p>}
      {jobs.value?.length === 0 && (
        <div class="card empty">
          <p>There is no job yet.</p>
          <a class="button main" href="#/">Start with a file, or with the example</a>
        </div>
      )}
      {Boolean(jobs.value?.length) && (
        <ul class="joblist">
          {jobs.value!.map((job) => (
            <li class="card">
              <StateChip state={job.state} />
              <div class="joblist-what">
                <a href={toJob(job.id)}>{job.name}</a>
                <span class="dim">{methodName(job.method)} · {age(job.created)}{took(job)}</span>
                {job.detail && <span class="dim">{job.detail}</span>}
              </div>
              {isActive(job.state) ? (
                <button type="button" aria-label={`Cancel ${job.name}`} onClick={() => cancel(job.id)}>Cancel</button>
              ) : (
                <button type="button" class={asked.value === job.id ? "danger" : "plain"}
                  aria-label={`${asked.value === job.id ? "Really delete" : "Delete"} ${job.name}`}
                  onBlur={() => (asked.value = "")} onClick={() => remove(job.id)}>
                  {asked.value === job.id ? "Really delete?" : "Delete"}
                </button>
              )}
            </li>
          ))}
        </ul>
      )}
      {older.value && <button type="button" onClick={() => begin("")}>Newest</button>}
      {next.value && recent === 0 && <button type="button" onClick={more}>{count.value === MOST ? "Older" : "More"}</button>}
    </section>
  );
}

function took(job: Brief): string {
  if (job.state === "running") return ` · ${Math.round(100 * (job.progress?.fraction ?? 0))} %`;
  return job.started && job.finished ? ` · took ${duration(job.finished - job.started)}` : "";
}

export function StateChip({ state }: { state: Brief["state"] }) {
  return (
    <span class={`state ${state}`}>
      <span aria-hidden="true">{STATES[state].mark}</span> {STATES[state].text}
    </span>
  );
}
