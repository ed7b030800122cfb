//! Text to tokens, one at a time.

use crate::language::{
    MAX_LENGTH, MAX_TOKENS, SentenceError, Span,
    ast::Dimension,
    units::{self, Unit},
};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A number in base units; `unit` is what was glued to it.
    Number {
        value: f64,
        unit: Option<Unit>,
    },
    /// A name or keyword as typed.
    Word(String),
    /// Punctuation or an operator, in its canonical spelling: `&&` is `and`, `=` is `==`.
    Symbol(&'static str),
    End,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Span,
}

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    count: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, SentenceError> {
        if text.len() > MAX_LENGTH {
            let span = Span { start: text.len(), end: text.len() };
            return Err(SentenceError::new(
                span,
                format!("a sentence has at most {MAX_LENGTH} bytes, this has {}", text.len()),
            ));
        }
        Ok(Self { text, position: 0, count: 0 })
    }

    pub(super) fn text(&self, span: Span) -> &'a str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or("")
    }

    /// Takes characters for as long as `accept` says so.
    fn take(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !accept(c)).unwrap_or(rest.len())];
        self.position += taken.len();
        taken
    }

    /// Takes a name that is not of the language, such as a header's: everything up to a space or comma.
    pub(super) fn raw_name(&mut self, from: usize) -> (&'a str, Span) {
        self.position = from;
        self.take(char::is_whitespace);
        let start = self.position;
        let name = self.take(|c| !c.is_whitespace() && c != ',');
        (name, Span { start, end: self.position })
    }

    pub(super) fn next(&mut self) -> Result<Lexeme, SentenceError> {
        self.take(char::is_whitespace);
        let start = self.position;
        let Some(first) = self.rest().chars().next() else {
            return Ok(Lexeme { token: Token::End, span: Span { start, end: start } });
        };
        self.count += 1;
        let token = match first {
            '0'..='9' => self.number()?,
            'a'..='z' | 'A'..='Z' | '_' => Token::Word(self.take(|c| c.is_alphanumeric() || c == '_').to_owned()),
            _ => self.symbol(first)?,
        };
        let span = Span { start, end: self.position };
        if self.count > MAX_TOKENS {
            return Err(SentenceError::new(span, format!("a sentence has at most {MAX_TOKENS} words"))
                .help("split the rule into several"));
        }
        Ok(Lexeme { token, span })
    }

    fn symbol(&mut self, first: char) -> Result<Token, SentenceError> {
        const SYMBOLS: [(&str, &str); 24] = [
            ("<=", "<="),
            (">=", ">="),
            ("==", "=="),
            ("!=", "!="),
            ("&&", "and"),
            ("||", "or"),
            ("&", "and"),
            ("|", "or"),
            ("<", "<"),
            (">", ">"),
            ("=", "=="),
            ("!", "not"),
            ("(", "("),
            (")", ")"),
            ("{", "{"),
            ("}", "}"),
            (",", ","),
            (".", "."),
            ("+", "+"),
            ("-", "-"),
            ("*", "*"),
            ("/", "/"),
            ("%", "%"),
            (":", ":"),
        ];
        let rest = self.rest();
        if let Some((typed, symbol)) = SYMBOLS.iter().find(|(typed, _)| rest.starts_with(typed)) {
            self.position += typed.len();
            return Ok(Token::Symbol(symbol));
        }
        let span = Span { start: self.position, end: self.position + first.len_utf8() };
        let error = SentenceError::new(span, format!("unexpected character {first:?}"));
        let mend = match first {
            '≥' => ">=",
            '≤' => "<=",
            '≠' => "!=",
            '×' | '·' => "*",
            '÷' => "/",
            '−' | '–' | '—' => "-",
            '∧' => "and",
            '∨' => "or",
            _ => return Err(error),
        };
        Err(error.help(format!("write `{mend}`")))
    }

    fn number(&mut self) -> Result<Token, SentenceError> {
        let start = self.position;
        let (mut value, mut unit) = self.quantity(start)?;
        // `1m30s`: several durations in a row are one.
        while unit.is_some_and(|unit| unit.dimension == Dimension::Seconds)
            && self.rest().starts_with(|c: char| c.is_ascii_digit())
        {
            let part_start = self.position;
            let (part, part_unit) = self.quantity(start)?;
            let span = Span { start: part_start, end: self.position };
            if !part_unit.is_some_and(|unit| unit.dimension == Dimension::Seconds) {
                return Err(SentenceError::new(
                    span,
                    format!("expected a duration such as `30s`, found `{}`", self.text(span)),
                ));
            }
            value += part;
            unit = part_unit;
        }
        Ok(Token::Number { value, unit })
    }

    fn quantity(&mut self, start: usize) -> Result<(f64, Option<Unit>), SentenceError> {
        let mantissa_start = self.position;
        self.take(|c| c.is_ascii_digit());
        if let Some(fraction) = self.rest().strip_prefix('.')
            && fraction.starts_with(|c: char| c.is_ascii_digit())
        {
            self.position += 1;
            self.take(|c| c.is_ascii_digit());
        }
        let mantissa = self.text(Span { start: mantissa_start, end: self.position });
        let exponent = self.exponent(start)?;
        let unit = self.unit()?;
        let span = Span { start, end: self.position };
        let value = units::number(mantissa, exponent, unit)
            .ok_or_else(|| SentenceError::new(span, format!("`{}` is too large a number", self.text(span))))?;
        Ok((value, unit))
    }

    /// `e3`, `E-3`; anything else after an `e` is a unit or a mistake.
    fn exponent(&mut self, start: usize) -> Result<i32, SentenceError> {
        let rest = self.rest();
        let Some(digits) = rest.strip_prefix(['e', 'E']) else { return Ok(0) };
        let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(0);
        }
        let length = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
        let end = rest.len() - unsigned.len() + length;
        let exponent = rest[1..end].trim_start_matches('+').parse::<i32>();
        self.position += end;
        let span = Span { start, end: self.position };
        exponent.map_err(|_| SentenceError::new(span, "the exponent is too large"))
    }

    fn unit(&mut self) -> Result<Option<Unit>, SentenceError> {
        // `80 %` is written as often as `80%`.
        let blanks = self.rest().len() - self.rest().trim_start().len();
        if self.rest()[blanks..].starts_with('%') {
            self.position += blanks + 1;
            return Ok(units::find("%"));
        }
        let start = self.position;
        let letters = self.take(|c| c.is_ascii_alphabetic());
        if letters.is_empty() && !self.rest().starts_with('_') {
            return Ok(None);
        }
        if let Some(unit) = units::find(letters)
            && (unit.dimension == Dimension::Seconds || !self.rest().starts_with(|c: char| c.is_ascii_digit()))
            && !self.rest().starts_with('_')
        {
            return Ok(Some(unit));
        }
        self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        let span = Span { start, end: self.position };
        let typed = self.text(span);
        let error = SentenceError::new(span, format!("unknown unit `{typed}`"));
        Err(match units::nearest(typed) {
            Some(nearest) => error.help(format!("did you mean `{nearest}`?")),
            None if typed.starts_with('_') => error.help("write digits without `_`"),
            None => error.help("units are %, k, M, G, Ki, Mi, Gi, B, ms, s, m, h, d; put a space before a word"),
        })
    }
}
