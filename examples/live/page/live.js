// The program sends its whole state ten times a second; this file draws it, and tells the program which button was pressed.

const $ = (selector, within = document) => within.querySelector(selector);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const history = 150; // points of each curve: 15 seconds
const top = 1.3; // of the bound: the upper end of each curve

let boundMs = 1;
let announced = 0;
const nodes = new Map();

/** post asks the program to do something, and says so if it did not work. */
async function post(path) {
  const response = await fetch(path, { method: "POST" }).catch(() => null);
  if (!response?.ok) {
    say(response ? await response.text() : "The program does not answer.");
  }
}

function say(text) {
  $("#announce").textContent = text;
}

/** set changes a text only if it is another one, so that nothing is laid out or read aloud again without need. */
function set(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** cellIn returns the cell of a key in a list, and makes it when it is first asked for. */
function cellIn(list, key) {
  let cell = $(`[data-key="${key}"]`, list);
  if (!cell) {
    cell = document.createElement("li");
    cell.dataset.key = key;
    cell.append(document.createElement("b"), document.createElement("i"), document.createElement("span"));
    cell.lastChild.className = "quiet";
    cell.firstChild.textContent = key;
    list.append(cell);
  }
  return cell;
}

const meanings = {
  held: "in memory",
  older: "in memory, overwritten a moment ago",
  bypass: "not served from memory",
  empty: "not in memory",
};

function drawCell(list, key, state, version, meaning) {
  const cell = cellIn(list, key);
  cell.className = `cell ${state}`;
  cell.dataset.state = state;
  set(cell.children[1], version);
  set(cell.children[2], meaning);
  return cell;
}

function drawRedis(state) {
  const pill = $("#redis-pill");
  pill.className = state.frozen ? "pill ice" : "pill";
  set(pill, state.frozen ? "frozen" : "running");
  for (const { key, version } of state.redis) {
    drawCell($("#stored"), key, version ? "held" : "empty", version ? `v${version}` : "–", version ? "in Redis" : "not in Redis");
  }
  const freeze = $("#freeze");
  freeze.setAttribute("aria-pressed", state.frozen);
  set(freeze, state.frozen ? "Let the server go on" : "Freeze the server");
  for (const button of [freeze, $("#flush")]) {
    button.disabled = !state.private;
    button.title = state.private ? "" : "This Redis was there before the program, so it is left alone";
  }
}

function newNode(name) {
  const element = $("#node").content.cloneNode(true).firstElementChild;
  element.id = `node-${name}`;
  set($("h2", element), `Node ${name}`);
  const cut = $(".cut", element);
  cut.id = `cut-${name}`;
  cut.addEventListener("click", () => post(`/nodes/${name}/${cut.getAttribute("aria-pressed") === "true" ? "mend" : "cut"}`));
  $("#nodes").append(element);
  const node = { element, ages: [], pushes: new Map() };
  nodes.set(name, node);
  return node;
}

/** standing is a node's state in a few words and in a sentence. */
function standing(node, frozen) {
  if (node.cut) {
    return ["bad", "cut off", "down", "✕ cut", "Hears of no change, so its memory is not served. Reads go to Redis."];
  }
  if (!node.live) {
    return ["bad", "no link", "down", "no link", frozen
      ? "Redis has not answered for too long. Reads go to the database."
      : "The link is being made again. Until it stands, reads go to Redis."];
  }
  if (node.ageMs > boundMs) {
    return ["warn", "not certain", "silent", "silence", "What it knows is past the bound, so every read asks Redis first."];
  }
  if (frozen) {
    return ["warn", "still certain", "silent", "silence", "No word from Redis. Until the bound, its memory may answer."];
  }
  return ["", "live", "", "", "Hears of every change, and serves from its memory."];
}

function drawNode(state, frozen) {
  const node = nodes.get(state.name) ?? newNode(state.name);
  const { element } = node;
  const [tone, words, line, chip, sentence] = standing(state, frozen);
  element.className = `node ${line}`;
  const pill = $(".pill", element);
  pill.className = `pill ${tone}`;
  set(pill, words);
  set($(".chip", element), chip);
  set($(".sentence", element), sentence);
  const cut = $(".cut", element);
  cut.setAttribute("aria-pressed", state.cut);
  set(cut, state.cut ? "Mend the link" : "Cut the link");
  cut.setAttribute("aria-label", `${cut.textContent} of node ${state.name}`); // each button has a name of its own

  set($(".recent", element), state.recent < 0 ? "–" : `${Math.round(state.recent * 100)} %`);
  set($(".reads", element), state.reads.toLocaleString("en"));
  set($(".reconnects", element), String(state.reconnects));

  let pushed = false;
  for (const { key, state: kind, version, pushes } of state.cells) {
    const cell = drawCell($(".cells", element), key, kind, kind === "empty" || !version ? "–" : `v${version}`, meanings[kind]);
    if (pushes > (node.pushes.get(key) ?? pushes)) {
      pushed = true;
      flash(cell);
    }
    node.pushes.set(key, pushes);
    cell.dataset.pushes = pushes;
  }
  if (pushed) {
    pulse($(".cable", element));
  }
  drawAge(node, state);
}

function drawAge(node, { ageMs, name }) {
  const { element, ages } = node;
  ages.push(ageMs);
  if (ages.length > history) {
    ages.shift();
  }
  const over = ageMs > boundMs;
  $(".age", element).classList.toggle("over", over);
  set($(".age-value", element), duration(ageMs));
  const y = (age) => (50 - Math.min(age / boundMs / top, 1) * 49).toFixed(1);
  const points = ages.map((age, i) => `${history - ages.length + i},${y(age)}`);
  const curve = `M${points.join("L")}`;
  $(".curve", element).setAttribute("d", curve);
  $(".area", element).setAttribute("d", `${curve}V50H${history - ages.length}Z`);
  const line = $(".bound", element);
  line.setAttribute("y1", y(boundMs));
  line.setAttribute("y2", y(boundMs));
  const label = $(".bound-label", element);
  set(label, `bound ${duration(boundMs)}`);
  label.style.top = `${y(boundMs) * 2}%`;
  set($("title", element), `Node ${name}: what it knows is ${over ? "older" : "younger"} than the bound of ${duration(boundMs)}`);
}

function flash(cell) {
  if (!still.matches) {
    const colour = getComputedStyle(cell).getPropertyValue("--push");
    cell.animate([{ boxShadow: `0 0 0 3px ${colour}` }, { boxShadow: "0 0 0 0 transparent" }], { duration: 1400, easing: "ease-out" });
  }
}

function pulse(cable) {
  if (still.matches) {
    return;
  }
  const dot = document.createElement("span");
  dot.className = "pulse";
  cable.append(dot);
  dot.animate([{ top: "-6px", opacity: 1 }, { top: "42px", opacity: 1, offset: 0.8 }, { top: "46px", opacity: 0 }], { duration: 520, easing: "ease-in" })
    .finished.finally(() => dot.remove());
}

function drawJournal(entries) {
  const list = $("#journal");
  const newest = entries.at(-1)?.id ?? 0;
  const known = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  for (const { id, at, kind, text } of entries) {
    let item = known.get(id);
    if (!item) {
      item = document.createElement("li");
      item.dataset.id = id;
      item.append(document.createElement("time"), document.createElement("span"));
      item.className = kind;
      set(item.firstChild, at);
      list.prepend(item);
      if (kind !== "write" && id > announced) {
        say(text);
      }
    }
    set(item.lastChild, text);
    known.delete(id);
  }
  for (const item of known.values()) {
    item.remove();
  }
  announced = Math.max(announced, newest);
}

function draw(state) {
  boundMs = state.boundMs;
  drawRedis(state);
  for (const node of state.nodes) {
    drawNode(node, state.frozen);
  }
  drawJournal(state.journal);
  document.body.dataset.ready = "yes";
}

$("#write").addEventListener("click", () => post("/write"));
$("#flush").addEventListener("click", () => post("/flush"));
$("#freeze").addEventListener("click", (event) => post(event.currentTarget.getAttribute("aria-pressed") === "true" ? "/thaw" : "/freeze"));

const events = new EventSource("/events");
events.onopen = () => { $("#offline").hidden = true; };
events.onerror = () => { $("#offline").hidden = false; };
events.onmessage = (event) => draw(JSON.parse(event.data));
