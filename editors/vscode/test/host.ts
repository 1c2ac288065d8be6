/**
 * As much of VS Code as the extension and vscode-languageclient touch: documents, settings, a status
 * bar, and whoever offers inline completions. Its classes are jest-mock-vscode's.
 */

import Module = require("node:module");

import { createVSCodeMock } from "jest-mock-vscode";
import type * as Vscode from "vscode";

type Listener = (event: unknown) => unknown;

// classes that the client extends, or asks whether something is one of them, and never makes here
const ASKED_FOR = ["InlayHint", "RelativePattern", "TabInputCustom", "TabInputNotebook", "TabInputText", "TabInputTextDiff"];

/** A test framework's `fn`, of which the mock needs no more than this. */
function fn(implementation?: (...args: unknown[]) => unknown): unknown {
  const called = (...args: unknown[]) => implementation?.(...args);
  return Object.assign(called, {
    mockImplementation: (given: typeof implementation) => ((implementation = given), called),
    mockReturnValue: (value: unknown) => ((implementation = () => value), called),
  });
}

/** Something that happens, and who wants to know. */
class Happening {
  private readonly listeners = new Set<{ listener: Listener; self: unknown }>();

  readonly event = (listener: Listener, self?: unknown) => {
    const entry = { listener, self };
    this.listeners.add(entry);
    return { dispose: () => this.listeners.delete(entry) };
  };

  fire(event: unknown): void {
    for (const { listener, self } of [...this.listeners]) {
      listener.call(self, event);
    }
  }
}

/** A window of VS Code. */
export class Host {
  readonly vscode: typeof Vscode;
  readonly settings: Record<string, unknown>;
  readonly item = { text: "", tooltip: "", command: "", name: "", show() {}, dispose() {} };
  readonly lines: string[] = [];
  readonly commands = new Map<string, (...args: unknown[]) => unknown>();
  providers: Vscode.InlineCompletionItemProvider[] = [];
  private readonly opened = new Happening();
  private readonly changed = new Happening();
  private readonly configured = new Happening();

  constructor(settings: Record<string, unknown>) {
    this.settings = { ...settings };
    this.vscode = this.made();
  }

  /** Lets `require("vscode")` find this window from now on. */
  install(): void {
    const loader = Module as unknown as { _load(name: string, ...rest: unknown[]): unknown };
    const load = loader._load;
    loader._load = (name, ...rest) =>
      name === "vscode" ? this.vscode : load.call(loader, name, ...rest);
  }

  /** Opens a document with this text. */
  open(path: string, text: string): Document {
    const document = new Document(this.vscode.Uri.file(path), text, this.vscode);
    (this.vscode.workspace.textDocuments as unknown as Document[]).push(document);
    this.opened.fire(document);
    return document;
  }

  /** Types text at an offset. */
  type(document: Document, offset: number, text: string): void {
    const at = document.positionAt(offset);
    document.text = document.text.slice(0, offset) + text + document.text.slice(offset);
    document.version += 1;
    const change = { range: new this.vscode.Range(at, at), rangeOffset: offset, rangeLength: 0, text };
    this.changed.fire({ document, contentChanges: [change], reason: undefined });
  }

  /** Asks for inline completions at an offset. */
  async inline(document: Document, offset: number, token?: Vscode.CancellationToken): Promise<string[]> {
    const [provider] = this.providers;
    if (provider === undefined) {
      throw new Error("nobody offers inline completions");
    }
    const found = await provider.provideInlineCompletionItems(
      document as unknown as Vscode.TextDocument,
      document.positionAt(offset),
      { triggerKind: 1, selectedCompletionInfo: undefined },
      token ?? new (this.vscode as unknown as Tokens).CancellationTokenSource().token,
    );
    const items = Array.isArray(found) ? found : (found?.items ?? []);
    return items.map((item) => String((item as Vscode.InlineCompletionItem).insertText));
  }

