import assert = require("node:assert/strict");
import { test } from "node:test";

import { shown, trouble } from "../src/status";

test("each state looks different", () => {
  const url = "http://h:1";
  const all = [
    shown("starting", true, url),
    shown("stopped", true, url),
    shown("running", false, url),
    shown("running", true, url, "away"),
    shown("running", true, url),
  ];
  assert.equal(new Set(all.map((each) => each.text)).size, all.length);
  assert.deepEqual(all.map((each) => each.warning), [false, true, false, true, false]);
  assert.match(all[4]?.tooltip ?? "", /http:\/\/h:1/);
});

test("a trouble is shown until it is over", () => {
  assert.equal(trouble(2, "does not answer"), "does not answer");
  assert.equal(trouble(3, "answers again"), undefined);
  assert.equal(shown("running", true, "u", "does not answer").tooltip, "does not answer");
  assert.equal(shown("running", false, "u", "does not answer").warning, false);
});
