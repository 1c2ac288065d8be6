"""`evenhand lsp`: a language server between an editor and a running Evenhand; no model is here."""
