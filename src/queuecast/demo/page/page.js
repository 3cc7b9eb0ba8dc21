// The classic front end of a task queue: one EventSource, one `onmessage`, a switch on the message's type.
//
// On load: 1. ask for a cursor, 2. ask for the lists, 3. open the stream after the cursor. What happened between 1 and
// 3 comes twice, once in a list and once as an event; folding both by task, run and seq makes that harmless.

const MAX_CARDS = 40; // of one queue; older tasks that have ended leave the page
const MAX_LOG = 200; // lines of the event list
const RECALLED = 3; // tasks of a queue whose outputs are fetched after a reload; others at a click
const COUNT_EVERY = 1000; // milliseconds between two looks at the counts
const FINAL = new Set(["succeeded", "failed", "cancelled"]);

const sections = new Map([...document.querySelectorAll(".queue")].map((node) => [node.dataset.queue, node]));
const names = [...sections.keys()];
const several = new URLSearchParams(names.map((name) => ["queue", name]));
const tasks = new Map(); // by id: what the fold knows of each task shown

// --- The stream -----------------------------------------------------------------------------------------------------

let source;
let received = 0;

function connect(cursor) {
  source = new EventSource(`events?${several}&after=${cursor}`);

  source.onmessage = (message) => {
    const data = JSON.parse(message.data);
    received += 1;
    log(data);
    switch (data.type) {
      case "task":
        showTask(data.task, data);
        break;
      case "output":
        showOutput(data.id, data.output, data);
        break;
      case "result":
        showResult(data.id, data.result, data);
        break;
      default:
        console.warn("an event of an unknown type", data.type, data);
    }
  };

  source.onopen = () => light("live");
  source.onerror = () => {
    light("connecting");
    // The browser reconnects by itself, with the id of the last event, unless it was told off for good.
    if (source.readyState === EventSource.CLOSED) setTimeout(start, 2000);
  };
  source.addEventListener("drain", () => light("connecting"));
  source.addEventListener("reset", (message) => {
    notice(`The stream could not go on where it was (${JSON.parse(message.data).reason}): the lists were loaded again.`);
    catchUp().catch(report);
  });
}

async function start() {
  try {
    source?.close();
    const { cursor, queues } = await ask(`queues?${several}`);
    showCounts(queues);
    await catchUp();
    connect(cursor);
  } catch (error) {
    report(error);
    setTimeout(start, 2000);
  }
}

async function catchUp() {
  const answers = await Promise.all(names.map((name) => ask(`queues/${name}/tasks?limit=${MAX_CARDS}`)));
  for (const task of tasks.values()) task.whole &&= FINAL.has(task.state);
  for (const { tasks: listed } of answers) listed.reverse().forEach(showStatus);
  recallLatest().catch(report);
}

// --- The fold: from lists and events to what each task is now -------------------------------------------------------

function known(id, queue, name) {
  let task = tasks.get(id);
  if (!task) {
    task = { id, queue, name, state: "queued", attempt: 1, runs: 0, outputs: [], label: remembered(id) };
    tasks.set(id, task);
    addCard(task);
  }
  task.name ||= name;
  draw(task);
  return task;
}

function showStatus(status) {
  const task = known(status.id, status.queue, status.name);
  if (FINAL.has(task.state)) return;
  const { state, attempt, progress, error, result } = status;
  Object.assign(task, { state, attempt, progress, error, result });
}

function showTask(info, { id, queue, run, seq }) {
  const task = known(id, queue, info.name);
  if (!isNew(task, run, seq)) return;
  const { state, attempt, progress, error, delay } = info;
  if (state === "queued" && attempt === 1) task.whole = true; // whatever it streams, this page will see it all
  Object.assign(task, { state, attempt, progress, error, delay });
}

function showOutput(id, output, { queue, run, seq, index }) {
  const task = known(id, queue, "");
  // A task that has ended in a list may still have outputs on their way from between the cursor and the list.
  if (FINAL.has(task.state)) begin(task, run);
  else if (!isNew(task, run, seq)) return;
  task.outputs[index] = output;
}

function showResult(id, result, { queue, run, state, error }) {
  const task = known(id, queue, "");
  if (FINAL.has(task.state)) return;
  Object.assign(task, { state, result, error, progress: undefined, delay: undefined });
}

