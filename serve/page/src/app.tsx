// The frame: where one is, who asks, how it looks.
import { useSignal, useSignalEffect } from "@preact/signals";
import { keepKey, key } from "./api";
import { Help, help } from "./help";
import { JobView } from "./job";
import { Jobs } from "./jobs";
import { NewJob } from "./new";
import { route } from "./route";
import { announced, asksForKey, begin, catalogue, forgetKey, THEMES, theme, trouble } from "./state";

export function App() {
  useSignalEffect(() => {
    const { view } = route.value;
    document.title = { new: "New reconstruction", jobs: "Jobs", job: "Reconstruction" }[view] + " · kdrift";
  });
  const opened = (event: KeyboardEvent) => {
    const within = (event.target as HTMLElement).closest("input, select, textarea, dialog");
    if (event.key === "?" && !within) help.value = true;
  };
  return (
    <div class="frame" onKeyDown={opened}>
      <a class="skip" href="#main" onClick={skip}>Skip to the content</a>
      <Head />
      <main id="main" tabIndex={-1}>{content()}</main>
      <p class="unseen" role="status" aria-live="polite">{announced}</p>
      <Help />
    </div>
  );
}

function skip(event: Event) {
  event.preventDefault(); // the address says where one is
  document.getElementById("main")?.focus();
}

function content() {
  if (!catalogue.value) {
    if (asksForKey.value && !key.value) return <AskKey />;
    if (!trouble.value) return <p class="dim center">Asking the service what it has …</p>;
    return (
      <div class="card narrow">
        <p class="error" role="alert">{trouble}</p>
        <button type="button" onClick={() => void begin()}>Try again</button>
      </div>
    );
  }
  const at = route.value;
  if (at.view === "jobs") return <Jobs />;
  if (at.view === "job") return <JobView key={at.id} id={at.id} slice={at.slice} />;
  return <NewJob />;
}

function Head() {
  const at = route.value.view;
  const next = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
  const marks = { system: "◐", light: "☀", dark: "☾" };
  return (
    <header class="head">
      <a class="brand" href="#/" aria-label="kdrift">
        <img src="favicon.svg" alt="" width="28" height="28" />
        <span>kdrift</span>
      </a>
      <nav aria-label="Pages">
        <a href="#/" aria-current={at === "new" ? "page" : undefined}>New</a>
        <a href="#/jobs" aria-current={at === "jobs" ? "page" : undefined}>Jobs</a>
      </nav>
      <div class="head-end">
        {asksForKey.value && key.value && <button type="button" class="plain" onClick={forgetKey} aria-label="Forget the API key">Forget key</button>}
        <button type="button" class="plain" onClick={() => (help.value = true)} aria-label="Keys and mouse">?</button>
        <button type="button" class="plain" id="theme" onClick={() => (theme.value = next)}
          aria-label={`Colours: ${theme.value}. Change to ${next}`} title={`Colours: ${theme.value}`}>
          <span aria-hidden="true">{marks[theme.value]}</span>
        </button>
      </div>
    </header>
  );
}

function AskKey() {
  const typed = useSignal("");
  const given = (event: Event) => {
    event.preventDefault();
    try {
      keepKey(typed.value);
      void begin();
    } catch (error) {
      trouble.value = (error as Error).message;
    }
  };
  return (
    <form class="card narrow" onSubmit={given}>
      <h1>This service asks for a key</h1>
      <label class="field">
        <span>API key</span>
        <input id="key" type="password" autocomplete="off" required value={typed.value}
          aria-invalid={trouble.value ? true : undefined} aria-describedby="key-help"
          onInput={(event) => (typed.value = event.currentTarget.value)} />
      </label>
      <p id="key-help" class="dim">It is kept in this tab until you close it, and sent to this service alone.</p>
      {trouble.value && <p class="error" role="alert">{trouble}</p>}
      <button type="submit" class="main">Go on</button>
    </form>
  );
}
