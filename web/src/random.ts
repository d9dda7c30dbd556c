/** NumPy's default generator, so that a seed draws here what it draws in Python.
 *
 * PCG64 (O'Neill, 2014): a linear congruential generator of 128 bits, whose halves are folded and
 * turned; the seed is spread by NumPy's SeedSequence (O'Neill's seed_seq_fe).
 */
const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4;

/** Words of 32 bits that a seed's entropy is hashed into. */
function seedWords(seed: bigint, count: number): number[] {
  const entropy: number[] = [];
  do {
    entropy.push(Number(seed & 0xffffffffn));
    seed >>= 32n;
  } while (seed > 0n);
  let factor = 0x43b0d7e5;
  const hash = (value: number) => {
    value ^= factor;
    factor = Math.imul(factor, 0x931e8875);
    value = Math.imul(value, factor);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (a: number, b: number) => {
    const mixed = (Math.imul(a, 0xca01f9dd) - Math.imul(b, 0x4973f715)) | 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  const pool = Array.from({ length: POOL }, (_, i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of entropy.slice(POOL)) {
    for (let to = 0; to < POOL; to++) pool[to] = mix(pool[to], hash(word));
  }
  factor = 0x8b51f9dd;
  return Array.from({ length: count }, (_, i) => {
    let value = pool[i % POOL] ^ factor;
    factor = Math.imul(factor, 0x58f38ded);
    value = Math.imul(value, factor);
    return (value ^ (value >>> 16)) >>> 0;
  });
}

export class Random {
  private state: bigint;
  private readonly increment: bigint;

  constructor(seed: number | bigint) {
    const words = seedWords(BigInt(seed), 8).map(BigInt);
    const wide = (i: number) => words[i] | (words[i + 1] << 32n); // little-endian pairs
    const initial = (wide(0) << 64n) | wide(2);
    const sequence = (wide(4) << 64n) | wide(6);
    this.increment = ((sequence << 1n) | 1n) & MASK_128;
    this.state = this.increment;
    this.state = (this.state + initial) & MASK_128;
    this.advance();
  }

  /** The next number in [0, 1). */
  next(): number {
    this.advance();
    const folded = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    const value = ((folded >> turn) | (folded << (-turn & 63n))) & MASK_64;
    return Number(value >> 11n) / 2 ** 53;
  }

  private advance(): void {
    this.state = (this.state * MULTIPLIER + this.increment) & MASK_128;
  }
}
