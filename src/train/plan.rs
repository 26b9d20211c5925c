//! The memory of a GRPO run before there is one: from config.json and settings alone, with an assumed
//! prompt. Asks the functions that a run asks (`model::params` for places, `rollout::layout` for the
//! rollout, `grpo::update` for micro-batches), so that the peak is the arena's, to the byte, where
//! prompts and completions are as assumed. Reads no weights, no tokenizer and no data; runs nothing.

pub mod largest; // what would still fit

use crate::base::{DType, Error, Result, Target};
use crate::device;
use crate::device::known::KNOWN_DEVICES;
use crate::grpo::optim::optimizer_bytes;
use crate::mem::plan::aligned;
use crate::model::config::VlmConfig;
use crate::model::params::{ParamStore, Training};
use crate::model::processor::{Visual, VisualProcessor};
use crate::model::prompt::Prompt;
use crate::model::vision_store::{encoding_bytes, feature_bytes, passes};
use crate::options::Options;
use crate::rollout::layout::{Layout, Rehearsal, Wanted, rehearse};
use crate::rollout::scheduler::GroupSize;
use crate::settings::{AssumedPrompt, ModelSettings, PlanDevice, PlanSettings, TrainSettings};
use crate::train::fit::{self, Ground, Known, Need, Planned, Update};
use crate::train::step::{needs_frozen_copy, optimizer_settings};
use crate::train::workspace::{free_bytes, training_of};
use largest::Largest;
use std::sync::Arc;

/// A range of memory with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// What lies there.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
}

/// A stretch of a step, and what it has in the space above the regions that stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// What is done.
    pub name: &'static str,
    /// From the bottom.
    pub parts: Vec<Region>,
}

impl Phase {
    /// Bytes above the regions that stay.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.bytes).sum()
    }
}

/// What is assumed of the prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Assumed {
    /// Images of each prompt.
    pub images: usize,
    /// Width and height of each, as given.
    pub size: (usize, usize),
    /// Patches in time, height and width of each.
    pub grid: [usize; 3],
    /// Tokens of each image.
    pub image_tokens: usize,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Whether the limits of pixels are those of the published models, for want of a file.
    pub default_limits: bool,
}

/// The memory of a run.
#[derive(Debug)]
pub struct StepPlan {
    /// The model.
    pub config: VlmConfig,
    /// Parameters of the model and of its adapter, and those of them that are trained.
    pub parameters: [usize; 2],
    /// Type of matrices and activations.
    pub dtype: DType,
    /// The settings of the run.
    pub settings: TrainSettings,
    /// What is planned for.
    pub device: PlanDevice,
    /// It as people call it, and its bytes of memory.
    pub machine: (String, usize),
    /// Bytes that may be planned with.
    pub budget: usize,
    /// What is assumed.
    pub assumed: Assumed,
    /// What stays for the whole run.
    pub regions: Vec<Region>,
    /// What a step does, in order.
    pub phases: Vec<Phase>,
    /// How the rollout divides its space.
    pub layout: Layout,
    /// Passes of the rollout; `None` if not even one completion fits.
    pub rehearsal: Option<Rehearsal>,
    /// The heaviest micro-batch.
    pub micro_batch: Planned,
    /// What would still fit.
    pub largest: Largest,
    /// What is needed where there is this much room.
    need: Need,
    /// The least that would do.
    least: usize,
    /// Bytes of features that can be kept.
    store: usize,
    target: Target,
    free: usize,
    /// The assumed prompt.
    known: Known,
    run: Options,
}

