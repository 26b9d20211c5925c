//! Every parameter of a model: its name, its place in the arena, whether it is trained. Knows files
//! and places, no arithmetic.

use crate::base::{DType, Error, HostTensor, Result};
use crate::io::safetensors::Checkpoint;
use crate::mem::plan::aligned;
use crate::mem::{Arena, Region};
use crate::model::families::{ParamSpec, Part};
use crate::model::lora::LoraConfig;
use crate::ops::ParamRef;
use std::collections::HashMap;

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
    /// Value and gradient.
    pub place: ParamRef,
    /// First and second moments, if the parameter is trained.
    pub moments: Option<[Region; 2]>,
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
            let Some(module) = s.name.strip_suffix(".weight").filter(|m| lora.covers(m)) else {
                continue;
            };
            for (factor, shape) in
                [("lora_A", vec![lora.r, s.shape[1]]), ("lora_B", vec![s.shape[0], lora.r])]
            {
                let name = format!("{module}.{factor}.weight");
                let spec = ParamSpec { name, shape, part: s.part };
                all.push(Wanted { spec, trained: true });
            }
        }
    }
    all
}

impl ParamStore {
    /// Bytes that [`ParamStore::place`] will take, to the byte.
    pub fn bytes(specs: &[ParamSpec], training: &Training) -> usize {
        wanted(specs, training)
            .iter()
            .map(|w| aligned(w.spec.len() * 4) * if w.trained { 4 } else { 1 })
            .sum()
    }

    /// Gives every parameter a place: values, and for trained ones gradient and two moments.
    ///
    /// # Errors
    /// If the arena is full, or if an adapter fits no module.
    pub fn place(specs: &[ParamSpec], training: &Training, arena: &mut Arena) -> Result<Self> {
        let mut list: Vec<Param> = Vec::new();
        for w in wanted(specs, training) {
            let n = w.spec.len();
            let value = arena.persist(n, DType::F32)?;
            let (mut grad, mut moments) = (None, None);
            if w.trained {
                grad = Some(arena.persist(n, DType::F32)?);
                moments = Some([arena.persist(n, DType::F32)?, arena.persist(n, DType::F32)?]);
            }
            list.push(Param {
                name: w.spec.name,
                shape: w.spec.shape,
                part: w.spec.part,
                place: ParamRef { value, grad },
                moments,
            });
        }
        if let Some(lora) = training.lora()
            && !list.iter().any(Param::trained)
        {
            return Err(Error::usage("the adapter fits no module of the model")
                .key("lora_target_modules")
                .expected("last parts of linear layers of the language model, such as q_proj")
                .found(format!("{:?}", lora.target_modules)));
        }
        let index = list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(ParamStore { list, index, lora: training.lora().cloned() })
    }

    /// The same parameters with a copy of the present values of the trained ones: a reference that
    /// does not move. What is not trained is shared.
    ///
    /// # Errors
    /// Kind device if the copy does not fit the arena.
    pub fn frozen_copy(&self, arena: &mut Arena) -> Result<Self> {
        let mut copy = self.clone();
        for p in copy.list.iter_mut().filter(|p| p.trained()) {
            let values: Vec<f32> = arena.read(p.place.value);
            let value = arena.persist(values.len(), DType::F32)?;
            arena.write(value, &values);
            p.place = ParamRef { value, grad: None };
            p.moments = None;
        }
        Ok(copy)
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
    /// or `None` if it is not stored there.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(
        &self,
        arena: &mut Arena,
        file: &Checkpoint,
        file_name: impl Fn(&Param) -> Option<String>,
    ) -> Result<()> {
        for p in &self.list {
            let Some(name) = file_name(p) else { continue };
            let (shape, data) = file.read_f32(&name)?;
            if shape != p.shape {
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
            arena.write(p.place.value, &data);
        }
        Ok(())
    }

    /// Values of the chosen parameters, to be written to a file.
    pub fn export(
        &self,
        arena: &Arena,
        file_name: impl Fn(&Param) -> Option<String>,
    ) -> Vec<(String, HostTensor)> {
        self.list
            .iter()
            .filter_map(|p| {
                let name = file_name(p)?;
                Some((name, HostTensor::f32(p.shape.clone(), arena.read(p.place.value))))
            })
            .collect()
    }

    /// Writes the first values of fresh adapters.
    pub fn init_adapters(&self, arena: &mut Arena, seed: u64) {
        let Some(lora) = &self.lora else { return };
        let factors = self.list.iter().filter(|p| p.name.ends_with(".lora_A.weight"));
        for (number, p) in factors.enumerate() {
            arena.write(p.place.value, &lora.initial_a(seed, number as u32, p.shape[1]));
        }
    }
}
