/**
 * What a hub, a mirror, or the network before it may do wrong: each with the way in which it has to end. Used by the tests
 * and by the table of `npm run robustness`, over the loopback hub of the tests.
 */
import { gzipSync } from "node:zlib";
import { isLarge, refuse, sendBytes, type Interference } from "../../test/checkpoints/loopback-hub.js";
import {
  always,
  answering,
  commit,
  cutAfter,
  drip,
  endless,
  isListing,
  isPartOfWeights,
  isRevision,
  isTokenizer,
  isWeights,
  json,
  relisted,
  send,
  smallFiles,
  startOf,
  followed,
  withIndex,
} from "./hub-answers.js";

export interface HubFault {
  readonly name: string;
  /** "right": the model arrives whole all the same; else what the refusal says. */
  readonly ends: "right" | RegExp;
  /** A fresh one for each run. */
  readonly interference: () => Interference;
  /** What the hub has, in place of the small model. */
  readonly files?: () => Record<string, Buffer>;
  /** In place of "main". */
  readonly revision?: string;
}

/** How long to wait for a fault's hub, in milliseconds: short only where silence is the fault. */
export const patienceFor = ({ ends }: HubFault): number =>
  ends !== "right" && /silent|only/.test(ends.source) ? 200 : 20_000;

const nothing = (): Interference => () => false;
const noHub = /does not answer as a hub does; check HF_ENDPOINT/;
const givenUp = /cannot be fetched from [\w.:]+ \(.*\); check the network, or choose a mirror/;