/** Whether this event of a run tells something new. A new run supersedes the one before, and its outputs. */
function isNew(task, run, seq) {
  if (FINAL.has(task.state)) return false;
  if (!run) return true;
  begin(task, run);
  if (seq <= task.seq) return false;
  task.seq = seq;
  return true;
}

function begin(task, run) {
  if (run !== task.run) Object.assign(task, { run, seq: -1, runs: task.runs + 1, outputs: [] });
}

// --- Outputs from before a reload -----------------------------------------------------------------------------------

/** One task after the other: a browser gives all tabs of a site six connections, and streams hold on to theirs. */
async function recallLatest() {
  for (const [queue, section] of sections) {
    if (!("streams" in section.dataset)) continue;
    const begun = [...tasks.values()].filter((task) => task.queue === queue && task.state !== "queued");
    for (const task of begun.slice(-RECALLED)) await recall(task);
  }
}

/** Read the task's own stream from its first event, until it meets what the page has seen live. */
async function recall(task) {
  if (task.whole) return;
  task.whole = true;
  const past = { run: undefined, outputs: [] };
  for await (const event of history(task)) {
    if (event.run && event.run !== past.run) Object.assign(past, { run: event.run, outputs: [] });
    if (event.type === "output") past.outputs[event.index] = event.output;
    // A task that has ended in a list is not followed live: its own stream tells it all, and ends by itself.
    if (event.run === task.run && event.seq >= task.seq && !FINAL.has(task.state)) break;
  }
  task.run ??= past.run;
  if (task.run !== past.run) return; // a newer run began meanwhile, and all of it was seen live
  past.outputs.forEach((output, index) => (task.outputs[index] = output));
  task.holes = true;
  draw(task);
}

async function* history(task) {
  const answer = await fetch(`queues/${task.queue}/tasks/${task.id}/events?after=first`);
  if (!answer.ok || !answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        const event = JSON.parse(line.slice(6));
        if (event.type) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// --- Asking ---------------------------------------------------------------------------------------------------------

async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? {} : post(body));
  const text = await answer.text();
  const told = text ? JSON.parse(text) : {};
  if (!answer.ok) throw new Error(problem(told, answer.status));
  return told;
}

