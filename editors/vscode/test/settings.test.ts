import assert = require("node:assert/strict");
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { command, initializationOptions, SERVER_SETTINGS, type Section } from "../src/settings";

function section(settings: Record<string, unknown>): Section {
  return { get: <T>(name: string) => settings[name] as T | undefined };
}

test("what is empty is the language server's own choice", () => {
  const settings = { url: "http://h:1", apiKey: "", model: "", enabled: false, command: ["x"] };
  assert.deepEqual(initializationOptions(section(settings)), { url: "http://h:1", enabled: false });
});

test("a command with its arguments", () => {
  assert.deepEqual(command(section({})), { command: "evenhand", args: ["lsp"] });
  const given = { command: ["py", "-m", "x"] };
  assert.deepEqual(command(section(given)), { command: "py", args: ["-m", "x"] });
});

test("a command that is none is told in one sentence", () => {
  for (const given of ["evenhand lsp", [], [1]]) {
    assert.throws(() => command(section({ command: given })), /must be a list of texts, got .*; write/);
  }
});

test("every setting of the language server is one of the extension", () => {
  const manifest = JSON.parse(readFileSync(join(__dirname, "../../package.json"), "utf8"));
  const names = Object.keys(manifest.contributes.configuration.properties).sort();
  const expected = [...SERVER_SETTINGS, "command"].map((name) => `evenhand.${name}`).sort();
  assert.deepEqual(names, expected);
});
