// Values to colours: grey for images, magma for deviations and errors, amber to red for the overlay.
type Stop = readonly [number, number, number];
const MAGMA = "000004 140e36 3b0f70 641a80 8c2981 b73779 de4968 f7705c fe9f6d fecf92 fcfdbf";
const HEAT = "ffd166 fca311 f3722c e5383b b5179e";

function table(stops: string): Uint8ClampedArray {
  const points = stops.split(" ").map((hex): Stop => {
    const value = Number.parseInt(hex, 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  });
  const found = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (points.length - 1);
    const low = Math.min(points.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) {
      const [a, b] = [points[low]![c]!, points[low + 1]![c]!];
      found[3 * i + c] = a + (b - a) * (place - low);
    }
  }
  return found;
}

export type Colours = "gray" | "magma";
const TABLES: Record<Colours, Uint8ClampedArray> = { gray: table("000000 ffffff"), magma: table(MAGMA) };
const OVERLAY = table(HEAT);

export interface Overlay {
  values: Float32Array;
  /** Below it nothing is drawn; `top` has the last colour. */
  threshold: number;
  top: number;
}

/** Draws values between `low` and `high` into pixels; NaN is black. */
export function paint(
  pixels: ImageData,
  values: Float32Array,
  colours: Colours,
  low: number,
  high: number,
  overlay: Overlay | null,
): void {
  const [data, lut, scale] = [pixels.data, TABLES[colours], 255 / Math.max(high - low, Number.MIN_VALUE)];
  for (let i = 0; i < values.length; i++) {
    const level = (values[i]! - low) * scale;
    let [from, place] = [lut, 3 * (level > 255 ? 255 : level > 0 ? level | 0 : 0)];
    let grey = 0;
    if (overlay && overlay.values[i]! > overlay.threshold) {
      const part = (overlay.values[i]! - overlay.threshold) / Math.max(overlay.top - overlay.threshold, 1e-30);
      grey = lut[place]!;
      [from, place] = [OVERLAY, 3 * Math.min(255, (part * 255) | 0)];
    }
    for (let c = 0; c < 3; c++) data[4 * i + c] = grey ? 0.72 * from[place + c]! + 0.28 * grey : from[place + c]!;
    data[4 * i + 3] = 255;
  }
}

/** The value below which a part of all values lies, those that are not finite left out. */
export function quantile(values: Float32Array, part: number): number {
  const sorted = values.filter(Number.isFinite).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0;
}
