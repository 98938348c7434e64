// The keys, in a dialog.
import { signal, useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";
import { KEYS, MOUSE } from "./viewer/keys";

export const help = signal(false);

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useSignalEffect(() => {
    if (help.value) dialog.current?.showModal();
    else dialog.current?.close();
  });
  const rows = (caption: string, list: [string, string][]) => (
    <table>
      <caption>{caption}</caption>
      <tbody>
        {list.map(([key, what]) => (
          <tr>
            <th scope="row"><kbd>{key}</kbd></th>
            <td>{what}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={() => (help.value = false)}
      onClick={(event) => event.target === event.currentTarget && (help.value = false)}>
      <div class="help-body">
        <header>
          <h2 id="help-title">Keys and mouse</h2>
          <button type="button" onClick={() => (help.value = false)}>Close</button>
        </header>
        {rows("While the images have the focus (Tab, or a click on one)", KEYS)}
        {rows("Mouse and fingers on an image", MOUSE)}
      </div>
    </dialog>
  );
}
