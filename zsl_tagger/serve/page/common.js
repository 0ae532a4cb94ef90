// Asking the server, and text from it: for both pages.

const LATE_TIMES = 3;
const RETRY_SECONDS = 1; // where the server does not say

export const at = (id) => document.getElementById(id);
export const element = (name, properties) => Object.assign(document.createElement(name), properties);
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Text of others on one line: control characters, and marks that reverse the reading order, are shown as escapes. */
export const printable = (text) =>
  text.replace(/[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (one) =>
    `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The server's answer. Where its queue is full (429), it is asked until there is room; 503 a few times. */
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
      await sleep(seconds * (1 + Math.random() / 2)); // not all at the same moment
      if (options.signal?.aborted) throw new DOMException("stopped", "AbortError");
      continue;
    }
    if (response.ok) return response;
    const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    throw new Refusal(answer.error, response.status);
  }
}

/** The JSON that the server answers. */
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
