// Calls functions of the page's modules, outside a browser: node call.mjs WEB CALLS.json RESULTS.json
// A call is [module, function, arguments]. Arrays of numbers come and go as {"$": type, "data": [...]}.

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , web, from, to] = process.argv;

function revive(value) {
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== "object") return value;
  if ("$" in value) return globalThis[value.$].from(value.data);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, revive(inner)]));
}

const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value, Number) : value);
const results = [];
for (const [module, name, values] of JSON.parse(readFileSync(from, "utf8"))) {
  const found = await import(pathToFileURL(`${web}/${module}`).href);
  try {
    results.push({ value: found[name](...values.map(revive)) });
  } catch (error) {
    results.push({ error: error.message });
  }
}
writeFileSync(to, JSON.stringify(results, plain));
