//! PromQL of an object: its variables, and the mistakes that can be told without asking Prometheus.
//!
//! A variable stands inside a string literal, so that what it becomes can always be escaped: `$namespace`, `$service`, and `$pods`,
//! a regular expression that matches the names of the ready pods and nothing else. `$$` is the character itself. Everything
//! else is Prometheus' to judge; this file knows its strings, comments and brackets only.

mod held;

use std::fmt::Write as _;

pub use held::hold;

/// Longest query, in bytes, as the API has it.
pub const MAX_QUERY_BYTES: usize = 4096;

/// An RE2 expression that matches no text at all, the empty one included: a series without the label is not matched either.
const NOTHING: &str = r"[^\x00-\x{10FFFF}]";

/// A query whose strings, brackets and variables are understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A variable in a literal with this quote.
    Variable(Variable, char),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Namespace,
    Service,
    Pods,
}

/// What is wrong with a query, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it.
    pub help: &'static str,
    /// First byte of the place.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

impl Template {
    /// Reads a query.
    ///
    /// # Errors
    ///
    /// The first mistake: nothing to ask, too long, a string or bracket without its end, a variable that is unknown or stands
    /// where it could not be escaped.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let mistake = |message: String, help, start, end| Err(Mistake { message, help, start, end });
        if text.trim().is_empty() {
            return mistake("the query is empty".to_owned(), "write an expression of PromQL", 0, text.len());
        }
        if text.len() > MAX_QUERY_BYTES {
            let message = format!("a query has at most {MAX_QUERY_BYTES} bytes, found {}", text.len());
            return mistake(message, "put the expression into a recording rule", MAX_QUERY_BYTES, text.len());
        }
        let mut reader = Reader { text, at: 0, pieces: Vec::new(), plain: String::new() };
        let mut open: Vec<(char, usize)> = Vec::new();
        while let Some(next) = reader.peek() {
            let start = reader.at;
            match next {
                '#' => reader.comment(),
                '"' | '\'' | '`' => reader.string(next)?,
                '$' => {
                    let end = start + 1 + variable_name(&text[start + 1..]).len();
                    let message = format!("`{}` stands outside of a string", &text[start..end]);
                    let help = "variables stand in strings, as in {namespace=\"$namespace\"}";
                    return mistake(message, help, start, end);
                }
                '(' | '[' | '{' => {
                    open.push((next, start));
                    reader.take();
                }
                ')' | ']' | '}' => {
                    let wanted = match next {
                        ')' => '(',
                        ']' => '[',
                        _ => '{',
                    };
                    if open.pop().is_none_or(|(opened, _)| opened != wanted) {
                        let message = format!("`{next}` closes no `{wanted}`");
                        return mistake(message, "remove it, or add the bracket that it closes", start, start + 1);
                    }
                    reader.take();
                }
                _ => reader.take(),
            }
        }
        if let Some((opened, start)) = open.pop() {
            return mistake(format!("`{opened}` is never closed"), "add the bracket that closes it", start, start + 1);
        }
        reader.flush();
        Ok(Self { pieces: reader.pieces })
    }

    /// The query for one service; `pods` are the names of its ready pods.
    #[must_use]
    pub fn render(&self, namespace: &str, service: &str, pods: &[String]) -> String {
        let mut query = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => query.push_str(text),
                Piece::Variable(Variable::Namespace, quote) => literal(&mut query, namespace, *quote),
                Piece::Variable(Variable::Service, quote) => literal(&mut query, service, *quote),
                Piece::Variable(Variable::Pods, quote) => literal(&mut query, &alternation(pods), *quote),
            }
        }
        query
    }
}

/// Whether a query is one plain selector, `name{…}`: its samples have times of their own, which any other expression hides.
#[must_use]
pub fn is_selector(query: &str) -> bool {
    let query = query.trim();
    let name = query.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(query.len());
    let (name, labels) = query.split_at(name);
    if name.starts_with(|c: char| c.is_ascii_digit()) || ["inf", "nan"].contains(&&*name.to_ascii_lowercase()) {
        return false;
    }
    let labels = labels.trim_start();
    if labels.is_empty() {
        return !name.is_empty();
    }
    let mut reader = Reader { text: labels, at: 0, pieces: Vec::new(), plain: String::new() };
    // The first `}` outside of strings must be the end.
    while let Some(next) = reader.peek() {
        match next {
            '{' if reader.at == 0 => reader.take(),
            _ if reader.at == 0 => return false,
            '}' => return reader.at + 1 == labels.len(),
            '"' | '\'' | '`' => {
                if reader.string(next).is_err() {
                    return false;
                }
            }
            _ => reader.take(),
        }
    }
    false
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    pieces: Vec<Piece>,
    plain: String,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) {
        if let Some(next) = self.peek() {
            self.plain.push(next);
            self.at += next.len_utf8();
        }
    }

    fn flush(&mut self) {
        if !self.plain.is_empty() {
            self.pieces.push(Piece::Text(std::mem::take(&mut self.plain)));
        }
    }

    fn comment(&mut self) {
        while self.peek().is_some_and(|next| next != '\n') {
            self.take();
        }
    }

    fn string(&mut self, quote: char) -> Result<(), Mistake> {
        let start = self.at;
        self.take();
        while let Some(next) = self.peek() {
            match next {
                '\\' if quote != '`' => {
                    self.take();
                    self.take();
                }
                '\n' if quote != '`' => break,
                '$' => self.variable(quote)?,
                _ => {
                    self.take();
                    if next == quote {
                        return Ok(());
                    }
                }
            }
        }
        let message = "the string that begins here has no end".to_owned();
        Err(Mistake { message, help: "add the closing quote", start, end: start + 1 })
    }

    fn variable(&mut self, quote: char) -> Result<(), Mistake> {
        let start = self.at;
        let rest = &self.text[start + 1..];
        if rest.starts_with('$') {
            self.plain.push('$');
            self.at += 2;
            return Ok(());
        }
        let name = variable_name(rest);
        let end = start + 1 + name.len();
        let variable = match name {
            "namespace" => Variable::Namespace,
            "service" => Variable::Service,
            "pods" => Variable::Pods,
            _ => {
                let message = match name {
                    "" => "`$` begins no variable".to_owned(),
                    _ => format!("`${name}` is no variable"),
                };
                let help = "the variables are $namespace, $service and $pods; write `$$` for the character itself";
                return Err(Mistake { message, help, start, end });
            }
        };
        if quote == '`' {
            let message = format!("`${name}` stands in backquotes, where nothing can be escaped");
            return Err(Mistake { message, help: "put the string into double quotes", start, end });
        }
        self.flush();
        self.pieces.push(Piece::Variable(variable, quote));
        self.at = end;
        Ok(())
    }
}

fn variable_name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

fn alternation(pods: &[String]) -> String {
    if pods.is_empty() {
        return NOTHING.to_owned();
    }
    pods.iter().map(|pod| regex_syntax::escape(pod)).collect::<Vec<_>>().join("|")
}

/// Adds `value` as it must stand in a string literal with this quote.
fn literal(query: &mut String, value: &str, quote: char) {
    for c in value.chars() {
        match c {
            '\\' => query.push_str(r"\\"),
            c if c == quote => {
                query.push('\\');
                query.push(c);
            }
            c if c.is_control() => write!(query, "\\u{:04x}", u32::from(c)).expect("a String can be written"),
            c => query.push(c),
        }
    }
}

#[cfg(test)]
mod tests;
