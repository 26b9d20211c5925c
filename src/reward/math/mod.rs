//! Whether two mathematical texts are one answer: numbers, fractions, LaTeX, roots, sets, intervals,
//! tuples, unions, per cent, units, equations, polynomials. Time, depth and sizes are bounded, and
//! what exceeds them is compared as text; the same pair always has the same verdict.

mod atoms; // smallest parts of a formula
pub mod extract; // formulas in prose, as math_verify finds them
pub mod node; // the tree
mod numeric; // values at fixed points
mod parse; // text to tree
mod poly; // canonical form
pub mod rational; // exact fractions
mod same; // tree against tree
mod tokens; // text to tokens
pub mod units; // names of units

pub use node::Node;
pub use parse::parse;
pub use same::{Rules, same};

/// Sets, lists and unions inside each other, and items of one: more is not compared item by item.
const MOST_NESTING: usize = 3;
const MOST_ITEMS: usize = 64;

/// Whether `said` is the answer `reference`; None if the reference is no mathematics.
///
/// `{2, 1}` is `1, 2`; `(1, 2)` is not `[1, 2]`; `x = 3` is `3`; `50%` is `1/2`; a unit may be left
/// out but not exchanged. An exact reference asks for an exact answer; a decimal one is met by what
/// rounds to it at the sixth digit.
pub fn equivalent(reference: &str, said: &str, rules: Rules) -> Option<bool> {
    let wanted = read(reference)?;
    if same_text(reference, said) {
        return Some(true);
    }
    Some(match (read(said), &wanted) {
        (Some(said), wanted) => same(wanted, &said, rules),
        // Words need no `\text` to be the word.
        (None, Node::Text(word)) => {
            let (word, said) = (super::answer::normalise(word), super::answer::normalise(said));
            !word.is_empty() && word == said
        }
        (None, _) => false,
    })
}

/// The tree of a text, if it is mathematics of a size that is compared.
pub fn read(text: &str) -> Option<Node> {
    parse(text).filter(|node| nesting(node).is_some_and(|n| n <= MOST_NESTING))
}

/// Equal but for white space and dollar signs.
fn same_text(a: &str, b: &str) -> bool {
    let bare = |t: &str| t.chars().filter(|c| !c.is_whitespace() && *c != '$').collect::<String>();
    let a = bare(a);
    !a.is_empty() && a == bare(b)
}

/// Depth of collections; None if one has too many items.
fn nesting(node: &Node) -> Option<usize> {
    let deepest = |items: &[Node]| {
        let inner: Option<Vec<usize>> = items.iter().map(nesting).collect();
        let inner = inner?.into_iter().max().unwrap_or(0);
        (items.len() <= MOST_ITEMS).then_some(inner + 1)
    };
    match node {
        Node::Set(items) | Node::List(items) | Node::Union(items) => deepest(items),
        Node::Tuple { items, .. } => deepest(items),
        Node::Relation { sides, .. } => Some(deepest(sides)? - 1),
        Node::Matrix(rows) => {
            let rows: Option<Vec<usize>> = rows.iter().map(|r| deepest(r)).collect();
            rows?.into_iter().max()
        }
        Node::Quantity(x, _) | Node::Percent(x) => nesting(x),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests;
