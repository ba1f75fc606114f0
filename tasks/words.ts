/**
 * Counts the lines and words of a text, as `wc` does, and finds its most frequent words. A list task that takes a text:
 * it is cut between words while it arrives, so a text may be longer than any memory.
 *
 * A word is the text between white space. For the most frequent words, letters are made lower case, and only letters,
 * digits and apostrophes count.
 */
import { listTask } from "../task.ts";

interface Counts {
  lines: number;
  words: number;
  bytes: number;
  /** The number of occurrences, by word. Empty if none are asked for. */
  times: Record<string, number>;
}

/** Bytes of a piece. */
const PIECE = 1 << 20;

export const task = listTask({
  name: "words",
  description: "The lines, words and bytes of a text, and its most frequent words",
  takes: "text",
  params: {
    top: { type: "integer", minimum: 0, maximum: 1000, default: 0, description: "how many of the most frequent words" },
  },
  pieces: (_, text) => text.words(PIECE),
  run(text, { top }): Counts {
    const times: Record<string, number> = Object.create(null);
    if (top > 0) {
      for (const [word] of text.toLowerCase().matchAll(/[\p{L}\p{N}]+(?:['’][\p{L}\p{N}]+)*/gu)) {
        times[word] = (times[word] ?? 0) + 1;
      }
    }
    let [lines, words, inWord] = [0, 0, false];
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      const isSpace = code === 32 || (code >= 9 && code <= 13);
      if (code === 10) lines++;
      if (inWord && isSpace) words++;
      inWord = !isSpace;
    }
    return { lines, words: words + Number(inWord), bytes: Buffer.byteLength(text), times };
  },
  merge(before, after) {
    // `constructor` is a word, too: without `hasOwn` it would be found in every object.
    const seen = (word: string) => (Object.hasOwn(before.times, word) ? before.times[word] : 0);
    for (const [word, count] of Object.entries(after.times)) before.times[word] = seen(word) + count;
    const { lines, words, bytes } = after;
    return {
      lines: before.lines + lines,
      words: before.words + words,
      bytes: before.bytes + bytes,
      times: before.times,
    };
  },
  finish({ times, ...counts }, { top }) {
    const byCount = Object.entries(times).sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
    return { ...counts, top: byCount.slice(0, top) };
  },
});
