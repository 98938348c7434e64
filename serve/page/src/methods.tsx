// The methods in groups, each with what it is and how long it is expected to take.
import { facts, fields, times, usable } from "./form";
import { catalogue } from "./state";
import type { Catalogue, Expected } from "./types";
import { duration, many, methodName, sentence } from "./words";

const GROUPS: [keyof Pick<Catalogue, "samplers" | "learned" | "classical">, string, string][] = [
  ["samplers", "Posterior samplers", "samples, with mean and deviation"],
  ["learned", "Trained networks", "one image, no deviation"],
  ["classical", "Classical", "one image from the data alone"],
];

export function Methods() {
  const known = catalogue.value!;
  const absent = Object.keys(known.methods).filter((name) => !usable(name));
  return (
    <section class="card" aria-labelledby="method-title">
      <h2 id="method-title">Method</h2>
      <div class="groups">
        {GROUPS.map(([group, title, what]) => {
          const names = known[group].filter(usable);
          if (!names.length) return null;
          return (
            <fieldset class="group">
              <legend>{title} <span class="dim">{what}</span></legend>
              {names.map((name) => (<Row name={name} />))}
            </fieldset>
          );
        })}
      </div>
      {absent.length > 0 && (
        <details>
          <summary>{absent.length} more need a prior that is not served here</summary>
          <ul class="absent">
            {absent.map((name) => (<li><strong>{methodName(name)}</strong> <span class="dim">{times.value[name]?.fault ? sentence(times.value[name].fault) : known.methods[name]!.summary}</span></li>))}
          </ul>
        </details>
      )}
    </section>
  );
}

function Row({ name }: { name: string }) {
  const chosen = fields.method.value === name;
  return (
    <label class={chosen ? "method chosen" : "method"}>
      <input type="radio" name="method" value={name} checked={chosen}
        onChange={() => ([fields.method.value, fields.prior.value] = [name, ""])} />
      <span class="method-name">{methodName(name)}{facts.value?.method === name && <span class="tag">proposed</span>}</span>
      <span class="time">{timeOf(times.value[name])}</span>
      <span class="dim what">{plain(name)}</span>
    </label>
  );
}

/** The summary without the name that stands before it. */
function plain(name: string): string {
  const { summary } = catalogue.value!.methods[name]!;
  return sentence(summary.replace(/^[^:]{1,30}: /, ""));
}

function timeOf(time: Expected | undefined): string {
  if (!time) return "";
  if (time.fault) return "not with these settings";
  if (time.seconds !== null) return `${time.measured ? "" : "~ "}${duration(time.seconds)}`;
  return time.evaluations ? many(time.evaluations, "evaluation") : "no network";
}
