/** What the status bar says; no `vscode` here, so that node tests it. */

export type State = "starting" | "running" | "stopped";

export interface Shown {
  readonly text: string;
  readonly tooltip: string;
  readonly warning: boolean;
}

/**
 * Returns what the status bar shows.
 *
 * trouble  what keeps the language server from answering, as it last said
 */
export function shown(state: State, enabled: boolean, url: string, trouble?: string): Shown {
  if (state === "starting") {
    return { text: "$(loading~spin) Evenhand", tooltip: "Evenhand starts", warning: false };
  }
  if (state === "stopped") {
    const tooltip = trouble ?? "The language server does not run; use Evenhand: Restart";
    return { text: "$(error) Evenhand", tooltip, warning: true };
  }
  if (!enabled) {
    const tooltip = "Completions are off; click to turn them on";
    return { text: "$(circle-slash) Evenhand", tooltip, warning: false };
  }
  if (trouble !== undefined) {
    return { text: "$(warning) Evenhand", tooltip: trouble, warning: true };
  }
  return {
    text: "$(sparkle) Evenhand",
    tooltip: `Completions by ${url}; click to turn them off`,
    warning: false,
  };
}

/**
 * Returns the trouble after a message of the language server's log: a warning is one, anything
 * milder says that it is over.
 *
 * kind  as in LSP: 1 error, 2 warning, 3 info, 4 log
 */
export function trouble(kind: number, message: string): string | undefined {
  return kind <= 2 ? message : undefined;
}
