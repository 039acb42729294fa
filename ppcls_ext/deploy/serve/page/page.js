"use strict";

// Everything that comes from the server or from a file name is written with textContent: it never becomes markup.

const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const slider = at("threshold");

// The colours of tools/infer.py, which draws the same boxes.
const PALETTE = ["#ffc400", "#00bcff", "#ff5c5c", "#48d66e", "#d682ff", "#ff8f2b", "#3cf0d6", "#ff82be", "#bee63c",
  "#82a0ff", "#deb887", "#ffff8c"];
// Small pictures are enlarged by whole factors so that labels have room; large ones are reduced for the screen.
const READABLE_SIDE = 640, LARGEST_FACTOR = 16, LARGEST_SIDE = 1600;
const LOWEST_SCORE = 0.05;

let model = null;
let shown = null;        // {picture, answer}: what is on the canvas
let pointedAt = null;    // the detection whose row has the pointer or the focus
let latest = 0;          // number of the newest request; older answers are dropped
let running = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function percent(score) {
  return `${(100 * score).toFixed(1)} %`;
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function milliseconds() {
  const spent = shown.answer.milliseconds;
  return `${spent < 10 ? spent.toFixed(1) : Math.round(spent)} ms`;
}

// ---------------------------------------------------------------- the model

async function introduce() {
  const response = await fetch("/model");
  model = await response.json();
  const classes = model.class_num ?? model.classes?.length;
  const facts = [model.task, classes ? `${classes} classes` : null, `${model.backend}, ${model.computed_in}`];
  at("name").textContent = model.name;
  document.title = `${model.name}: ${model.task}`;
  at("facts").textContent = facts.filter(Boolean).join(" · ");
  at("limits").textContent = `${model.limits.types.join(", ")}; up to ${model.limits.megabytes} MB and ` +
    `${model.limits.megapixels} megapixels. The picture is not kept.`;
  at("command").textContent = `curl --data-binary @photo.jpg ${location.origin}/predict`;
  if (model.task === "detection") {
    slider.value = model.threshold;
    showThreshold();
  }
}

// ---------------------------------------------------------------- taking a picture

function fail(message) {
  shown = null;
  canvas.hidden = true;
  at("invitation").hidden = false;
  at("drop").classList.remove("filled");
  at("threshold-row").hidden = true;
  at("list").replaceChildren();
  at("status").textContent = "";
  at("error").textContent = message;
  at("error").hidden = false;
}

async function decoded(file, wanted) {
  // A frame that the detector enhances is shown as the detector sees it; such a picture comes from the server.
  if (wanted) return null;
  try {
    return await createImageBitmap(file);
  } catch {
    // The browser does not know TIFF, PPM and the like: the server does.
    return null;
  }
}

async function fromAddress(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

async function predict(file, preview, signal) {
  const parameters = new URLSearchParams();
  if (preview) parameters.set("preview", "1");
  if (model.task === "detection") parameters.set("threshold", LOWEST_SCORE);
  const response = await fetch(`/predict?${parameters}`, {method: "POST", body: file, signal});
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error[0].toUpperCase() + answer.error.slice(1));
  return answer;
}

async function take(file, count = 1) {
  const number = ++latest;
  running?.abort();
  running = new AbortController();
  at("error").hidden = true;
  at("file-name").textContent = `${file.name} (${sizeOf(file.size)})`;
  at("status").textContent = "Looking at the picture ...";
  document.body.classList.add("busy");
  try {
    if (model === null) await introduce();
    if (file.size > 1e6 * model.limits.megabytes) {
      throw new Error(`${file.name} has ${sizeOf(file.size)}; at most ${model.limits.megabytes} MB are taken`);
    }
    let picture = await decoded(file, model.enhances);
    const answer = await predict(file, picture === null, running.signal);
    picture ??= await fromAddress(answer.preview);
    if (number !== latest) return;
    shown = {picture, answer};
    pointedAt = null;
    present(count);
  } catch (error) {
    if (number !== latest) return;
    const unreachable = error instanceof TypeError;
    fail(unreachable ? "The picture could not be sent. Is the server running, and can the file be read?"
      : `${error.message}.`);
  } finally {
    if (number === latest) document.body.classList.remove("busy");
  }
}

function takeFrom(transfer) {
  const files = [...(transfer?.files ?? [])];
  if (files.length > 0) take(files[0], files.length);
  else fail("That is no file. Drop or paste a picture file.");
}

// ---------------------------------------------------------------- showing the answer

function visible() {
  return shown.answer.detections.filter((one) => one.score >= Number(slider.value));
}

function present(count) {
  const {answer} = shown;
  canvas.hidden = false;
  at("invitation").hidden = true;
  at("drop").classList.add("filled");
  at("threshold-row").hidden = answer.task !== "detection";
  if (answer.task === "detection") presentDetections();
  else presentClasses();
  if (count > 1) at("status").textContent += ` One picture at a time: the first of ${count} was taken.`;
  draw();
}

function presentClasses() {
  const [best] = shown.answer.predictions;
  at("status").textContent = `${best.label}, ${percent(best.score)} (${milliseconds()})`;
  at("list").replaceChildren(...shown.answer.predictions.map((one) => {
    const item = element("li", "");
    const row = element("div", "row class");
    row.append(element("span", "label", one.label), element("span", "score", percent(one.score)));
    const track = element("div", "track");
    const fill = element("div", "fill");
    fill.style.width = `${100 * one.score}%`;
    track.append(fill);
    item.append(row, track);
    return item;
  }));
  canvas.setAttribute("aria-label", `The picture; most likely ${best.label}`);
}

function presentDetections() {
  const found = visible();
  const hidden = shown.answer.detections.length - found.length;
  const objects = `${found.length} object${found.length === 1 ? "" : "s"}`;
  at("status").textContent = `${objects} (${milliseconds()})` +
    (hidden > 0 ? `; ${hidden} with lower scores not shown.` : ".");
  at("list").replaceChildren(...found.map((one) => {
    const item = element("li", "");
    const row = element("button", "found row");
    row.type = "button";
    const swatch = element("span", "swatch");
    swatch.style.background = colourOf(one.class_id);
    const [left, top, right, bottom] = one.box.map(Math.round);
    const place = `${right - left} × ${bottom - top} px at ${left}, ${top}`;
    const name = element("span", "label", one.label);
    name.append(element("span", "faint", place));
    row.append(swatch, name, element("span", "score", percent(one.score)));
    for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => point(one));
    for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => point(null));
    item.append(row);
    return item;
  }));
  canvas.setAttribute("aria-label", `The picture with ${objects}; the list names them`);
}

