/** How many threads are best: by the time that tokens take with each number. */
import type { Timing } from "./protocol";

export function median(times: number[]): number {
  return [...times].sort((a, b) => a - b)[times.length >> 1] ?? 0;
}

/** Time tokens with each number of threads, and go on with the best. The time is for all together.
 *
 * `time` gives the milliseconds of single tokens, as many as fit into its share of the time.
 */
export async function choose(
  { counts, milliseconds }: { counts: number[]; milliseconds: number },
  useThreads: (threads: number) => Promise<void>,
  time: (share: number) => Promise<number[]>,
): Promise<Timing[]> {
  const timings: Timing[] = [];
  const end = performance.now() + milliseconds;
  for (const [i, threads] of counts.entries()) {
    await useThreads(threads);
    const share = (end - performance.now()) / (counts.length - i);
    const times = await time(share);
    // the first of them run before the browser has optimized the code
    timings.push({ threads, msPerToken: median(times.slice(times.length >> 1)) });
  }
  timings.sort((a, b) => a.msPerToken - b.msPerToken);
  if (timings[0].threads !== counts.at(-1)) await useThreads(timings[0].threads);
  return timings;
}
