//! Recomputation of activations on whole models: it changes no bit of a loss or a gradient, it
//! lowers the peak, what was planned is what is used, and `auto` does as little as the memory
//! demands. The choice itself is asked on random costs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use grpo_rt::base::{DType, HostTensor, Result};
use grpo_rt::grpo::optim::zero_gradients;
use grpo_rt::grpo::pack::{Packed, TrainCompletion, TrainGroup, pack};
use grpo_rt::grpo::update::{
    DropoutSettings, Learner, MicroResult, Reference, UpdateSettings, grpo_micro_batch,
    supervised_bytes, supervised_micro_batch,
};
use grpo_rt::mem::recompute::{Level, all, pick};
use grpo_rt::mem::{Arena, Recompute};
use grpo_rt::model::config::VlmConfig;
use grpo_rt::model::lora::{LoraConfig, Pattern, Targets};
use grpo_rt::model::params::{Param, Training};
use grpo_rt::model::positions::{PositionRule, TokenRun};
use grpo_rt::model::processor::Visual;
use grpo_rt::model::prompt::Prompt;
use grpo_rt::model::vision_store::VisionStore;
use grpo_rt::model::vlm::{self, Vlm};
use grpo_rt::ops::accumulate::Accumulate;
use grpo_rt::ops::add::Add;
use grpo_rt::ops::gelu::{Gelu, GeluKind};
use grpo_rt::ops::grpo_loss::GrpoLoss;
use grpo_rt::ops::linear_logprob::HeadSettings;
use grpo_rt::ops::swiglu::Swiglu;
use grpo_rt::ops::{Emit, Slot};
use grpo_rt::options::{Command as Known, Options};
use grpo_rt::settings::TrainSettings;
use grpo_rt::tape::{Tape, TapePlan};
use grpo_rt::train::rows::load_rows;
use grpo_rt::train::workspace::{Prepared, Workspace};
use proptest::prelude::*;
use serde_json::{Value, json};

mod program; // the program, as tests run it

/// A folder with rows of large and small pictures and a small new model, made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recompute");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for line in [
            "data make-shapes --output_dir data --num_rows 8 --seed 3 --image_size 112 --quiet",
            "init --preset tiny --vocab_size 320 --dataset_name data/train.jsonl --seed 1 \
             --output_dir model --quiet",
        ] {
            let mut command = program::program();
            let done = command.args(line.split_whitespace()).current_dir(&dir).output().unwrap();
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        }
        dir
    })
}

/// Result of a micro-batch and the gradient of every trained parameter.
type Made = (MicroResult, Vec<Vec<f32>>);

/// A model with what it is trained on: two prompts with pictures, shared by three and by two
/// completions.
struct Case {
    name: &'static str,
    workspace: Workspace,
    training: Training,
    packed: Packed,
    dropout: Option<DropoutSettings>,
}

fn case(name: &'static str, change: &str, dropout: Option<f64>) -> Case {
    let dir = lab().display();
    let line = format!(
        "--model {dir}/model --dataset_name {dir}/data/train.jsonl --output_dir {dir}/none \
         --vision_cache_size 1MiB {change}"
    );
    let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    let options = Options::resolve(Known::Train, &words, std::iter::empty()).unwrap();
    let s = TrainSettings::from_options(&options).unwrap();
    let prepared = Prepared::read(&s.model, &s.machine).unwrap();
    let training = prepared.training.clone();
    let mut w = prepared.open(&s.model, &s.machine, 1).unwrap();
    warm_adapters(&mut w.model, &mut w.arena);
    let rows = load_rows(&s.data).unwrap().rows;
    let groups: Vec<TrainGroup> = [3, 2]
        .iter()
        .zip(&rows)
        .map(|(&n, row)| TrainGroup {
            prompt: Arc::new(w.encoder.encode_row(row).unwrap()),
            completions: (0..n).map(completion).collect(),
        })
        .collect();
    let dropout = dropout.map(|p| DropoutSettings { p, seed: 5, step: 2 });
    Case { name, workspace: w, training, packed: pack(&groups), dropout }
}