impl StepPlan {
    /// Plans a run.
    ///
    /// # Errors
    /// If config.json cannot be read or describes no model of this program, or if the assumed prompt
    /// does not fit the model's context. A run that does not fit its memory is planned all the same.
    pub fn of(plan: &PlanSettings) -> Result<Self> {
        let s = TrainSettings::from_options(&plan.run)?;
        let config = VlmConfig::from_path(&s.model.path)?;
        let (prompt, assumed) = assume(&plan.prompt, &config, &s)?;
        let known = Known { prompt, answer: 0, rows: 0 };
        let training = training_of(&s.model, &config)?;
        let machine = Machine::of(plan.device)?;
        let (target, free) = (machine.target, machine.free);
        let ground = Ground { config: &config, target, budget: free };
        let (params, placed) = fit::places(ground, &training, &s.model, &s.machine)?;
        let frozen = needs_frozen_copy(&s, &training).then(|| fit::frozen_bytes(&params));
        let regions = regions(&params, placed, frozen.unwrap_or(0));
        let base = placed + frozen.unwrap_or(0);
        let budget = ground.budget(&s.machine);
        let room = budget.saturating_sub(base);
        let drawing = Drawing { config: &config, params: &params, settings: &s, room };
        let features = regions.iter().find(|r| r.name == FEATURES).map_or(0, |r| r.bytes);
        let row = feature_bytes(&config, s.model.dtype);
        // The store's rows are rounded up to the arena's alignment: fewer than one row more.
        let store = features / row;
        let (layout, rehearsal) = drawing.rollout(&known.prompt, store)?;
        let update = Update { config: &config, params: &params, settings: &s, training: &training };
        let micro_batch = update.heaviest(&known.prompt, room)?;
        let mut phases = rollout_phases(&layout, rehearsal.as_ref());
        phases.extend(drawing.encoding(&micro_batch, &training, store)?);
        phases.extend(update_phases(&micro_batch));
        let optimizer = optimizer_bytes(&params, &optimizer_settings(&s.training))?;
        phases.push(phase("optimizer", &[("norm and clipping", optimizer)]));
        let largest = Largest::find(&update, &known.prompt, &layout, room)?;
        let need = fit::grpo_need(&plan.run, ground, &known)?;
        let least = base + need.rollout.max(update.least(&known.prompt, 0)?);
        let all = params.all().iter().map(|p| p.len()).sum();
        let trained = params.trained().map(|p| p.len()).sum();
        Ok(StepPlan {
            parameters: [all, trained],
            dtype: s.model.dtype,
            device: plan.device,
            machine: (machine.title, machine.memory),
            target,
            free,
            run: plan.run.clone(),
            settings: s,
            config,
            budget,
            assumed,
            regions,
            phases,
            layout,
            rehearsal,
            micro_batch,
            largest,
            need,
            least,
            store: store * row,
            known,
        })
    }

    /// Bytes that stay for the whole run.
    pub fn base(&self) -> usize {
        self.regions.iter().map(|r| r.bytes).sum()
    }

    /// The phase that takes most.
    pub fn highest(&self) -> &Phase {
        // Of equals the first: it is the one that a run meets.
        let most = self.phases.iter().map(Phase::bytes).max();
        let found = self.phases.iter().find(|p| Some(p.bytes()) == most);
        found.expect("every step has an optimizer")
    }

    /// The highest byte that a run with these prompts and completions touches.
    pub fn peak(&self) -> usize {
        self.base() + self.highest().bytes()
    }

    /// Whether a run can be done: completions one after the other, and a micro-batch.
    pub fn fits(&self) -> bool {
        self.need.fits() && self.feature_bytes() <= self.store
    }

    /// Bytes of the features of the images that a pass needs together.
    fn feature_bytes(&self) -> usize {
        let tokens = self.assumed.images * self.assumed.image_tokens;
        // A trained tower's features come from the tape itself, but for a reference.
        let groups = if self.encodes_again() { self.micro_batch.groups } else { 1 };
        groups * tokens * feature_bytes(&self.config, self.dtype)
    }

    fn encodes_again(&self) -> bool {
        self.phases.iter().any(|p| p.name == AGAIN)
    }

    /// Least bytes with which it can be done as it is set: completions are decoded one after the other,
    /// and all that may be is recomputed.
    pub fn least(&self) -> usize {
        self.least
    }

    /// The refusal of a run that does not fit, with what would.
    ///
    /// # Errors
    /// Kind device, unless it fits.
    pub fn check(&self) -> Result<()> {
        if self.fits() {
            return Ok(());
        }
        if self.need.fits() {
            return Err(Error::device("the images of a pass do not fit the vision cache")
                .key("vision_cache_size")
                .expected(format!("at least {} bytes", self.feature_bytes()))
                .found(format!("{} bytes", self.store))
                .hint("raise --vision_cache_size, or lower --micro_batch_tokens or --max_pixels"));
        }
        let ground = Ground { config: &self.config, target: self.target, budget: self.free };
        let need = |o: &Options| fit::grpo_need(o, ground, &self.known);
        let error = fit::refusal(self.need, &self.known);
        let PlanDevice::Known(device) = self.device else {
            return Err(error.hint(fit::search::hint(&self.run, &need)?));
        };
        let mut ways = Vec::new();
        ways.extend(fit::search::nearest(&self.run, &need).map(|flags| format!("`{flags}`")));
        for d in KNOWN_DEVICES.iter().filter(|d| d.usable() > device.usable()) {
            let larger = self.run.with(&[("memory_budget", d.usable().to_string())])?;
            if need(&larger)?.fits() {
                ways.push(format!("`--device {}`", d.name));
            }
        }
        Err(error.hint(match ways.as_slice() {
            [] => {
                "no other settings of this model fit; take a smaller model or --max_pixels".into()
            }
            ways => format!("{} would fit", ways.join(", or ")),
        }))
    }
}

