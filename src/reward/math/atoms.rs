//! The smallest parts of a formula: numbers, names, commands, brackets, functions, matrices. Part of
//! the parser; what stands between them is read in its main file.

use super::node::{Constant, FUNCTIONS, Function, Node};
use super::parse::{Parser, product_of};
use super::rational::Rational;
use super::tokens::Token;

/// Nesting that is followed; deeper text has no tree.
const MOST_DEPTH: usize = 40;

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

impl Parser {
    pub(super) fn atom(&mut self) -> Option<Node> {
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