fn completion(i: u32) -> TrainCompletion {
    let n = 5 + 6 * i;
    TrainCompletion {
        ids: (0..n).map(|t| 70 + 13 * i + t).collect(),
        old_logps: vec![-6.0; n as usize],
        advantage: [1.5, -1.0, 0.5][i as usize],
        weight: 0.05,
        sample: i,
        ..TrainCompletion::default()
    }
}

/// The second factor of a new adapter is 0 and hides the first one's gradient: fill it.
fn warm_adapters(model: &mut Vlm, arena: &mut Arena) {
    for p in model.params.all().iter().filter(|p| p.name.ends_with(".lora_B.weight")) {
        let values: Vec<f32> = (0..p.len()).map(|i| ((i * 37 % 19) as f32 - 9.0) * 3e-3).collect();
        arena.write(p.place.value, &values).unwrap();
    }
}

/// Weights with a given room above them.
struct Room {
    arena: Arena,
    model: Vlm,
    vision: VisionStore,
}

impl Room {
    fn learner(&self) -> Learner<'_> {
        Learner {
            config: &self.model.config,
            params: &self.model.params,
            arena: &self.arena,
            vision: &self.vision,
            vision_weights: 0,
        }
    }
}

impl Case {
    /// Loss, statistics and all gradients of one micro-batch.
    fn run(&self, room: &Room, when: Recompute) -> Result<Made> {
        let settings = UpdateSettings {
            loss: GrpoLoss::clipped(0.2, 0.2),
            head: Arc::new(HeadSettings { temperature: 0.8, forbidden: vec![3] }),
            reference: Reference::None,
            dropout: self.dropout,
            recompute: when,
            on_policy: true,
            known: false,
            bonus: false,
            measured: false,
        };
        let params = &room.model.params;
        zero_gradients(params, &room.arena).unwrap();
        let r = grpo_micro_batch(&room.learner(), &self.packed, &settings)?;
        let read = |p: &Param| room.arena.read::<f32>(p.place.grad.unwrap()).unwrap();
        let grads = params.trained().map(read).collect();
        Ok((r, grads))
    }

    /// The same weights at the bottom of an arena that has `room` bytes for one micro-batch.
    fn in_room(&self, room: usize) -> Room {
        let base = self.workspace.arena.shared_base();
        let mut arena = Arena::reserve(base + room).unwrap();
        let dir = lab().join("model");
        let mut model = Vlm::load(&dir, &self.training, DType::F32, 1, &mut arena).unwrap();
        warm_adapters(&mut model, &mut arena);
        let vision = VisionStore::place(&model.config, &model.params, 1 << 20, &mut arena).unwrap();
        assert_eq!(arena.shared_base(), base);
        Room { arena, model, vision }
    }

    /// Peak above the weights of a run with plenty of memory, with what it computed.
    fn peak(&self, when: Recompute) -> (usize, Made) {
        let room = self.in_room(64 << 20);
        let result = self.run(&room, when).unwrap();
        let arena = &room.arena;
        assert_eq!(arena.planned_peak(), arena.actual_peak(), "{}", self.name);
        (arena.actual_peak() - arena.shared_base(), result)
    }
}

fn cases() -> [Case; 3] {
    [
        case("full", "--tune_mm_vision --tune_mm_mlp", None),
        case("lora", "--use_peft --lora_r 4 --lora_dropout 0.2", Some(0.2)),
        case("adapter without dropout", "--use_peft --lora_r 4 --lora_dropout 0", None),
    ]
}

fn equal_bits(name: &str, a: &Made, b: &Made) {
    assert_eq!(a.0.loss.to_bits(), b.0.loss.to_bits(), "{name}: loss");
    assert_eq!(a.0.logp, b.0.logp, "{name}: log-probabilities");
    assert_eq!(a.0.entropy, b.0.entropy, "{name}: entropies");
    assert_eq!(a.1.len(), b.1.len());
    let bits = |g: &[f32]| g.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (i, (a, b)) in a.1.iter().zip(&b.1).enumerate() {
        assert!(bits(a) == bits(b), "{name}: gradient {i}");
    }
    // Whole gradients of nothing would be equal too.
    let moved = a.1.iter().filter(|g| g.iter().any(|x| *x != 0.0)).count();
    assert!(moved * 10 >= a.1.len() * 9, "{name}: only {moved} of {} gradients", a.1.len());
}

