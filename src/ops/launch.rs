//! What a node sees that is turned into kernel launches: addresses and types of its slots, and the
//! list that it appends commands to. The counterpart of [`super::Io`] for devices; calls no driver.

use crate::base::DType;
use crate::device::{Command, DevicePtr, Gemm, Launch, MatmulImpl, Properties};
use crate::ops::TensorType;
use bytemuck::Pod;

/// A slot of a node on a device.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// Where it lies.
    pub at: DevicePtr,
    /// What it is.
    pub ty: &'a TensorType,
}

impl Bound<'_> {
    fn range(&self) -> [u64; 2] {
        let bytes = self.ty.len() * self.ty.dtype.size();
        [self.at.0, self.at.offset(bytes).0]
    }
}

/// The bound slots of one node, and what it launches.
#[derive(Debug)]
pub struct Launcher<'a> {
    inputs: &'a [Bound<'a>],
    outputs: &'a [Bound<'a>],
    table: Option<Bound<'a>>,
    work: Option<Bound<'a>>,
    device: &'a Properties,
    commands: &'a mut Vec<Command>,
}

impl<'a> Launcher<'a> {
    /// Binds a node of a tape for `device`; `commands` is what it appends to. Panics if an output overlaps another slot of
    /// the node: that would be a defect of the plan.
    pub fn new(
        inputs: &'a [Bound<'a>],
        outputs: &'a [Bound<'a>],
        table: Option<Bound<'a>>,
        work: Option<Bound<'a>>,
        device: &'a Properties,
        commands: &'a mut Vec<Command>,
    ) -> Self {
        let meets = |a: &Bound, b: &Bound| {
            let ([a0, a1], [b0, b1]) = (a.range(), b.range());
            a0 < b1 && b0 < a1 && a0 != a1 && b0 != b1
        };
        for (i, o) in outputs.iter().chain(&work).enumerate() {
            let clash = inputs.iter().chain(&table).any(|v| meets(v, o))
                || outputs.iter().take(i).any(|v| meets(v, o));
            assert!(!clash, "output {i} overlaps another slot of its node");
        }
        Launcher { inputs, outputs, table, work, device, commands }
    }

    /// Whose kernels compute the products of linear layers.
    pub fn matmul(&self) -> MatmulImpl {
        self.device.matmul
    }
    /// Threads that run in step. What a kernel computes must not depend on it.
    pub fn wave(&self) -> usize {
        self.device.wave
    }
    /// Multiprocessors or compute units. What a kernel computes must not depend on it.
    pub fn units(&self) -> usize {
        self.device.units.max(1)
    }

    /// Number of inputs.
    pub fn num_inputs(&self) -> usize {
        self.inputs.len()
    }
    /// Number of outputs.
    pub fn num_outputs(&self) -> usize {
        self.outputs.len()
    }
    /// Where input `i` lies.
    pub fn input(&self, i: usize) -> DevicePtr {
        self.inputs[i].at
    }
    /// Where output `i` lies.
    pub fn output(&self, i: usize) -> DevicePtr {
        self.outputs[i].at
    }
    /// Type of input `i`.
    pub fn in_type(&self, i: usize) -> &'a TensorType {
        self.inputs[i].ty
    }
    /// Type of output `i`.
    pub fn out_type(&self, i: usize) -> &'a TensorType {
        self.outputs[i].ty
    }
    /// Where the op's index table lies. Panics if the op has none.
    pub fn table(&self) -> DevicePtr {
        self.table.expect("the op has a table").at
    }
    /// Where the node's scratch lies. Panics if the op asked for none.
    pub fn work(&self) -> DevicePtr {
        self.work.expect("the op asked for scratch").at
    }
    /// The floating-point type the node computes in: that of its first floating-point slot.
    pub fn float_type(&self) -> DType {
        self.inputs
            .iter()
            .chain(self.outputs)
            .map(|b| b.ty.dtype)
            .find(|d| matches!(d, DType::F32 | DType::F64 | DType::BF16))
            .unwrap_or(DType::F32)
    }
    /// The kernel for the node's type: of two names, for singles and for bf16.
    pub fn typed(&self, [singles, bf16]: [&'static str; 2]) -> &'static str {
        if self.float_type() == DType::BF16 { bf16 } else { singles }
    }

    /// Launches `kernel` of file `module` with static shared memory only.
    pub fn kernel(
        &mut self,
        module: &'static str,
        kernel: &'static str,
        grid: [usize; 3],
        threads: usize,
        args: &impl Pod,
    ) {
        self.kernel_with_shared(module, kernel, grid, threads, args, 0);
    }

    /// Launches `kernel` of file `module` with `shared` bytes of dynamic shared memory. An empty grid
    /// launches nothing.
    pub fn kernel_with_shared(
        &mut self,
        module: &'static str,
        kernel: &'static str,
        grid: [usize; 3],
        threads: usize,
        args: &impl Pod,
        shared: usize,
    ) {
        if grid.contains(&0) {
            return;
        }
        let ranges = if self.device.emulated { self.ranges() } else { Vec::new() };
        self.commands.push(Command::Launch(Launch {
            module,
            kernel,
            grid: grid.map(|n| u32::try_from(n).expect("a grid's dimension fits 32 bits")),
            threads: threads as u32,
            shared: shared as u32,
            args: bytemuck::bytes_of(args).to_vec(),
            ranges,
        }));
    }

    /// Has the vendor's library compute a product.
    pub fn vendor_matmul(&mut self, g: Gemm) {
        self.commands.push(Command::Matmul(g));
    }

    /// The address ranges that the node's kernels may touch.
    fn ranges(&self) -> Vec<[u64; 2]> {
        let slots = self.inputs.iter().chain(self.outputs).chain(&self.table).chain(&self.work);
        let mut ranges: Vec<[u64; 2]> = slots.map(Bound::range).filter(|[a, b]| a < b).collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    /// Sets `bytes` bytes to `byte`.
    pub fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) {
        if bytes > 0 {
            self.commands.push(Command::Fill { to, byte, bytes });
        }
    }

    /// Copies bytes within the device.
    pub fn copy(&mut self, to: DevicePtr, from: DevicePtr, bytes: usize) {
        if bytes > 0 {
            self.commands.push(Command::Copy { to, from, bytes });
        }
    }
}
