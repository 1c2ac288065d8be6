/**
 * The extension with the real vscode-languageclient, the real `evenhand lsp`, and a real server on the
 * embedded model. EVENHAND names the command line, where it is not on the path; without it the tests
 * of this file are skipped.
 */

import assert = require("node:assert/strict");
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Host } from "./host";
import { EVENHAND, missing, Served } from "./server";

const skip = missing ? `no ${EVENHAND}; set EVENHAND to the command line` : false;
const STORY = "The instrument of Akira is clarinet. The instrument of Nils is flute. The instrument of Akira is ";

const server = new Served();
let host: Host;
let extension: typeof import("../src/extension");
const subscriptions: { dispose(): unknown }[] = [];

/** Waits until something is so. */
async function until(so: () => boolean, seconds = 30): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !so(); await sleep(20)) {
    assert.ok(Date.now() < end, `it did not happen in time; ${host.lines.join("\n")}`);
  }
}

before(async () => {
  if (missing) {
    return;
  }
  host = new Host({ url: await server.start(), command: [EVENHAND, "lsp"], maxTokens: 8 });
  host.install();
  extension = require("../src/extension");
  await extension.activate({ subscriptions } as never);
});

after(async () => {
  await extension?.deactivate();
  subscriptions.forEach((each) => each.dispose());
  await server.stop();
});

test("the status bar says that it runs", { skip }, async () => {
  await until(() => host.item.text === "$(sparkle) Evenhand");
});

test("the embedded model completes a document", { skip }, async () => {
  const document = host.open("/work/story.txt", STORY);
  const [offer] = await host.inline(document, STORY.length);
  assert.match(offer ?? "", /^clarinet/);
});

test("what is typed is part of the document", { skip }, async () => {
  const document = host.open("/work/typed.txt", "\u{1F98A} The instrument of Nils is flute. ");
  host.type(document, document.text.length, "The instrument of Nils is ");
  const [offer] = await host.inline(document, document.text.length);
  assert.match(offer ?? "", /^flute/);
});

test("a request that is cancelled offers nothing", { skip }, async () => {
  const source = new host.vscode.CancellationTokenSource();
  const document = host.open("/work/cancelled.txt", STORY);
  const asked = host.inline(document, STORY.length, source.token).catch(() => []);
  source.cancel();
  assert.deepEqual(await asked, []);
});

test("the toggle turns it off and on", { skip }, async () => {
  const document = host.open("/work/toggled.txt", STORY);
  await host.commands.get("evenhand.toggle")?.();
  assert.equal(host.item.text, "$(circle-slash) Evenhand");
  await sleep(200);
  assert.deepEqual(await host.inline(document, STORY.length), []);
  await host.commands.get("evenhand.toggle")?.();
  await sleep(200);
  assert.equal((await host.inline(document, STORY.length)).length, 1);
});

test("a restart starts it anew", { skip }, async () => {
  const [provider] = host.providers;
  await host.commands.get("evenhand.restart")?.();
  await until(() => host.item.text === "$(sparkle) Evenhand");
  assert.equal(host.providers.length, 1);
  assert.notEqual(host.providers[0], provider);
  const document = host.open("/work/again.txt", STORY);
  assert.match((await host.inline(document, STORY.length))[0] ?? "", /^clarinet/);
});

test("a server that is away is shown, and that it is back", { skip }, async () => {
  const settings = host.vscode.workspace.getConfiguration("evenhand");
  const url = host.settings["url"];
  const document = host.open("/work/away.txt", STORY);
  await settings.update("url", "http://127.0.0.1:9");
  await sleep(200);
  assert.deepEqual(await host.inline(document, STORY.length), []);
  await until(() => host.item.text === "$(warning) Evenhand");
  assert.match(host.item.tooltip, /does not answer/);
  await settings.update("url", url);
  await sleep(200);
  assert.equal((await host.inline(document, STORY.length)).length, 1);
});

test("a command that is not there is shown, not thrown", { skip }, async () => {
  const settings = host.vscode.workspace.getConfiguration("evenhand");
  await settings.update("command", ["/nowhere/evenhand"]);
  await until(() => host.item.text === "$(error) Evenhand");
  await settings.update("command", [EVENHAND, "lsp"]);
  await until(() => host.item.text === "$(sparkle) Evenhand");
});
