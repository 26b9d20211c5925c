//! Canonical form of an expression: a quotient of two polynomials over exact fractions. Its unknowns
//! are variables, π, e, i, ∞, roots of primes, and expressions that cannot be taken apart. Roots of
//! different primes are independent over the fractions (Besicovitch 1940), so without the last kind
//! two forms are equal exactly if their difference has no term.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::node::{Constant, Function, Node};
use super::rational::Rational;

/// Why an expression has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its numbers or its terms do not fit.
    TooLarge,
    /// It is a set, a list, a relation, a text, or has no value (1/0).
    NoValue,
}

/// What is raised to a power in a term.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// A prime under a root.
    Prime(i128),
    Variable(String),
    Constant(Constant),
    /// What cannot be taken apart, by two hashes of its name and its own canonical forms.
    Opaque([u64; 2]),
}

/// Unknowns with their exponents, none of them 0.
type Monomial = BTreeMap<Atom, Rational>;

/// Terms with their coefficients, none of them 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Poly(BTreeMap<Monomial, Rational>);

/// Most terms of a polynomial.
const MOST_TERMS: usize = 128;
/// Largest whole power of a sum that is multiplied out.
const MOST_POWER: u128 = 24;
/// Products of terms in all: what costs more is too large.
const MOST_WORK: usize = 100_000;
/// Divisors that are tried in looking for squares under a root.
const MOST_DIVISOR: i128 = 1 << 14;

type Canonical<T> = Result<T, Stop>;

/// What is left of [`MOST_WORK`].
struct Work(Cell<usize>);

impl Work {
    fn new() -> Work {
        Work(Cell::new(MOST_WORK))
    }

    fn take(&self, products: usize) -> Canonical<()> {
        let left = self.0.get().checked_sub(products).ok_or(Stop::TooLarge)?;
        self.0.set(left);
        Ok(())
    }
}

impl Poly {
    fn constant(value: Rational) -> Poly {
        let mut terms = BTreeMap::new();
        if !value.is_zero() {
            terms.insert(Monomial::new(), value);
        }
        Poly(terms)
    }

    fn atom(atom: Atom) -> Poly {
        Poly(BTreeMap::from([(BTreeMap::from([(atom, Rational::ONE)]), Rational::ONE)]))
    }

    /// Whether there is no term.
    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The number that this is, if it is one.
    pub fn value(&self) -> Option<Rational> {
        match self.0.len() {
            0 => Some(Rational::ZERO),
            1 => self.0.get(&Monomial::new()).copied(),
            _ => None,
        }
    }

    /// Whether equality of forms decides: nothing opaque, and not e together with π.
    fn decides(&self) -> bool {
        let has = |wanted: &dyn Fn(&Atom) -> bool| self.0.keys().any(|m| m.keys().any(wanted));
        let constant = |c: Constant| has(&|a| *a == Atom::Constant(c));
        let both = constant(Constant::E) && constant(Constant::Pi);
        !both && !has(&|a| matches!(a, Atom::Opaque(_)))
    }

    fn add(&self, other: &Poly) -> Canonical<Poly> {
        let mut sum = self.clone();
        sum.take_in(other)?;
        Ok(sum)
    }

    fn take_in(&mut self, other: &Poly) -> Canonical<()> {
        for (monomial, value) in &other.0 {
            let before = self.0.get(monomial).copied().unwrap_or(Rational::ZERO);
            let sum = before.add(*value).ok_or(Stop::TooLarge)?;
            if sum.is_zero() {
                self.0.remove(monomial);
            } else {
                self.0.insert(monomial.clone(), sum);
            }
        }
        if self.0.len() > MOST_TERMS { Err(Stop::TooLarge) } else { Ok(()) }
    }

    fn mul(&self, other: &Poly, work: &Work) -> Canonical<Poly> {
        work.take(self.0.len() * other.0.len())?;
        let mut product = Poly::default();
        for (m, a) in &self.0 {
            for (n, b) in &other.0 {
                let value = a.mul(*b).ok_or(Stop::TooLarge)?;
                product.take_in(&term(m, n, value)?)?;
            }
        }
        Ok(product)
    }

    fn scaled(&self, by: Rational) -> Canonical<Poly> {
        let scaled = self.0.iter().map(|(m, v)| Some((m.clone(), v.mul(by)?)));
        Ok(Poly(scaled.collect::<Option<_>>().ok_or(Stop::TooLarge)?))
    }

    fn is_infinite(&self) -> bool {
        self.0.keys().any(|m| m.contains_key(&Atom::Constant(Constant::Infinity)))
    }

