//! Recursive descent over conditions and expressions.
//!
//! Values and conditions share one descent, because after `(` either may follow: `(cpu + 10%) * 2 > 1` and
//! `(cpu > 80% or errors > 5%) for 10s`. What an operator needs is checked when it is met.

use std::time::Duration;

use crate::{
    language::{
        MAX_DEPTH, MAX_DURATION, SentenceError, Span, Vocabulary,
        ast::{Arithmetic, Comparison, Condition, Dimension, Expression},
        check::{self, Shape, Value},
        lexer::{Lexeme, Lexer, Token},
        units,
        vocabulary::{KEYWORDS, dimension},
    },
    metric::{Metric, Reduce, Word},
};

type Result<T> = std::result::Result<T, SentenceError>;

#[derive(Debug)]
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    text: &'a str,
    current: Lexeme,
    /// The end of the token before `current`.
    previous_end: usize,
    depth: usize,
    /// How many held parts there are so far.
    held: usize,
    vocabulary: &'a Vocabulary,
}

/// A value or a condition.
enum Node {
    Value(Value),
    Condition { condition: Condition, span: Span, parenthesised: bool },
}

impl Node {
    fn span(&self) -> Span {
        match self {
            Self::Value(value) => value.span,
            Self::Condition { span, .. } => *span,
        }
    }
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, vocabulary: &'a Vocabulary) -> Result<Self> {
        let mut lexer = Lexer::new(text)?;
        let current = lexer.next()?;
        Ok(Self { lexer, text, current, previous_end: 0, depth: 0, held: 0, vocabulary })
    }

    // Tokens.

    pub(super) fn span(&self) -> Span {
        self.current.span
    }

    /// From `start` to the end of what was read.
    pub(super) fn since(&self, start: Span) -> Span {
        Span { start: start.start, end: self.previous_end }
    }

    pub(super) fn advance(&mut self) -> Result<Lexeme> {
        self.previous_end = self.current.span.end;
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.current, next))
    }

    /// Takes the name after the current word, whatever characters it has.
    pub(super) fn raw_name(&mut self) -> Result<(&'a str, Span)> {
        let (name, span) = self.lexer.raw_name(self.current.span.end);
        self.current = Lexeme { token: Token::End, span };
        self.previous_end = span.end;
        self.current = self.lexer.next()?;
        Ok((name, span))
    }

    /// Whether the current token is this keyword (any case) or symbol.
    pub(super) fn at(&self, text: &str) -> bool {
        match &self.current.token {
            Token::Word(word) => word.eq_ignore_ascii_case(text),
            Token::Symbol(symbol) => *symbol == text,
            Token::Number { .. } | Token::End => false,
        }
    }

    pub(super) fn at_number(&self) -> bool {
        matches!(self.current.token, Token::Number { .. })
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// How many held parts were read.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn at_end(&self) -> bool {
        self.current.token == Token::End
    }

    pub(super) fn eat(&mut self, text: &str) -> Result<bool> {
        let found = self.at(text);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<()> {
        if self.eat(text)? { Ok(()) } else { Err(self.unexpected(&format!("`{text}`"))) }
    }

    pub(super) fn end(&self, otherwise: &str) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected(&format!("{otherwise} or the end of the sentence"))) }
    }

    /// `expected …, found …` at the current token, with the nearest keyword.
    pub(super) fn unexpected(&self, expected: &str) -> SentenceError {
        let found = match &self.current.token {
            Token::End => "the end of the sentence".to_owned(),
            _ => format!("`{}`", self.lexer.text(self.current.span)),
        };
        SentenceError::new(self.current.span, format!("expected {expected}, found {found}"))
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SentenceError::new(self.current.span, format!("nested more than {MAX_DEPTH} deep"))
                .help("split the rule into several"));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    // Conditions, loosest operator first.

    pub(super) fn condition(&mut self) -> Result<Condition> {
        let node = self.any()?;
        self.require_condition(node)
    }

    fn any(&mut self) -> Result<Node> {
        self.connected("or", Self::all, Condition::Any)
    }

    fn all(&mut self) -> Result<Node> {
        self.connected("and", Self::negation, Condition::All)
    }

    fn connected(
        &mut self,
        operator: &str,
        operand: fn(&mut Self) -> Result<Node>,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Result<Node> {
        let first = operand(self)?;
        if !self.at(operator) {
            return Ok(first);
        }
        let start = first.span();
        let mut parts = vec![self.require_condition(first)?];
        while self.eat(operator)? {
            let part = operand(self)?;
            parts.push(self.require_condition(part)?);
        }
        Ok(Node::Condition { condition: join(parts), span: self.since(start), parenthesised: false })
    }

    fn negation(&mut self) -> Result<Node> {
        if !self.at("not") {
            return self.held_part();
        }
        let start = self.advance()?.span;
        let inner = self.deeper(Self::negation)?;
        let condition = Condition::Not(Box::new(self.require_condition(inner)?));
        Ok(Node::Condition { condition, span: self.since(start), parenthesised: false })
    }

    fn held_part(&mut self) -> Result<Node> {
        let node = self.comparison()?;
        if !self.at("for") {
            return Ok(node);
        }
        let start = node.span();
        let condition = Box::new(self.require_condition(node)?);
        self.advance()?;
        let duration = self.duration()?;
        let id = self.held;
        self.held += 1;
        let condition = Condition::Held { id, condition, duration };
        Ok(Node::Condition { condition, span: self.since(start), parenthesised: false })
    }

    fn comparison(&mut self) -> Result<Node> {
        let left = self.sum()?;
        let Some(comparison) = self.comparison_operator() else { return Ok(left) };
        let left = self.require_value(left)?;
        self.advance()?;
        let right = self.sum()?;
        let right = self.require_value(right)?;
        check::comparable(&left, &right, self.text)?;
        if self.comparison_operator().is_some() {
            return Err(SentenceError::new(self.current.span, "comparisons cannot be chained")
                .help("join two with `and`: `20% < cpu and cpu < 80%`"));
        }
        let span = left.span.to(right.span);
        let condition = Condition::Compare { comparison, left: left.expression, right: right.expression, relax: 1.0 };
        Ok(Node::Condition { condition, span, parenthesised: false })
    }

    fn comparison_operator(&self) -> Option<Comparison> {
        let Token::Symbol(symbol) = self.current.token else { return None };
        Some(match symbol {
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            _ => return None,
        })
    }

    fn require_condition(&self, node: Node) -> Result<Condition> {
        let value = match node {
            Node::Condition { condition, .. } => return Ok(condition),
            Node::Value(value) => value,
        };
        let typed = self.lexer.text(value.span);
        let message = format!(
            "expected a condition, found {}",
            if value.shape == Shape::Metric {
                format!("the metric `{typed}`")
            } else {
                format!("the number `{typed}`")
            }
        );
        let error = SentenceError::new(value.span, message);
        let example = units::write_value(
            match value.dimension {
                Dimension::Ratio => 0.8,
                Dimension::Seconds => 0.2,
                _ => 100.0,
            },
            value.dimension,
        );
        Err(match value.shape {
            Shape::Metric => error.help(format!("compare it: `{typed} > {example}`")),
            Shape::Plain(_) | Shape::Other => error.help("compare it with `<`, `<=`, `>`, `>=`, `==` or `!=`"),
        })
    }

    // Values.

    pub(super) fn value(&mut self) -> Result<Value> {
        let node = self.sum()?;
        self.require_value(node)
    }

    fn require_value(&self, node: Node) -> Result<Value> {
        match node {
            Node::Value(value) => Ok(value),
            Node::Condition { span, parenthesised, .. } => {
                let what = if parenthesised { "a condition in parentheses" } else { "a condition" };
                Err(SentenceError::new(span, format!("expected a number or a metric, found {what}"))
                    .help("join conditions with `and` or `or`"))
            }
        }
    }

    fn sum(&mut self) -> Result<Node> {
        self.binary(&[("+", Arithmetic::Add), ("-", Arithmetic::Subtract)], Self::product)
    }

    fn product(&mut self) -> Result<Node> {
        self.binary(&[("*", Arithmetic::Multiply), ("/", Arithmetic::Divide)], Self::factor)
    }

    fn binary(&mut self, operators: &[(&str, Arithmetic)], operand: fn(&mut Self) -> Result<Node>) -> Result<Node> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().copied().find(|(symbol, _)| self.at(symbol)) {
            let left_value = self.require_value(left)?;
            self.advance()?;
            let right = operand(self)?;
            let right = self.require_value(right)?;
            let dimension = check::arithmetic(operator, &left_value, &right, self.text)?;
            let span = left_value.span.to(right.span);
            let expression = Expression::Binary {
                operator,
                left: Box::new(left_value.expression),
                right: Box::new(right.expression),
            };
            left = Node::Value(Value { expression, dimension, span, shape: Shape::Other });
        }
        Ok(left)
    }

    fn factor(&mut self) -> Result<Node> {
        if !self.at("-") {
            return self.primary();
        }
        let start = self.advance()?.span;
        let inner = self.deeper(Self::factor)?;
        let inner = self.require_value(inner)?;
        let shape = match inner.shape {
            Shape::Plain(value) => Shape::Plain(-value),
            Shape::Metric | Shape::Other => Shape::Other,
        };
        let expression = Expression::Negative(Box::new(inner.expression));
        Ok(Node::Value(Value { expression, dimension: inner.dimension, span: self.since(start), shape }))
    }

    fn primary(&mut self) -> Result<Node> {
        let start = self.current.span;
        match &self.current.token {
            Token::Number { .. } => self.literal().map(Node::Value),
            Token::Symbol("(") => {
                self.advance()?;
                let inner = self.deeper(Self::any)?;
                if !self.at(")") {
                    return Err(self.unexpected("an operator or `)`"));
                }
                self.advance()?;
                let span = self.since(start);
                Ok(match inner {
                    Node::Value(value) => Node::Value(Value { span, ..value }),
                    Node::Condition { condition, .. } => Node::Condition { condition, span, parenthesised: true },
                })
            }
            Token::Symbol("{") => {
                self.advance()?;
                let value = self.metric()?;
                self.expect("}")?;
                Ok(Node::Value(Value { span: self.since(start), ..value }))
            }
            Token::Word(word) if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") => {
                let condition = Condition::Literal(word.eq_ignore_ascii_case("true"));
                self.advance()?;
                Ok(Node::Condition { condition, span: start, parenthesised: false })
            }
            Token::Word(_) => self.metric().map(Node::Value),
            Token::Symbol(_) | Token::End => Err(self.unexpected("a metric or a number")),
        }
    }

    /// A number with its unit or as a rate (`10 per second`).
    pub(super) fn literal(&mut self) -> Result<Value> {
        let value = self.number()?;
        let (Dimension::Scalar, Expression::Number(number), true) =
            (value.dimension, &value.expression, self.at("per"))
        else {
            return Ok(value);
        };
        let number = *number;
        self.advance()?;
        let interval = self.interval()?;
        let expression = Expression::Number(number / interval.as_secs_f64());
        Ok(Value { expression, dimension: Dimension::PerSecond, span: self.since(value.span), shape: Shape::Other })
    }

    /// A number with its unit, glued (`10s`) or after a space (`10 seconds`).
    pub(super) fn number(&mut self) -> Result<Value> {
        let start = self.current.span;
        let Token::Number { mut value, unit } = self.current.token else {
            return Err(self.unexpected("a number"));
        };
        self.advance()?;
        let mut dimension = unit.map_or(Dimension::Scalar, |unit| unit.dimension);
        if unit.is_none()
            && let Token::Word(word) = &self.current.token
            && let Some(unit) = units::find(word)
        {
            let span = start.to(self.current.span);
            let typed = self.lexer.text(start).to_owned();
            value = unit_applied(&typed, value, unit).ok_or_else(|| {
                SentenceError::new(span, format!("`{}` is too large a number", self.lexer.text(span)))
            })?;
            dimension = unit.dimension;
            self.advance()?;
        }
        let plain = unit.is_none() && dimension == Dimension::Scalar;
        let shape = if plain { Shape::Plain(value) } else { Shape::Other };
        Ok(Value { expression: Expression::Number(value), dimension, span: self.since(start), shape })
    }

    /// The unit of time after `per`.
    pub(super) fn interval(&mut self) -> Result<Duration> {
        if let Token::Word(word) = &self.current.token
            && let Some(interval) = units::interval(word)
        {
            self.advance()?;
            return Ok(interval);
        }
        let error = self.unexpected("`second`, `minute`, `hour` or `day`");
        Err(self.suggest(error, &["second", "minute", "hour", "day"]))
    }

    /// Adds the nearest of `words` to an error at the current token.
    pub(super) fn suggest(&self, error: SentenceError, words: &[&str]) -> SentenceError {
        let Token::Word(word) = &self.current.token else { return error };
        match super::vocabulary::nearest(word, words.iter().copied()) {
            Some(nearest) if error.help.is_none() => error.help(format!("did you mean `{nearest}`?")),
            _ => error,
        }
    }

    pub(super) fn duration(&mut self) -> Result<Duration> {
        let start = self.current.span;
        if !matches!(self.current.token, Token::Number { .. }) {
            return Err(self.unexpected("a duration such as `10s`"));
        }
        let value = self.number()?;
        let span = self.since(start);
        let typed = self.lexer.text(span);
        let (Dimension::Seconds, Expression::Number(seconds)) = (value.dimension, value.expression) else {
            let error = SentenceError::new(span, format!("expected a duration such as `10s`, found `{typed}`"));
            return Err(match value.shape {
                Shape::Plain(_) => error.help(format!("write `{typed}s`, or another of ms, s, m, h, d")),
                Shape::Metric | Shape::Other => error,
            });
        };
        let milliseconds = (seconds * 1000.0).round();
        if !(1.0..=MAX_DURATION.as_secs_f64() * 1000.0).contains(&milliseconds) {
            return Err(SentenceError::new(span, format!("`{typed}` is not between 1ms and 1d")));
        }
        Ok(Duration::from_millis(milliseconds as u64))
    }

    /// A metric: `cpu`, `cpu.max`, `p99 latency`, `errors per second`, an object's own word.
    pub(super) fn metric(&mut self) -> Result<Value> {
        let start = self.current.span;
        let Token::Word(typed) = &self.current.token else {
            return Err(self.unexpected("a metric"));
        };
        let typed = typed.clone();
        let (mut word, own) = self.word(&typed)?;
        self.advance()?;
        if let Word::Latency(_) = word {
            if !self.at("latency") {
                let error = self.unexpected("`latency`");
                return Err(error.help(format!("write `{} latency`", typed.to_ascii_lowercase())));
            }
            self.advance()?;
        }
        let mut reduce = own.map_or(Reduce::Mean, |(_, reduce)| reduce);
        if self.at(".") {
            if let Word::Latency(_) | Word::Pods = word {
                return Err(SentenceError::new(self.current.span, format!("`{word}` has one value for all pods"))
                    .help(format!("write `{word}`")));
            }
            self.advance()?;
            reduce = self.reduce()?;
        }
        if matches!(word, Word::Errors | Word::Requests) && self.at("per") {
            self.advance()?;
            let unit = self.current.span;
            if self.interval()? != Duration::from_secs(1) {
                return Err(SentenceError::new(unit, format!("`{word}` are counted per second"))
                    .help(format!("write `{word} per second`")));
            }
            if word == Word::Errors {
                word = Word::ErrorsPerSecond;
            }
        }
        let dimension = own.map(|(dimension, _)| dimension).or_else(|| dimension(&word)).unwrap_or(Dimension::Scalar);
        let expression = Expression::Metric(Metric { word, reduce });
        Ok(Value { expression, dimension, span: self.since(start), shape: Shape::Metric })
    }

    fn word(&self, typed: &str) -> Result<(Word, Option<(Dimension, Reduce)>)> {
        let lower = typed.to_ascii_lowercase();
        let word = match lower.as_str() {
            "cpu" => Word::Cpu,
            "memory" => Word::Memory,
            "requests" => Word::Requests,
            "errors" => Word::Errors,
            "inflight" => Word::Inflight,
            "pods" | "pod" => Word::Pods,
            "p50" => Word::Latency(50),
            "p90" => Word::Latency(90),
            "p99" => Word::Latency(99),
            _ => match self.vocabulary.get(typed) {
                Some(own) => return Ok((Word::Named(typed.to_owned()), Some(own))),
                None => return Err(self.unknown(typed, &lower)),
            },
        };
        Ok((word, None))
    }

    fn unknown(&self, typed: &str, lower: &str) -> SentenceError {
        let span = self.current.span;
        if lower == "latency" {
            return SentenceError::new(span, "expected a percentile before `latency`")
                .help("write `p50 latency`, `p90 latency` or `p99 latency`");
        }
        if lower
            .strip_prefix('p')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        {
            return SentenceError::new(span, format!("`{typed}` is not measured"))
                .help("write `p50 latency`, `p90 latency` or `p99 latency`");
        }
        if KEYWORDS.contains(&lower) {
            return self.unexpected("a metric or a number");
        }
        let error = SentenceError::new(span, format!("unknown word `{typed}`"));
        match self.vocabulary.nearest(lower) {
            Some("latency") => error.help("did you mean `p99 latency`?"),
            Some(nearest) => error.help(format!("did you mean `{nearest}`?")),
            None => error.help(format!("known words: {}", self.vocabulary.list())),
        }
    }

    fn reduce(&mut self) -> Result<Reduce> {
        let reduce = match &self.current.token {
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "max" => Some(Reduce::Max),
                "sum" => Some(Reduce::Sum),
                "mean" => Some(Reduce::Mean),
                _ => None,
            },
            _ => None,
        };
        let Some(reduce) = reduce else {
            let error = self.unexpected("`max`, `sum` or `mean`");
            return Err(self.suggest(error, &["max", "sum", "mean"]));
        };
        self.advance()?;
        Ok(reduce)
    }
}

/// `value`, typed as `typed`, in `unit`. Goes through the text for the same reason as [`units::number`].
fn unit_applied(typed: &str, value: f64, unit: units::Unit) -> Option<f64> {
    if typed.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return units::number(typed, 0, Some(unit));
    }
    let value = value * 10f64.powi(unit.decimal) * unit.factor;
    value.is_finite().then_some(value)
}
