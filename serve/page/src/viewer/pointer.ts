// Mouse and fingers on a panel: move shows values, drag sets window and level or moves the image, wheel turns slices,
// two fingers zoom. One finger that moves up or down scrolls the page, as everywhere.
import type { Kind, View } from "./view";

const PER_FACTOR = 160; // pixels of a drag that change the width by e

export function listen(canvas: HTMLCanvasElement, view: View, kind: Kind, pans: () => boolean): () => void {
  const fingers = new Map<number, { x: number; y: number }>();
  let wheeled = 0;

  const place = (x: number, y: number) => {
    const box = canvas.getBoundingClientRect();
    const { by, row, col } = view.zoom.value;
    return { row: row + ((y - box.top) / box.height - 0.5) / by, col: col + ((x - box.left) / box.width - 0.5) / by };
  };
  const look = (event: PointerEvent) => {
    const { row, col } = place(event.clientX, event.clientY);
    const [r, c] = [Math.floor(row * view.rows), Math.floor(col * view.cols)];
    if (r >= 0 && c >= 0 && r < view.rows && c < view.cols) view.cursor.value = { row: r, col: c };
  };
  const down = (event: PointerEvent) => {
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    look(event);
    if (event.pointerType === "mouse") {
      canvas.setPointerCapture(event.pointerId);
      if (event.button !== 0) event.preventDefault();
    }
  };
  const move = (event: PointerEvent) => {
    const before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") look(event);
      return;
    }
    const [dx, dy] = [event.clientX - before.x, event.clientY - before.y];
    const box = canvas.getBoundingClientRect();
    const by = view.zoom.value.by;
    if (fingers.size === 2) {
      const [other] = [...fingers.entries()].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const distance = (a: { x: number; y: number }) => Math.hypot(a.x - other!.x, a.y - other!.y);
      const middle = place((event.clientX + other!.x) / 2, (event.clientY + other!.y) / 2);
      const now = distance({ x: event.clientX, y: event.clientY });
      view.zoomBy(now / Math.max(1, distance(before)), middle.row, middle.col);
      view.panBy(-dy / 2 / box.height / by, -dx / 2 / box.width / by);
    } else if (event.pointerType !== "mouse") {
      look(event);
    } else if (pans() || event.shiftKey || event.buttons !== 1) {
      view.panBy(-dy / box.height / by, -dx / box.width / by);
    } else {
      view.window(kind, dy / box.height / 2, Math.exp(dx / PER_FACTOR));
    }
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  };
  const up = (event: PointerEvent) => fingers.delete(event.pointerId);
  const leave = (event: PointerEvent) => {
    up(event);
    if (event.pointerType === "mouse") view.cursor.value = null;
  };
  const wheel = (event: WheelEvent) => {
    if (event.ctrlKey) {
      event.preventDefault();
      const { row, col } = place(event.clientX, event.clientY);
      view.zoomBy(Math.exp(-event.deltaY / 300), row, col);
    } else if (view.images.slices.length > 1) {
      event.preventDefault();
      wheeled += event.deltaY;
      const steps = Math.trunc(wheeled / 50);
      wheeled -= 50 * steps;
      if (steps) view.goTo(view.position.value + Math.sign(steps));
    }
  };
  const menu = (event: Event) => event.preventDefault(); // the right button moves the image
  const found: [string, (event: never) => void][] = [
    ["pointerdown", down], ["pointermove", move], ["pointerup", up], ["pointercancel", up], ["pointerleave", leave],
    ["wheel", wheel], ["contextmenu", menu],
  ];
  for (const [name, work] of found) canvas.addEventListener(name, work as EventListener, { passive: false });
  return () => {
    for (const [name, work] of found) canvas.removeEventListener(name, work as EventListener);
  };
}