#[test]
fn everything_recomputed_has_the_same_bits_in_less_memory() {
    for c in cases() {
        let (kept, want) = c.peak(Recompute::Never);
        let (again, got) = c.peak(Recompute::Always);
        equal_bits(c.name, &want, &got);
        assert!(want.0.recomputed == 0.0 && got.0.recomputed > 0.0, "{}", c.name);
        println!("{}: {kept} bytes kept, {again} recomputed", c.name);
        assert!(again * 4 < kept * 3, "{}: {again} of {kept}", c.name);
    }
}

#[test]
fn auto_recomputes_what_the_memory_demands() {
    for c in cases() {
        let (kept, want) = c.peak(Recompute::Never);
        let (least, _) = c.peak(Recompute::Always);
        let (plenty, _) = c.peak(Recompute::Auto);
        assert_eq!(plenty, kept, "{}: memory was plentiful", c.name);
        // From all of it down to the least: every budget is met, none is undercut without need.
        let mut last = kept;
        for share in [16, 14, 12, 9, 6, 3, 1, 0] {
            let room = least + (kept - least) * share / 16;
            let in_room = c.in_room(room);
            let got = c.run(&in_room, Recompute::Auto).unwrap();
            equal_bits(c.name, &want, &got);
            let arena = &in_room.arena;
            let used = arena.actual_peak() - arena.shared_base();
            println!("{}: {used} of {room} bytes", c.name);
            assert_eq!(arena.planned_peak(), arena.actual_peak(), "{}", c.name);
            assert!(used <= room && used <= last, "{}: {used} {room} {last}", c.name);
            assert_eq!(got.0.recomputed > 0.0, room < kept, "{}", c.name);
            last = used;
        }
        let e = c.run(&c.in_room(least - 64), Recompute::Auto).expect_err("below the least");
        assert_eq!(e.exit_code(), 5, "{}", c.name);
    }
}

#[test]
fn supervised_passes_have_the_same_bits() {
    for c in cases() {
        let head = Arc::new(HeadSettings { temperature: 1.0, forbidden: vec![] });
        let [want, got] = [Recompute::Never, Recompute::Always].map(|when| {
            let room = c.in_room(64 << 20);
            let params = &room.model.params;
            zero_gradients(params, &room.arena).unwrap();
            let r = supervised_micro_batch(&room.learner(), &c.packed, &head, c.dropout, when);
            let read = |p: &Param| room.arena.read(p.place.grad.unwrap()).unwrap();
            (r.unwrap(), params.trained().map(read).collect::<Vec<Vec<f32>>>())
        });
        equal_bits(c.name, &want, &got);
    }
}

/// A model of the size of Qwen2.5-VL-3B with adapters, planned only: the weights are never touched.
#[test]
fn a_model_of_published_size_is_planned_within_a_tenth() {
    let config = published();
    let training = Training::Lora(LoraConfig {
        r: 16,
        lora_alpha: 32.0,
        lora_dropout: 0.05,
        target_modules: Targets::Names(vec!["q_proj".into(), "down_proj".into()]),
        exclude_modules: Some(Pattern::new(r".*visual\..*").unwrap()),
    });
    let mut arena = Arena::reserve(vlm::model_bytes(&config, &training, DType::F32)).unwrap();
    let params = vlm::place(&config, &training, DType::F32, &mut arena).unwrap();
    let image = Visual {
        patches: vec![0.0; 32 * 32 * 1176],
        patch_dim: 1176,
        grid_thw: [1, 32, 32],
        original: (448, 448),
        resized: (448, 448),
        content: 0,
        runs: vec![TokenRun::of_grid([1, 16, 16])],
        seconds: vec![],
    };
    let rule = PositionRule::Grid;
    let prompt = Prompt::new(vec![1; 320], vec![image.into()], vec![10], rule, "".into());
    let ids = vec![0; 472];
    let completions = (0..8).map(|i| TrainCompletion { ids: ids.clone(), ..completion(i % 3) });
    let group = TrainGroup { prompt: prompt.unwrap().into(), completions: completions.collect() };
    let packed = pack(&[group]);
    assert_eq!(packed.input.index.len(), 4088);
    let head = Arc::new(HeadSettings::default());
    let drop = Some(DropoutSettings { p: 0.05, seed: 1, step: 0 });
    let plan =
        |when, room| supervised_bytes(&config, &params, &packed, &head, drop, when, room).unwrap();
    let (kept, least) = (plan(Recompute::Never, 0), plan(Recompute::Always, 0));
    println!("3B, 4088 rows: {kept} bytes kept, {least} recomputed");
    assert!(least * 8 < kept, "{least} of {kept}");
    for room in [kept, kept / 2, kept / 4, least] {
        let used = plan(Recompute::Auto, room);
        assert!(used <= room && used * 10 > room * 9, "{used} of {room}");
    }
}