/// Memory that is planned for.
struct Machine {
    title: String,
    memory: usize,
    free: usize,
    target: Target,
}

impl Machine {
    fn of(device: PlanDevice) -> Result<Self> {
        let spec = match device {
            PlanDevice::Present(spec) => spec,
            PlanDevice::Known(d) => {
                let (title, memory, free) = (d.title.into(), d.memory, d.usable());
                return Ok(Machine { title, memory, free, target: Target::Gpu });
            }
        };
        let open = device::open(spec)?;
        let free = free_bytes(open.as_ref());
        Ok(match open {
            None => Machine {
                title: "this machine's memory".into(),
                memory: free,
                free,
                target: Target::Cpu,
            },
            Some(d) => Machine {
                title: d.properties().name.clone(),
                memory: d.properties().memory,
                free,
                target: Target::Gpu,
            },
        })
    }
}

/// Name of the region that keeps features of images.
pub const FEATURES: &str = "image features";

/// Name of the phase that makes features that the rollout could not leave.
pub const AGAIN: &str = "encode again";

fn phase(name: &'static str, parts: &[(&'static str, usize)]) -> Phase {
    let region = |&(name, bytes)| Region { name, bytes };
    Phase { name, parts: parts.iter().filter(|(_, b)| *b > 0).map(region).collect() }
}

/// What stays, by kind: `placed` bytes of parameters and image features, and a frozen reference.
fn regions(params: &ParamStore, placed: usize, frozen: usize) -> Vec<Region> {
    let bytes = |r: crate::mem::Region| aligned(r.elements * r.dtype.size());
    let is_adapter = |name: &str| name.contains(".lora_");
    let (mut weights, mut adapter, mut gradients, mut moments, mut masters) = (0, 0, 0, 0, 0);
    for p in params.all() {
        *if is_adapter(&p.name) { &mut adapter } else { &mut weights } += bytes(p.place.value);
        gradients += p.place.grad.map_or(0, bytes);
        moments += p.moments.map_or(0, |m| m.into_iter().map(bytes).sum());
        masters += p.master.map_or(0, bytes);
    }
    let features = placed - (weights + adapter + gradients + moments + masters);
    [
        ("weights", weights),
        ("adapter", adapter),
        ("gradients", gradients),
        ("optimizer moments", moments),
        ("float32 masters", masters),
        ("frozen reference", frozen),
        (FEATURES, features),
    ]
    .into_iter()
    .filter(|(_, bytes)| *bytes > 0)
    .map(|(name, bytes)| Region { name, bytes })
    .collect()
}

/// The prompt that stands for all, and what it was made of.
fn assume(
    a: &AssumedPrompt,
    config: &VlmConfig,
    s: &TrainSettings,
) -> Result<(Arc<Prompt>, Assumed)> {
    let (processor, default_limits) = processor(&s.model, config)?;
    let one = processor.image_shape(a.size.0, a.size.1).map_err(|e| e.key("prompt_image_size"))?;
    let (grid, image_tokens) = (one.grid_thw, one.rows());
    let of_images = a.images * image_tokens;
    let text = a.text.unwrap_or_else(|| a.limit.unwrap_or(0).saturating_sub(of_images));
    if text == 0 {
        return Err(Error::usage("the images of the prompt are longer than it may be")
            .key("max_prompt_length")
            .expected(format!("more than {of_images} tokens, those of the images"))
            .found(a.limit.unwrap_or(0).to_string())
            .hint("lower --prompt_image_size, --prompt_images or --max_pixels"));
    }
    // All images first, each run of tokens right after the one before.
    let runs: Vec<usize> = one.runs.iter().map(|r| r.tokens).collect();
    let mut starts = Vec::new();
    let mut end = 0;
    for tokens in runs.iter().cycle().take(runs.len() * a.images) {
        starts.push(end);
        end += tokens;
    }
    let image = |i: usize| Arc::new(Visual { content: i as u128, ..one.clone() });
    let images = (0..a.images).map(image).collect();
    let ids = vec![0; of_images + text];
    let prompt = Prompt::new(ids, images, starts, config.positions, String::new())?;
    let (context, length) = (config.text.max_position_embeddings, s.sampling.max_completion_length);
    if prompt.next_position as usize + length > context {
        return Err(Error::usage("prompt and completion are longer than the model's context")
            .key("max_completion_length")
            .expected(format!("at most {context} positions (max_position_embeddings)"))
            .found(format!("{} of the prompt and {length} of a completion", prompt.next_position))
            .hint("lower --max_completion_length, --prompt_tokens or --prompt_image_size"));
    }
    let assumed = Assumed {
        images: a.images,
        size: a.size,
        grid,
        image_tokens,
        tokens: prompt.len(),
        default_limits,
    };
    Ok((Arc::new(prompt), assumed))
}

