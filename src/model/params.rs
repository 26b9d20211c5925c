//! Every parameter of a model: its name, its place in the arena, whether it is trained. Knows files
//! and places, no arithmetic.

use crate::base::{DType, Error, Result, Target};
use crate::io::safetensors::{Checkpoint, Sink, TensorSpec};
use crate::mem::plan::aligned;
use crate::mem::{Arena, Region};
use crate::model::families::{ParamSpec, Part};
use crate::model::lora::LoraConfig;
use crate::ops::{ParamRef, Stored};
use crate::tape::Tape;
use half::bf16;
use std::collections::{HashMap, HashSet};

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Training {
    /// Nothing: evaluation, or a frozen reference.
    None,
    /// All weights of these parts.
    Full(Vec<Part>),
    /// Adapters only.
    Lora(LoraConfig),
}

impl Training {
    /// The adapter's settings, if adapters are trained.
    pub fn lora(&self) -> Option<&LoraConfig> {
        match self {
            Training::Lora(c) => Some(c),
            _ => None,
        }
    }
}

/// One parameter.
#[derive(Debug, Clone)]
pub struct Param {
    /// Canonical name; adapters: `<module>.lora_A.weight`.
    pub name: String,
    /// Sizes as on disk.
    pub shape: Vec<usize>,
    /// Part of the model.
    pub part: Part,
    /// True for the weights of a linear layer.
    pub linear: bool,
    /// Value and gradient.
    pub place: ParamRef,
    /// First and second moments, if the parameter is trained.
    pub moments: Option<[Region; 2]>,
    /// The value in single precision, if it is trained and kept in bf16: what the optimizer moves.
    pub master: Option<Region>,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Gives it a value.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn set(&self, arena: &mut Arena, values: &[f32]) -> Result<()> {
        write_values(arena, self.place.value, values)?;
        self.master.map_or(Ok(()), |master| arena.write(master, values))
    }
    /// True if it has a gradient.
    pub fn trained(&self) -> bool {
        self.place.grad.is_some()
    }
}

/// All parameters of one set of weights.
#[derive(Debug, Clone)]
pub struct ParamStore {
    list: Vec<Param>,
    index: HashMap<String, usize>,
    lora: Option<LoraConfig>,
    float: DType,
    target: Target,
}

/// Type in which a parameter is kept: vectors (norms, biases) are always singles.
fn value_type(spec: &ParamSpec, float: DType) -> DType {
    if spec.shape.len() > 1 { float } else { float.statistic() }
}

/// The shape under which a file may hold a stack of experts' matrices instead: each turned over
/// (published checkpoints have `[E, in, out]`, transformers 5 `[E, out, in]`). `None` for others.
fn turned_shape(name: &str, shape: &[usize]) -> Option<Vec<usize>> {
    match shape {
        &[e, rows, columns] if name.contains(".experts.") => Some(vec![e, columns, rows]),
        _ => None,
    }
}

/// A stack of matrices `[E, rows, columns]` of numbers of `size` bytes with each turned over.
pub fn turn_over<T: Copy>(stack: &[T], [rows, columns]: [usize; 2], size: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(stack.len());
    for matrix in stack.chunks_exact(rows * columns * size) {
        for column in 0..columns {
            for row in 0..rows {
                out.extend_from_slice(&matrix[(row * columns + column) * size..][..size]);
            }
        }
    }
    out
}

/// Tensors of the arena as a file takes them: what they are, and how to hand over each by its name.
pub fn streamed<'a>(
    arena: &'a Arena,
    tensors: &'a [(TensorSpec, Region)],
) -> (Vec<TensorSpec>, impl FnMut(&str, &mut Sink) -> Result<()> + 'a) {
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let places: HashMap<&str, Region> =
        tensors.iter().map(|(spec, region)| (spec.name.as_str(), *region)).collect();
    (specs, move |name, sink| arena.stream(places[name], sink))
}

