/**
 * A model that has learnt to fill in code: what it is asked between two texts must parse with them.
 * MODEL names its folder or GGUF file; without it the tests of this file are skipped.
 */

import assert = require("node:assert/strict");
import { spawnSync } from "node:child_process";
import { after, before, test } from "node:test";

import { Host } from "./host";
import { EVENHAND, missing, Served } from "./server";

const MODEL = process.env["MODEL"];
const skip = missing || MODEL === undefined ? "set MODEL to a model that fills in code" : false;
const LIST = "def squares(numbers: list[int]) -> list[int]:\n    ";
const CASES: Record<string, [string, string]> = {
  "the body of a function": [LIST, "\n\n\nprint(squares([1, 2, 3]))\n"],
  "the middle of a line": ["import math\n\n\ndef area(radius):\n    return math.", "\n"],
  "a condition": ["def sign(number):\n    if ", ":\n        return -1\n    return 1\n"],
  "behind letters beyond the first plane": ["name = '\u{1F98A}'\ngreeting = f'hello {", "}'\nprint(greeting)\n"],
};

const server = new Served();
let host: Host;
let extension: typeof import("../src/extension");
const subscriptions: { dispose(): unknown }[] = [];

before(async () => {
  if (!skip) {
    host = new Host({ url: await server.start("--model", String(MODEL)), command: [EVENHAND, "lsp"], maxTokens: 48 });
    host.install();
    extension = require("../src/extension");
    await extension.activate({ subscriptions } as never);
  }
});

after(async () => {
  await extension?.deactivate();
  subscriptions.forEach((each) => each.dispose());
  await server.stop();
});

for (const [name, [prefix, suffix]] of Object.entries(CASES)) {
  test(name, { skip, timeout: 120_000 }, async () => {
    const document = host.open(`/work/${name.replaceAll(" ", "_")}.py`, prefix + suffix);
    const [offer] = await host.inline(document, prefix.length);
    assert.ok(offer !== undefined && offer.trim() !== "", "something is offered");
    const input = prefix + offer + suffix;
    const parsed = spawnSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input, encoding: "utf8" });
    assert.equal(parsed.status, 0, `${input}\n${parsed.stderr}`);
  });
}
