//! Reads LaTeX or plain mathematics into a [`Node`]: one pass, no backtracking, bounded depth. A text
//! that is not mathematics from its first to its last sign has no tree; nothing is picked out of prose.

use super::node::{Constant, FUNCTIONS, Function, Node, Op};
use super::rational::Rational;
use super::tokens::{Token, tokens};
use super::units;
use crate::reward::answer::fold_spelling;

/// Nesting that is followed; deeper text has no tree.
const MOST_DEPTH: usize = 40;

/// Quotients, exponents and marks behind values in all: each nests what it stands behind.
const MOST_STEPS: usize = 200;

/// Words that stand between values.
const SEPARATORS: [&str; 2] = ["and", "or"];

/// Letters that have a command.
const LETTERS: [&str; 30] = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Sigma",
    "Phi",
    "Omega",
];

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
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    steps: usize,
    /// Inside `|...|`, where a bar closes.
    in_bars: bool,
    /// The text says that it is mathematics (`$` or a command): runs of letters are products.
    marked: bool,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self, token: &Token) -> bool {
        let here = self.peek() == Some(token);
        self.at += usize::from(here);
        here
    }

    fn sign(&mut self, c: char) -> bool {
        self.take(&Token::Sign(c))
    }

    fn command_is(&self, names: &[&str]) -> bool {
        matches!(self.peek(), Some(Token::Command(c)) if names.contains(&c.as_str()))
    }

    fn take_command(&mut self, names: &[&str]) -> bool {
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

    fn items(&mut self) -> Option<Vec<Node>> {
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

    fn sum(&mut self) -> Option<Node> {
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
    fn factor_ahead(&self) -> bool {
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
    fn power(&mut self) -> Option<Node> {
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

    fn exponent(&mut self) -> Option<Node> {
        self.step()?;
        let negative = self.sign('-');
        let mut exponent = self.atom()?;
        if self.sign('^') {
            exponent = Node::Power(Box::new(exponent), Box::new(self.exponent()?));
        }
        Some(if negative { exponent.negated() } else { exponent })
    }

    fn atom(&mut self) -> Option<Node> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return None;
        }
        let token = self.peek()?.clone();
        self.at += 1;
        let node = match token {
            Token::Number { digits, exponent } => Some(number(&digits, exponent)),
            Token::Word { letters, .. } => self.word(&letters),
            Token::Command(name) => self.command(&name),
            Token::Text(text) => Some(Node::Text(text)),
            Token::Sign(open @ ('(' | '[')) => self.bracketed(open),
            Token::Sign('{') => self.group(),
            Token::Sign('|') => self.bars(&Token::Sign('|')),
            Token::Brace('{') => self.set(),
            _ => None,
        };
        self.depth -= 1;
        node
    }

    /// `{...}` of LaTeX: one value; several make a set, as in plain text.
    fn group(&mut self) -> Option<Node> {
        if self.sign('}') {
            return None;
        }
        let bars = std::mem::take(&mut self.in_bars);
        let mut items = self.items()?;
        self.in_bars = bars;
        if !self.sign('}') {
            return None;
        }
        if items.len() == 1 { items.pop() } else { Some(Node::Set(items)) }
    }

    fn set(&mut self) -> Option<Node> {
        let items =
            if self.peek() == Some(&Token::Brace('}')) { Vec::new() } else { self.items()? };
        self.take(&Token::Brace('}')).then_some(Node::Set(items))
    }

    fn bracketed(&mut self, open: char) -> Option<Node> {
        let bars = std::mem::take(&mut self.in_bars);
        let mut items = self.items()?;
        self.in_bars = bars;
        let close = [')', ']'].into_iter().find(|c| self.sign(*c))?;
        match items.len() {
            1 if (open == '(') == (close == ')') => items.pop(),
            1 => None,
            _ => Some(Node::Tuple { open, close, items }),
        }
    }

    fn bars(&mut self, close: &Token) -> Option<Node> {
        let before = std::mem::replace(&mut self.in_bars, true);
        let inside = self.sum()?;
        self.in_bars = before;
        self.take(close).then(|| Node::Call(Function::Abs, vec![inside]))
    }

    fn word(&mut self, letters: &str) -> Option<Node> {
        if let Some((_, function)) = FUNCTIONS.iter().find(|(name, _)| *name == letters) {
            return self.call(*function);
        }
        match letters {
            "pi" => return Some(Node::Constant(Constant::Pi)),
            "infinity" | "inf" | "oo" => return Some(Node::Constant(Constant::Infinity)),
            "sqrt" => return self.root(),
            _ => {}
        }
        let count = letters.chars().count();
        match count {
            1 => self.subscripted(letter(letters)),
            2 | 3 if self.marked || count == 2 => {
                Some(Node::Product(letters.chars().map(|c| letter(&c.to_string())).collect()))
            }
            _ => None,
        }
    }

    /// The index of a variable belongs to its name.
    fn subscripted(&mut self, node: Node) -> Option<Node> {
        if !self.sign('_') {
            return Some(node);
        }
        let name = match node {
            Node::Symbol(name) => name,
            Node::Constant(Constant::E) => "e".into(),
            _ => return None,
        };
        let braced = self.sign('{');
        let mut index = String::new();
        loop {
            match self.peek()? {
                Token::Number { digits, .. } => index += digits,
                Token::Word { letters, .. } => index += letters,
                Token::Text(text) => index += text,
                Token::Sign(c @ (',' | '+' | '-')) if braced => index.push(*c),
                _ => return None,
            }
            self.at += 1;
            if !braced || self.sign('}') {
                return Some(Node::Symbol(format!("{name}_{index}")));
            }
        }
    }

    fn command(&mut self, name: &str) -> Option<Node> {
        match name {
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let top = self.argument()?;
                Some(Node::Quotient(Box::new(top), Box::new(self.argument()?)))
            }
            "binom" | "dbinom" | "tbinom" => {
                let n = self.argument()?;
                Some(Node::Call(Function::Binomial, vec![n, self.argument()?]))
            }
            "sqrt" => self.root(),
            "pi" => Some(Node::Constant(Constant::Pi)),
            "infty" => Some(Node::Constant(Constant::Infinity)),
            "emptyset" | "varnothing" => Some(Node::Set(Vec::new())),
            "boxed" | "fbox" => self.argument(),
            "lvert" | "vert" => {
                let close = if name == "vert" { "vert" } else { "rvert" };
                self.bars(&Token::Command(close.into()))
            }
            "lfloor" => self.delimited("rfloor", Function::Floor),
            "lceil" => self.delimited("rceil", Function::Ceil),
            _ => self.named(name),
        }
    }

    /// A letter, a function or a matrix.
    fn named(&mut self, name: &str) -> Option<Node> {
        if let Some(kind) = name.strip_prefix("begin ") {
            let known = ["matrix", "pmatrix", "bmatrix"].contains(&kind);
            return if known { self.matrix(&format!("end {kind}")) } else { None };
        }
        if LETTERS.contains(&name) {
            return self.subscripted(Node::Symbol(name.to_string()));
        }
        let (_, function) = FUNCTIONS.iter().find(|(n, _)| *n == name)?;
        self.call(*function)
    }

    fn delimited(&mut self, close: &str, function: Function) -> Option<Node> {
        let inside = self.sum()?;
        self.take_command(&[close]).then(|| Node::Call(function, vec![inside]))
    }

    fn root(&mut self) -> Option<Node> {
        let degree = if self.sign('[') {
            let degree = self.sum()?;
            if !self.sign(']') {
                return None;
            }
            degree
        } else {
            Node::integer(2)
        };
        let inside = self.argument()?;
        let exponent = Node::Quotient(Box::new(Node::integer(1)), Box::new(degree));
        Some(Node::Power(Box::new(inside), Box::new(exponent)))
    }

    /// What a command takes: a group, or one sign; of a number its first digit.
    fn argument(&mut self) -> Option<Node> {
        if let Some(Token::Number { digits, exponent: 0 }) = self.tokens.get_mut(self.at)
            && digits.len() > 1
            && !digits.contains('.')
        {
            let first = digits.remove(0);
            return Some(number(&first.to_string(), 0));
        }
        self.atom()
    }

    fn call(&mut self, function: Function) -> Option<Node> {
        let mut base = None;
        let mut exponent = None;
        loop {
            if function == Function::Log && base.is_none() && self.sign('_') {
                base = Some(self.argument()?);
            } else if exponent.is_none() && self.sign('^') {
                exponent = Some(self.exponent()?);
            } else {
                break;
            }
        }
        let inside = self.call_argument()?;
        let arguments = match function {
            // Without a base: 10, as math_verify reads it.
            Function::Log => vec![base.unwrap_or_else(|| Node::integer(10)), inside],
            _ => vec![inside],
        };
        let call = Node::Call(function, arguments);
        Some(match exponent {
            Some(exponent) => Node::Power(Box::new(call), Box::new(exponent)),
            None => call,
        })
    }

    /// `(...)` or the factors up to the next sign or function: `\sin 2x`.
    fn call_argument(&mut self) -> Option<Node> {
        if matches!(self.peek(), Some(Token::Sign('(' | '{'))) {
            return self.power();
        }
        let mut factors = vec![self.power()?];
        while self.factor_ahead() && !self.function_ahead() {
            factors.push(self.power()?);
        }
        Some(product_of(factors))
    }

    fn function_ahead(&self) -> bool {
        let name = match self.peek() {
            Some(Token::Word { letters, .. }) => letters,
            Some(Token::Command(name)) => name,
            Some(Token::Sign('(')) => return true,
            _ => return false,
        };
        let joins = ["cdot", "times", "div", "ast"];
        FUNCTIONS.iter().any(|(n, _)| n == name) || joins.contains(&name.as_str())
    }

    fn matrix(&mut self, end: &str) -> Option<Node> {
        let mut rows = vec![vec![self.sum()?]];
        loop {
            if self.sign('&') {
                let cell = self.sum()?;
                rows.last_mut()?.push(cell);
            } else if self.take(&Token::Row) {
                if self.take_command(&[end]) {
                    return Some(Node::Matrix(rows));
                }
                rows.push(vec![self.sum()?]);
            } else {
                return self.take_command(&[end]).then_some(Node::Matrix(rows));
            }
        }
    }
}

fn is_op(name: &str) -> bool {
    const OPS: [&str; 14] = [
        "le", "leq", "leqslant", "ge", "geq", "geqslant", "lt", "gt", "ne", "neq", "cdot", "times",
        "div", "ast",
    ];
    OPS.contains(&name)
}

fn product_of(mut factors: Vec<Node>) -> Node {
    if factors.len() == 1 { factors.remove(0) } else { Node::Product(factors) }
}

fn letter(name: &str) -> Node {
    match name {
        "e" => Node::Constant(Constant::E),
        "i" => Node::Constant(Constant::I),
        _ => Node::Symbol(name.to_string()),
    }
}

fn number(digits: &str, exponent: i32) -> Node {
    match Rational::decimal(digits, exponent) {
        Some(value) => Node::Number { value, decimal: digits.contains('.') || exponent < 0 },
        None => Node::Huge(format!("{digits}e{exponent}")),
    }
}
