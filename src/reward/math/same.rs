//! Whether two trees say the same: [`Rules::Strict`] is this program's, [`Rules::MathVerify`] takes
//! back what is stricter in it, so that published rewards can be reproduced. The reference comes
//! first: what it leaves open the answer may leave open, not the other way round.

use super::node::{Node, Op};
use super::numeric;
use super::poly::{Forms, canonical};
use super::rational::Rational;
use super::units;

/// How strictly answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Units must agree, a number without a per cent sign does not become one, only a reference that
    /// is a decimal is compared rounded, a set is no tuple.
    Strict,
    /// As math_verify 0.9.0 with its default settings.
    MathVerify,
}

/// Whether `said` says what `reference` says.
pub fn same(reference: &Node, said: &Node, rules: Rules) -> bool {
    let (reference, said) = (unwrapped(reference), unwrapped(said));
    match (&reference, &said) {
        (Node::Relation { .. }, _) | (_, Node::Relation { .. }) => {
            relations(&reference, &said, rules)
        }
        (Node::Quantity(a, u), Node::Quantity(b, v)) => {
            (rules == Rules::MathVerify || units::same(u, v)) && same(a, b, rules)
        }
        (Node::Quantity(a, _), b) => same(a, b, rules),
        (a, Node::Quantity(b, unit)) => {
            (rules == Rules::MathVerify || units::is_known(unit)) && same(a, b, rules)
        }
        (Node::Text(a), b) => text_is(a, b),
        (a, Node::Text(b)) => text_is(b, a),
        (Node::Matrix(a), Node::Matrix(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| in_order(a, b, rules))
        }
        (Node::Union(a), Node::Union(b)) => one_to_one(a, b, rules),
        (Node::Tuple { open: o, close: c, items: a }, Node::Tuple { open, close, items: b }) => {
            o == open && c == close && in_order(a, b, rules)
        }
        // math_verify reads `(1,2)` and `1,2` as one thing; the order counts then.
        (Node::Tuple { open: '(', close: ')', items: a }, Node::List(b))
        | (Node::List(a), Node::Tuple { open: '(', close: ')', items: b }) => in_order(a, b, rules),
        (Node::Set(a), Node::Tuple { open: '(', close: ')', items: b })
            if rules == Rules::MathVerify =>
        {
            in_order(a, b, rules)
        }
        (Node::Set(a) | Node::List(a), Node::Set(b) | Node::List(b)) => {
            let (a, b) = (distinct(a, rules), distinct(b, rules));
            one_to_one(&a, &b, rules)
        }
        (Node::Set(a), b) | (b, Node::Set(a)) if a.len() == 1 => same(&a[0], b, rules),
        (a, b) => expressions(a, b, rules),
    }
}

/// `x ∈ S` is S.
fn unwrapped(node: &Node) -> Node {
    match node {
        Node::Relation { sides, ops } if ops[..] == [Op::In] && is_symbol(&sides[0]) => {
            sides[1].clone()
        }
        other => other.clone(),
    }
}

fn is_symbol(node: &Node) -> bool {
    match node {
        Node::Symbol(_) => true,
        Node::Product(parts) => parts.iter().all(is_symbol),
        _ => false,
    }
}

fn in_order(a: &[Node], b: &[Node], rules: Rules) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, rules))
}

/// Each of `a` with a partner of its own in `b`.
fn one_to_one(a: &[Node], b: &[Node], rules: Rules) -> bool {
    let mut free: Vec<&Node> = b.iter().collect();
    a.len() == b.len()
        && a.iter().all(|x| match free.iter().position(|y| same(x, y, rules)) {
            Some(i) => {
                free.remove(i);
                true
            }
            None => false,
        })
}

fn distinct(items: &[Node], rules: Rules) -> Vec<Node> {
    let mut kept: Vec<Node> = Vec::new();
    for item in items {
        if !kept.iter().any(|k| same(k, item, rules)) {
            kept.push(item.clone());
        }
    }
    kept
}

