// Reads the golden vectors in plain JavaScript and computes the losses of three methods (paper).
//
//   node read_suite.mjs [DIR]     default: the directory of this file
//
// An example for other languages: every file is checked against manifest.json, the arrays are read
// from safetensors, and each loss is compared as FORMAT.md says under Tolerance. The exit status is
// 1 if one is wrong. Nothing but node is needed (version 18 or later).
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const directory = process.argv[2] ?? dirname(fileURLToPath(import.meta.url));
const UNIT = 1024 * 2 ** -53; // JavaScript computes in float64
const SMALLEST = 2 ** -126;
const IGNORE = -100;

function stop(text) {
  console.error(`error: ${text}`);
  process.exit(2);
}

// The bytes of a file, if its SHA-256 is the one that the manifest lists.
function checked(name, manifest) {
  const bytes = readFileSync(join(directory, name));
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  if (sha256 !== manifest.files[name].sha256) stop(`${name} is not the file of manifest.json`);
  return bytes;
}

// {key: {shape, values}} of a safetensors file. Integers become numbers: all are below 2^53.
function arrays(bytes) {
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const found = {};
  for (const [key, head] of Object.entries(JSON.parse(bytes.toString("utf8", 8, start)))) {
    if (key === "__metadata__") continue;
    const values = [];
    for (let at = start + head.data_offsets[0]; at < start + head.data_offsets[1]; at += 8) {
      values.push(head.dtype === "F64" ? bytes.readDoubleLE(at) : Number(bytes.readBigInt64LE(at)));
    }
    found[key] = { shape: head.shape, values };
  }
  return found;
}

// The log-softmax of the logits at position t of sequence b.
function logProbabilities(logits, b, t) {
  const [, T, V] = logits.shape;
  const row = logits.values.slice((b * T + t) * V, (b * T + t + 1) * V);
  const largest = Math.max(...row);
  const sum = row.reduce((total, z) => total + Math.exp(z - largest), 0);
  return row.map((z) => z - largest - Math.log(sum));
}

// For each sequence, the answer's log-probability and its number of tokens. The logits at t predict
// the label at t + 1.
function answers(batch, tensor) {
  const [B, T] = batch.labels.shape;
  return Array.from({ length: B }, (_, b) => {
    const answer = { logp: 0, tokens: 0 };
    for (let t = 0; t + 1 < T; t++) {
      const label = batch.labels.values[b * T + t + 1];
      if (label === IGNORE) continue;
      answer.logp += logProbabilities(batch[tensor], b, t)[label];
      answer.tokens += 1;
    }
    return answer;
  });
}

// Mean negative log-likelihood of all answer tokens of a batch.
function tokenMean(batch) {
  const all = answers(batch, "logits");
  const tokens = all.reduce((total, answer) => total + answer.tokens, 0);
  return -all.reduce((total, answer) => total + answer.logp, 0) / Math.max(tokens, 1);
}

const LOSSES = {
  retain_ft: ({ retain }) => tokenMean(retain),
  grad_ascent: ({ forget }) => -tokenMean(forget),
  // 2 / beta x the mean over sequences of log(1 + exp(beta x (log p student - log p teacher)))
  npo: ({ forget }, { beta }) => {
    const teacher = answers(forget, "teacher_logits");
    const terms = answers(forget, "logits").map(({ logp }, b) => {
      const x = beta * (logp - teacher[b].logp);
      return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
    });
    return ((2 / beta) * terms.reduce((total, term) => total + term, 0)) / terms.length;
  },
};

const manifest = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"));
if (manifest.format !== 1) stop(`format is ${manifest.format}; expected 1`);
const inputs = arrays(checked("inputs.safetensors", manifest));
let wrong = 0;
for (const [method, loss] of Object.entries(LOSSES)) {
  const { cases } = JSON.parse(checked(`${method}.json`, manifest).toString("utf8"));
  const asked = cases.filter((one) => one.semantics === "paper");
  let right = 0;
  for (const one of asked) {
    const batches = {};
    for (const [name, keys] of Object.entries(one.batches)) {
      batches[name] = {};
      for (const key of keys) batches[name][key] = inputs[`${one.shape}/${name}/${key}`];
    }
    const found = loss(batches, one.options);
    const isRight = Math.abs(found - one.loss) <= UNIT * one.roundings.loss + SMALLEST;
    right += isRight;
    if (!isRight) console.log(`wrong ${one.id}: loss ${found}, expected ${one.loss}`);
  }
  console.log(`${method}: ${right} of ${asked.length} losses are right`);
  wrong += asked.length - right;
}
console.log(`golden vectors ${manifest.version}: ${wrong ? `${wrong} wrong` : "all right"}`);
process.exit(wrong ? 1 : 0);
