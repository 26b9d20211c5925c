//! Floor 3: the closed set of ops, the whole contract of a backend. One file per op: shapes, CPU
//! forward and backward, backward rule, cost, cases, tolerance. The table [`OPS`] feeds tests,
//! benches, the planner and `grpo-rt ops`. No op allocates tensors, keeps state or knows a model.
//!
//! Shapes are row-major matrices: `[rows, columns]`. Legend: T tokens, H hidden, N heads, D head
//! size, V vocabulary, R rank.

pub mod cpu; // vector arithmetic, matrix multiplication
pub mod gpu; // launches that ops share, and those that are long
pub mod io; // what a running op sees
pub mod launch; // what a node sees that is turned into kernel launches
pub mod real; // the number types of the ops
pub mod shapes; // shape checks that ops share

pub mod accumulate; // sum into a gradient
pub mod adamw; // one optimizer step, in place
pub mod add; // residual connections
pub mod add_rows; // features of deeper vision layers
pub mod attention; // softmax(q k^T) v over key spans
pub mod blend; // one tensor towards another, in place
pub mod dropout; // mask from (seed, step, sample, token)
pub mod embed; // token embeddings and vision rows
pub mod expert_matmul; // a linear layer per expert of a mixture
pub mod gather_rows; // rows by index
pub mod gelu; // exact, tanh, quick
pub mod grad_norm; // norm of all gradients and clipping coefficient
pub mod grpo_loss; // policy losses with KL
pub mod kv_write; // new keys and values into the cache
pub mod layer_norm; // vision towers
pub mod linear_logprob; // head, log-sum-exp, gather and entropy without stored logits
pub mod matmul; // x W^T with bias and LoRA
pub mod mix_experts; // what the experts of a token made, weighed and added
pub mod pack_weights; // panels for products that meet the same weights often
pub mod rms_norm; // decoders
pub mod rope; // text, 2-D vision, M-RoPE by tables
pub mod route; // which experts a token goes to
pub mod sample; // next tokens from logits
pub mod scale_columns; // layer scale
pub mod split; // columns into parts
pub mod swiglu; // gated activation
pub mod transpose_columns; // rows seen as matrices, transposed
pub mod weighted_rows; // interpolated position embeddings
pub mod zero; // clears tensors in place

pub use io::Io;
pub use launch::Launcher;
pub use real::{Real, Stored};

use crate::base::{DType, Error, Result, Tolerance};
use crate::mem::arena::Region;
use std::fmt::Debug;
use std::sync::Arc;

/// A tensor of a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Shape and element type of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorType {
    /// Sizes, outermost first. Ops read it as rows x columns.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A matrix.
    pub fn matrix(rows: usize, cols: usize, dtype: DType) -> Self {
        TensorType { shape: vec![rows, cols], dtype }
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Size of the innermost dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
    /// Number of rows: all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }
}

/// Work of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written, each tensor once.
    pub bytes: f64,
}

/// What kind of work an op is, cheapest to repeat first: what recomputation chooses by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpClass {
    /// A pass or two over its bytes: norms, activations, sums, rotations, copies.
    Elementwise,
    /// A matrix product.
    Matmul,
    /// Attention.
    Attention,
}

/// An operation with its attributes. Stateless: everything it needs is in `self` and its slots.
pub trait Op: Send + Sync + Debug {
    /// Name of the op's file and of its row in [`OPS`], with `_bwd…` for backward nodes.
    fn name(&self) -> &'static str;

    /// Types of the outputs that the op makes anew.
    ///
    /// # Errors
    /// If the inputs do not fit together.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>>;

    /// Computes the outputs. Fresh outputs hold garbage before and must be written in full;
    /// accumulated ones (given by [`Emit::emit_into`]) are added to.
    fn run(&self, io: &Io);

    /// Enqueues the node's kernels, which compute what [`Op::run`] does: same inputs, same outputs,
    /// the same rule for fresh and accumulated ones.
    ///
    /// # Errors
    /// If there is no kernel for this case.
    fn launch(&self, _: &mut Launcher) -> Result<()> {
        Err(Error::internal(format!("op {} {NO_KERNEL}", self.name())))
    }

    /// Identity of the index table that the op's kernels read, if they read one: the address of what
    /// it is made of, and its kind. Nodes of a tape with the same identity share one table.
    fn table_key(&self) -> Option<(usize, u32)> {
        None
    }

    /// The index table.
    fn table_words(&self) -> Vec<i32> {
        Vec::new()
    }

    /// Bytes of scratch that the node's kernels need; planned like every tensor.
    fn gpu_work(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        0
    }

    /// Appends the nodes that turn gradients of the outputs into gradients of the inputs, and
    /// returns one slot per input: `None` where no gradient is needed or where it went into the
    /// parameter's own gradient. Ops without a derivative return nothing.
    fn backward(&self, b: &mut Backward) -> Result<Vec<Option<Slot>>> {
        Ok(vec![None; b.inputs.len()])
    }

    /// Of `outputs` fresh outputs, those that a gradient may come back from; the others are statistics
    /// for the backward pass.
    fn outputs_with_gradient(&self, outputs: usize) -> Vec<usize> {
        (0..outputs.min(1)).collect()
    }

    /// What kind of work it is.
    fn class(&self) -> OpClass {
        OpClass::Elementwise
    }

    /// Work of the node, given all its input and output types. Default: one pass over its bytes.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost { flops: 0.0, bytes: shapes::bytes(inputs, outputs) }
    }
}

