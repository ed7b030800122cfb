//! Recursive descent over conditions and expressions.
//!
//! Values and conditions share one descent, because after `(` either may follow: `(cpu + 10%) * 2 > 1` and
//! `(cpu > 80% or errors > 5%) for 10s`. What an operator needs is checked when it is met.

mod values;

use crate::language::{
    MAX_DEPTH, SentenceError, Span, Vocabulary,
    ast::{Comparison, Condition, Dimension},
    check::{self, Shape, Value},
    lexer::{Lexeme, Lexer, Token},
    units,
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
}
