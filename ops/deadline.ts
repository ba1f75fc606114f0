/**
 * Limits how long a caller waits for a promise: for a time, or until a signal.
 *
 * Not here: the limits themselves. Each caller names its own.
 */

/**
 * Settles as `promise` does, or rejects after `ms` milliseconds. The work behind the promise continues. Its late result
 * or error is ignored.
 * @param late the message of the error, or a function that makes the error
 */
export async function within<T>(promise: PromiseLike<T>, ms: number, late: string | (() => Error)): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(typeof late === "string" ? new Error(late) : late()), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Settles as `promise` does, or rejects when the signal aborts. Removes its listener: one signal serves many bands. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