function post(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

function problem({ detail, errors = [] }, status) {
  const flaws = errors.map(({ pointer, detail }) => `${pointer.split("/").pop()}: ${detail}`);
  return [detail ?? `the server answered ${status}`, ...flaws].join(". ");
}

async function submit(section) {
  const form = section.querySelector("form");
  const { queue, task: name } = section.dataset;
  const args = argumentsOf(form);
  const { id } = await ask(`queues/${queue}/tasks`, { name, args });
  remember(id, args);
}

function argumentsOf(form) {
  const fields = [...form.elements].filter((field) => field.name);
  return Object.fromEntries(fields.map((field) => [field.name, field.type === "number" ? field.valueAsNumber : field.value]));
}

/** What was asked for, as the card's label: an event does not repeat its task's arguments. */
function remember(id, args) {
  const said = args.text || args.path || args.to;
  const label = [said, args.column && `${args.column}: ${args.contains}`].filter(Boolean).join(", ").slice(0, 200);
  sessionStorage.setItem(id, label);
  const task = tasks.get(id);
  if (task) {
    task.label = label;
    draw(task);
  }
}

function remembered(id) {
  return sessionStorage.getItem(id) ?? `task ${id.slice(-6)}`;
}

// --- Drawing: what has changed, once a frame ------------------------------------------------------------------------

const changed = new Set();
const lines = [];
let drawing = false;

function draw(task) {
  changed.add(task);
  later();
}

function log(event) {
  lines.push(event);
  if (lines.length > MAX_LOG) lines.shift();
  countSoon();
  later();
}

function later() {
  if (!drawing) requestAnimationFrame(drawAll);
  drawing = true;
}

function drawAll() {
  drawing = false;
  changed.forEach(drawCard);
  changed.clear();
  drawLog();
}

function addCard(task) {
  const section = sections.get(task.queue);
  const list = section.querySelector(".tasks");
  task.card = document.querySelector("#card").content.cloneNode(true).firstElementChild;
  task.card.dataset.id = task.id;
  part(task, "time").textContent = new Date(parseInt(task.id.replace("-", "").slice(0, 12), 16)).toLocaleTimeString();
  part(task, ".cancel").onclick = () => act(task, "cancel");
  part(task, ".requeue").onclick = () => act(task, "requeue");
  part(task, ".recall").onclick = () => recall(task).catch(report);
  list.prepend(task.card);
  dropOldest(task.queue);
}

function dropOldest(queue) {
  const shown = [...tasks.values()].filter((task) => task.queue === queue);
  for (const task of shown.slice(0, Math.max(0, shown.length - MAX_CARDS))) {
    if (!FINAL.has(task.state)) continue;
    task.card.remove();
    tasks.delete(task.id);
  }
}

function act(task, verb) {
  ask(`queues/${task.queue}/tasks/${task.id}/${verb}`, {})
    .then(({ id }) => id !== task.id && copyLabel(task, id))
    .catch(report);
}

function copyLabel(task, id) {
  sessionStorage.setItem(id, task.label);
  if (tasks.has(id)) draw(Object.assign(tasks.get(id), { label: task.label }));
}

function drawCard(task) {
  const over = FINAL.has(task.state);
  task.card.dataset.state = task.state;
  part(task, ".state").textContent = stateOf(task);
  part(task, ".label").textContent = task.label;
  part(task, ".label").title = `${task.label} (${task.id})`;
  part(task, ".cancel").hidden = over;
  part(task, ".requeue").hidden = task.state !== "failed";
  drawProgress(task, over);
  drawTrouble(task);
  drawOutputs(task);
  const result = part(task, ".result");
  result.hidden = task.state !== "succeeded" || !task.result;
  if (!result.hidden) result.replaceChildren(...(RESULTS[task.queue]?.(task.result) ?? []));
  const streams = "streams" in sections.get(task.queue).dataset;
  part(task, ".recall").hidden = !streams || !over || Boolean(task.whole);
}

function stateOf({ state, attempt, runs, delay }) {
  const words = [state];
  if (attempt > 1) words.push(`attempt ${attempt}`);
  if (runs > attempt) words.push(`run ${runs}`);
  if (state === "retrying" && delay !== undefined) words.push(`in ${delay.toFixed(1)} s`);
  return words.join(" · ");
}

function drawProgress(task, over) {
  const box = part(task, ".progress");
  box.hidden = over || !task.progress;
  if (box.hidden) return;
  const { current, total, note = "" } = task.progress;
  const bar = box.querySelector("progress");
  if (total) Object.assign(bar, { max: total, value: current });
  else bar.removeAttribute("value");
  const share = total ? `${Math.floor((100 * current) / total)} %` : count(current);
  box.querySelector(".note").textContent = [share, note].filter(Boolean).join("  ");
}

function drawTrouble(task) {
  const trouble = part(task, ".trouble");
  const { error } = task;
  trouble.hidden = !error;
  if (error) trouble.textContent = error.message ? `${error.type}: ${error.message}` : error.type;
}

function drawOutputs(task) {
  const box = part(task, ".outputs");
  box.hidden = task.outputs.length === 0;
  // Outputs come in order and are added one by one; only what a recall brings has to go before what is there.
  if (task.drawn !== task.run || task.holes) box.replaceChildren();
  const make = (output) => (output === undefined ? "" : OUTPUTS[task.queue](output));
  box.append(...Array.from(task.outputs.slice(box.childNodes.length), make));
  Object.assign(task, { drawn: task.run, holes: task.outputs.includes(undefined) });
}

const OUTPUTS = {
  stream: (piece) => document.createTextNode(piece),
  thumbs: ({ name, file, error, width, height }) => {
    if (!file) return element("span", { className: "broken", textContent: name, title: error });
    const src = `demo/files/${path(file)}`;
    return element("img", { src, alt: name, title: `${name}, ${width} × ${height}`, loading: "lazy" });
  },
};

const RESULTS = {
  words: ({ files, bytes, lines, words, distinct, top }) => {
    const most = top[0]?.[1] ?? 1;
    const rows = top.map(([word, times]) => [
      element("dt", { textContent: word }),
      element("dd", {}, [element("meter", { max: most, value: times }), count(times)]),
    ]);
    return [
      says(`${count(words)} words, ${count(distinct)} different, in ${count(lines)} lines of ${count(files)} files, ${size(bytes)}`),
      element("dl", {}, rows.flat()),
    ];
  },
  exports: ({ rows, kept, bytes, totals, file }) => [
    says(`${count(kept)} of ${count(rows)} rows, ${size(bytes)} `, download(file)),
    element("dl", {}, Object.entries(totals).flatMap(([name, total]) => [
      element("dt", { textContent: `sum of ${name}` }),
      element("dd", { textContent: count(total) }),
    ])),
  ],
  mail: ({ to, file }) => [says(`delivered to ${to} `, download(file))],
};

function drawLog() {
  if (!lines.length) return;
  const list = document.querySelector("#log");
  list.prepend(...lines.splice(0).reverse().map(logLine));
  while (list.childElementCount > MAX_LOG) list.lastElementChild.remove();
  document.querySelector("#received").textContent = count(received);
}

function logLine(event) {
  const { id, name, attempt, ...news } = event.task ?? {};
  const payload = JSON.stringify(event.task ? news : event[event.type] ?? event.error ?? null);
  const line = element("li", {}, [
    element("b", { textContent: event.type }),
    ` ${event.queue} ${event.id.slice(-6)}${event.seq === undefined ? "" : ` #${event.seq}`} `,
    element("span", { textContent: payload.length > 160 ? `${payload.slice(0, 160)}…` : payload }),
  ]);
  line.dataset.type = event.type;
  return line;
}

let countingSoon;

function countSoon() {
  countingSoon ??= setTimeout(async () => {
    countingSoon = undefined;
    await ask(`queues?${several}`).then(({ queues }) => showCounts(queues)).catch(() => {});
  }, COUNT_EVERY);
}

function showCounts(queues) {
  for (const { name, counts } of queues) {
    const shown = Object.entries(counts).filter(([, number]) => number);
    const items = shown.map(([state, number]) => {
      const item = element("li", { textContent: `${count(number)} ${state}` });
      item.dataset.state = state;
      return item;
    });
    sections.get(name)?.querySelector(".counts").replaceChildren(...items);
  }
}

// --- Small things ---------------------------------------------------------------------------------------------------

function element(tag, properties, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function part(task, selector) {
  return task.card.querySelector(selector);
}

function says(...children) {
  return element("p", {}, children);
}

function download(file) {
  return element("a", { href: `demo/files/${path(file)}`, download: file.split("/").pop(), textContent: "download" });
}

function path(file) {
  return file.split("/").map(encodeURIComponent).join("/");
}

function count(number) {
  return number.toLocaleString("en");
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function light(state) {
  Object.assign(document.querySelector("#connection"), { textContent: state }).dataset.state = state;
}

let forgetting;

function notice(text) {
  const box = document.querySelector("#notice");
  Object.assign(box, { textContent: text, hidden: false });
  clearTimeout(forgetting);
  forgetting = setTimeout(() => (box.hidden = true), 8000);
}

function report(error) {
  notice(error.message);
}

// --- The forms and buttons ------------------------------------------------------------------------------------------

for (const section of sections.values()) {
  section.append(element("ul", { className: "counts" }), element("ol", { className: "tasks" }));
  section.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(section).catch(report);
  });
}

document.querySelector("#run-all").onclick = () => {
  const ready = [...sections.values()].filter((section) => section.querySelector("form").reportValidity());
  Promise.all(ready.map(submit)).catch(report);
};

document.querySelector("#kill").onclick = async () => {
  const answer = await fetch("demo/kill-worker", { method: "POST" }).catch(() => ({}));
  notice(answer.ok ? "The worker was killed (SIGKILL). What it ran will run again." : "The worker could not be killed.");
};

async function fillSamples() {
  for (const [queue, sample] of Object.entries(await ask("demo/samples"))) {
    const field = sections.get(queue).querySelector("[data-sample]");
    field.value ||= sample;
  }
}

fillSamples().catch(report);
start();
