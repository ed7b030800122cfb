//! Expressions: arithmetic, literals with units, metrics.

use std::time::Duration;

use super::{Node, Parser, Result};
use crate::{
    language::{
        MAX_DURATION, SentenceError,
        ast::{Arithmetic, Condition, Dimension, Expression},
        check::{self, Shape, Value},
        lexer::Token,
        units,
        vocabulary::{KEYWORDS, dimension, nearest},
    },
    metric::{Metric, Reduce, Word},
};

impl Parser<'_> {
    pub(in crate::language) fn value(&mut self) -> Result<Value> {
        let node = self.sum()?;
        self.require_value(node)
    }

    pub(super) fn require_value(&self, node: Node) -> Result<Value> {
        match node {
            Node::Value(value) => Ok(value),
            Node::Condition { span, parenthesised, .. } => {
                let what = if parenthesised { "a condition in parentheses" } else { "a condition" };
                Err(SentenceError::new(span, format!("expected a number or a metric, found {what}"))
                    .help("join conditions with `and` or `or`"))
            }
        }
    }

    pub(super) fn sum(&mut self) -> Result<Node> {
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
    pub(in crate::language) fn literal(&mut self) -> Result<Value> {
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
    pub(in crate::language) fn number(&mut self) -> Result<Value> {
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
    pub(in crate::language) fn interval(&mut self) -> Result<Duration> {
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
    pub(in crate::language) fn suggest(&self, error: SentenceError, words: &[&str]) -> SentenceError {
        let Token::Word(word) = &self.current.token else { return error };
        match nearest(word, words.iter().copied()) {
            Some(nearest) if error.help.is_none() => error.help(format!("did you mean `{nearest}`?")),
            _ => error,
        }
    }

    pub(in crate::language) fn duration(&mut self) -> Result<Duration> {
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
    pub(in crate::language) fn metric(&mut self) -> Result<Value> {
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