function point(detection) {
  pointedAt = detection;
  draw();
}

function showThreshold() {
  at("threshold-value").textContent = Number(slider.value).toFixed(2);
}

// ---------------------------------------------------------------- drawing

function colourOf(number) {
  return PALETTE[number] ?? `hsl(${(number * 222.5) % 360} 85% 65%)`;
}

function draw() {
  if (shown === null) return;
  const {picture, answer} = shown;
  const width = picture.naturalWidth ?? picture.width, height = picture.naturalHeight ?? picture.height;
  const side = Math.max(width, height);
  const factor = side < READABLE_SIDE ? Math.min(Math.ceil(READABLE_SIDE / side), LARGEST_FACTOR)
    : Math.min(1, LARGEST_SIDE / side);
  canvas.width = Math.max(1, Math.round(width * factor));
  canvas.height = Math.max(1, Math.round(height * factor));
  const pen = canvas.getContext("2d");
  // Enlarged pixels stay visible as squares.
  pen.imageSmoothingEnabled = factor < 1;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (answer.task !== "detection") return;
  // Lines and letters keep their size on the screen, whatever the size of the canvas.
  const unit = canvas.width / (canvas.clientWidth || canvas.width);
  // The best box is drawn last, over the others; the one that is pointed at after it.
  const found = visible().reverse().filter((one) => one !== pointedAt);
  for (const one of found) drawBox(pen, one, unit, pointedAt !== null);
  if (pointedAt !== null) drawBox(pen, pointedAt, unit, false);
  const labelled = pointedAt !== null ? [pointedAt] : found;
  pen.font = `600 ${13 * unit}px system-ui, "DejaVu Sans", sans-serif`;
  pen.textBaseline = "middle";
  // The best detection chooses its label's place first.
  const taken = [];
  const places = [...labelled].reverse().map((one) => labelPlace(pen, one, unit, taken));
  for (const place of places.reverse()) drawLabel(pen, place, unit);
}