/// The image processor of the folder, or that of the published models; true if it is the latter.
fn processor(
    model: &ModelSettings,
    config: &VlmConfig,
) -> Result<(Box<dyn VisualProcessor>, bool)> {
    let files = ["preprocessor_config.json", "processor_config.json"];
    let own = files.iter().any(|f| model.path.join(f).is_file());
    let dir = own.then_some(model.path.as_path());
    Ok((config.family.processor(dir, config, &model.processor)?, !own))
}

/// What a step is planned with.
struct Drawing<'a> {
    config: &'a VlmConfig,
    params: &'a ParamStore,
    settings: &'a TrainSettings,
    room: usize,
}

impl Drawing<'_> {
    /// How the rollout divides its space, and its passes if it fits.
    fn rollout(&self, prompt: &Prompt, store: usize) -> Result<(Layout, Option<Rehearsal>)> {
        let s = self.settings;
        let size = GroupSize {
            prompt: prompt.len(),
            completions: s.grpo.num_generations,
            max_tokens: s.sampling.max_completion_length,
        };
        let prompts: Vec<Prompt> =
            (0..s.grpo.prompts_per_generation).map(|i| fit::with_other_images(prompt, i)).collect();
        let groups: Vec<(&Prompt, GroupSize)> = prompts.iter().map(|p| (p, size)).collect();
        let draw = fit::draw_shape(self.config, s, prompt.len());
        let wanted = Wanted {
            groups: &groups,
            max_num_seqs: s.sampling.max_num_seqs,
            max_num_batched_tokens: s.sampling.max_num_batched_tokens,
            max_pages: None,
            draw: &draw,
        };
        let layout = Layout::of(self.config, self.params, &wanted, self.room)?;
        let rehearsal = match layout.fits() {
            true => {
                Some(rehearse(self.config, self.params, &groups, layout.limits, (store, &draw))?)
            }
            false => None,
        };
        Ok((layout, rehearsal))
    }

    /// Encoding images once more for training: for a reference whose tower is not the one that is
    /// trained, or where the store cannot keep the images of a rollout.
    fn encoding(
        &self,
        micro_batch: &Planned,
        training: &Training,
        store: usize,
    ) -> Result<Option<Phase>> {
        let update =
            Update { config: self.config, params: self.params, settings: self.settings, training };
        let rows = |grids: &[[usize; 3]]| {
            grids.iter().map(|&g| self.config.vision.feature_rows(g)).sum::<usize>()
        };
        let per_group = rows(&micro_batch.grids) / micro_batch.groups.max(1);
        let kept = per_group * self.settings.grpo.prompts_per_generation <= store;
        let from_store = !update.trains_vision() || self.settings.grpo.kl.is_some();
        if micro_batch.grids.is_empty() || !from_store || (kept && !update.trains_vision()) {
            return Ok(None);
        }
        let mut most = 0;
        for grids in passes(&micro_batch.grids, patches) {
            most = most.max(encoding_bytes(self.config, self.params, grids)?);
        }
        Ok(Some(phase(AGAIN, &[("activations", most)])))
    }
}

fn patches(grid: &[usize; 3]) -> usize {
    grid.iter().product()
}

fn rollout_phases(layout: &Layout, rehearsal: Option<&Rehearsal>) -> Vec<Phase> {
    let above = |name, activations| {
        phase(
            name,
            &[
                ("packed weights", layout.panel_bytes),
                ("KV cache", layout.cache_bytes()),
                ("activations", activations),
            ],
        )
    };
    match rehearsal {
        None => vec![above("rollout", layout.pass_bytes)],
        Some(r) => {
            let mut phases = vec![above("encode images", r.encode)];
            phases.retain(|_| r.encode > 0);
            phases.extend([above("prefill", r.prefill), above("decode", r.decode)]);
            // With one token per completion nothing is decoded after the prompt.
            phases.retain(|p| p.name != "decode" || r.decode > 0);
            phases
        }
    }
}

fn update_phases(m: &Planned) -> Vec<Phase> {
    let mut phases = vec![phase("reference", &[("activations", m.plan.reference)])];
    phases.retain(|p| p.bytes() > 0);
    phases.push(phase("forward", &[("activations", m.plan.train.forward)]));
    phases.push(phase("backward", &[("activations", m.plan.train.backward)]));
    phases
}