/// Values of a region, widened.
///
/// # Errors
/// Kind device if the device failed.
pub fn read_values(arena: &Arena, r: Region) -> Result<Vec<f32>> {
    match r.dtype {
        DType::BF16 => Ok(arena.read::<bf16>(r)?.into_iter().map(Stored::load).collect()),
        _ => arena.read(r),
    }
}

/// Writes values into a region, rounded to its type.
///
/// # Errors
/// Kind device if the device failed.
pub fn write_values(arena: &mut Arena, r: Region, values: &[f32]) -> Result<()> {
    match r.dtype {
        DType::BF16 => arena.write(r, &values.iter().map(|&x| bf16::store(x)).collect::<Vec<_>>()),
        _ => arena.write(r, values),
    }
}

/// A parameter before it has a place.
struct Wanted {
    spec: ParamSpec,
    trained: bool,
}

fn wanted(specs: &[ParamSpec], training: &Training) -> Vec<Wanted> {
    let full = |part: Part| matches!(training, Training::Full(parts) if parts.contains(&part));
    let mut all: Vec<Wanted> = specs
        .iter()
        .map(|s| Wanted { spec: s.clone(), trained: full(s.part) && !s.is_empty() })
        .collect();
    if let Some(lora) = training.lora() {
        for s in specs {
            let Some(module) = lora.covered(s) else { continue };
            for (factor, shape) in
                [("lora_A", vec![lora.r, s.shape[1]]), ("lora_B", vec![s.shape[0], lora.r])]
            {
                let name = format!("{module}.{factor}.weight");
                let spec = ParamSpec { name, shape, part: s.part, linear: false };
                all.push(Wanted { spec, trained: true });
            }
        }
    }
    all
}

impl ParamStore {
    /// Bytes that [`ParamStore::place`] will take, to the byte.
    pub fn bytes(specs: &[ParamSpec], training: &Training, float: DType) -> usize {
        let bytes = |w: &Wanted| -> usize {
            let (n, dtype) = (w.spec.len(), value_type(&w.spec, float));
            let singles = match (w.trained, dtype) {
                (false, _) => 0,
                (true, DType::BF16) => 4, // gradient, two moments, master
                (true, _) => 3,
            };
            aligned(n * dtype.size()) + singles * aligned(n * DType::F32.size())
        };
        wanted(specs, training).iter().map(bytes).sum()
    }

    /// Gives every parameter a place: values, and for trained ones gradient and two moments. `float`
    /// is the type of matrices, F32 or BF16.
    ///
    /// # Errors
    /// If the arena is full, or if an adapter fits no module.
    pub fn place(
        specs: &[ParamSpec],
        training: &Training,
        float: DType,
        arena: &mut Arena,
    ) -> Result<Self> {
        let mut list: Vec<Param> = Vec::new();
        for w in wanted(specs, training) {
            let n = w.spec.len();
            let dtype = value_type(&w.spec, float);
            let value = arena.persist(n, dtype)?;
            let (mut grad, mut moments, mut master) = (None, None, None);
            if w.trained {
                grad = Some(arena.persist(n, DType::F32)?);
                moments = Some([arena.persist(n, DType::F32)?, arena.persist(n, DType::F32)?]);
                if dtype == DType::BF16 {
                    master = Some(arena.persist(n, DType::F32)?);
                }
            }
            list.push(Param {
                name: w.spec.name,
                shape: w.spec.shape,
                part: w.spec.part,
                linear: w.spec.linear,
                place: ParamRef { value, grad },
                moments,
                master,
            });
        }
        if let Some(lora) = training.lora()
            && !list.iter().any(Param::trained)
        {
            return Err(Error::usage("the adapter fits no module of the model")
                .key("lora_target_modules")
                .expected("names of linear layers, as adapter_config.json has them")
                .found(lora.target_modules.to_string()));
        }
        let index = list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(ParamStore {
            list,
            index,
            lora: training.lora().cloned(),
            float,
            target: arena.target(),
        })
    }