/// Sizes of Qwen2.5-VL-3B (its config.json), with the token ids of a small model.
fn published() -> VlmConfig {
    let small =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/qwen2_5_vl/tied/config.json");
    let text = std::fs::read_to_string(&small).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let set = |part: &mut Value, sizes: &[(&str, usize)]| {
        sizes.iter().for_each(|(name, size)| part[*name] = json!(size));
    };
    let t = &mut config["text_config"];
    set(t, &[("hidden_size", 2048), ("intermediate_size", 11008), ("num_hidden_layers", 36)]);
    set(t, &[("num_attention_heads", 16), ("num_key_value_heads", 2), ("vocab_size", 151_936)]);
    t["rope_parameters"]["mrope_section"] = json!([16, 24, 24]);
    t["layer_types"] = json!(vec!["full_attention"; 36]);
    let v = &mut config["vision_config"];
    set(v, &[("depth", 32), ("hidden_size", 1280), ("intermediate_size", 3420), ("num_heads", 16)]);
    set(v, &[("out_hidden_size", 2048), ("patch_size", 14), ("window_size", 112)]);
    v["fullatt_block_indexes"] = json!([7, 15, 23, 31]);
    VlmConfig::from_json(config, small).unwrap()
}

/// One node of a random graph: what it does, what it reads (modulo what exists), and whether a
/// segment begins or ends before it.
type Step = (u8, usize, usize, u8);

/// A tape of random nodes on three inputs, its reverse walk, and the slots to be compared.
fn graph(steps: &[Step]) -> (Tape, Vec<Slot>) {
    let mut tape = Tape::new(DType::F32);
    let shape = [8, 6];
    let value = |i: usize| (0..48).map(|j| ((i * 31 + j * 7) % 13) as f32 * 0.3 - 1.7).collect();
    let mut tensors: Vec<Slot> =
        (0..3).map(|i| tape.input(HostTensor::f32(shape, value(i)))).collect();
    let inputs = tensors.clone();
    inputs.iter().for_each(|&s| tape.require_grad(s));
    for &(kind, left, right, mark) in steps {
        match mark {
            0 => tape.begin_segment("s"),
            1 => tape.end_segment(),
            _ => {}
        }
        let (a, b) = (tensors[left % tensors.len()], tensors[right % tensors.len()]);
        let made = match kind {
            0 => tape.op(Add, &[a, b]).unwrap(),
            1 => tape.op(Swiglu, &[a, b]).unwrap(),
            2 => tape.op(Gelu { kind: GeluKind::Erf }, &[a]).unwrap(),
            3 => {
                let turned = tape.view(a, &[16, 3]).unwrap();
                let turned = tape.op(Gelu { kind: GeluKind::Erf }, &[turned]).unwrap();
                tape.view(turned, &shape).unwrap()
            }
            _ => {
                // The sum changes after it was read: what was made of it cannot be made again.
                let sum = tape.op(Add, &[a, b]).unwrap();
                let read = tape.op(Gelu { kind: GeluKind::Erf }, &[sum]).unwrap();
                tape.emit_into(Arc::new(Accumulate), &[b], &[sum]).unwrap();
                tape.op(Swiglu, &[read, a]).unwrap()
            }
        };
        tensors.push(made);
    }
    let last = tensors[tensors.len() - 1];
    let mut read = vec![tape.keep(last)];
    let one = tape.input(HostTensor::f32(shape, vec![1.0; 48]));
    let found = tape.backward(&[(last, one)]).unwrap();
    read.extend(inputs.iter().filter_map(|&s| found.of(s)).map(|s| tape.keep(s)));
    (tape, read)
}