    /// The only term.
    fn single(&self) -> Option<(&Monomial, Rational)> {
        if self.0.len() == 1 { self.0.iter().next().map(|(m, v)| (m, *v)) } else { None }
    }
}

/// Product of two monomials and a number: whole powers of primes become part of the number, i² is −1.
fn term(m: &Monomial, n: &Monomial, mut value: Rational) -> Canonical<Poly> {
    let mut all = m.clone();
    for (atom, exponent) in n {
        let before = all.get(atom).copied().unwrap_or(Rational::ZERO);
        all.insert(atom.clone(), before.add(*exponent).ok_or(Stop::TooLarge)?);
    }
    let mut kept = Monomial::new();
    for (atom, exponent) in all {
        let exponent = match &atom {
            Atom::Prime(p) => {
                let whole = exponent.floor();
                let factor =
                    Rational::new(*p, 1).and_then(|p| p.pow(whole)).ok_or(Stop::TooLarge)?;
                value = value.mul(factor).ok_or(Stop::TooLarge)?;
                Rational::new(whole, 1).and_then(|w| exponent.sub(w)).ok_or(Stop::TooLarge)?
            }
            Atom::Constant(Constant::I) => {
                let turns = exponent.whole().ok_or(Stop::NoValue)?.rem_euclid(4);
                if turns >= 2 {
                    value = value.negative();
                }
                Rational::integer((turns % 2) as i64)
            }
            _ => exponent,
        };
        if !exponent.is_zero() {
            kept.insert(atom, exponent);
        }
    }
    Ok(Poly(BTreeMap::from([(kept, value)])))
}

/// A quotient of polynomials; the divisor is 1 unless it has several terms.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fraction {
    over: Poly,
    under: Poly,
}

/// What canonical forms say about two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    Same,
    Different,
    /// Something opaque is left: only numbers can tell.
    Undecided,
}

impl Fraction {
    fn whole(over: Poly) -> Fraction {
        Fraction { over, under: Poly::constant(Rational::ONE) }
    }

    /// The number that this is, if it is one.
    pub fn value(&self) -> Option<Rational> {
        self.over.value()?.div(self.under.value()?)
    }

    fn add(&self, other: &Fraction, work: &Work) -> Canonical<Fraction> {
        if self.under == other.under {
            return Fraction::new(self.over.add(&other.over)?, self.under.clone(), work);
        }
        let left = self.over.mul(&other.under, work)?;
        let over = left.add(&other.over.mul(&self.under, work)?)?;
        Fraction::new(over, self.under.mul(&other.under, work)?, work)
    }

    fn mul(&self, other: &Fraction, work: &Work) -> Canonical<Fraction> {
        let infinite = self.over.is_infinite() || other.over.is_infinite();
        let over = self.over.mul(&other.over, work)?;
        // 0 · ∞ has no value.
        if infinite && over.is_zero() {
            return Err(Stop::NoValue);
        }
        Fraction::new(over, self.under.mul(&other.under, work)?, work)
    }

    fn inverse(&self, work: &Work) -> Canonical<Fraction> {
        Fraction::new(self.under.clone(), self.over.clone(), work)
    }

    /// The form, if it is no infinity: sums, quotients and powers of those have no value.
    fn finite(self) -> Canonical<Fraction> {
        let infinite = self.over.is_infinite() || self.under.is_infinite();
        if infinite { Err(Stop::NoValue) } else { Ok(self) }
    }

    /// A divisor of one term moves up with negative exponents.
    fn new(over: Poly, under: Poly, work: &Work) -> Canonical<Fraction> {
        if under.is_zero() {
            return Err(Stop::NoValue);
        }
        let Some((monomial, value)) = under.single() else { return Ok(Fraction { over, under }) };
        let turned: Monomial = monomial.iter().map(|(a, e)| (a.clone(), e.negative())).collect();
        let value = value.inverse().ok_or(Stop::TooLarge)?;
        let factor = term(&turned, &Monomial::new(), value)?;
        Ok(Fraction::whole(over.mul(&factor, work)?))
    }

    /// Whether two forms are one expression.
    pub fn compare(&self, other: &Fraction) -> Canonical<Forms> {
        let work = Work::new();
        let left = self.over.mul(&other.under, &work)?;
        let right = other.over.mul(&self.under, &work)?.scaled(Rational::ONE.negative())?;
        let rest = left.add(&right)?;
        Ok(match rest.is_zero() {
            true => Forms::Same,
            false if rest.decides() => Forms::Different,
            false => Forms::Undecided,
        })
    }

