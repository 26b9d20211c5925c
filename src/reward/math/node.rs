//! What a mathematical text says, as a tree. Nothing is computed here.

use super::rational::Rational;

/// One expression, relation, set or list.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A literal; `decimal` if it was written with a point or a negative power of ten.
    Number { value: Rational, decimal: bool },
    /// A literal that does not fit: only its digits can be compared.
    Huge(String),
    /// A variable, with its index: `x`, `x_1`, `alpha`.
    Symbol(String),
    /// `\text{...}`, lower case.
    Text(String),
    /// π, e, i or ∞.
    Constant(Constant),
    /// Terms.
    Sum(Vec<Node>),
    /// Factors.
    Product(Vec<Node>),
    /// Dividend and divisor.
    Quotient(Box<Node>, Box<Node>),
    /// Base and exponent.
    Power(Box<Node>, Box<Node>),
    /// A named function of its arguments.
    Call(Function, Vec<Node>),
    /// `x%`.
    Percent(Box<Node>),
    /// A quantity with its unit.
    Quantity(Box<Node>, String),
    /// Two values in order between brackets: a tuple, a point or an interval.
    Tuple { open: char, close: char, items: Vec<Node> },
    /// `{...}`.
    Set(Vec<Node>),
    /// Several values without brackets.
    List(Vec<Node>),
    /// Sets joined by ∪.
    Union(Vec<Node>),
    /// `sides[0] ops[0] sides[1] ...`.
    Relation { sides: Vec<Node>, ops: Vec<Op> },
    /// Rows of a matrix.
    Matrix(Vec<Vec<Node>>),
}

/// A constant that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constant {
    /// π
    Pi,
    /// e
    E,
    /// i
    I,
    /// ∞
    Infinity,
}

/// A function that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Ln,
    /// Logarithm of the second argument to the base of the first.
    Log,
    Exp,
    Abs,
    Floor,
    Ceil,
    Factorial,
    Binomial,
}

/// Names of functions of one argument, as LaTeX commands and as words.
pub const FUNCTIONS: [(&str, Function); 17] = [
    ("sin", Function::Sin),
    ("cos", Function::Cos),
    ("tan", Function::Tan),
    ("cot", Function::Cot),
    ("sec", Function::Sec),
    ("csc", Function::Csc),
    ("arcsin", Function::Arcsin),
    ("arccos", Function::Arccos),
    ("arctan", Function::Arctan),
    ("sinh", Function::Sinh),
    ("cosh", Function::Cosh),
    ("tanh", Function::Tanh),
    ("ln", Function::Ln),
    ("log", Function::Log),
    ("exp", Function::Exp),
    ("abs", Function::Abs),
    ("floor", Function::Floor),
];

/// How two sides stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Op {
    /// The same relation read from right to left.
    pub fn flipped(self) -> Op {
        match self {
            Op::Less => Op::Greater,
            Op::LessOrEqual => Op::GreaterOrEqual,
            Op::Greater => Op::Less,
            Op::GreaterOrEqual => Op::LessOrEqual,
            other => other,
        }
    }
}

impl Node {
    /// A whole number.
    pub fn integer(n: i64) -> Node {
        Node::Number { value: Rational::integer(n), decimal: false }
    }

    /// The same with the other sign.
    pub fn negated(self) -> Node {
        match self {
            Node::Number { value, decimal } => Node::Number { value: value.negative(), decimal },
            Node::Percent(x) => Node::Percent(Box::new(x.negated())),
            Node::Quantity(x, unit) => Node::Quantity(Box::new(x.negated()), unit),
            other => Node::Product(vec![Node::integer(-1), other]),
        }
    }
}
