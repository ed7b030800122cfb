//! The policy language: sentences to syntax trees.
//!
//! Text -> `lexer` -> `parser` -> [`ast`], typed by `check`. Every mistake carries the place, what was expected and the
//! nearest known word. The grammar stands in `docs/reference/language.md`.

pub mod ast;
