//! Prints what the machine can do at most, and every op of the table at sizes of real models beside its limit, with the time of the best of several
//! runs. Measures only; asserts nothing.
//!
//! `cargo bench --bench ops [-- FILTER]`; threads by `RAYON_NUM_THREADS`.

#[path = "ops/machine.rs"]
mod machine;
#[path = "ops/table.rs"]
mod table;

use grpo_rt::ops::cpu::Isa;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{:?}, {} threads", Isa::best(), rayon::current_num_threads());
    let machine = machine::measure();
    println!(
        "at most {:.0} GFLOP/s in singles, {:.0} GFLOP/s in bf16 dot products, {:.1} GB/s",
        machine.f32_flops / 1e9,
        machine.bf16_flops / 1e9,
        machine.bandwidth / 1e9
    );
    table::run(&filter, &machine);
}