  private made(): typeof Vscode {
    const mock = createVSCodeMock({ fn } as never) as unknown as Record<string, unknown>;
    const nothing = () => ({ dispose() {} });
    const own = {
      ...mock,
      ...Object.fromEntries(ASKED_FOR.map((name) => [name, class {}])),
      version: "1.91.0",
      env: { language: "en", appName: "host", uriScheme: "vscode" },
      InlineCompletionTriggerKind: { Invoke: 0, Automatic: 1 },
      CancellationTokenSource: cancellation(),
      CancellationError: class extends Error {},
      InlineCompletionItem: class {
        constructor(
          readonly insertText: unknown,
          readonly range?: unknown,
        ) {}
      },
      InlineCompletionList: class {
        constructor(readonly items: unknown[]) {}
      },
      workspace: withEvents({
        isTrusted: true,
        textDocuments: [],
        workspaceFolders: undefined,
        notebookDocuments: [],
        getConfiguration: (section?: string, scope?: unknown) => this.section(section, scope),
        onDidOpenTextDocument: this.opened.event,
        onDidChangeTextDocument: this.changed.event,
        onDidChangeConfiguration: this.configured.event,
        getWorkspaceFolder: () => undefined,
        createFileSystemWatcher: nothing,
        registerTextDocumentContentProvider: nothing,
      }),
      window: withEvents({
        visibleTextEditors: [],
        tabGroups: withEvents({ all: [], onDidChangeTabs: nothing }),
        createStatusBarItem: () => this.item,
        createOutputChannel: () => this.channel(),
        showErrorMessage: (text: string) => Promise.resolve(void this.lines.push(text)),
        showWarningMessage: (text: string) => Promise.resolve(void this.lines.push(text)),
        showInformationMessage: (text: string) => Promise.resolve(void this.lines.push(text)),
      }),
      languages: withEvents({
        match: () => 10,
        createDiagnosticCollection: () => ({ set() {}, delete() {}, clear() {}, dispose() {} }),
        registerInlineCompletionItemProvider: (
          _: unknown,
          provider: Vscode.InlineCompletionItemProvider,
        ) => {
          this.providers.push(provider);
          return { dispose: () => (this.providers = this.providers.filter((each) => each !== provider)) };
        },
      }),
      commands: {
        registerCommand: (name: string, run: (...args: unknown[]) => unknown) => {
          this.commands.set(name, run);
          return { dispose: () => this.commands.delete(name) };
        },
      },
    };
    return own as unknown as typeof Vscode;
  }

  private section(section?: string, _scope?: unknown): unknown {
    const settings = section === "evenhand" ? this.settings : {};
    return {
      ...settings,
      get: (name: string, otherwise?: unknown) =>
        section === undefined && name === "evenhand" ? this.settings : (settings[name] ?? otherwise),
      has: (name: string) => name in settings,
      inspect: () => undefined,
      update: async (name: string, value: unknown) => {
        this.settings[name] = value;
        const affected = ["evenhand", `evenhand.${name}`];
        this.configured.fire({ affectsConfiguration: (asked: string) => affected.includes(asked) });
      },
    };
  }

  private channel(): unknown {
    const line = (text: unknown) => void this.lines.push(String(text));
    const levels = { trace: line, debug: line, info: line, warn: line, error: line };
    return withEvents({ ...levels, append: line, appendLine: line, show() {}, dispose() {}, logLevel: 0 });
  }
}

interface Tokens {
  CancellationTokenSource: new () => { token: Vscode.CancellationToken; cancel(): void };
}

/** Returns VS Code's class whose token tells of a cancellation. */
function cancellation(): unknown {
  return class {
    private readonly cancelled = new Happening();
    readonly token = {
      isCancellationRequested: false,
      onCancellationRequested: this.cancelled.event,
    };

    cancel(): void {
      this.token.isCancellationRequested = true;
      this.cancelled.fire(undefined);
    }

    dispose(): void {}
  };
}

/** Returns an object whose every `onDid...` is an event that never happens, unless it is there. */
function withEvents(own: Record<string, unknown>): Record<string, unknown> {
  return new Proxy(own, {
    get: (found, name: string) =>
      name in found || !/^(onDid|onWill|register)/.test(name)
        ? found[name]
        : (found[name] = () => ({ dispose() {} })),
  });
}

/** A document of VS Code: columns count UTF-16 code units, as strings do here. */
export class Document {
  version = 1;
  readonly languageId = "python";
  readonly isClosed = false;

  constructor(
    readonly uri: Vscode.Uri,
    public text: string,
    private readonly vscode: typeof Vscode,
  ) {}

  getText(): string {
    return this.text;
  }

  positionAt(offset: number): Vscode.Position {
    const lines = this.text.slice(0, offset).split("\n");
    return new this.vscode.Position(lines.length - 1, lines.at(-1)?.length ?? 0);
  }
}
