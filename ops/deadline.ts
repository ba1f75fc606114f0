/**
 * A limit for a promise: a time, or a signal.
 *
 * Not here: which limits there are. Each caller names its own.
 */

/**
 * Settles as `promise` does, or rejects once `ms` milliseconds have passed. The work behind the promise goes on, and its
 * late result or error is ignored.
 * @param late message of the error, or a function that makes the error where callers need its class
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

/** Settles as `promise` does, or rejects when the signal is aborted. Leaves no listener: the signal outlives many bands. */
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