/// Something that nodes can be appended to (the tape).
pub trait Emit {
    /// Appends a node whose outputs are the fresh ones that the op infers, followed by the
    /// `updated` ones, which exist already and are changed in place. Returns the fresh ones.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    fn append(&mut self, op: Arc<dyn Op>, inputs: &[Slot], updated: &[Slot]) -> Result<Vec<Slot>>;

    /// Appends a node with fresh outputs.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    fn emit(&mut self, op: Arc<dyn Op>, inputs: &[Slot]) -> Result<Vec<Slot>> {
        self.append(op, inputs, &[])
    }
    /// Appends a node that updates existing slots in place.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    fn emit_into(&mut self, op: Arc<dyn Op>, inputs: &[Slot], outputs: &[Slot]) -> Result<()> {
        self.append(op, inputs, outputs).map(|_| ())
    }
    /// Type of a slot.
    fn tensor_type(&self, slot: Slot) -> &TensorType;
}

/// What an op's backward rule sees.
pub struct Backward<'a> {
    /// Where the nodes go.
    pub tape: &'a mut dyn Emit,
    /// Inputs of the forward node.
    pub inputs: &'a [Slot],
    /// Outputs of the forward node.
    pub outputs: &'a [Slot],
    /// Gradient of each output; `None` means zero.
    pub grads: &'a [Option<Slot>],
    /// Whether each input needs a gradient.
    pub needs: &'a [bool],
    /// For inputs that are trainable parameters: the slot their gradient is added to.
    pub param_grads: &'a [Option<Slot>],
}

impl Backward<'_> {
    /// Appends a node with one fresh output.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    pub fn emit1(&mut self, op: impl Op + 'static, inputs: &[Slot]) -> Result<Slot> {
        Ok(self.tape.emit(Arc::new(op), inputs)?[0])
    }
    /// Appends a node that adds into parameter gradients.
    ///
    /// # Errors
    /// If the op refuses the inputs.
    pub fn emit_into(
        &mut self,
        op: impl Op + 'static,
        inputs: &[Slot],
        outputs: &[Slot],
    ) -> Result<()> {
        self.tape.emit_into(Arc::new(op), inputs, outputs)
    }
}

/// How a test fills an input of a case.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Normal numbers with this standard deviation.
    Normal(f64),
    /// Normal numbers around 1 (norm weights).
    NearOne(f64),
    /// These integers.
    Ints(Vec<i32>),
    /// These numbers.
    Values(Vec<f64>),
    /// Numbers beside the activations (tables, columns of the loss): of the type of statistics,
    /// as are all one-dimensional inputs.
    Beside(Box<Fill>),
}

impl Fill {
    /// Marks the input as one beside the activations.
    pub fn beside(self) -> Fill {
        Fill::Beside(Box::new(self))
    }
}

/// One test input set of an op, in every precision and on every backend.
#[derive(Debug, Clone)]
pub struct Case {
    /// Says what is special about it.
    pub label: &'static str,
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Shape, filling and whether the gradient of the input is checked.
    pub inputs: Vec<(Vec<usize>, Fill, bool)>,
}

impl Case {
    /// Types of the inputs on a tape whose activations are `float`.
    pub fn types(&self, float: DType) -> Vec<TensorType> {
        let dtype = |shape: &[usize], fill: &Fill| match fill {
            Fill::Ints(_) => DType::I32,
            Fill::Beside(_) => float.statistic(),
            _ if shape.len() == 1 => float.statistic(),
            _ => float,
        };
        let of = |(shape, fill, _): &(Vec<usize>, Fill, bool)| TensorType {
            shape: shape.clone(),
            dtype: dtype(shape, fill),
        };
        self.inputs.iter().map(of).collect()
    }
}

/// What an op says that cannot be launched; by it a missing kernel is told from a failing one.
pub const NO_KERNEL: &str = "has no kernel";

/// A row of the op table.
pub struct OpSpec {
    /// Name of the op and of its file.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Test inputs: at least three.
    pub cases: fn() -> Vec<Case>,
    /// Allowed distance of the f32 form from the f64 reference.
    pub tolerance: Tolerance,
    /// How many roundings to bf16 may lie between the inputs and an activation that comes out, or
    /// a gradient: 1 if nothing in between is stored. 0: the op has no bf16 form.
    pub bf16_roundings: u32,
    /// Inputs at sizes of real models, to measure the op at.
    pub bench: fn() -> Vec<Case>,
}

/// The op table.
pub static OPS: &[&OpSpec] = &[
    &adamw::SPEC,
    &add::SPEC,
    &add_rows::SPEC,
    &attention::SPEC,
    &blend::SPEC,
    &dropout::SPEC,
    &embed::SPEC,
    &expert_matmul::SPEC,
    &gather_rows::SPEC,
    &gelu::SPEC,
    &grad_norm::SPEC,
    &grpo_loss::SPEC,
    &layer_norm::SPEC,
    &linear_logprob::SPEC,
    &matmul::SPEC,
    &mix_experts::SPEC,
    &rms_norm::SPEC,
    &rope::SPEC,
    &route::SPEC,
    &sample::SPEC,
    &scale_columns::SPEC,
    &split::SPEC,
    &swiglu::SPEC,
    &transpose_columns::SPEC,
    &weighted_rows::SPEC,
    &zero::SPEC,
];

/// Where a persistent tensor lives, as the tape needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamRef {
    /// The value.
    pub value: Region,
    /// The gradient, if the parameter is trained.
    pub grad: Option<Region>,
}
