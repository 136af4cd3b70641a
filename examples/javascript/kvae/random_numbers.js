/** The random numbers of a bundle's tokens: Threefry-2x32 with 20 rounds (Salmon et al. 2011), as in the graphs. */

const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
];
const PARITY = 0x1bd11bda;

/** Uniform numbers in [0, 1) for the tokens at positions 0 to `length` - 1 of a row of a seed, as a Float32Array. */
export function uniforms(seed, row, length) {
  const wide = BigInt(seed);
  const key = [Number(BigInt.asUintN(32, wide)), Number(wide >> 32n)];
  return Float32Array.from({ length }, (_, position) => (threefry(key, row, position) >>> 8) * 2 ** -24);
}

/** The first of the two random words of a counter (row, position), an unsigned 32-bit number. */
function threefry(key, row, position) {
  const schedule = [...key, key[0] ^ key[1] ^ PARITY];
  let left = (row + schedule[0]) | 0;
  let right = (position + schedule[1]) | 0;
  for (let turn = 0; turn < 20; turn += 1) {
    const bits = ROTATIONS[Math.floor(turn / 4) % 2][turn % 4];
    left = (left + right) | 0;
    right = ((right << bits) | (right >>> (32 - bits))) ^ left;
    if (turn % 4 === 3) {
      const group = Math.floor(turn / 4) + 1;
      left = (left + schedule[group % 3]) | 0;
      right = (right + schedule[(group + 1) % 3] + group) | 0;
    }
  }
  return left;
}
