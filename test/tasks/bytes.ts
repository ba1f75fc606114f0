// A list that is cut from any bytes: their sum, and how many pieces there were.
import { listTask } from "../../task.ts";

export const task = listTask({
  name: "bytes",
  takes: "bytes",
  params: { size: { type: "integer", default: 1000 } },
  pieces: ({ size }, input) => input.bytes(size),
  run: (piece) => {
    const bytes = Uint8Array.fromBase64(piece);
    return { sum: bytes.reduce((sum, byte) => sum + byte, 0), length: bytes.length, pieces: 1 };
  },
  merge: (a, b) => ({ sum: a.sum + b.sum, length: a.length + b.length, pieces: a.pieces + b.pieces }),
});