    /// The same parameters with a copy of the present values of the trained ones: a reference that
    /// does not move. What is not trained is shared.
    ///
    /// # Errors
    /// Kind device if the copy does not fit the arena.
    pub fn frozen_copy(&self, arena: &mut Arena) -> Result<Self> {
        let mut copy = self.clone();
        for p in copy.list.iter_mut().filter(|p| p.trained()) {
            let values = read_values(arena, p.place.value)?;
            let value = arena.persist(values.len(), p.place.value.dtype)?;
            write_values(arena, value, &values)?;
            p.place = ParamRef { value, grad: None };
            (p.moments, p.master) = (None, None);
        }
        Ok(copy)
    }

    /// An empty tape for a pass over these parameters: of their type, for where they are.
    pub fn tape(&self) -> Tape {
        Tape::on(self.float, self.target)
    }
    /// Where they are.
    pub fn target(&self) -> Target {
        self.target
    }
    /// Type of activations and matrices.
    pub fn float_type(&self) -> DType {
        self.float
    }
    /// All parameters, adapters last.
    pub fn all(&self) -> &[Param] {
        &self.list
    }
    /// Trained parameters.
    pub fn trained(&self) -> impl Iterator<Item = &Param> {
        self.list.iter().filter(|p| p.trained())
    }
    /// The adapter's settings, if there is one.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }
    /// A parameter by canonical name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.index.get(name).map(|&i| &self.list[i])
    }

    /// A parameter that the model cannot do without.
    ///
    /// # Errors
    /// Kind internal if there is none of this name.
    pub fn need(&self, name: &str) -> Result<&Param> {
        self.get(name)
            .ok_or_else(|| Error::internal("the model has no such parameter").tensor(name))
    }

    /// Reads all values that `file` is to hold; `file_name` gives a parameter's name in the file,
    /// or `None` if it is not stored there. Returns the names of the parameters whose matrices lie
    /// turned over in the file.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(
        &self,
        arena: &mut Arena,
        file: &Checkpoint,
        file_name: impl Fn(&Param) -> Option<String>,
    ) -> Result<HashSet<String>> {
        let mut turned = HashSet::new();
        for p in &self.list {
            let Some(name) = file_name(p) else { continue };
            let (shape, mut data) = file.read_f32(&name)?;
            // As transformers: a stack whose shape fits is taken as it is.
            if shape != p.shape && turned_shape(&p.name, &p.shape).as_ref() == Some(&shape) {
                data = turn_over(&data, [shape[1], shape[2]], 1);
                turned.insert(p.name.clone());
            } else if shape != p.shape {
                let said = match name.contains(".lora_") {
                    true => "adapter_config.json",
                    false => "config.json",
                };
                return Err(Error::data("a tensor of the checkpoint has the wrong shape")
                    .file(file.source())
                    .tensor(&name)
                    .expected(format!("{:?} by {said}", p.shape))
                    .found(format!("{shape:?}"))
                    .hint(format!("{said} and weights are not of one model; fetch both again")));
            }
            p.set(arena, &data)?;
        }
        Ok(turned)
    }

    /// Where the values of the chosen parameters lie that are to be written to a file: in the type they
    /// are kept in, but adapters in single precision.
    pub fn export(
        &self,
        file_name: impl Fn(&Param) -> Option<String>,
    ) -> Vec<(TensorSpec, Region)> {
        self.list
            .iter()
            .filter_map(|p| {
                let name = file_name(p)?;
                let kept = p.name.contains(".lora_").then_some(p.master).flatten();
                let region = kept.unwrap_or(p.place.value);
                Some((TensorSpec { name, dtype: region.dtype, shape: p.shape.clone() }, region))
            })
            .collect()
    }

    /// Writes the first values of fresh adapters.
    ///
    /// # Errors
    /// Kind device if the device failed.
    pub fn init_adapters(&self, arena: &mut Arena, seed: u64) -> Result<()> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let factors = self.list.iter().filter(|p| p.name.ends_with(".lora_A.weight"));
        for (number, p) in factors.enumerate() {
            p.set(arena, &lora.initial_a(seed, number as u32, p.shape[1]))?;
        }
        Ok(())
    }
}
