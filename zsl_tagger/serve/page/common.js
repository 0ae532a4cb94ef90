// Requests to the server, and helpers for text and elements. For both pages.

const LATE_TIMES = 3;
const RETRY_SECONDS = 1; // default if the server sends no Retry-After

export const at = (id) => document.getElementById(id);
export const element = (name, properties) => Object.assign(document.createElement(name), properties);
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Escape control characters, line breaks and bidirectional marks in text from elsewhere. */
export const printable = (text) =>
  text.replace(/[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (one) =>
    `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Send a request and return the response. While the queue is full (429) it is repeated; after 503, a few times. */
export async function request(path, options = {}) {
  for (let late = 0; ; ) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("the server cannot be reached: is zsl-tagger serve still running?");
    }
    if (response.status === 429 || (response.status === 503 && ++late < LATE_TIMES)) {
      const seconds = Number(response.headers.get("Retry-After")) || RETRY_SECONDS;
      await sleep(seconds * (1 + Math.random() / 2)); // spread repeated requests
      if (options.signal?.aborted) throw new DOMException("stopped", "AbortError");
      continue;
    }
    if (response.ok) return response;
    const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    throw new Refusal(answer.error, response.status);
  }
}

/** Send a request and return the JSON of the response. */
export async function ask(path, options = {}) {
  const response = await request(path, options);
  return response.json().catch(() => {
    throw new Refusal(`the server answered ${response.status}`, response.status);
  });
}

export function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
}
