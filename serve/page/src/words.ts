// Numbers and settings in words.
import type { Catalogue, Job, Level, State } from "./types";

export const NAMES: Record<string, string> = { tv: "TV", cg_sense: "CG-SENSE", zero_filled: "zero-filling" };
const WORDS: Record<string, string> = {
  annealed: "Annealed", score_mri: "Score-MRI", score_mri_real: "Score-MRI, real", score_mri_ssos: "Score-MRI, SSOS",
  score_mri_hybrid: "Score-MRI, hybrid", dps: "DPS", pigdm: "PiGDM", dds: "DDS", diffpir: "DiffPIR", daps: "DAPS",
  pnp_dm: "PnP-DM", red_diff: "RED-diff", csgm_langevin: "CSGM-Langevin", smrd: "SMRD", ak_diffusion: "AK-Diffusion",
  heat_diffusion: "Heat-Diffusion", pc_ve: "VE predictor-corrector", pc_vp: "VP predictor-corrector",
  hfs_sde: "HFS-SDE", unet: "U-Net", varnet: "E2E-VarNet", ista_net: "ISTA-Net+", dudornet: "DuDoRNet",
  h_dslr: "H-DSLR", sr_gan: "SRGAN", zero_filled: "Zero-filled", cg_sense: "CG-SENSE", tv: "Total variation",
  l1_wavelet: "l1-wavelet", grappa: "GRAPPA", spirit: "SPIRiT", loraks: "AC-LORAKS",
};

export const methodName = (name: string) => WORDS[name] ?? name;

export const MARKS: Record<Level, string> = { trusted: "✓", "not checked": "?", caution: "!", "not trusted": "✕" };
export const LEVELS = Object.keys(MARKS) as Level[];
export const STATES: Record<State, { mark: string; text: string }> = {
  queued: { mark: "…", text: "waiting" },
  running: { mark: "▸", text: "running" },
  done: { mark: "✓", text: "done" },
  failed: { mark: "✕", text: "failed" },
  cancelled: { mark: "–", text: "cancelled" },
  interrupted: { mark: "!", text: "interrupted" },
};
export const isActive = (state: State) => state === "queued" || state === "running";

export function duration(seconds: number): string {
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toPrecision(2)} h`;
}

export function age(created: number, now = Date.now() / 1000): string {
  const seconds = Math.max(0, now - created);
  if (seconds < 60) return "just now";
  if (seconds < 172_800) return `${duration(seconds)} ago`;
  return new Date(created * 1000).toLocaleDateString(undefined, { dateStyle: "medium" });
}

export function size(bytes: number): string {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toPrecision(3)} MB`;
}

export const many = (count: number, what: string) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

export function number(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const large = Math.abs(value);
  return large >= 1e4 || large < 1e-3 ? value.toExponential(2).replace("e-", "e−") : value.toPrecision(3);
}

/** A sentence with its capital and its stop; names of files and options stay as they are. */
export function sentence(text: string): string {
  const plain = /^[a-z]+(['’-][a-z]+)*[,;:]?(\s|$)/.test(text);
  return (plain ? `${text[0]!.toUpperCase()}${text.slice(1)}` : text).replace(/\.*$/, ".");
}

/** Numbers of slices as ranges: 0–3, 5. */
export function ranges(slices: number[]): string {
  const found: [number, number][] = [];
  for (const slice of slices) {
    const last = found.at(-1);
    if (last && slice === last[1] + 1) last[1] = slice;
    else found.push([slice, slice]);
  }
  return found.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}

/** What was run, a sentence each. */
export function whatWasRun(job: Job, catalogue: Catalogue): string[] {
  const { config, report, prior } = job;
  const method = catalogue.methods[config.method];
  const said: string[] = [];
  const which = job.slices.length > 1 ? `slices ${ranges(job.slices)}` : `slice ${job.slices[0]}`;
  said.push(sentence(`${report.simulated ? "simulated data" : "data"} from ${job.name}, ${which}: ${job.sampling}`));
  const name = methodName(config.method);
  const preset = config.preset && config.preset !== "default" ? ` with the preset “${config.preset}”` : "";
  if (method?.samples) {
    said.push(`${name}${preset} drew ${many(config.num_samples, "posterior sample")} of each slice; a chain took ${report.nfe} network evaluations, the seed was ${config.seed}.`);
    if (config.spread) {
      said.push(`The mean comes from ${config.spread.mean_chains} more chains that are tuned for it, the standard deviation from the samples.`);
    }
  } else {
    said.push(`${name}${preset} made one image of each slice, without samples and so without a deviation.`);
  }
  if (config.start) said.push(`Chains started from the image of ${methodName(config.start)}.`);
  if (prior.name) {
    const version = prior.version ? ` version ${prior.version}` : "";
    said.push(`${method?.samples ? "The prior" : "The network"} was ${prior.name}${version} (SHA-256 ${prior.sha256?.slice(0, 12)}).`);
  }
  const joint = config.maps.kind === "joint" ? " and fitted together with the image" : "";
  said.push(`Coil maps were estimated by ESPIRiT${joint}, unless they came with the data.`);
  if (config.checks) said.push("Some measured samples were left out and predicted, to judge the image and to scale the deviation.");
  else if (method?.samples && config.unchecked) said.push(sentence(`nothing was left out to judge the image: ${config.unchecked}`));
  if (config.max_seconds) said.push(`It was asked to be done in ${duration(config.max_seconds)}.`);
  said.push(`It took ${duration(report.seconds)} of computing, with kdrift ${report.versions["kdrift"] ?? ""} and torch ${report.versions["torch"] ?? ""}.`);
  return said;
}