/// Values of some slots, as bits.
fn values(tape: &Tape, plan: &TapePlan, read: &[Slot]) -> Vec<Vec<u32>> {
    let arena = Arena::reserve(1 << 20).unwrap();
    let run = tape.run(plan, &arena, 0).unwrap();
    assert_eq!(arena.actual_peak(), plan.peak);
    read.iter().map(|&s| run.f32(s).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_graphs_keep_their_bits(
        steps in prop::collection::vec((0..5u8, any::<usize>(), any::<usize>(), 0..6u8), 1..40),
        share in 0.0..1.0f64,
    ) {
        let (mut tape, read) = graph(&steps);
        let kept = tape.plan();
        let want = values(&tape, &kept, &read);
        let mut every = tape.clone();
        let most = every.plan_within(0, Recompute::Always);
        prop_assert_eq!(&values(&every, &most, &read), &want);
        let room = (kept.peak as f64 * share) as usize;
        let some = tape.plan_within(room, Recompute::Auto);
        prop_assert_eq!(&values(&tape, &some, &read), &want);
        prop_assert!(some.peak <= room || some.peak == most.peak.min(kept.peak));
    }
}

#[test]
fn a_chain_in_two_segments_needs_half_of_it_at_a_time() {
    let steps: Vec<Step> = (0..16).map(|i| (2, i + 2, 0, if i % 8 == 0 { 0 } else { 2 })).collect();
    let (mut tape, _) = graph(&steps);
    let kept = tape.plan().peak;
    let plan = tape.plan_within(0, Recompute::Always);
    assert!(plan.peak < kept * 3 / 4 && plan.recomputed > 0.0);
}

/// Segments whose levels free more and cost more as they rise, and sometimes free nothing.
fn segments() -> impl Strategy<Value = Vec<Vec<Level>>> {
    let step = (prop_oneof![Just(0usize), 1..1000usize], 0.0..1e6f64);
    let segment = prop::collection::vec(step, 0..4).prop_map(|steps| {
        let (mut bytes, mut work) = (0, 0.0);
        steps
            .into_iter()
            .map(|(b, w)| {
                (bytes, work) = (bytes + b, work + w);
                Level { bytes, work }
            })
            .collect()
    });
    prop::collection::vec(segment, 0..12)
}

fn freed(segments: &[Vec<Level>], levels: &[usize]) -> usize {
    segments.iter().zip(levels).map(|(s, &l)| if l == 0 { 0 } else { s[l - 1].bytes }).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_pick_fits_if_anything_does_and_takes_nothing_without_need(
        segments in segments(),
        base in 0..20_000usize,
        share in 0.0..1.2f64,
        floor in 0..8000usize,
    ) {
        // A peak that falls with what is freed, down to what something else needs.
        let top = base + segments.iter().filter_map(|s| s.last()).map(|l| l.bytes).sum::<usize>();
        let peak = |levels: &[usize]| (top - freed(&segments, levels)).max(floor);
        let most = all(&segments);
        prop_assert_eq!(freed(&segments, &most), top - base, "the highest useful levels");
        let budget = (top as f64 * share) as usize;
        let p = pick(&segments, budget, peak);
        prop_assert_eq!(p.levels.len(), segments.len());
        prop_assert!(p.levels.iter().zip(&segments).all(|(l, s)| *l <= s.len()));
        prop_assert_eq!(p.peak, peak(&p.levels));
        prop_assert_eq!(p.peak <= budget, peak(&most).min(top.max(floor)) <= budget);
        if top.max(floor) <= budget {
            prop_assert!(p.levels.iter().all(|l| *l == 0));
        }
        // Nothing that was taken last can be left out: one raise frees more than the slack.
        if p.peak <= budget && p.levels.iter().any(|l| *l > 0) {
            let largest = segments.iter().flatten().map(|l| l.bytes).max().unwrap_or(0);
            prop_assert!(top.max(floor) - p.peak.max(floor) <= top - budget.min(top) + largest);
        }
        prop_assert_eq!(pick(&segments, budget, peak), p, "a function of its input");
    }
}