export const hubFaults: readonly HubFault[] = [
  { name: "nothing is wrong", ends: "right", interference: nothing },
  // What is said about the model
  { name: "a web page about the model", ends: noHub, interference: answering(always, send("<html>log in")) },
  { name: "JSON that is cut", ends: noHub, interference: answering(isRevision, send('{"sha": "11')) },
  { name: "null", ends: noHub, interference: answering(isRevision, send("null")) },
  { name: "a number", ends: /names no commit/, interference: answering(isRevision, send("7")) },
  {
    name: "JSON of a million brackets",
    ends: noHub,
    interference: answering(isRevision, send("[".repeat(1e6))),
  },
  {
    name: "a commit that leads out of the cache",
    ends: /names no commit/,
    interference: answering(isRevision, send(json({ sha: "../../../evil" }))),
  },
  {
    name: "another commit than the one asked for",
    ends: /offers another commit/,
    revision: commit,
    interference: answering(isRevision, send(json({ sha: "2".repeat(40) }))),
  },
  {
    name: "an answer without an end",
    ends: /answered without an end/,
    interference: answering(isRevision, endless(Buffer.alloc(2 ** 20, 32))),
  },
  {
    name: "a compressed answer",
    ends: "right",
    interference: answering(
      isRevision,
      send(gzipSync(json({ sha: commit })), { "content-encoding": "gzip" }),
    ),
  },
  {
    name: "a small answer that unpacks to 100 MB",
    ends: /answered without an end/,
    interference: answering(
      isRevision,
      send(gzipSync(Buffer.alloc(100_000_000, 32)), { "content-encoding": "gzip" }),
    ),
  },
  {
    name: "an answer that is called compressed and is not",
    ends: givenUp,
    interference: answering(isRevision, send(json({ sha: commit }), { "content-encoding": "gzip" })),
  },
  { name: "no content", ends: noHub, interference: answering(isRevision, send("", {}, 204)) },
  {
    name: "redirects in a circle",
    ends: givenUp,
    interference: answering(always, (response, { path }) =>
      send("", { location: path }, 302)(response, null!, null!),
    ),
  },
  {
    name: "a redirect to a file of this machine",
    ends: givenUp,
    interference: answering(isRevision, send("", { location: "file:///etc/passwd" }, 302)),
  },
  {
    name: "a redirect to nowhere",
    ends: /refuses the request \(status 302\)/,
    interference: answering(isRevision, send("", {}, 302)),
  },
  {
    name: "headers of 200 kB",
    ends: givenUp,
    interference: answering(isRevision, (response) => {
      for (let i = 0; i < 50; i++) response.setHeader(`x-${i}`, "y".repeat(4000));
      response.end("{}");
    }),
  },
  {
    name: "something that is not HTTP",
    ends: givenUp,
    interference: answering(always, (response) => void response.socket?.end("SSH-2.0-OpenSSH\r\n\r\n")),
  },
  {
    name: "connections that close at once",
    ends: givenUp,
    interference: answering(always, (r) => r.destroy()),
  },
  { name: "no answer", ends: /silent for 0\.2 s/, interference: answering(isRevision, () => undefined) },
  {
    name: "half an answer, then silence",
    ends: /silent for 0\.2 s/,
    interference: answering(isRevision, (response) => void response.writeHead(200).write("{")),
  },
  { name: "an answer in drips", ends: /only \d+ bytes in/, interference: answering(isRevision, drip) },
  ...[402, 404, 418, 451, 500, 503].map((status) => ({
    name: `status ${status} with a page`,
    ends: /status \d|\(404\)|restricted/,
    interference: answering(always, send("<html>sorry</html>", { "content-type": "text/html" }, status)),
  })),
  ...[
    ["in 10^12 seconds", "1000000000000"],
    ["never", "Infinity"],
    ["in the year 2100", "Thu, 01 Jan 2100 00:00:00 GMT"],
  ].map(([when, header]) => ({
    name: `too many requests, again ${when}`,
    ends: /too many requests \(429\), to be asked again in .* s, 1 try\)/,
    interference: answering(always, send("", { "retry-after": header! }, 429)),
  })),
  ...["-5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", ""].map((header) => ({
    name: `a pause that cannot be meant (${header || "empty"}), once`,
    ends: "right" as const,
    interference: answering(always, send("", { "retry-after": header }, 503), 1),
  })),
  // What is said about its files
  {
    name: "a listing whose pages never end",
    ends: /lists files without an end/,
    interference: () => {
      let page = 0;
      return answering(isListing, (response, { path }) => {
        response.setHeader("link", `<http://${response.req.headers.host}${path}?page=${page++}>; rel="next"`);
        response.end("[]");
      })();
    },
  },
  {
    name: "a listing whose page comes after itself",
    ends: /lists files without an end/,
    interference: answering(isListing, (response, { path }) => {
      response.setHeader("link", `<http://${response.req.headers.host}${path}?a=b>; rel="next"`);
      response.end("[]");
    }),
  },
  { name: "a listing that is no list", ends: noHub, interference: answering(isListing, send('{"a": 1}')) },
  { name: "a listing of nonsense", ends: noHub, interference: answering(isListing, send('[1, null, "x"]')) },
  {
    name: "a listing of nothing",
    ends: /it has no config\.json/,
    interference: answering(isListing, send("[]")),
  },
  {
    name: "names that lead out of the cache",
    ends: "right",
    interference: nothing,
    files: () => ({
      "../../evil": Buffer.from("x"),
      "..": Buffer.from("x"),
      "/etc/x": Buffer.from("x"),
      ...smallFiles(),
    }),
  },
  { name: "sizes below 0", ends: noHub, interference: relisted((entry) => ({ ...entry, size: -1 })) },
  {
    name: "a config.json of petabytes",
    ends: /at most 100000000 bytes is required/,
    interference: relisted((entry) =>
      entry["path"] === "config.json" ? { ...entry, size: 2 ** 52 } : entry,
    ),
  },
  {
    name: "hashes of other files",
    ends: /git hash .*, the hub lists a{40}/,
    interference: relisted((entry) =>
      isLarge(String(entry["path"])) ? entry : { ...entry, oid: "a".repeat(40) },
    ),
  },
  {
    name: "hashes that are paths",
    ends: noHub,
    interference: relisted((entry) => ({ ...entry, oid: "../../../evil" })),
  },
  {
    name: "an index that names files elsewhere",
    ends: /names "\.\.\/\.\.\/evil\.safetensors", which the model does not have/,
    interference: nothing,
    files: withIndex(json({ weight_map: { a: "../../evil.safetensors" } })),
  },
  {
    name: "an index that is no JSON",
    ends: /model\.safetensors\.index\.json/,
    interference: nothing,
    files: withIndex(Buffer.from("<html>")),
  },
  // What arrives of them
  {
    name: "weights in pieces that break off",
    ends: "right",
    interference: answering(isWeights, cutAfter(1_200_000, true)),
  },
  {
    name: "weights that break off at the same byte, without ranges",
    ends: /3 tries\); .*what has arrived is kept/,
    interference: answering(isWeights, cutAfter(1_500_000, false)),
  },
  {
    name: "weights that break off at the same byte, with a wrong range each time",
    ends: givenUp,
    interference: answering(isWeights, (response, asked, body) =>
      asked.range === undefined
        ? cutAfter(1_500_000, false)(response, asked, body)
        : send("x", { "content-range": "bytes 0-0/1" }, 206)(response, asked, body),
    ),
  },
  {
    name: "weights that break off once, then no ranges",
    ends: "right",
    interference: answering(isWeights, cutAfter(900_000, false), 1),
  },
  {
    name: "weights that break off, then 416 for ever",
    ends: givenUp,
    interference: answering(isWeights, (response, asked, body) =>
      asked.range === undefined ? cutAfter(1_500_000, false)(response, asked, body) : refuse(response, 416),
    ),
  },
  {
    name: "weights a byte at a time",
    ends: givenUp,
    interference: answering(isWeights, (response, asked, body) => {
      const start = startOf(asked);
      send(
        body.subarray(start, start + 1),
        { "content-range": `bytes ${start}-${start}/${body.length}` },
        206,
      )(response, asked, body);
    }),
  },
  {
    name: "the right range with the wrong bytes, once",
    ends: "right",
    interference: followed(cutAfter(900_000, false), isPartOfWeights, (response, asked, body) =>
      sendBytes(response, Buffer.alloc(body.length, 7), asked.range),
    ),
  },
  {
    name: "a range that is compressed",
    ends: "right",
    interference: followed(cutAfter(900_000, false), isPartOfWeights, (response, asked, body) => {
      const start = startOf(asked);
      const headers = {
        "content-encoding": "gzip",
        "content-range": `bytes ${start}-${body.length - 1}/${body.length}`,
      };
      send(gzipSync(body.subarray(start)), headers, 206)(response, asked, body);
    }),
  },
  {
    name: "compressed files",
    ends: "right",
    interference: answering(isTokenizer, (response, asked, body) =>
      send(gzipSync(body), { "content-encoding": "gzip" })(response, asked, body),
    ),
  },
  {
    name: "a length below the true one",
    ends: "right",
    interference: answering(
      isTokenizer,
      (response, asked, body) => send(body.subarray(0, 10), { "content-length": 10 })(response, asked, body),
      1,
    ),
  },
  {
    name: "a length above the true one",
    ends: givenUp,
    interference: answering(isTokenizer, (response, _, body) => {
      response
        .writeHead(200, { "content-length": body.length + 5 })
        .write(body.subarray(0, 20), () => setTimeout(() => response.destroy(), 20));
    }),
  },
  {
    name: "a file that does not end",
    ends: /is longer than the \d+ bytes/,
    interference: answering(isTokenizer, endless(Buffer.alloc(65_536))),
  },
  { name: "a file in drips", ends: /only \d+ bytes in/, interference: answering(isTokenizer, drip) },
  {
    name: "a file that stalls",
    ends: /silent for 0\.2 s/,
    interference: answering(
      isTokenizer,
      (response, _, body) => void response.writeHead(200, { "content-length": body.length }),
    ),
  },
  {
    name: "a web page in a file's place",
    ends: /answered with a web page instead of tokenizer\.json/,
    interference: answering(
      isTokenizer,
      send("<!doctype html><title>Log in</title>", { "content-type": "text/html; charset=utf-8" }),
    ),
  },
  {
    name: "another file of the same length",
    ends: /git hash \w+, the hub lists/,
    interference: answering(isTokenizer, (response, asked, body) =>
      sendBytes(response, Buffer.alloc(body.length, 7), asked.range),
    ),
  },
  {
    name: "a file that is not there",
    ends: /\(404\)/,
    interference: answering(isTokenizer, (response) => refuse(response, 404, "EntryNotFound")),
  },
];
