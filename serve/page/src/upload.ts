// Files are sent once, in parts, and go on after a broken connection: then they are read, and reconstructed, by address.
import { DetailedError, Upload } from "tus-js-client";
import { call, getJson, headers, problem, Problem } from "./api";

const BASE = "v1/uploads";
const PART_BYTES = 16 << 20;
const PAUSES_MS = [0, 1000, 3000, 5000, 10_000, 20_000];

/** Sends a file and returns the id of its upload; `sent` is told which part of it has arrived. */
export function upload(file: File, sent: (part: number) => void, stop: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const sending = new Upload(file, {
      endpoint: BASE,
      metadata: { filename: file.name },
      headers: headers(),
      chunkSize: PART_BYTES,
      retryDelays: PAUSES_MS,
      uploadDataDuringCreation: true,
      storeFingerprintForResuming: false, // names of patients' files are not kept in the browser
      onProgress: (bytes, total) => sent(total ? bytes / total : 0),
      onSuccess: () => resolve(sending.url!.split("/").pop()!),
      onError: (error) => reject(told(error)),
    });
    stop.addEventListener("abort", () => {
      void sending.abort(true).catch(() => undefined); // what is left expires
      reject(new DOMException("stopped", "AbortError"));
    });
    sending.start();
  });
}

function told(error: Error | DetailedError): Problem {
  const answer = error instanceof DetailedError ? error.originalResponse : null;
  if (answer) return problem(answer.getStatus(), answer.getBody() ?? "");
  return new Problem(0, "the service does not answer, or hung up: is it running?");
}

/** What an upload of before is, where all of it is there still. */
export async function uploaded(id: string): Promise<{ name: string; bytes: number; id: string }> {
  const { name, length, offset } = await getJson<{ name: string; length: number; offset: number }>(`${BASE}/${id}`);
  if (offset < length) throw new Problem(409, `${name} was not sent to its end: choose it again`);
  return { name, bytes: length, id };
}

/** Deletes an upload; one that stays expires by itself. */
export function forget(id: string): void {
  void call(`${BASE}/${id}`, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } }).catch(() => undefined);
}
