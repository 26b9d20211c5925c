//! Analytic gradients of every op against central differences over four points, in f64. Nothing
//! here compares precisions or backends; that is `conformance`.

use grpo_rt::base::{DType, Philox, RngDomain, Tolerance};
use grpo_rt::ops::{Case, OPS};
use grpo_rt::tape::check::Check;

/// Elements per input whose slope is measured.
const ELEMENTS: usize = 24;
/// Allowed distance, relative to the largest gradient of the input.
const TOLERANCE: Tolerance = Tolerance { abs: 1e-9, rel: 1e-6 };

/// All elements of a small tensor, or some of a large one.
fn some_elements(len: usize, input: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    Philox::new(11, RngDomain::Test).stream(7, input as u32).shuffle(&mut all);
    all.truncate(ELEMENTS);
    all
}

/// Worst relative error over all inputs of a case.
fn check(op: &str, case: &Case) -> Result<f64, String> {
    let mut analytic = Check::backward(case, DType::F64, 3).map_err(|e| e.to_string())?;
    let grads = analytic.run().map_err(|e| e.to_string())?.grads;
    let mut numeric = Check::forward(case, DType::F64, 3).map_err(|e| e.to_string())?;
    let mut worst = 0.0f64;
    for input in numeric.differentiable(case).collect::<Vec<_>>() {
        let value = numeric.value(input);
        let rms = (value.iter().map(|x| x * x).sum::<f64>() / value.len() as f64).sqrt();
        let grad = grads[input].as_ref().expect("a differentiable input has a gradient");
        let scale = grad.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(scale > 0.0, "{op}, {}: input {input} has no gradient", case.label);
        for e in some_elements(value.len(), input) {
            let slope = numeric.slope(input, e, 1e-3 * rms).map_err(|e| e.to_string())?;
            let (difference, bound) =
                ((slope - grad[e]).abs(), TOLERANCE.abs + TOLERANCE.rel * scale);
            if difference.is_nan() || difference > bound {
                return Err(format!(
                    "{op}, {}: input {input}, element {e}: gradient {} but slope {slope} (allowed {bound:.1e})",
                    case.label, grad[e]
                ));
            }
            worst = worst.max(difference / scale);
        }
    }
    Ok(worst)
}

#[test]
fn every_op_has_the_gradient_that_differences_measure() {
    let mut failures = Vec::new();
    let mut checked = 0;
    for spec in OPS {
        for case in (spec.cases)().iter().filter(|c| c.inputs.iter().any(|i| i.2)) {
            match check(spec.name, case) {
                Ok(worst) => println!("{:<16} {:<48} {worst:.1e}", spec.name, case.label),
                Err(e) => failures.push(e),
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} cases have a gradient");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