/// A text and what was written without `\text`: the same letters, in order.
fn text_is(text: &str, other: &Node) -> bool {
    let bare = |t: &str| t.trim_matches(|c: char| "()[] .".contains(c)).to_lowercase();
    match other {
        Node::Text(other) => bare(text) == bare(other),
        other => letters(other).is_some_and(|l| l.to_lowercase() == bare(text)),
    }
}

fn letters(node: &Node) -> Option<String> {
    use super::node::Constant;
    match node {
        Node::Symbol(name) => Some(name.clone()),
        Node::Constant(Constant::E) => Some("e".into()),
        Node::Constant(Constant::I) => Some("i".into()),
        Node::Product(parts) => parts.iter().map(letters).collect(),
        _ => None,
    }
}

fn expressions(a: &Node, b: &Node, rules: Rules) -> bool {
    match (a, b) {
        (Node::Percent(x), Node::Percent(y)) => return same(x, y, rules),
        // The reference has the sign, the answer may leave it out as any unit.
        (Node::Percent(x), y) => {
            return value_same(a, y, rules) || (plain(x, rules) && same(x, y, rules));
        }
        (x, Node::Percent(y)) => {
            let written = rules == Rules::MathVerify && is_integer(x) && is_integer(y);
            return value_same(x, b, rules) || (written && same(x, y, rules));
        }
        _ => {}
    }
    value_same(a, b, rules)
}

fn is_integer(node: &Node) -> bool {
    matches!(node, Node::Number { decimal: false, .. })
}

fn plain(node: &Node, rules: Rules) -> bool {
    rules == Rules::Strict || is_integer(node)
}

fn is_decimal(node: &Node) -> bool {
    match node {
        Node::Number { decimal, .. } => *decimal,
        Node::Percent(x) => is_decimal(x),
        _ => false,
    }
}

fn value_same(a: &Node, b: &Node, rules: Rules) -> bool {
    let (Ok(x), Ok(y)) = (canonical(a), canonical(b)) else { return false };
    match x.compare(&y) {
        Ok(Forms::Same) => return true,
        Ok(Forms::Undecided) if numeric::agree(a, b) => return true,
        Err(_) => return false,
        _ => {}
    }
    let rounded = is_decimal(a) || (rules == Rules::MathVerify && is_decimal(b));
    if !rounded {
        return false;
    }
    match (x.value(), y.value()) {
        // To sympy 3.0000001 rounded is no integer.
        (Some(x), Some(y)) if rules == Rules::MathVerify => {
            let whole =
                (!is_decimal(a) && x.whole().is_some()) || (!is_decimal(b) && y.whole().is_some());
            !whole && rounded_at_six(x) == rounded_at_six(y)
        }
        (Some(x), Some(y)) => round_to_same(x, y),
        _ => match (numeric::constant(a), numeric::constant(b)) {
            (Some(x), Some(y)) => doubles_round_to_same(x, y, rules),
            _ => false,
        },
    }
}

/// Six digits behind the point (math_verify's `float_rounding`); strictly also six in all, so that
/// small numbers are not all 0.
fn round_to_same(reference: Rational, said: Rational) -> bool {
    let within = |limit: Option<Rational>| {
        let distance = reference.sub(said).map(Rational::abs);
        distance.zip(limit).and_then(|(d, l)| d.compare(l)).is_some_and(|order| order.is_le())
    };
    let relative = Rational::new(1, 200_000).and_then(|r| r.mul(reference.abs()));
    within(Rational::new(1, 2_000_000)) && within(relative)
}

fn rounded_at_six(x: Rational) -> Option<i128> {
    let scaled = x.mul(Rational::new(1_000_000, 1)?)?;
    Some(scaled.add(Rational::HALF)?.floor())
}

fn doubles_round_to_same(reference: f64, said: f64, rules: Rules) -> bool {
    if rules == Rules::MathVerify {
        return (reference * 1e6).round() == (said * 1e6).round();
    }
    (reference - said).abs() <= 5e-7_f64.min(5e-6 * reference.abs())
}

