/** Starts `evenhand lsp`, and shows how it fares. */

import * as vscode from "vscode";
import {
  LanguageClient,
  LogMessageNotification,
  State as ClientState,
  type LanguageClientOptions,
  type ServerOptions,
} from "vscode-languageclient/node";

import { command, initializationOptions } from "./settings";
import { shown, trouble, type State } from "./status";

const SECTION = "evenhand";

/** The one language server of a window, and its place in the status bar. */
class Evenhand implements vscode.Disposable {
  private client: LanguageClient | undefined;
  private state: State = "starting";
  private trouble: string | undefined;
  private turn: Promise<void> = Promise.resolve();
  private readonly item = vscode.window.createStatusBarItem(vscode.StatusBarAlignment.Right, 100);
  private readonly output = vscode.window.createOutputChannel("Evenhand", { log: true });

  constructor() {
    this.item.command = `${SECTION}.toggle`;
    this.item.name = "Evenhand";
    this.show();
    this.item.show();
  }

  /** Starts the language server anew; calls wait for each other. */
  restart(): Promise<void> {
    this.turn = this.turn.then(async () => {
      await this.stop();
      await this.start();
    });
    return this.turn;
  }

  async toggle(): Promise<void> {
    const settings = vscode.workspace.getConfiguration(SECTION);
    await settings.update("enabled", settings.get("enabled") === false, vscode.ConfigurationTarget.Global);
  }

  log(): void {
    this.output.show(true);
  }

  async changed(event: vscode.ConfigurationChangeEvent): Promise<void> {
    if (event.affectsConfiguration(`${SECTION}.command`)) {
      await this.restart();
    } else if (event.affectsConfiguration(SECTION)) {
      this.show(); // the client tells the language server
    }
  }

  async end(): Promise<void> {
    await this.turn;
    await this.stop();
  }

  dispose(): void {
    this.item.dispose();
    this.output.dispose();
  }

  private async start(): Promise<void> {
    this.become("starting");
    try {
      const settings = vscode.workspace.getConfiguration(SECTION);
      const { command: program, args } = command(settings);
      const server: ServerOptions = { command: program, args: [...args] };
      const options: LanguageClientOptions = {
        documentSelector: [{ scheme: "file" }, { scheme: "untitled" }, { scheme: "vscode-remote" }],
        initializationOptions: initializationOptions(settings),
        synchronize: { configurationSection: SECTION },
        outputChannel: this.output,
      };
      const client = new LanguageClient(SECTION, "Evenhand", server, options);
      this.client = client;
      client.onDidChangeState(({ newState }) => {
        if (this.client === client && newState !== ClientState.Starting) {
          this.become(newState === ClientState.Running ? "running" : "stopped");
        }
      });
      client.onNotification(LogMessageNotification.type, ({ type, message }) => {
        this.output.appendLine(message);
        this.trouble = trouble(type, message);
        this.show();
      });
      await client.start();
    } catch (error) {
      this.become("stopped", `${error instanceof Error ? error.message : String(error)}`);
      this.output.error(this.trouble ?? "");
    }
  }

  private async stop(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    if (client !== undefined) {
      await client.dispose().catch(() => undefined); // one that never started has nothing to stop
    }
  }

  private become(state: State, why?: string): void {
    this.state = state;
    this.trouble = why;
    this.show();
  }

  private show(): void {
    const settings = vscode.workspace.getConfiguration(SECTION);
    const said = shown(
      this.state,
      settings.get("enabled") !== false,
      settings.get<string>("url") ?? "",
      this.trouble,
    );
    this.item.text = said.text;
    this.item.tooltip = said.tooltip;
    this.item.backgroundColor = said.warning
      ? new vscode.ThemeColor("statusBarItem.warningBackground")
      : undefined;
  }
}

let running: Evenhand | undefined;

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const evenhand = new Evenhand();
  running = evenhand;
  context.subscriptions.push(
    evenhand,
    vscode.commands.registerCommand(`${SECTION}.toggle`, () => evenhand.toggle()),
    vscode.commands.registerCommand(`${SECTION}.restart`, () => evenhand.restart()),
    vscode.commands.registerCommand(`${SECTION}.log`, () => evenhand.log()),
    vscode.workspace.onDidChangeConfiguration((event) => evenhand.changed(event)),
  );
  await evenhand.restart();
}

export async function deactivate(): Promise<void> {
  await running?.end();
  running = undefined;
}
