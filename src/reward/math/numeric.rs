//! Value of an expression in double precision at fixed points, for what has no decisive canonical
//! form: nested roots, functions. The points never change, so neither does a verdict.

use std::collections::BTreeSet;

use super::node::{Constant, Function, Node};

/// Where variables are evaluated: of both signs, no special values of common functions.
const POINTS: [[f64; 4]; 5] = [
    [1.37, 2.61, 0.83, 3.29],
    [0.41, 1.93, 2.17, 0.67],
    [2.89, 0.53, 1.71, 4.13],
    [-1.21, 1.47, -0.59, 2.03],
    [0.29, -2.37, 1.09, -0.97],
];
/// Relative difference that is rounding.
const ROUNDING: f64 = 1e-10;
/// Difference that is rounding near 0.
const ROUNDING_AT_ZERO: f64 = 1e-12;

/// Whether two expressions have the same value at every point where both have one, and there are
/// enough such points.
pub fn agree(a: &Node, b: &Node) -> bool {
    let mut names = BTreeSet::new();
    variables(a, &mut names);
    variables(b, &mut names);
    let names: Vec<&str> = names.into_iter().collect();
    let mut agreed = 0;
    for point in &POINTS {
        let value = |name: &str| {
            let i = names.iter().position(|n| *n == name)?;
            // More variables than columns: shifted, so that no two are equal.
            Some(point[i % 4] + 0.173 * (i / 4) as f64)
        };
        let (Some(x), Some(y)) = (evaluate(a, &value), evaluate(b, &value)) else { continue };
        if (x - y).abs() > ROUNDING * x.abs().max(y.abs()) + ROUNDING_AT_ZERO {
            return false;
        }
        agreed += 1;
    }
    agreed >= if names.is_empty() { 1 } else { 2 }
}

/// The value of an expression without variables, if it is finite.
pub fn constant(node: &Node) -> Option<f64> {
    evaluate(node, &|_| None)
}

fn variables<'n>(node: &'n Node, names: &mut BTreeSet<&'n str>) {
    match node {
        Node::Symbol(name) => {
            names.insert(name);
        }
        Node::Sum(parts) | Node::Product(parts) | Node::Call(_, parts) => {
            parts.iter().for_each(|p| variables(p, names));
        }
        Node::Quotient(a, b) | Node::Power(a, b) => {
            variables(a, names);
            variables(b, names);
        }
        Node::Percent(x) | Node::Quantity(x, _) => variables(x, names),
        _ => {}
    }
}

fn evaluate(node: &Node, variable: &dyn Fn(&str) -> Option<f64>) -> Option<f64> {
    let of = |n: &Node| evaluate(n, variable);
    let value = match node {
        Node::Number { value, .. } => value.to_f64(),
        Node::Symbol(name) => variable(name)?,
        Node::Constant(Constant::Pi) => std::f64::consts::PI,
        Node::Constant(Constant::E) => std::f64::consts::E,
        Node::Sum(terms) => terms.iter().try_fold(0.0, |sum, t| Some(sum + of(t)?))?,
        Node::Product(factors) => factors.iter().try_fold(1.0, |p, f| Some(p * of(f)?))?,
        Node::Quotient(a, b) => of(a)? / of(b)?,
        Node::Power(a, b) => raise(of(a)?, of(b)?, b),
        Node::Percent(x) => of(x)? / 100.0,
        Node::Quantity(x, unit) if unit == "degree" => of(x)?.to_radians(),
        Node::Call(function, arguments) => {
            let first = of(arguments.first()?)?;
            match arguments.get(1) {
                Some(second) => two(*function, first, of(second)?)?,
                None => one(*function, first)?,
            }
        }
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// Odd roots of negative numbers are real here, as they are written.
fn raise(base: f64, exponent: f64, written: &Node) -> f64 {
    if let Node::Quotient(top, under) = written
        && let (Some(top), Some(under)) = (constant(top), constant(under))
        && base < 0.0
        && top == 1.0
        && under % 2.0 == 1.0
    {
        return -(-base).powf(exponent);
    }
    base.powf(exponent)
}

fn one(function: Function, x: f64) -> Option<f64> {
    Some(match function {
        Function::Sin => x.sin(),
        Function::Cos => x.cos(),
        Function::Tan => x.tan(),
        Function::Cot => 1.0 / x.tan(),
        Function::Sec => 1.0 / x.cos(),
        Function::Csc => 1.0 / x.sin(),
        Function::Arcsin => x.asin(),
        Function::Arccos => x.acos(),
        Function::Arctan => x.atan(),
        Function::Sinh => x.sinh(),
        Function::Cosh => x.cosh(),
        Function::Tanh => x.tanh(),
        Function::Ln => x.ln(),
        Function::Exp => x.exp(),
        Function::Abs => x.abs(),
        Function::Floor => x.floor(),
        Function::Ceil => x.ceil(),
        Function::Factorial if (0.0..=33.0).contains(&x) && x.fract() == 0.0 => {
            (1..=x as u64).map(|i| i as f64).product()
        }
        Function::Factorial | Function::Binomial | Function::Log => return None,
    })
}

fn two(function: Function, first: f64, second: f64) -> Option<f64> {
    match function {
        Function::Log => Some(second.ln() / first.ln()),
        _ => None,
    }
}
