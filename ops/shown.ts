/**
 * A value as an error quotes it.
 *
 * Invariant: it never throws. The value may come from anyone.
 */

/** @param length more characters than this are cut off */
export function shown(value: unknown, length = 200): string {
  const isNumber = typeof value === "number" || typeof value === "bigint";
  let text: string;
  try {
    text = isNumber ? String(value) : (JSON.stringify(value) ?? typeof value);
  } catch {
    text = "something that JSON cannot show"; // it is circular, or nested deeper than JSON.stringify goes
  }
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
