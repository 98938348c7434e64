// The page of the service: submit, watch, look, download. It talks to /v1 and to nothing else.
"use strict";

const $ = (id) => document.getElementById(id);
const POLL_MS = 400;
let current = null; // the job on show
let urls = []; // object URLs of its images

function headers(extra) {
  const key = $("key").value.trim();
  return key ? { ...extra, Authorization: `Bearer ${key}` } : { ...extra };
}

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: `the service answered ${response.status}` }));
  throw new Error(problem.detail);
}

const getJson = async (path) => (await call(path)).json();

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function busy(running) {
  $("submit").disabled = running;
  $("cancel").disabled = !running;
  $("running").hidden = !running;
}

function option(value, text = value) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  return element;
}

let methods = null;

async function fillForm() {
  if (methods) return;
  const { api_keys: asked } = await getJson("v1/health");
  $("key-row").hidden = !asked;
  if (asked && !$("key").value) throw new Error("this service asks for an API key");
  const [known, priors] = await Promise.all([getJson("v1/methods"), getJson("v1/priors")]);
  methods = known;
  for (const kind of Object.keys(known.masks)) $("mask").append(option(kind));
  for (const name of Object.keys(known.methods)) $("method").append(option(name));
  for (const row of priors) {
    const version = row.prior.version ? ` version ${row.prior.version}` : "";
    $("prior").append(option(row.name, row.name + version));
  }
  $("mask").value = "equispaced";
  describe();
}

function describe() {
  const method = methods.methods[$("method").value];
  $("summary").textContent = method.samples ? method.summary : `${method.summary}: one image, no samples`;
  for (const id of ["samples", "steps", "seed", "check", "mistrust"]) $(id).disabled = !method.samples;
  $("prior").disabled = method.needs === null;
  if (method.needs === null) return;
  for (const item of $("prior").options) item.disabled = !method.priors.includes(item.value);
  if (!method.priors.includes($("prior").value)) $("prior").value = method.priors[0] ?? "";
}

// The request as nested values; an upload sends them as dotted options of the query.
function request() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const plan = { method: $("method").value };
  const values = { plan };
  if (methods.methods[plan.method].needs !== null) values.prior = $("prior").value || undefined;
  if (methods.methods[plan.method].samples) {
    plan.num_samples = number("samples");
    plan.seed = number("seed");
    if ($("steps").value) plan.settings = { num_steps: number("steps") };
    if ($("check").value) plan.check = $("check").value === "true";
    plan.on_mistrust = $("mistrust").value;
  }
  if ($("mask").value) {
    values.mask = { kind: $("mask").value, acceleration: number("acceleration"), acs_lines: number("acs") };
  }
  const from = number("from");
  const to = number("to");
  if (from !== undefined || to !== undefined) values.slices = [from ?? 0, (to ?? from) + 1];
  return JSON.parse(JSON.stringify(values)); // without what is undefined
}

function query(values, prefix = "", found = new URLSearchParams()) {
  for (const [key, value] of Object.entries(values)) {
    if (typeof value === "object" && !Array.isArray(value)) query(value, `${prefix}${key}.`, found);
    else found.append(prefix + key, typeof value === "string" ? value : JSON.stringify(value));
  }
  return found;
}

