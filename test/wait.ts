// Waiting in tests: for a condition, for a promise, for some time. A wait that ends without its condition is an error.

/** No condition is waited for longer than this, ms, unless a test says otherwise. */
const DEADLINE_MS = 20_000;

/** Asks again and again until `probe` gives something true; returns it. */
export async function until<T>(probe: () => T | Promise<T>, ms = DEADLINE_MS): Promise<NonNullable<T>> {
  for (const deadline = Date.now() + ms; ; await sleep(20)) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not true after ${ms} ms: ${probe}; the last value was ${value}`);
  }
}

/** @throws Error where the promise is not settled in time */
export async function within<T>(promise: Promise<T>, ms = DEADLINE_MS): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not settled after ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function sleep(ms: number): Promise<void> {
  return new Promise((wake) => setTimeout(wake, ms));
}
