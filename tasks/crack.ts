/**
 * Finds the word of lower-case letters that has a given MD5. It shows why short passwords are weak. A list task: each
 * piece is the words of one length with the same beginning.
 */
import { createHash } from "node:crypto";
import { listTask } from "../task.ts";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
/** The number of last letters that vary within a piece: 26³ words. */
const TRIED = 3;

export const task = listTask({
  name: "crack",
  description: "The word of lower-case letters with this MD5, or null",
  params: {
    md5: { type: "string", default: "4d186321c1a7f0f354b297e8914ab240", description: "32 hexadecimal digits" },
    length: { type: "integer", minimum: 1, maximum: 6, default: 4, description: "letters, at most" },
  },
  *pieces({ length }) {
    for (let letters = 1; letters <= length; letters++) {
      const tried = Math.min(letters, TRIED);
      for (const start of wordsOf(letters - tried)) yield { start, tried };
    }
  },
  run({ start, tried }, { md5 }) {
    const wanted = md5.toLowerCase();
    for (const end of wordsOf(tried)) {
      if (
        createHash("md5")
          .update(start + end)
          .digest("hex") === wanted
      )
        return start + end;
    }
    return null;
  },
  merge: (before: string | null, after: string | null) => before ?? after,
  isDecided: (word) => word !== null,
});

/** All words of `letters` letters, in the order of the alphabet. */
function* wordsOf(letters: number): Generator<string> {
  if (letters === 0) return yield "";
  for (const start of wordsOf(letters - 1)) for (const letter of LETTERS) yield start + letter;
}