async function submit() {
  await fillForm();
  const values = request();
  if (document.querySelector("[name=source]:checked").value === "example") {
    const body = JSON.stringify({ ...values, example: "phantom" });
    return call("v1/reconstructions", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  }
  const file = $("file").files[0];
  if (!file) throw new Error("choose a file first, or the example");
  $("state").textContent = `sending ${file.name}`;
  const type = { "Content-Type": "application/octet-stream" };
  const path = `v1/reconstructions?${query({ ...values, name: file.name })}`;
  return call(path, { method: "POST", body: file, headers: type });
}

async function watch(job) {
  while (job.state === "queued" || job.state === "running") {
    showProgress(job);
    await new Promise((wake) => setTimeout(wake, POLL_MS));
    job = await getJson(`v1/reconstructions/${job.id}`);
  }
  return job;
}

function showProgress(job) {
  const progress = job.progress ?? {};
  if (job.state === "queued") {
    $("bar").removeAttribute("value");
    $("state").textContent = progress.jobs_ahead ? `waiting, ${progress.jobs_ahead} before it` : "waiting";
    return;
  }
  $("bar").value = progress.fraction ?? 0;
  const { evaluations_done: done, evaluations_total: total } = progress;
  const steps = total && done ? `evaluation ${done} of ${total}` : "estimating coil maps";
  const left = progress.seconds_left == null ? "" : `, about ${Math.ceil(progress.seconds_left)} s left`;
  $("state").textContent = steps + left;
}

// The verdict on a slice, in words and colour, and what stands in place of its mean.
function showVerdict(slice) {
  const { level, sentence, given } = current.verdicts[slice] ?? { level: "", sentence: "", given: "" };
  $("verdict").hidden = !level; // of a classical method
  $("level").textContent = level;
  $("level").className = level.replace(" ", "-");
  $("sentence").textContent = sentence.replace(`${level}: `, "");
  const instead = given || (current.report.fallback.includes(slice) ? "cg_sense" : "");
  $("mean-caption").textContent = instead ? `${instead}, in place of the mean` : "mean";
  $("mean-caption").classList.toggle("instead", Boolean(instead));
}

// Of several slices: how many have which verdict, and which ones are not to be trusted.
function showVerdicts() {
  const found = Object.entries(current.verdicts);
  const counts = ["trusted", "not checked", "caution", "not trusted"].map((level) => {
    const slices = found.filter(([, verdict]) => verdict.level === level).map(([slice]) => slice);
    const which = level === "not trusted" || level === "caution" ? ` (${slices.join(", ")})` : "";
    return slices.length ? `${slices.length} ${level}${which}` : "";
  });
  $("verdicts").hidden = found.length < 2;
  $("verdicts").textContent = `slices: ${counts.filter(Boolean).join(", ")}`;
}

async function showImages(position) {
  const base = `v1/reconstructions/${current.id}`;
  const answers = await Promise.all(["mean", "std"].map((kind) => call(`${base}/${kind}.png?slice=${position}`)));
  const blobs = await Promise.all(answers.map((answer) => answer.blob()));
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = blobs.map((blob) => URL.createObjectURL(blob));
  ["mean", "std"].forEach((kind, index) => ($(kind).src = urls[index]));
  const top = answers.map((answer) => Number(answer.headers.get("X-Kdrift-Top")));
  $("mean-top").textContent = top[0].toPrecision(3);
  $("std-top").textContent = `${top[1].toPrecision(2)} % of white`;
  $("slice-number").textContent = current.slices[position];
  showVerdict(current.slices[position]);
}

function row(name, value) {
  const element = document.createElement("tr");
  for (const text of [name, value]) element.append(Object.assign(document.createElement("td"), { textContent: text }));
  $("figures").append(element);
}

async function showResult(job) {
  current = job;
  const report = job.report;
  const metrics = report.metrics;
  $("title").textContent = job.name;
  $("sampling").textContent = `${report.simulated ? "simulated, " : ""}${job.sampling}`;
  $("figures").replaceChildren();
  if (metrics) {
    const before = report.metrics_zero_filled;
    row("PSNR", `${metrics.psnr.toFixed(2)} dB (zero-filled ${before.psnr.toFixed(2)} dB)`);
    row("SSIM", `${metrics.ssim.toFixed(4)} (zero-filled ${before.ssim.toFixed(4)})`);
    row("NMSE", metrics.nmse.toFixed(5));
    if (report.std_error_rank_correlation !== undefined) {
      row("rank correlation of deviation and error", report.std_error_rank_correlation.toFixed(2));
    }
  }
  const { prior, config } = job;
  if (report.coverage !== undefined) {
    row(`within ${100 * config.level} % intervals`, `${(100 * report.coverage).toFixed(0)} % of the object`);
  }
  row("method", [config.method, config.preset].filter(Boolean).join(", "));
  if (report.nfe) {
    row("prior", `${prior.name}${prior.version ? ` version ${prior.version}` : ""}, sha256 ${prior.sha256.slice(0, 12)}`);
    row("samples", `${config.num_samples}, ${report.nfe} evaluations each`);
  }
  for (const [slice, samples] of Object.entries(report.diverged ?? {})) {
    const lost = `samples ${Object.keys(samples).join(", ")}`;
    row(`slice ${slice} diverged`, report.fallback.includes(Number(slice)) ? "all samples: this is CG-SENSE" : `${lost}: left out`);
  }
  row("time", `${report.seconds.toFixed(1)} s`);
  $("config").textContent = JSON.stringify({ request: job.request, config, stages_seconds: report.stages_seconds }, null, 2);
  $("slice").max = job.slices.length - 1;
  $("slice").value = Math.floor(job.slices.length / 2);
  $("slice-row").hidden = job.slices.length === 1;
  showVerdicts();
  await showImages(Number($("slice").value));
  $("result").hidden = false;
}

async function download(name, file) {
  const blob = await (await call(`v1/reconstructions/${current.id}/${name}`)).blob();
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: file });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

let watched = null; // id of the job that runs

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("error").hidden = $("result").hidden = true;
  $("bar").removeAttribute("value");
  $("state").textContent = "sending";
  busy(true);
  try {
    const job = await (await submit()).json();
    watched = job.id;
    const finished = await watch(job);
    if (finished.state === "done") await showResult(finished);
    else throw new Error(finished.detail);
  } catch (error) {
    fail(error);
  }
  watched = null;
  busy(false);
});

$("cancel").addEventListener("click", () => {
  if (watched) call(`v1/reconstructions/${watched}`, { method: "DELETE" }).catch(fail);
});
$("file").addEventListener("change", () => (document.querySelector("[value=file]").checked = true));
$("method").addEventListener("change", describe);
$("slice").addEventListener("input", () => showImages(Number($("slice").value)).catch(fail));
$("download").addEventListener("click", () => download("result", "reconstruction.h5").catch(fail));
$("panel").addEventListener("click", () => download("panel.png", "panel.png").catch(fail));
$("key").addEventListener("change", () => fillForm().then(() => ($("error").hidden = true)).catch(fail));
fillForm().catch(fail);
