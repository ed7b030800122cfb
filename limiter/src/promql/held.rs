//! A query that is held to one namespace: every selector gets the matcher `label="namespace"`, as prom-label-proxy does it.
//!
//! What decides is Prometheus' own reading of the text, so this file understands less than Prometheus does and refuses the rest: a
//! selector that it took for something else would read other namespaces. Nothing is taken out of a query, only matchers are put in.

use super::{MAX_QUERY_BYTES, Mistake};

/// Deepest brackets.
const MAX_DEPTH: usize = 64;
/// Words with a meaning of their own, which a metric may have as its name, too: such a metric is to be named by `__name__`.
const KEYWORDS: [&str; 33] = [
    "and",
    "or",
    "unless",
    "atan2",
    "sum",
    "avg",
    "count",
    "min",
    "max",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "count_values",
    "quantile",
    "limitk",
    "limit_ratio",
    "offset",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "start",
    "end",
    "step",
    "range",
    "fill",
    "anchored",
    "smoothed",
];
const HELP: &str =
    "write plain PromQL: selectors, functions, aggregations, operators; or put the expression into a recording rule";

/// `text`, the template of a query, with `label="namespace"` in every selector.
///
/// # Errors
///
/// What is not understood, or a matcher that says another namespace.
pub fn hold(text: &str, label: &str, namespace: &str) -> Result<String, Mistake> {
    let mut parser =
        Parser { tokens: tokens(text)?, next: 0, depth: 0, label, namespace, text, insertions: Vec::new() };
    parser.expression()?;
    if let Some(token) = parser.peek() {
        return Err(parser.not_understood(token));
    }
    let mut held = String::new();
    let mut from = 0;
    for (at, insertion) in &parser.insertions {
        held.push_str(&text[from..*at]);
        held.push_str(insertion);
        from = *at;
    }
    held.push_str(&text[from..]);
    if held.len() > MAX_QUERY_BYTES {
        let message =
            format!("with {label}={namespace:?} in every selector the query has more than {MAX_QUERY_BYTES} bytes");
        return Err(Mistake { message, help: "put the expression into a recording rule", start: 0, end: text.len() });
    }
    Ok(held)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A name, or a keyword.
    Word,
    /// A number or a duration.
    Number,
    String,
    /// A bracket, an operator, a comma.
    Sign,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Prometheus reads keywords in any case.
    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    fn is_sign(&self, sign: &str) -> bool {
        self.kind == Kind::Sign && self.text == sign
    }
}

