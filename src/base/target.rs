//! Where a tape will run. Plans differ in it, because kernels read tables that the CPU's loops do not
//! need; results differ by rounding alone.

/// Where a tape will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// On this machine's processors.
    #[default]
    Cpu,
    /// As kernels on an accelerator, or on its emulator.
    Gpu,
}
