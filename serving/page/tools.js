/** What all scripts of the page share: elements, calls of the server, and what is said when they fail. */

export const byId = (id) => document.getElementById(id);

/** An element with properties (or attributes) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A text of the model; an empty one is said to be empty. */
export const shownText = (text) => (text === "" ? element("span", { className: "none" }, "(empty text)") : text);

export class Problem extends Error {}

/** Shows what an error says in the place of a result; a request that was stopped says nothing. */
export function showProblem(place, error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) console.error(error);
  place.replaceChildren(element("p", { className: "problem" }, error.message));
}

/* --- what is said above everything ------------------------------------------------------------------------------- */

const GONE = "The server does not answer. It may have been stopped.";
const ASK_AGAIN_MILLISECONDS = 2000;
const BUSY_TRIES = 3;
const LONGEST_WAIT_SECONDS = 10;

let gone = false;

export function notice(sentence = "") {
  byId("notice").textContent = sentence;
  byId("notice").hidden = !sentence;
}

/** Says that the server is gone, until it answers again. */
async function waitForServer() {
  if (gone) return;
  gone = true;
  notice(GONE);
  while (gone) {
    await pause(ASK_AGAIN_MILLISECONDS);
    gone = !(await fetch("/health").catch(() => null))?.ok;
  }
  notice();
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

/* --- calls ------------------------------------------------------------------------------------------------------- */

let running = 0;

/** Waits for work; the page is marked as busy meanwhile. */
export async function busy(work) {
  byId("main").setAttribute("aria-busy", String(++running > 0));
  try {
    return await work;
  } finally {
    byId("main").setAttribute("aria-busy", String(--running > 0));
  }
}

/** The JSON that a path answers: to a GET, or to a POST of `body`. */
export const call = (path, body, signal) => busy(send(path, body, signal).then((response) => response.json()));

/** The response of a path. Where the model is busy it asks again after the time that the server tells. */
export async function send(path, body, signal) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let tried = 1; ; tried++) {
    let response;
    try {
      response = await fetch(path, { ...(body === undefined ? {} : post), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      waitForServer();
      throw new Problem(GONE);
    }
    if (response.ok) return response;
    const seconds = Number(response.headers.get("Retry-After") ?? 1);
    const overloaded = response.status === 429 || response.status === 503;
    if (!overloaded || tried === BUSY_TRIES || seconds > LONGEST_WAIT_SECONDS) throw await problemOf(response, overloaded);
    notice(`The model is busy. The next try is in ${seconds} s.`);
    await pause(1000 * seconds, signal).finally(() => notice());
  }
}

async function problemOf(response, overloaded) {
  const told = await response.json().catch(() => ({}));
  const detail = told.detail ?? `${response.status} ${response.statusText}`;
  const problem = new Problem(overloaded ? `The model has too much to do at the moment; try again later. (${detail})` : detail);
  return Object.assign(problem, { status: response.status });
}

/** The events of a stream as [name, data]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(
        block.split("\n").map((line) => {
          const colon = line.indexOf(": ");
          return [line.slice(0, colon), line.slice(colon + 2)];
        }),
      );
      yield [fields.event || "message", JSON.parse(fields.data)];
    }
  }
}

/** A function that does `work` for its newest arguments: those that came during earlier work, except the last, are skipped. */
export function newest(work) {
  let working = false;
  let next;
  return async function ask(...given) {
    next = given;
    if (working) return;
    working = true;
    while (next) {
      const taken = next;
      next = undefined;
      await work(...taken);
    }
    working = false;
  };
}
