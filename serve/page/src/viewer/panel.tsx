// One image: its title, the canvas, the value under the cursor and the scale of its colours.
import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { number } from "../words";
import { type Overlay, paint } from "./colours";
import { listen } from "./pointer";
import { isSpread, type Kind, type View } from "./view";

const SHARP = 3; // pixels of the screen a pixel, from which on none is smoothed

interface Given {
  view: View;
  kind: Kind;
  title: string;
  note?: string;
  pans: () => boolean;
}

export function Panel({ view, kind, title, note, pans }: Given) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const pixels = useRef(new ImageData(view.cols, view.rows));
  const image = useRef<OffscreenCanvas>(new OffscreenCanvas(view.cols, view.rows));
  const values = useSignal<Float32Array | null>(null);
  const spread = useSignal<Float32Array | null>(null);
  const painted = useSignal(0);
  const size = useSignal({ width: 0, height: 0 });
  const high = useComputed(() => (isSpread(kind) ? view.top.value : view.high.value));
  const low = useComputed(() => (isSpread(kind) ? 0 : view.low.value));

  useSignalEffect(() => {
    const [position, sample] = [view.position.value, kind === "samples" ? view.sample.value : 0];
    let asked = true;
    const wanted = [view.load(kind, position, sample)];
    if (kind === "mean" && view.hasSpread) wanted.push(view.load("std", position));
    Promise.all(wanted).then(
      ([own, std]) => {
        if (asked) [spread.value, values.value] = [std ?? null, own!];
      },
      (error: Error) => (view.trouble.value = error.message),
    );
    return () => (asked = false);
  });

  useSignalEffect(() => {
    if (!values.value) return;
    let overlay: Overlay | null = null;
    if (kind === "mean" && view.overlay.value && spread.value) {
      const least = (view.threshold.value * view.white.value) / 100;
      view.above.value = spread.value.reduce((count, each) => count + Number(each > least), 0) / spread.value.length;
      overlay = { values: spread.value, threshold: least, top: view.top.value };
    }
    paint(pixels.current, values.value, isSpread(kind) ? "magma" : "gray", low.value, high.value, overlay);
    image.current.getContext("2d")!.putImageData(pixels.current, 0, 0);
    painted.value = painted.peek() + 1;
  });

  useSignalEffect(() => {
    const { width, height } = size.value;
    if (!painted.value || !width) return;
    const context = canvas.current!.getContext("2d")!;
    const { by, row, col } = view.zoom.value;
    const [cols, rows] = [view.cols / by, view.rows / by];
    const [left, up] = [view.cols * col - cols / 2, view.rows * row - rows / 2];
    context.imageSmoothingEnabled = width / cols < SHARP;
    context.fillRect(0, 0, width, height);
    context.drawImage(image.current, left, up, cols, rows, 0, 0, width, height);
    const at = view.cursor.value;
    if (at) cross(context, ((at.col + 0.5 - left) / cols) * width, ((at.row + 0.5 - up) / rows) * height);
  });

  useEffect(() => {
    const element = canvas.current!;
    const watch = new ResizeObserver(([entry]) => {
      const ratio = Math.min(2, devicePixelRatio);
      const [width, height] = [entry!.contentRect.width * ratio, entry!.contentRect.height * ratio].map(Math.round);
      [element.width, element.height] = [width!, height!];
      size.value = { width: width!, height: height! };
    });
    watch.observe(element);
    const deaf = listen(element, view, kind, pans);
    return () => {
      watch.disconnect();
      deaf();
    };
  }, []);

  const value = useComputed(() => {
    const at = view.cursor.value;
    return at && values.value ? number(values.value[at.row * view.cols + at.col]!) : "";
  });
  const [tall, wide] = view.images.voxel_mm;
  const aspect = (view.cols * (wide || 1)) / (view.rows * (tall || 1));
  return (
    <figure class="panel" data-kind={kind}>
      <figcaption>
        <span class={note ? "panel-title instead" : "panel-title"}>{title}</span>
        <output class="value" aria-label={`${title} under the cursor`}>{value}</output>
      </figcaption>
      <canvas ref={canvas} role="img" aria-label={`${title}${note ? `, ${note}` : ""}`} style={{ aspectRatio: aspect }} data-drawn={painted} />
      <div class="scale" aria-hidden="true">
        <span>{useComputed(() => number(low.value))}</span>
        <i class={isSpread(kind) ? "magma" : "gray"} />
        <span>{useComputed(() => number(high.value))}</span>
      </div>
    </figure>
  );
}

function cross(context: CanvasRenderingContext2D, x: number, y: number): void {
  const [gap, arm] = [5, 16];
  for (const [style, line] of [["#000b", 4], ["#4cc9f0", 2]] as const) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.beginPath();
    for (const [x1, y1, x2, y2] of [[x - arm, y, x - gap, y], [x + gap, y, x + arm, y], [x, y - arm, x, y - gap], [x, y + gap, x, y + arm]] as const) {
      context.moveTo(x1, y1);
      context.lineTo(x2, y2);
    }
    context.stroke();
  }
}
