// Shows the OpenAPI document and makes calls. No library, nothing from elsewhere.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
// The most that is shown of an answer; a watch may go on for hours.
const MAX_ANSWER = 200_000;

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Text whose `code` is shown as such.
function prose(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? element("code", { textContent: part }) : part));
}

function resolve(api, schema) {
  if (schema?.allOf?.length === 1) schema = { ...resolve(api, schema.allOf[0]), description: schema.description };
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((at, step) => at?.[step], api) ?? {};
}

function typeOf(api, schema) {
  const found = resolve(api, schema);
  if (found.type === "array") return `${typeOf(api, found.items)}[]`;
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" | ");
  return [found.type ?? "any"].flat().join(" | ");
}

// A field; what is below it is made when it is opened, because schemas are deep and may contain themselves.
function fieldOf(api, name, schema, required) {
  const found = resolve(api, schema);
  const inner = found.type === "array" ? resolve(api, found.items) : found;
  const title = element("code", { textContent: name, className: required ? "required" : "" });
  const type = element("span", { className: "hint", textContent: ` ${typeOf(api, schema)}` });
  const description = found.description ?? schema.description;
  const text = description ? [element("p", { className: "description" }, ...prose(description))] : [];
  if (!inner.properties) return element("div", { className: "field" }, title, type, ...text);
  const details = element("details", {}, element("summary", {}, title, type), ...text);
  details.addEventListener("toggle", () => details.append(...fieldsOf(api, inner)), { once: true });
  return details;
}

function fieldsOf(api, schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, below]) => fieldOf(api, name, below, required.has(name)));
}

function schemaOf(api, title, content) {
  const schema = Object.values(content ?? {})[0]?.schema;
  if (!schema || !Object.keys(schema).length) return [];
  return [element("div", { className: "schema" }, fieldOf(api, title, schema, false))];
}

// What may be given several times has one value a line.
function inputOf(parameter) {
  const several = parameter.schema?.type === "array";
  const input = element(several ? "textarea" : "input", { name: parameter.name, required: parameter.required ?? false });
  input.dataset.in = parameter.in;
  if (several) input.rows = 2;
  if (parameter.name === "namespace") input.value = "default";
  const hint = element("span", { className: "hint" }, ...prose(parameter.description), several ? ", one a line" : "");
  return element("label", {}, element("code", { textContent: parameter.name }), input, hint);
}

function urlOf(path, form) {
  const query = new URLSearchParams();
  for (const input of form.querySelectorAll("[data-in]")) {
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else for (const value of input.value.split("\n").filter(Boolean)) query.append(input.name, value);
  }
  return query.size ? `${path}?${query}` : path;
}

async function call(method, path, form, answer) {
  const headers = {};
  const token = byId("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { method: method.toUpperCase(), headers };
  const body = form.querySelector(".body textarea");
  if (body.value) {
    options.body = body.value;
    headers["Content-Type"] = form.querySelector("select").value;
  }
  answer.hidden = false;
  answer.textContent = "…";
  try {
    const response = await fetch(urlOf(path, form), options);
    const lines = [`${response.status} ${response.statusText}`];
    for (const name of ["content-type", "warning", "retry-after"]) {
      if (response.headers.has(name)) lines.push(`${name}: ${response.headers.get(name)}`);
    }
    answer.textContent = `${lines.join("\n")}\n\n`;
    await show(response, answer);
  } catch (error) {
    answer.textContent = `The call failed: ${error.message}`;
  }
}

// Shows an answer as it comes, so that watches can be looked at; a whole JSON document is indented at its end.
async function show(response, answer) {
  const head = answer.textContent;
  let text = "";
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    answer.textContent = head + text.slice(0, MAX_ANSWER);
    if (text.length > MAX_ANSWER) return;
  }
  try {
    answer.textContent = head + JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Not one JSON document: it stays as it came.
  }
}

function operationOf(api, path, item, method) {
  const operation = item[method];
  const made = byId("operation").content.cloneNode(true).firstElementChild;
  const find = (selector) => made.querySelector(selector);
  find(".method").textContent = method.toUpperCase();
  find(".method").dataset.method = method;
  find(".path").textContent = path;
  find(".summary").append(...prose(operation.summary?.replace(/\.$/, "")));
  find(".text").append(...prose(operation.description));
  made.dataset.search = `${method} ${path} ${operation.summary ?? ""}`.toLowerCase();
  const form = find("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    call(method, path, form, find(".answer"));
  });
  made.addEventListener(
    "toggle",
    () => {
      find(".parameters").append(...[...(item.parameters ?? []), ...(operation.parameters ?? [])].map(inputOf));
      const types = Object.keys(operation.requestBody?.content ?? {});
      find(".type").append(...types.map((type) => element("option", { textContent: type })));
      find(".body").hidden = types.length === 0;
      find(".schemas").append(...schemaOf(api, "request body", operation.requestBody?.content));
      for (const [status, response] of Object.entries(operation.responses ?? {})) {
        find(".schemas").append(...schemaOf(api, `answer ${status}: ${response.description}`, response.content));
      }
    },
    { once: true },
  );
  return made;
}

function render(api) {
  byId("title").textContent = `${api.info.title} API ${api.info.version}`;
  byId("description").append(...prose(api.info.description));
  const byTag = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = item[method].tags?.[0] ?? "other";
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push(operationOf(api, path, item, method));
    }
  }
  const sections = [...byTag].map(([tag, made]) => element("section", {}, element("h2", { textContent: tag }), ...made));
  byId("operations").replaceChildren(...sections);
}

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    let shown = 0;
    for (const made of section.querySelectorAll(".operation")) {
      made.hidden = !words.every((word) => made.dataset.search.includes(word));
      shown += made.hidden ? 0 : 1;
    }
    section.hidden = shown === 0;
  }
}

async function start() {
  try {
    const response = await fetch("/docs/openapi.json");
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    render(await response.json());
    byId("search").addEventListener("input", search);
  } catch (error) {
    byId("operations").textContent = `The document cannot be loaded: ${error.message}`;
  }
}

start();