function cornersOf(detection) {
  const across = canvas.width / shown.answer.width, down = canvas.height / shown.answer.height;
  const [left, top, right, bottom] = detection.box;
  const inside = (value, end) => Math.min(Math.max(value, 0), end);
  return [inside(left * across, canvas.width), inside(top * down, canvas.height),
    inside(right * across, canvas.width), inside(bottom * down, canvas.height)];
}

function drawBox(pen, detection, unit, faded) {
  const [left, top, right, bottom] = cornersOf(detection);
  pen.globalAlpha = faded ? 0.3 : 1;
  // A thin shadow keeps light colours visible on light ground.
  for (const [colour, line] of [["rgb(0 0 0 / .6)", 4.5], [colourOf(detection.class_id), 2.5]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = line * unit;
    pen.strokeRect(left, top, right - left, bottom - top);
  }
  pen.globalAlpha = 1;
}

function overlap(one, other) {
  const width = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
  const height = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
  return Math.max(width, 0) * Math.max(height, 0);
}

// Chooses where a label hides other labels least: above its box, below, beside, or just inside.
function labelPlace(pen, detection, unit, taken) {
  const [left, top, right, bottom] = cornersOf(detection);
  const text = `${detection.label} ${detection.score.toFixed(2)}`;
  const width = pen.measureText(text).width + 10 * unit, height = 20 * unit;
  const corners = [[left, top - height], [right - width, top - height], [left, bottom], [right - width, bottom],
    [right, top], [left - width, top], [left, top], [left, bottom - height]];
  let best = null, least = Infinity;
  for (const [x, y] of corners) {
    const place = {x: Math.max(0, Math.min(x, canvas.width - width)),
      y: Math.max(0, Math.min(y, canvas.height - height)), width, height, text, detection};
    const hidden = taken.reduce((sum, other) => sum + overlap(place, other), 0);
    if (hidden < least) [best, least] = [place, hidden];
  }
  taken.push(best);
  return best;
}

function drawLabel(pen, {x, y, width, height, text, detection}, unit) {
  pen.fillStyle = colourOf(detection.class_id);
  pen.fillRect(x, y, width, height);
  // Every colour of the palette is light.
  pen.fillStyle = "#000";
  pen.fillText(text, x + 5 * unit, y + height / 2);
}

// ---------------------------------------------------------------- events

at("file").addEventListener("change", (event) => {
  if (event.target.files.length > 0) takeFrom(event.target);
  // The same file may be chosen again.
  event.target.value = "";
});
slider.addEventListener("input", () => {
  showThreshold();
  pointedAt = null;
  presentDetections();
  draw();
});
document.addEventListener("paste", (event) => {
  event.preventDefault();
  takeFrom(event.clipboardData);
});
// A drop beside the field counts as well: otherwise the browser would leave the page to show the file.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  takeFrom(event.dataTransfer);
});

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function nameTheme() {
  at("theme").textContent = isDark() ? "Light" : "Dark";
}

at("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
new ResizeObserver(draw).observe(at("drop"));
nameTheme();
introduce().catch(() => fail("The server does not answer. Is it still running?"));
