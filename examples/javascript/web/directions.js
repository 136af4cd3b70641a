/** Directions in latent space along which the texts of a model vary most. */

const SHOWN = 8;
/** Above this many dimensions principal directions are used, because one dimension alone changes too little. */
const FEW = 64;
const TEXTS = 48;
const ITERATIONS = 60;

/**
 * Directions `{name, vector, scale}` from the codes of texts that the model samples: the most active dimensions, or the
 * principal directions of a large code. `scale` is the distance of one unit of a slider.
 */
export async function directionsOf(sampler) {
  const codes = centred(await typicalCodes(sampler));
  return sampler.latentSize <= FEW ? activeDimensions(codes) : principalDirections(codes);
}

/** Posterior means of sampled texts, or samples of the prior if the encoder cannot read these texts. */
async function typicalCodes(sampler) {
  const samples = await sampler.generate(TEXTS, 0, { greedy: true });
  const texts = samples.filter((sample) => sample.finished).map((sample) => sample.text);
  const codes = await sampler.encode(texts, { unknown: "replace" }).catch(() => []);
  return codes.length > SHOWN ? codes : sampler.drawCodes(TEXTS, 0);
}

/** The dimensions whose posterior means vary most over texts (active units, Burda et al. 2016). */
export function activeDimensions(codes) {
  const variance = Array.from(codes[0], (_, place) => codes.reduce((sum, code) => sum + code[place] ** 2, 0));
  return Array.from(variance.keys())
    .sort((one, other) => variance[other] - variance[one])
    .slice(0, SHOWN)
    .map((place) => ({ name: `z[${place}]`, vector: variance.map((_, other) => Number(other === place)), scale: 1 }));
}

/** Principal components by power iteration with deflation. */
export function principalDirections(codes) {
  let left = codes;
  return Array.from({ length: Math.min(SHOWN, codes.length - 1) }, (_, number) => {
    const vector = strongest(left);
    const shares = left.map((code) => dot(code, vector));
    left = left.map((code, row) => code.map((value, place) => value - shares[row] * vector[place]));
    return { name: `direction ${number + 1}`, vector, scale: Math.sqrt(dot(shares, shares) / shares.length) || 1 };
  });
}

function strongest(codes) {
  let vector = unit(codes.reduce((longest, code) => (dot(code, code) > dot(longest, longest) ? code : longest)));
  for (let turn = 0; turn < ITERATIONS; turn += 1) {
    const shares = codes.map((code) => dot(code, vector));
    vector = unit(vector.map((_, place) => codes.reduce((sum, code, row) => sum + shares[row] * code[place], 0)));
  }
  return vector;
}

export const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);

function unit(vector) {
  const length = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / length);
}

function centred(codes) {
  const mean = Array.from(codes[0], (_, place) => codes.reduce((sum, code) => sum + code[place], 0) / codes.length);
  return codes.map((code) => Array.from(code, (value, place) => value - mean[place]));
}