/// Takes a query apart as Prometheus does; comments and space are left out.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, Mistake> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let length = |is: &dyn Fn(u8) -> bool| rest.iter().position(|b| !is(*b)).unwrap_or(rest.len());
        let (kind, length) = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'#' => {
                at += length(&|b| b != b'\n' && b != b'\r');
                continue;
            }
            b'"' | b'\'' | b'`' => (Kind::String, string(rest)),
            b'0'..=b'9' => (Kind::Number, length(&|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_')),
            b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => {
                (Kind::Number, length(&|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_'))
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':' => {
                (Kind::Word, length(&|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':'))
            }
            _ => match rest.get(..2) {
                Some(b"==" | b"!=" | b">=" | b"<=" | b"=~" | b"!~") => (Kind::Sign, 2),
                _ => (Kind::Sign, text[at..].chars().next().map_or(1, char::len_utf8)),
            },
        };
        found.push(Token { kind, text: &text[at..at + length], start: at });
        at += length;
    }
    Ok(found)
}

/// Length of the string literal that `bytes` begin with; that it has an end was seen before.
fn string(bytes: &[u8]) -> usize {
    let quote = bytes[0];
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'\\' if quote != b'`' => 2,
            _ => 1,
        };
        if byte == quote {
            break;
        }
    }
    at.min(bytes.len())
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    depth: usize,
    label: &'a str,
    namespace: &'a str,
    text: &'a str,
    /// What is put in, and before which byte.
    insertions: Vec<(usize, String)>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self) -> Result<Token<'a>, Mistake> {
        let token = self.peek().ok_or_else(|| self.unexpected_end())?;
        self.next += 1;
        Ok(token)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is_next = self.peek().is_some_and(|token| token.is_sign(sign));
        self.next += usize::from(is_next);
        is_next
    }

    fn take_word(&mut self, words: &[&str]) -> bool {
        let is_next = self.peek().is_some_and(|token| words.iter().any(|word| token.is_word(word)));
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &str) -> Result<Token<'a>, Mistake> {
        let token = self.take()?;
        if token.is_sign(sign) { Ok(token) } else { Err(self.not_understood(token)) }
    }

    fn expression(&mut self) -> Result<(), Mistake> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("brackets are nested more than {MAX_DEPTH} deep");
            return Err(Mistake { message, help: HELP, start: 0, end: self.text.len() });
        }
        self.operand()?;
        while self.operator() {
            self.take_word(&["bool"]);
            if self.take_word(&["on", "ignoring"]) {
                self.labels()?;
                if self.take_word(&["group_left", "group_right"])
                    && self.peek().is_some_and(|token| token.is_sign("("))
                    && self.names_labels()
                {
                    self.labels()?;
                }
            }
            self.operand()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn operator(&mut self) -> bool {
        let signs = ["+", "-", "*", "/", "%", "^", "==", "!=", ">=", "<=", ">", "<"];
        signs.into_iter().any(|sign| self.take_sign(sign)) || self.take_word(&["and", "or", "unless", "atan2"])
    }

    /// Whether the bracket that comes is a list of labels, `(a, b)`, that something follows, and no operand of its own. Prometheus
    /// takes it for labels whenever it can.
    fn names_labels(&self) -> bool {
        let inside = self.tokens[self.next + 1..].iter().take_while(|token| !token.is_sign(")"));
        inside.clone().all(|token| token.kind == Kind::Word || token.is_sign(","))
    }

    fn operand(&mut self) -> Result<(), Mistake> {
        while self.take_sign("+") || self.take_sign("-") {}
        let token = self.take()?;
        match (token.kind, token.text) {
            (Kind::Number | Kind::String, _) => {}
            (Kind::Sign, "(") => {
                self.expression()?;
                self.expect(")")?;
            }
            (Kind::Sign, "{") => self.matchers(token)?,
            (Kind::Word, name) => self.named(token, name)?,
            (Kind::Sign, _) => return Err(self.not_understood(token)),
        }
        self.modifiers()
    }

    /// What begins with a name: a call, an aggregation, a number, or else a selector.
    fn named(&mut self, token: Token<'a>, name: &str) -> Result<(), Mistake> {
        if self.take_word(&["by", "without"]) {
            self.labels()?;
            self.expect("(")?;
            return self.arguments();
        }
        if self.take_sign("(") {
            if token.is_word("info") {
                let message = "`info` reads series that no matcher holds to the namespace".to_owned();
                return Err(Mistake {
                    message,
                    help: "join with `* on (…) group_left (…)`",
                    start: token.start,
                    end: token.end(),
                });
            }
            self.arguments()?;
            if self.take_word(&["by", "without"]) {
                self.labels()?;
            }
            return Ok(());
        }
        if token.is_word("inf") || token.is_word("nan") {
            return Ok(());
        }
        if KEYWORDS.iter().any(|word| token.is_word(word)) {
            let message = format!("`{name}` is a word of PromQL, and no selector here");
            let help = "name a metric of this name by {__name__=\"…\"}";
            return Err(Mistake { message, help, start: token.start, end: token.end() });
        }
        match self.peek().filter(|next| next.is_sign("{")) {
            Some(brace) => {
                self.next += 1;
                self.matchers(brace)
            }
            None => {
                self.insertions.push((token.end(), format!("{{{}={:?}}}", self.label, self.namespace)));
                Ok(())
            }
        }
    }

    fn arguments(&mut self) -> Result<(), Mistake> {
        while !self.take_sign(")") {
            self.expression()?;
            if !self.take_sign(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(())
    }

    /// Labels of a grouping, in brackets.
    fn labels(&mut self) -> Result<(), Mistake> {
        self.expect("(")?;
        while !self.take_sign(")") {
            let token = self.take()?;
            if !matches!(token.kind, Kind::Word | Kind::String) {
                return Err(self.not_understood(token));
            }
            if !self.take_sign(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(())
    }

    /// A range, an offset, a point in time.
    fn modifiers(&mut self) -> Result<(), Mistake> {
        loop {
            if self.take_sign("[") {
                while !self.take_sign("]") {
                    let token = self.take()?;
                    let is_duration = token.kind == Kind::Number || token.text.bytes().all(|b| b == b':');
                    if !is_duration && !token.text.strip_prefix(':').is_some_and(is_duration_text) {
                        return Err(self.not_understood(token));
                    }
                }
            } else if self.take_word(&["offset"]) {
                let _ = self.take_sign("-") || self.take_sign("+");
                self.number()?;
            } else if self.take_sign("@") {
                if self.take_word(&["start", "end"]) {
                    self.expect("(")?;
                    self.expect(")")?;
                } else {
                    let _ = self.take_sign("-") || self.take_sign("+");
                    self.number()?;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn number(&mut self) -> Result<(), Mistake> {
        let token = self.take()?;
        if token.kind == Kind::Number { Ok(()) } else { Err(self.not_understood(token)) }
    }

    /// The matchers of a selector, up to its `}`; `brace` is its `{`.
    fn matchers(&mut self, brace: Token<'a>) -> Result<(), Mistake> {
        let is_empty = self.peek().is_some_and(|token| token.is_sign("}"));
        let comma = if is_empty { "" } else { "," };
        self.insertions.push((brace.end(), format!("{}={:?}{comma}", self.label, self.namespace)));
        while !self.take_sign("}") {
            let name = self.take()?;
            let operator = self.peek().filter(|next| ["=", "!=", "=~", "!~"].iter().any(|sign| next.is_sign(sign)));
            match (name.kind, operator) {
                // The name of the metric, quoted.
                (Kind::String, None) => {}
                (Kind::Word | Kind::String, Some(operator)) => {
                    self.next += 1;
                    let value = self.take()?;
                    if value.kind != Kind::String {
                        return Err(self.not_understood(value));
                    }
                    self.check(name, operator, value)?;
                }
                _ => return Err(self.not_understood(name)),
            }
            if !self.take_sign(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(())
    }

    /// Another matcher of the label would find nothing but what the namespace has; its author means something else.
    fn check(&self, name: Token<'_>, operator: Token<'_>, value: Token<'_>) -> Result<(), Mistake> {
        if name.text.trim_matches(['"', '\'', '`']) != self.label {
            return Ok(());
        }
        let said = &value.text[1..value.text.len() - 1];
        if operator.text == "=" && (said == self.namespace || said == "$namespace") {
            return Ok(());
        }
        let (label, namespace) = (self.label, self.namespace);
        Err(Mistake {
            message: format!("a query of this namespace reads series with {label}={namespace:?} alone"),
            help: "leave the matcher out, or write it with \"$namespace\"; whoever runs Weir can allow more with --allow-promql",
            start: name.start,
            end: value.end(),
        })
    }

    fn not_understood(&self, token: Token<'_>) -> Mistake {
        let message = format!("`{}` is not understood here, so the query cannot be held to its namespace", token.text);
        Mistake { message, help: HELP, start: token.start, end: token.end() }
    }

    fn unexpected_end(&self) -> Mistake {
        let message = "the query ends where something is missing".to_owned();
        Mistake { message, help: HELP, start: self.text.len(), end: self.text.len() }
    }
}

/// `5m` after the colon of `[1h:5m]`.
fn is_duration_text(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric()) && text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests;