/// Relations against relations, and relations whose side or set is the answer.
fn relations(reference: &Node, said: &Node, rules: Rules) -> bool {
    match (reference, said) {
        (Node::Relation { sides: a, ops: o }, Node::Relation { sides: b, ops: p }) => {
            let (a, o) = chained(a, o);
            let (b, p) = chained(b, p);
            both_relations(&a, &o, &b, &p, rules)
        }
        // The answer is an equation, the reference a value: its last side counts, if it gives a
        // name to a value or is true.
        (value, Node::Relation { sides, ops }) if ops.iter().all(|o| *o == Op::Equal) => {
            let Some(last) = sides.last() else { return false };
            let names = is_symbol(&sides[0]);
            let holds = sides.iter().all(|s| same(last, s, rules));
            (names || holds || rules == Rules::MathVerify) && same(value, last, rules)
        }
        (Node::Relation { sides, ops }, value) if ops.iter().all(|o| *o == Op::Equal) => {
            let single = matches!(sides[0], Node::Symbol(_));
            let names = single || (rules == Rules::MathVerify && only_symbols(&sides[0]));
            names && sides.last().is_some_and(|last| same(last, value, rules))
        }
        (Node::Relation { sides, ops }, Node::Tuple { .. } | Node::Union(_)) => {
            interval(sides, ops).is_some_and(|i| same(&i, said, rules))
        }
        _ => false,
    }
}

fn only_symbols(node: &Node) -> bool {
    match node {
        Node::Sum(parts) => parts.iter().all(is_symbol),
        other => is_symbol(other),
    }
}

/// `x = a = b` is `x = b`; a chain that falls is read from its end.
fn chained(sides: &[Node], ops: &[Op]) -> (Vec<Node>, Vec<Op>) {
    let (first, last) = (&sides[0], &sides[sides.len() - 1]);
    if ops.len() > 1 && ops.iter().all(|o| *o == Op::Equal) {
        return (vec![first.clone(), last.clone()], vec![Op::Equal]);
    }
    if matches!(ops[0], Op::Greater | Op::GreaterOrEqual) {
        let sides = sides.iter().rev().cloned().collect();
        return (sides, ops.iter().rev().map(|o| o.flipped()).collect());
    }
    (sides.to_vec(), ops.to_vec())
}

fn both_relations(a: &[Node], o: &[Op], b: &[Node], p: &[Op], rules: Rules) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if o == p && in_order(a, b, rules) {
        return true;
    }
    if a.len() != 2 {
        return false;
    }
    // Equal if the differences of the sides are: up to a factor, whose sign turns an inequality.
    let difference = |sides: &[Node]| {
        canonical(&Node::Sum(vec![sides[0].clone(), sides[1].clone().negated()])).ok()
    };
    let factor = difference(a).zip(difference(b)).and_then(|(x, y)| x.ratio(&y));
    factor.is_some_and(|k| o[0] == if k.numerator() > 0 { p[0] } else { p[0].flipped() })
}

/// The interval that an inequality for one symbol describes.
fn interval(sides: &[Node], ops: &[Op]) -> Option<Node> {
    use super::node::Constant;
    let (sides, ops) = chained(sides, ops);
    let infinity = Node::Constant(Constant::Infinity);
    let symbol = |n: &Node| matches!(n, Node::Symbol(_));
    let (low, left, right, high) = match (&sides[..], &ops[..]) {
        ([x, high], [op]) if symbol(x) => (infinity.clone().negated(), Op::Less, *op, high.clone()),
        ([low, x], [op]) if symbol(x) => (low.clone(), *op, Op::Less, infinity),
        ([low, x, high], [left, right]) if symbol(x) => (low.clone(), *left, *right, high.clone()),
        _ => return None,
    };
    let closed = |op: Op, open: char, closed: char| match op {
        Op::Less => Some(open),
        Op::LessOrEqual => Some(closed),
        _ => None,
    };
    Some(Node::Tuple {
        open: closed(left, '(', '[')?,
        close: closed(right, ')', ']')?,
        items: vec![low, high],
    })
}
