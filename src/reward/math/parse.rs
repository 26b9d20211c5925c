//! Reads LaTeX or plain mathematics into a [`Node`]: one pass, no backtracking, bounded depth. A text
//! that is not mathematics from its first to its last sign has no tree; nothing is picked out of prose.

use super::node::{FUNCTIONS, Function, Node, Op};
use super::tokens::{Token, tokens};
use super::units;
use crate::reward::answer::fold_spelling;

/// Quotients, exponents and marks behind values in all: each nests what it stands behind.
const MOST_STEPS: usize = 200;

/// Words that stand between values.
const SEPARATORS: [&str; 2] = ["and", "or"];

/// The tree of a text, or None if it is not mathematics as a whole.
pub fn parse(text: &str) -> Option<Node> {
    let folded = fold_spelling(text);
    let mut text = folded.trim();
    while let Some(rest) = text.strip_suffix(['.', ',', ';']) {
        text = rest.trim_end();
    }
    let marked = text.contains(['$', '\\']);
    if !marked && text.chars().all(|c| c.is_alphabetic() || c.is_whitespace()) {
        let one = text.chars().count() == 1 || ["pi", "infinity"].contains(&text);
        if !one {
            return None;
        }
    }
    let priced = text.starts_with('$') && !text.ends_with('$');
    let text = if priced { format!("\\{text}") } else { text.to_string() };
    let mut parser =
        Parser { tokens: tokens(&text)?, at: 0, depth: 0, steps: 0, in_bars: false, marked };
    let node = parser.value()?;
    (parser.at == parser.tokens.len()).then_some(node)
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    pub(super) depth: usize,
    steps: usize,
    /// Inside `|...|`, where a bar closes.
    pub(super) in_bars: bool,
    /// The text says that it is mathematics (`$` or a command): runs of letters are products.
    pub(super) marked: bool,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn take(&mut self, token: &Token) -> bool {
        let here = self.peek() == Some(token);
        self.at += usize::from(here);
        here
    }

    pub(super) fn sign(&mut self, c: char) -> bool {
        self.take(&Token::Sign(c))
    }

    fn command_is(&self, names: &[&str]) -> bool {
        matches!(self.peek(), Some(Token::Command(c)) if names.contains(&c.as_str()))
    }

    pub(super) fn take_command(&mut self, names: &[&str]) -> bool {
        let here = self.command_is(names);
        self.at += usize::from(here);
        here
    }

    /// Counts what nests without brackets.
    fn step(&mut self) -> Option<()> {
        self.steps += 1;
        (self.steps <= MOST_STEPS).then_some(())
    }

    /// Values with separators between them.
    fn value(&mut self) -> Option<Node> {
        let items = self.items()?;
        Some(if items.len() == 1 { items.into_iter().next()? } else { Node::List(items) })
    }

    pub(super) fn items(&mut self) -> Option<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.relation()? {
                Node::List(several) => items.extend(several),
                one => items.push(one),
            }
            let mut separated = self.sign(',') || self.sign(';');
            separated |= self.separator_word();
            if !separated {
                return Some(items);
            }
        }
    }

    fn separator_word(&mut self) -> bool {
        let here = match self.peek() {
            Some(Token::Word { letters, .. }) => SEPARATORS.contains(&letters.as_str()),
            Some(Token::Text(text)) => SEPARATORS.contains(&text.as_str()),
            _ => false,
        };
        self.at += usize::from(here);
        here
    }

    fn relation(&mut self) -> Option<Node> {
        let first = self.side()?;
        if self.peek() == Some(&Token::Sign(':')) {
            let mut items = vec![first];
            while self.sign(':') {
                items.push(self.side()?);
            }
            return Some(Node::Tuple { open: ':', close: ':', items });
        }
        let (mut sides, mut ops) = (vec![first], Vec::new());
        while let Some(op) = self.op() {
            ops.push(op);
            sides.push(self.side()?);
        }
        Some(if ops.is_empty() { sides.pop()? } else { Node::Relation { sides, ops } })
    }

    fn op(&mut self) -> Option<Op> {
        const COMMANDS: [(&str, Op); 11] = [
            ("le", Op::LessOrEqual),
            ("leq", Op::LessOrEqual),
            ("leqslant", Op::LessOrEqual),
            ("ge", Op::GreaterOrEqual),
            ("geq", Op::GreaterOrEqual),
            ("geqslant", Op::GreaterOrEqual),
            ("lt", Op::Less),
            ("gt", Op::Greater),
            ("ne", Op::NotEqual),
            ("neq", Op::NotEqual),
            ("in", Op::In),
        ];
        let op = match self.peek()? {
            Token::Sign('=') => Op::Equal,
            Token::Sign('<') => Op::Less,
            Token::Sign('>') => Op::Greater,
            Token::Sign('!') if self.tokens.get(self.at + 1) == Some(&Token::Sign('=')) => {
                self.at += 1;
                Op::NotEqual
            }
            Token::Command(name) => COMMANDS.iter().find(|(n, _)| n == name)?.1,
            _ => return None,
        };
        self.at += 1;
        Some(match op {
            Op::Less if self.sign('=') => Op::LessOrEqual,
            Op::Greater if self.sign('=') => Op::GreaterOrEqual,
            op => op,
        })
    }

    /// A sum or a union of sets, with the unit behind or the currency before it.
    fn side(&mut self) -> Option<Node> {
        let currency =
            ["dollar", "euro", "GBP", "yen"].into_iter().find(|c| self.take_command(&[c]));
        let first = self.sum()?;
        if self.command_is(&["cup"]) {
            let mut parts = vec![first];
            while self.take_command(&["cup"]) {
                parts.push(self.sum()?);
            }
            return Some(Node::Union(parts));
        }
        let unit = currency.map(str::to_string).or_else(|| self.unit());
        Some(match unit {
            Some(unit) => Node::Quantity(Box::new(first), unit),
            None => first,
        })
    }

    /// The words behind a number, as one text.
    fn unit(&mut self) -> Option<String> {
        let mut unit = String::new();
        loop {
            match self.peek() {
                Some(Token::Text(t)) if !SEPARATORS.contains(&t.as_str()) => {
                    unit = format!("{unit} {t}");
                }
                Some(Token::Word { letters, .. }) if !SEPARATORS.contains(&letters.as_str()) => {
                    unit = format!("{unit} {letters}");
                }
                Some(Token::Command(c)) if ["dollar", "degree", "circ"].contains(&c.as_str()) => {
                    unit = format!("{unit} {c}");
                }
                Some(Token::Sign('/')) if !unit.is_empty() => unit.push('/'),
                Some(Token::Sign('^')) if !unit.is_empty() => unit.push('^'),
                Some(Token::Sign('{' | '}')) if unit.contains('^') => {}
                Some(Token::Number { digits, .. }) if unit.ends_with('^') => unit += digits,
                _ => break,
            }
            self.at += 1;
        }
        let unit = unit.trim().replace("/ ", "/");
        (!unit.is_empty()).then_some(unit)
    }

    pub(super) fn sum(&mut self) -> Option<Node> {
        let mut terms: Vec<Node> = Vec::new();
        let mut either: Option<usize> = None;
        loop {
            let plus_minus = self.take_command(&["pm"]);
            let negative = !plus_minus && self.sign('-');
            let signed = plus_minus || negative || self.sign('+');
            if !signed && !terms.is_empty() {
                break;
            }
            if plus_minus && either.replace(terms.len()).is_some() {
                return None;
            }
            let term = self.product()?;
            terms.push(if negative { term.negated() } else { term });
        }
        let sum = |mut terms: Vec<Node>| match terms.len() {
            1 => terms.pop(),
            _ => Some(Node::Sum(terms)),
        };
        let Some(i) = either else { return sum(terms) };
        let mut other = terms.clone();
        other[i] = other[i].clone().negated();
        Some(Node::List(vec![sum(terms)?, sum(other)?]))
    }

    fn product(&mut self) -> Option<Node> {
        let mut factors = vec![self.signed_power()?];
        loop {
            if self.sign('*') || self.take_command(&["cdot", "times", "ast"]) {
                factors.push(self.signed_power()?);
            } else if self.sign('/') || self.take_command(&["div"]) {
                self.step()?;
                let divisor = self.signed_power()?;
                let dividend = product_of(factors);
                factors = vec![Node::Quotient(Box::new(dividend), Box::new(divisor))];
            } else if let Some(mixed) = self.mixed(&factors) {
                factors = vec![mixed?];
            } else if self.factor_ahead() {
                factors.push(self.power()?);
            } else {
                return Some(product_of(factors));
            }
        }
    }

    /// A factor behind a sign of multiplication may be negative: `2 * -3`.
    fn signed_power(&mut self) -> Option<Node> {
        if self.sign('-') { Some(self.power()?.negated()) } else { self.power() }
    }

    /// `1 1/2` and `1\frac{1}{2}` are sums; two numbers side by side are otherwise nothing.
    fn mixed(&mut self, factors: &[Node]) -> Option<Option<Node>> {
        let [Node::Number { value, decimal: false }] = factors else { return None };
        let whole = value.whole()?;
        let fraction = match self.peek()? {
            Token::Number { .. } => {
                let top = self.power();
                let over = self.sign('/').then(|| self.power()).flatten();
                top.zip(over)
            }
            Token::Command(c) if c.ends_with("frac") => {
                let Some(Node::Quotient(top, over)) = self.power() else { return Some(None) };
                let literal = |n: &Node| matches!(n, Node::Number { decimal: false, .. });
                if !(literal(&top) && literal(&over)) {
                    let quotient = Node::Quotient(top, over);
                    return Some(Some(Node::Product(vec![factors[0].clone(), quotient])));
                }
                Some((*top, *over))
            }
            _ => return None,
        };
        let both = |(top, over)| {
            let part = Node::Quotient(Box::new(top), Box::new(over));
            let part = if whole < 0 { part.negated() } else { part };
            Node::Sum(vec![factors[0].clone(), part])
        };
        Some(fraction.map(both))
    }

    /// Whether a factor follows without a sign of multiplication.
    pub(super) fn factor_ahead(&self) -> bool {
        match self.peek() {
            Some(Token::Word { letters, spaced }) => {
                let word = letters.as_str();
                let known =
                    FUNCTIONS.iter().any(|(n, _)| *n == word) || ["pi", "sqrt"].contains(&word);
                let last = !matches!(
                    self.tokens.get(self.at + 1),
                    Some(Token::Sign('+' | '-' | '=' | '*' | '(' | '_'))
                );
                let unit = units::is_known(word) && last && (*spaced || word.len() > 1);
                known || (!unit && !SEPARATORS.contains(&word) && letters.chars().count() <= 3)
            }
            Some(Token::Command(name)) => {
                let joins = [
                    "cup", "in", "pm", "circ", "degree", "dollar", "rfloor", "rceil", "rvert",
                    "approx",
                ];
                let ends = name.starts_with("end ") || joins.contains(&name.as_str());
                !ends && !is_op(name)
            }
            Some(Token::Sign('(' | '{')) => true,
            Some(Token::Sign('|')) => !self.in_bars,
            _ => false,
        }
    }

    /// A base with what is written behind it: exponent, `!`, `%`, degrees.
    pub(super) fn power(&mut self) -> Option<Node> {
        let mut base = self.atom()?;
        let mut marks = 0;
        loop {
            marks += 1;
            if marks > 2 {
                self.step()?;
            }
            if self.sign('^') {
                let brace = self.peek() == Some(&Token::Sign('{'));
                let inside = if brace { self.tokens.get(self.at + 1) } else { self.peek() };
                if matches!(inside, Some(Token::Command(c)) if c == "circ" || c == "degree") {
                    self.at += if brace { 3 } else { 1 };
                    base = Node::Quantity(Box::new(base), "degree".into());
                    continue;
                }
                let exponent = self.exponent()?;
                base = Node::Power(Box::new(base), Box::new(exponent));
            } else if self.peek() == Some(&Token::Sign('!'))
                && self.tokens.get(self.at + 1) != Some(&Token::Sign('='))
            {
                self.at += 1;
                base = Node::Call(Function::Factorial, vec![base]);
            } else if self.sign('%') || self.percent_word() {
                base = Node::Percent(Box::new(base));
            } else if self.take_command(&["circ", "degree"]) {
                base = Node::Quantity(Box::new(base), "degree".into());
            } else {
                return Some(base);
            }
        }
    }

    fn percent_word(&mut self) -> bool {
        let here = match self.peek() {
            Some(Token::Word { letters, .. }) => units::is_percent(letters),
            Some(Token::Text(text)) => units::is_percent(text),
            _ => false,
        };
        self.at += usize::from(here);
        here
    }

    pub(super) fn exponent(&mut self) -> Option<Node> {
        self.step()?;
        let negative = self.sign('-');
        let mut exponent = self.atom()?;
        if self.sign('^') {
            exponent = Node::Power(Box::new(exponent), Box::new(self.exponent()?));
        }
        Some(if negative { exponent.negated() } else { exponent })
    }
}

fn is_op(name: &str) -> bool {
    const OPS: [&str; 14] = [
        "le", "leq", "leqslant", "ge", "geq", "geqslant", "lt", "gt", "ne", "neq", "cdot", "times",
        "div", "ast",
    ];
    OPS.contains(&name)
}

pub(super) fn product_of(mut factors: Vec<Node>) -> Node {
    if factors.len() == 1 { factors.remove(0) } else { Node::Product(factors) }
}
