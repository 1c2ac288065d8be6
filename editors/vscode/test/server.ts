/** The command line `evenhand`, named by EVENHAND where it is not on the path, and a server of it. */

import { spawn, spawnSync, type ChildProcess } from "node:child_process";

export const EVENHAND = process.env["EVENHAND"] ?? "evenhand";
export const missing = spawnSync(EVENHAND, ["--help"]).status !== 0;

export class Served {
  private running: ChildProcess | undefined;

  /** Starts a server (without options: of the embedded model); returns its address. */
  async start(...options: string[]): Promise<string> {
    const command = ["serve", "--port", "0", ...options];
    const running = spawn(EVENHAND, command, { stdio: ["ignore", "pipe", "ignore"] });
    this.running = running;
    let said = "";
    return new Promise((resolve, reject) => {
      running.once("exit", () => reject(new Error(`the server ended before it listened: ${said}`)));
      // read to the end: a server whose reader is gone fails when it speaks
      running.stdout.on("data", (chunk) => {
        said += String(chunk);
        const found = /on (http:\/\/\S+)/.exec(said);
        if (found?.[1] !== undefined) {
          resolve(found[1]);
        }
      });
    });
  }

  async stop(): Promise<void> {
    const running = this.running;
    if (running !== undefined && running.exitCode === null) {
      running.kill("SIGTERM");
      await new Promise((resolve) => running.once("exit", resolve));
    }
  }
}
