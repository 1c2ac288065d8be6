/** What a user chose, as the language server reads it; no `vscode` here, so that node tests it. */

/** How `vscode` hands out one section of the settings. */
export interface Section {
  get<T>(name: string): T | undefined;
}

/** The options that the language server knows, by the names of the settings. */
export const SERVER_SETTINGS = [
  "enabled",
  "url",
  "apiKey",
  "model",
  "multiline",
  "maxTokens",
  "contextCharacters",
] as const;

/** Returns what the language server is told at its start; what is empty stays its own choice. */
export function initializationOptions(section: Section): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const name of SERVER_SETTINGS) {
    const value = section.get<unknown>(name);
    if (value !== undefined && value !== null && value !== "") {
      options[name] = value;
    }
  }
  return options;
}

/** A program and its arguments. */
export interface Command {
  readonly command: string;
  readonly args: readonly string[];
}

/** Returns what starts the language server; throws a sentence where the setting is none. */
export function command(section: Section): Command {
  const given = section.get<unknown>("command") ?? ["evenhand", "lsp"];
  if (!Array.isArray(given) || given.length === 0 || !given.every((each) => typeof each === "string")) {
    throw new Error(
      `setting evenhand.command must be a list of texts, got ${JSON.stringify(given)}; ` +
        'write ["evenhand", "lsp"]',
    );
  }
  const [program, ...args] = given as [string, ...string[]];
  return { command: program, args };
}
