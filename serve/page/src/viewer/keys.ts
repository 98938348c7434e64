// Keys while the images have the focus. The same list is shown by "?".
import type { View } from "./view";

export const KEYS: [string, string][] = [
  ["← ↑ → ↓", "move the cursor by a pixel, with Shift by ten"],
  ["Page Up, Page Down", "slice before, slice after"],
  ["Home, End", "first slice, last slice"],
  ["N, P", "next sample, previous sample"],
  ["+, −", "zoom in, zoom out, about the cursor"],
  ["H J K L", "move the image left, down, up, right"],
  ["W, Q", "wider window, narrower window"],
  ["S, A", "higher level, lower level"],
  ["D, F", "deviation and error: darker, brighter"],
  ["O", "show or hide the uncertainty on the mean"],
  ["T, R", "higher threshold of it, lower threshold"],
  ["0", "reset zoom, window, level and cursor"],
  ["?", "these keys"],
];
export const MOUSE: [string, string][] = [
  ["Move", "values under the cursor, in every panel"],
  ["Drag", "right and left: width of the window; up and down: level"],
  ["Shift and drag, right button", "move the image"],
  ["Wheel", "slices, where there are several"],
  ["Ctrl and wheel, two fingers", "zoom"],
];

/** Does what a key is for; false where it is for nothing. */
export function press(view: View, event: KeyboardEvent): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const far = event.shiftKey ? 10 : 1;
  const step = 0.1 / view.zoom.value.by;
  const actions: Record<string, () => void> = {
    ArrowUp: () => view.moveCursor(-far, 0),
    ArrowDown: () => view.moveCursor(far, 0),
    ArrowLeft: () => view.moveCursor(0, -far),
    ArrowRight: () => view.moveCursor(0, far),
    PageUp: () => view.goTo(view.position.value - 1),
    PageDown: () => view.goTo(view.position.value + 1),
    Home: () => view.goTo(0),
    End: () => view.goTo(Infinity),
    n: () => view.nextSample(1),
    p: () => view.nextSample(-1),
    "+": () => view.zoomBy(1.25),
    "=": () => view.zoomBy(1.25),
    "-": () => view.zoomBy(0.8),
    h: () => view.panBy(0, step),
    l: () => view.panBy(0, -step),
    k: () => view.panBy(step, 0),
    j: () => view.panBy(-step, 0),
    w: () => view.window("mean", 0, 1.1),
    q: () => view.window("mean", 0, 1 / 1.1),
    s: () => view.window("mean", 0.05, 1),
    a: () => view.window("mean", -0.05, 1),
    d: () => view.window("std", 0, 1.1),
    f: () => view.window("std", 0, 1 / 1.1),
    o: () => (view.overlay.value = view.hasSpread && !view.overlay.value),
    t: () => (view.threshold.value = Math.min(view.mostThreshold.value, view.threshold.value + 0.1)),
    r: () => (view.threshold.value = Math.max(0, view.threshold.value - 0.1)),
    "0": () => view.reset(),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  action?.();
  return action !== undefined;
}