    /// The number `k` with `self = k · other`, if there is one that is not 0.
    pub fn ratio(&self, other: &Fraction) -> Option<Rational> {
        let work = Work::new();
        let left = self.over.mul(&other.under, &work).ok()?;
        let right = other.over.mul(&self.under, &work).ok()?;
        let (monomial, value) = left.0.iter().next()?;
        let k = value.div(*right.0.get(monomial)?)?;
        (right.scaled(k).ok()? == left).then_some(k)
    }
}

/// Canonical form of an expression.
pub fn canonical(node: &Node) -> Canonical<Fraction> {
    form(node, &Work::new())
}

fn form(node: &Node, work: &Work) -> Canonical<Fraction> {
    work.take(1)?;
    match node {
        Node::Number { value, .. } => Ok(number(*value)),
        Node::Huge(_) => Err(Stop::TooLarge),
        Node::Symbol(name) => Ok(Fraction::whole(Poly::atom(Atom::Variable(name.clone())))),
        Node::Constant(c) => Ok(Fraction::whole(Poly::atom(Atom::Constant(*c)))),
        Node::Sum(terms) => terms
            .iter()
            .try_fold(number(Rational::ZERO), |sum, t| sum.add(&form(t, work)?.finite()?, work)),
        Node::Product(factors) => {
            factors.iter().try_fold(number(Rational::ONE), |all, f| all.mul(&form(f, work)?, work))
        }
        Node::Quotient(a, b) => {
            let divisor = form(b, work)?.finite()?;
            form(a, work)?.finite()?.mul(&divisor.inverse(work)?, work)
        }
        Node::Power(base, exponent) => {
            power(&form(base, work)?.finite()?, &form(exponent, work)?.finite()?, work)
        }
        Node::Percent(x) => {
            let hundredth = Rational::new(1, 100).ok_or(Stop::TooLarge)?;
            form(x, work)?.mul(&number(hundredth), work)
        }
        Node::Call(function, arguments) => call(*function, arguments, work),
        Node::Quantity(..)
        | Node::Text(_)
        | Node::Tuple { .. }
        | Node::Set(_)
        | Node::List(_)
        | Node::Union(_)
        | Node::Relation { .. }
        | Node::Matrix(_) => Err(Stop::NoValue),
    }
}

fn number(value: Rational) -> Fraction {
    Fraction::whole(Poly::constant(value))
}

fn opaque(name: &str, parts: &[&Fraction]) -> Fraction {
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, name, parts).hash(&mut hasher);
        hasher.finish()
    };
    Fraction::whole(Poly::atom(Atom::Opaque([hash(0), hash(1)])))
}

fn power(base: &Fraction, exponent: &Fraction, work: &Work) -> Canonical<Fraction> {
    let Some(e) = exponent.value() else {
        let one = base.value() == Some(Rational::ONE);
        return Ok(if one { base.clone() } else { opaque("power", &[base, exponent]) });
    };
    if let Some(n) = e.whole() {
        return whole_power(base, n, work);
    }
    if base.under.value() == Some(Rational::ONE)
        && let Some((monomial, value)) = base.over.single()
        && let Some(root) = root_of_term(monomial, value, e, work)
    {
        return root;
    }
    if base.over.is_zero() {
        let positive = e.numerator() > 0;
        return if positive { Ok(base.clone()) } else { Err(Stop::NoValue) };
    }
    Ok(opaque("power", &[base, exponent]))
}

fn whole_power(base: &Fraction, n: i128, work: &Work) -> Canonical<Fraction> {
    if let Some(value) = base.value() {
        if value.is_zero() && n <= 0 {
            return Err(Stop::NoValue);
        }
        return Ok(number(value.pow(n).ok_or(Stop::TooLarge)?));
    }
    let single = base.over.single().is_some() && base.under.value().is_some();
    if n.unsigned_abs() > if single { 1000 } else { MOST_POWER } {
        return Err(Stop::TooLarge);
    }
    let base = if n < 0 { base.inverse(work)? } else { base.clone() };
    let mut result = number(Rational::ONE);
    for _ in 0..n.unsigned_abs() {
        result = result.mul(&base, work)?;
    }
    Ok(result)
}

