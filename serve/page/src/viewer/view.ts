// What all panels of a result share: slice, sample, cursor, zoom, window and level; and the images, as they come.
import { batch, computed, signal } from "@preact/signals";
import { call, fromNpy } from "../api";
import type { Images } from "../types";
import { quantile } from "./colours";

export type Kind = "mean" | "std" | "lower" | "upper" | "samples" | "zero_filled" | "reference" | "error";
export const KINDS: Kind[] = ["mean", "std", "reference", "error", "zero_filled", "lower", "upper", "samples"];
export const isSpread = (kind: Kind) => kind === "std" || kind === "error";

const WHITE = 0.998;
const MOST_BYTES = 256 * 2 ** 20;
const MAX_ZOOM = 24;

export interface Point {
  row: number;
  col: number;
}

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

export class View {
  readonly rows: number;
  readonly cols: number;
  readonly kinds: Kind[];
  readonly position = signal(0);
  readonly sample = signal(0);
  readonly cursor = signal<Point | null>(null);
  /** 1 shows all; the middle in parts of the image. */
  readonly zoom = signal({ by: 1, row: 0.5, col: 0.5 });
  readonly white = signal(1);
  /** Level and width as parts of `white`; the spread's top as a part of its own. */
  readonly level = signal(0.5);
  readonly width = signal(1);
  readonly spreadTop = signal(1);
  readonly spreadScale = signal(1);
  readonly overlay = signal(false);
  /** In per cent of `white`. */
  readonly threshold = signal(5);
  /** The highest threshold that is of use, in per cent of `white`. */
  readonly mostThreshold = signal(10);
  /** Part of the pixels above the threshold. */
  readonly above = signal(0);
  readonly shown = signal<Record<string, boolean>>({});
  readonly trouble = signal("");
  readonly low = computed(() => (this.level.value - this.width.value / 2) * this.white.value);
  readonly high = computed(() => (this.level.value + this.width.value / 2) * this.white.value);
  readonly top = computed(() => this.spreadScale.value * this.spreadTop.value);
  private readonly kept = new Map<string, Promise<Float32Array>>();

  constructor(
    private readonly address: string,
    readonly images: Images,
  ) {
    [this.rows, this.cols] = images.shape;
    const has = (kind: Kind) =>
      kind === "error" ? images.images.includes("reference") : images.images.includes(kind);
    this.kinds = KINDS.filter(has);
    const few = matchMedia("(max-width: 40rem)").matches;
    const first: Kind[] = ["mean", "std", "error"];
    this.shown.value = Object.fromEntries(this.kinds.map((kind) => [kind, !few || first.includes(kind)]));
  }

  get hasSpread(): boolean {
    return this.kinds.includes("std");
  }

  /** The numbers of an image, asked for once. */
  async load(kind: Kind, position: number, sample = 0): Promise<Float32Array> {
    if (kind === "error") {
      const [mean, truth] = await Promise.all([this.load("mean", position), this.load("reference", position)]);
      return mean.map((value, i) => Math.abs(value - truth[i]!));
    }
    const path = `${this.address}/${kind}.npy?slice=${position}${kind === "samples" ? `&sample=${sample}` : ""}`;
    let found = this.kept.get(path);
    if (!found) {
      found = call(path).then(async (answer) => fromNpy(await answer.arrayBuffer()));
      found.catch(() => this.kept.delete(path));
      this.kept.set(path, found);
      const most = Math.max(16, Math.floor(MOST_BYTES / (4 * this.rows * this.cols)));
      if (this.kept.size > most) this.kept.delete(this.kept.keys().next().value!);
    }
    return found;
  }

  /** Sets what is white by the mean of a slice, and the top of the spread by deviation or error, the larger one. */
  async scale(position: number): Promise<void> {
    const mean = await this.load("mean", position);
    const spreads = await Promise.all(this.kinds.filter(isSpread).map((kind) => this.load(kind, position)));
    batch(() => {
      this.white.value = quantile(mean, WHITE) || 1;
      this.spreadScale.value = Math.max(...spreads.map((values) => quantile(values, WHITE)), 0) || 1;
      if (!this.hasSpread) return;
      const part = (values: Float32Array, of: number) => (100 * quantile(values, of)) / this.white.value;
      this.threshold.value = Number(part(spreads[0]!, 0.9).toPrecision(2));
      this.mostThreshold.value = Math.max(1, Math.ceil(part(spreads[0]!, 0.9999)));
    });
  }

  goTo(position: number): void {
    this.position.value = clamp(position, 0, this.images.slices.length - 1);
  }

  nextSample(step: number): void {
    if (this.images.samples) this.sample.value = (this.sample.value + step + this.images.samples) % this.images.samples;
  }

  moveCursor(rows: number, cols: number): void {
    const from = this.cursor.value ?? { row: this.rows >> 1, col: this.cols >> 1 };
    const row = clamp(from.row + rows, 0, this.rows - 1);
    this.cursor.value = { row, col: clamp(from.col + cols, 0, this.cols - 1) };
  }

  /** Zooms about a place (parts of the image), which stays where it is. */
  zoomBy(factor: number, row?: number, col?: number): void {
    const { by, ...middle } = this.zoom.value;
    const next = clamp(by * factor, 1, MAX_ZOOM);
    const cursor = this.cursor.value;
    const at = {
      row: row ?? (cursor ? (cursor.row + 0.5) / this.rows : middle.row),
      col: col ?? (cursor ? (cursor.col + 0.5) / this.cols : middle.col),
    };
    this.setZoom(next, at.row + ((middle.row - at.row) * by) / next, at.col + ((middle.col - at.col) * by) / next);
  }

  panBy(row: number, col: number): void {
    const { by, ...middle } = this.zoom.value;
    this.setZoom(by, middle.row + row, middle.col + col);
  }

  private setZoom(by: number, row: number, col: number): void {
    const half = 0.5 / by;
    this.zoom.value = { by, row: clamp(row, half, 1 - half), col: clamp(col, half, 1 - half) };
  }

  /** Changes level (in parts of the width) and width (by a factor), or the top of the spread. */
  window(kind: Kind, level: number, factor: number): void {
    if (isSpread(kind)) {
      this.spreadTop.value = clamp(this.spreadTop.value * factor * Math.exp(level), 0.02, 10);
      return;
    }
    batch(() => {
      this.level.value = clamp(this.level.value + level * this.width.value, -1, 3);
      this.width.value = clamp(this.width.value * factor, 0.01, 6);
    });
  }

  resetWindow(): void {
    batch(() => ([this.level.value, this.width.value, this.spreadTop.value] = [0.5, 1, 1]));
  }

  reset(): void {
    batch(() => {
      this.resetWindow();
      this.zoom.value = { by: 1, row: 0.5, col: 0.5 };
      this.cursor.value = null;
    });
  }
}
