//! The `grpo-rt` program: hands the command line to `cli` and turns its result into an exit code.
fn main() -> std::process::ExitCode {
    grpo_rt::cli::run(std::env::args_os().skip(1))
}
