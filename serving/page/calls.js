/** The list of the server's calls, from its own OpenAPI description. */

import { byId, call, element, showProblem } from "./tools.js";

function typeOf(rule) {
  if (rule.anyOf) return rule.anyOf.map(typeOf).filter((type) => type !== "null").join(" or ");
  if (rule.enum) return rule.enum.join(" or ");
  const limits = [["minimum", "≥ "], ["exclusiveMinimum", "> "], ["maximum", "≤ "], ["maxItems", "at most "]];
  const told = limits.filter(([name]) => name in rule).map(([name, sign]) => sign + rule[name]);
  const type = rule.type === "array" ? `list of ${typeOf(rule.items)}` : rule.type || "";
  return [type, ...told].join(" ");
}

function argument(name, rule, required) {
  const value = rule.default ?? null;
  const usual = required ? "required" : value === null ? "" : `default ${JSON.stringify(value)}`;
  const told = [typeOf(rule), usual, rule.description].filter(Boolean).join("; ");
  return [element("dt", {}, element("code", {}, name)), element("dd", {}, told)];
}

function section(api, path, method, operation) {
  const title = element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`));
  const made = element("section", { className: "call" }, title, element("div", {}, (operation.description || "").replaceAll("`", "")));
  const reference = operation.requestBody?.content["application/json"]?.schema.$ref;
  const schema = reference && api.components.schemas[reference.split("/").pop()];
  if (schema) {
    const rules = Object.entries(schema.properties);
    const rows = rules.flatMap(([name, rule]) => argument(name, rule, schema.required?.includes(name)));
    made.append(element("dl", { className: "arguments" }, ...rows));
  }
  const answers = Object.entries(operation.responses);
  const told = answers.map(([status, { description }]) => (status === "200" ? status : `${status} ${description}`));
  made.append(element("p", { className: "quiet" }, `answers ${told.join(", ")}`));
  return made;
}

async function begin() {
  const api = await call("/openapi.json");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) byId("main").append(section(api, path, method, operation));
  }
}

begin().catch((error) => showProblem(byId("main"), error));
