// What the service answers, as far as the page uses it; the whole of it is described in openapi.json.

export interface Method {
  summary: string;
  source: string;
  default_preset: string | null;
  fault: string | null;
  presets: Record<string, Record<string, unknown>>;
  needs: string | null;
  samples: boolean;
  priors: string[];
}

export interface Catalogue {
  methods: Record<string, Method>;
  samplers: string[];
  learned: string[];
  classical: string[];
  masks: Record<string, string>;
  forms: Record<string, string>;
}

export interface Prior {
  name: string;
  prior: { name: string; version?: string | null; sha256: string };
  default: boolean;
}

export interface Mask {
  kind: string | null;
  acceleration: number;
  acs_lines: number | null;
}

export interface Inspection {
  name: string;
  method: string;
  slices: number;
  coils: number;
  shape: [number, number];
  image_shape: [number, number];
  undersampled: boolean;
  net_acceleration: number;
  sampling: string;
  has_reference: boolean;
  simulated: boolean;
  stated: Record<string, string>;
  notes: string[];
  mask: Mask | null;
  why: string;
}

export interface Expected {
  evaluations: number | null;
  seconds: number | null;
  measured: boolean;
  fault: string | null;
}

export interface Progress {
  evaluations_done?: number | null;
  evaluations_total?: number | null;
  slices_done?: number | null;
  slices_total?: number | null;
  fraction?: number | null;
  seconds_left?: number | null;
  jobs_ahead?: number | null;
}

export interface Preview {
  slice: number;
  mean: string;
  std: string;
  chains: number;
  data_residual: number;
}

export type State = "queued" | "running" | "done" | "failed" | "cancelled" | "interrupted";
export type Level = "trusted" | "not checked" | "caution" | "not trusted";

export interface Verdict {
  level: Level;
  sentence: string;
  given: string;
}

export interface Figures {
  psnr?: number;
  ssim?: number;
  nmse?: number;
}

export interface Report {
  simulated: boolean;
  notes: string[];
  sampling: string;
  net_acceleration: number;
  metrics?: Figures;
  metrics_zero_filled?: Figures;
  coverage?: number;
  std_error_rank_correlation?: number;
  nfe: number;
  network_images: number;
  seconds: number;
  stages_seconds: Record<string, number>;
  data_residual?: number | Record<string, number>;
  diverged: Record<string, Record<string, string>>;
  fallback: number[];
  geometry?: { stated: boolean; notes?: string[] };
  outputs?: string[];
  versions: Record<string, string>;
}

export interface Config {
  method: string;
  preset: string | null;
  options: Record<string, unknown>;
  num_samples: number;
  seed: number;
  maps: { kind: string };
  checks: boolean;
  unchecked?: string;
  on_mistrust: string;
  level: number;
  spread?: { mean_chains: number; options: Record<string, unknown> };
  start?: string;
  max_seconds?: number;
}

export interface Brief {
  id: string;
  state: State;
  name: string;
  method: string;
  created: number;
  started: number | null;
  finished: number | null;
  progress: Progress | null;
  detail: string;
}

export interface Job extends Brief {
  request: Record<string, unknown>;
  prior: { name?: string; version?: string | null; sha256?: string };
  config: Config;
  sampling: string;
  slices: number[];
  notes: string[];
  verdicts: Record<string, Verdict>;
  report: Report;
  links: Record<string, string>;
}

export interface Images {
  shape: [number, number];
  slices: number[];
  images: string[];
  samples: number;
  voxel_mm: [number, number, number];
}
