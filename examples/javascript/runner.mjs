#!/usr/bin/env node
// An implementation without Python that refimpl tests: `refimpl conform exec:./runner.mjs`. It needs Node.js and nothing else.
//
//     runner.mjs --about                                     who it is and which layers it has
//     runner.mjs CASE.json IN.safetensors OUT.safetensors    answers one question; docs/vectors.md describes the files
//
// Exit status 0: answered; 3: not supported, the reason on standard error; 1: an error.

import { readFileSync, writeFileSync } from "node:fs";

const FORMATS = { F64: Float64Array, F32: Float32Array, I64: BigInt64Array, I32: Int32Array };

class Unsupported extends Error {}

// Tensors by name: { shape, data }, data in double precision.
function readTensors(path) {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, start));
  const found = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (!(dtype in FORMATS)) throw new Unsupported(`no tensors of format ${dtype}`);
    const own = bytes.buffer.slice(bytes.byteOffset + start + begin, bytes.byteOffset + start + end);
    found[name] = { shape, data: Float64Array.from(new FORMATS[dtype](own), Number) };
  }
  return found;
}

function writeTensors(path, tensors) {
  const header = {};
  const parts = [];
  let position = 0;
  for (const { name, dtype, shape, data } of tensors) {
    if (!(dtype in FORMATS)) throw new Unsupported(`no results of format ${dtype}`);
    const stored = dtype === "I64" ? BigInt64Array.from(data, BigInt) : FORMATS[dtype].from(data);
    const bytes = Buffer.from(stored.buffer);
    header[name] = { dtype, shape, data_offsets: [position, position + bytes.length] };
    position += bytes.length;
    parts.push(bytes);
  }
  let text = Buffer.from(JSON.stringify(header));
  text = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const silu = (x) => x * sigmoid(x);

function each({ shape, data }, change) {
  return { shape, data: data.map((value, index) => change(value, index)) };
}

function rmsNorm({ x, weight }, { eps, zero_centred }) {
  const width = x.shape.at(-1);
  const shift = zero_centred ? 1 : 0;
  const y = new Float64Array(x.data.length);
  for (let row = 0; row < y.length; row += width) {
    const values = x.data.subarray(row, row + width);
    const root = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / width + eps);
    values.forEach((value, d) => (y[row + d] = (value / root) * (weight ? weight.data[d] + shift : 1)));
  }
  return { shape: x.shape, data: y };
}

function linear({ x, weight, bias }) {
  const [outputs, inputs] = weight.shape;
  const shape = [...x.shape.slice(0, -1), outputs];
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const y = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row++)
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? bias.data[o] : 0;
      for (let i = 0; i < inputs; i++) sum += x.data[row * inputs + i] * weight.data[o * inputs + i];
      y[row * outputs + o] = sum;
    }
  return { shape, data: y };
}

function rotaryEmbedding({ x, cos, sin }, { interleaved }) {
  const [heads, width] = x.shape.slice(2);
  const pairs = cos.shape.at(-1);
  // REFIMPL_EXAMPLE_BROKEN exchanges the two ways of pairing: a fault to see the suite find.
  const alternate = process.env.REFIMPL_EXAMPLE_BROKEN ? !interleaved : interleaved;
  const y = Float64Array.from(x.data);
  for (let head = 0; head < y.length / width; head++)
    for (let pair = 0; pair < pairs; pair++) {
      const first = head * width + (alternate ? 2 * pair : pair);
      const second = alternate ? first + 1 : first + pairs;
      const angle = Math.floor(head / heads) * pairs + pair;
      y[first] = x.data[first] * cos.data[angle] - x.data[second] * sin.data[angle];
      y[second] = x.data[second] * cos.data[angle] + x.data[first] * sin.data[angle];
    }
  return { shape: x.shape, data: y };
}

function topKSoftmaxRouter({ logits }, { top_k }) {
  const experts = logits.shape.at(-1);
  const shape = [...logits.shape.slice(0, -1), top_k];
  const indices = [];
  const weights = [];
  for (let row = 0; row < logits.data.length; row += experts) {
    const scores = logits.data.subarray(row, row + experts);
    const chosen = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, top_k);
    const powers = chosen.map((expert) => Math.exp(scores[expert] - scores[chosen[0]]));
    const total = powers.reduce((sum, power) => sum + power, 0);
    indices.push(...chosen);
    weights.push(...powers.map((power) => power / total));
  }
  return [{ shape, data: indices }, { shape, data: weights }];
}

const LAYERS = {
  rms_norm: rmsNorm,
  linear,
  rotary_embedding: rotaryEmbedding,
  silu: ({ x }) => each(x, silu),
  sigmoid: ({ x }) => each(x, sigmoid),
  soft_cap: ({ x }, { cap }) => each(x, (value) => cap * Math.tanh(value / cap)),
  swiglu: ({ gate, up }) => each(gate, (value, index) => silu(value) * up.data[index]),
  clamped_swiglu: ({ gate, up }, { alpha, limit }) =>
    each(gate, (value, index) => {
      const g = Math.min(value, limit);
      return g * sigmoid(alpha * g) * (Math.max(-limit, Math.min(up.data[index], limit)) + 1);
    }),
  top_k_softmax_router: topKSoftmaxRouter,
};

function answer(caseFile, inFile, outFile) {
  const question = JSON.parse(readFileSync(caseFile, "utf8"));
  const layer = LAYERS[question.function];
  if (!layer) throw new Unsupported(`no layer ${question.function}`);
  const results = [layer(readTensors(inFile), question.options)].flat();
  writeTensors(outFile, question.outputs.map(({ name, dtype }, index) => ({ name, dtype, ...results[index] })));
}

const ABOUT = { name: "javascript-example", version: "1", dtypes: ["float64", "float32"], layers: Object.keys(LAYERS) };

if (process.argv[2] === "--about") {
  console.log(JSON.stringify(ABOUT));
} else if (process.argv.length !== 5) {
  console.error("usage: runner.mjs CASE.json IN.safetensors OUT.safetensors");
  process.exitCode = 2;
} else {
  try {
    answer(...process.argv.slice(2));
  } catch (error) {
    console.error(error.message);
    process.exitCode = error instanceof Unsupported ? 3 : 1;
  }
}