/// `(value · monomial) ^ e` for a broken `e`, if the power may be given to each factor: numbers,
/// π and e are positive; of a variable only the variable itself is taken a root of (√(x²) is |x|).
fn root_of_term(
    monomial: &Monomial,
    value: Rational,
    e: Rational,
    work: &Work,
) -> Option<Canonical<Fraction>> {
    let mut factors = Monomial::new();
    for (atom, exponent) in monomial {
        let simple = match atom {
            Atom::Prime(_) => true,
            Atom::Constant(c) => matches!(c, Constant::Pi | Constant::E),
            Atom::Variable(_) => monomial.len() == 1 && *exponent == Rational::ONE,
            Atom::Opaque(_) => false,
        };
        if !simple || (matches!(atom, Atom::Variable(_)) && value.numerator() < 0) {
            return None;
        }
        factors.insert(atom.clone(), exponent.mul(e)?);
    }
    let mut sign = number(Rational::ONE);
    if value.numerator() < 0 {
        if e.denominator() == 2 {
            let turns = Rational::new(e.numerator().rem_euclid(4), 1)?;
            let i = BTreeMap::from([(Atom::Constant(Constant::I), turns)]);
            sign = Fraction::whole(term(&i, &Monomial::new(), Rational::ONE).ok()?);
        } else if e.denominator() % 2 == 1 {
            let odd = e.numerator() % 2 != 0;
            sign = number(Rational::integer(if odd { -1 } else { 1 }));
        } else {
            return None;
        }
    }
    let mut roots = Monomial::new();
    for (n, side) in [(value.numerator().abs(), e), (value.denominator(), e.negative())] {
        for (prime, count) in factorised(n) {
            let exponent = side.mul(Rational::integer(count))?;
            let before = roots.get(&Atom::Prime(prime)).copied().unwrap_or(Rational::ZERO);
            roots.insert(Atom::Prime(prime), before.add(exponent)?);
        }
    }
    let root = term(&roots, &factors, Rational::ONE).map(Fraction::whole);
    Some(root.and_then(|root| root.mul(&sign, work)))
}

/// Prime factors with their counts. What is left after small divisors counts as prime, or as the
/// square of one.
fn factorised(mut n: i128) -> Vec<(i128, i64)> {
    let mut found = Vec::new();
    let mut divisor = 2;
    while divisor <= MOST_DIVISOR && divisor * divisor <= n {
        let mut count = 0;
        while n % divisor == 0 {
            n /= divisor;
            count += 1;
        }
        if count > 0 {
            found.push((divisor, count));
        }
        divisor += if divisor == 2 { 1 } else { 2 };
    }
    if n > 1 {
        let root = n.isqrt();
        if root * root == n {
            found.push((root, 2));
        } else {
            found.push((n, 1));
        }
    }
    found
}

fn call(function: Function, arguments: &[Node], work: &Work) -> Canonical<Fraction> {
    let mut forms = Vec::new();
    for argument in arguments {
        // Degrees stand in functions of angles only.
        forms.push(match argument {
            Node::Quantity(x, unit) if unit == "degree" => {
                let turn = number(Rational::new(1, 180).ok_or(Stop::TooLarge)?);
                let pi = Fraction::whole(Poly::atom(Atom::Constant(Constant::Pi)));
                form(x, work)?.finite()?.mul(&pi, work)?.mul(&turn, work)?
            }
            other => form(other, work)?.finite()?,
        });
    }
    let first = forms.first().and_then(Fraction::value);
    let exact = |value: Option<Rational>| Ok(number(value.ok_or(Stop::TooLarge)?));
    match (function, first) {
        (Function::Abs, Some(x)) => exact(Some(x.abs())),
        (Function::Floor, Some(x)) => exact(Rational::new(x.floor(), 1)),
        (Function::Ceil, Some(x)) => exact(Rational::new(-x.negative().floor(), 1)),
        (Function::Factorial, Some(x)) => exact(x.whole().and_then(factorial)),
        (Function::Binomial, Some(n)) => {
            let k = forms.get(1).and_then(Fraction::value).and_then(Rational::whole);
            exact(n.whole().zip(k).and_then(|(n, k)| binomial(n, k)))
        }
        (Function::Factorial | Function::Binomial, None) => Err(Stop::NoValue),
        (Function::Exp, _) => {
            let e = Fraction::whole(Poly::atom(Atom::Constant(Constant::E)));
            power(&e, forms.first().ok_or(Stop::NoValue)?, work)
        }
        _ => Ok(opaque(&format!("{function:?}"), &forms.iter().collect::<Vec<_>>())),
    }
}

fn factorial(n: i128) -> Option<Rational> {
    if !(0..=33).contains(&n) {
        return None;
    }
    (1..=n).try_fold(Rational::ONE, |product, i| product.mul(Rational::new(i, 1)?))
}

fn binomial(n: i128, k: i128) -> Option<Rational> {
    if k < 0 || n < 0 || k > n || n > 200 {
        return None;
    }
    let k = k.min(n - k);
    (0..k).try_fold(Rational::ONE, |c, i| c.mul(Rational::new(n - i, i + 1)?))
}
