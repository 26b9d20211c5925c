//! The rollout engine on a small model, in float32 and in bfloat16: no completion, log-probability
//! or statistic depends by one bit on which completions share a pass, on limits, order or threads,
//! and training computes the same ones. Images are encoded once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use grpo_rt::base::Result;
use grpo_rt::grpo::pack::{TrainCompletion, TrainGroup, pack};
use grpo_rt::grpo::update::log_probs;
use grpo_rt::model::prompt::Prompt;
use grpo_rt::ops::sample::SamplingSettings;
use grpo_rt::options::{Command as Known, Options};
use grpo_rt::rollout::layout::Service;
use grpo_rt::rollout::need::DrawShape;
use grpo_rt::rollout::scheduler::GroupSize;
use grpo_rt::rollout::{
    Completion, Engine, EngineSettings, Event, Finish, Generated, Request, head_settings,
};
use grpo_rt::settings::TrainSettings;
use grpo_rt::train::rows::load_rows;
use grpo_rt::train::workspace::Workspace;

mod program; // the program, as tests run it

/// A folder with pictures of two sizes, `small/` and `large/`, and a small new model, made once.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("engine");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for line in [
            "data make-shapes --output_dir small --num_rows 8 --seed 3 --quiet",
            "data make-shapes --output_dir large --num_rows 8 --seed 4 --image_size 112 --quiet",
            "init --preset tiny --vocab_size 320 --dataset_name small/train.jsonl --seed 1 \
             --output_dir model --quiet",
        ] {
            let mut command = program::program();
            let done = command.args(line.split_whitespace()).current_dir(&dir).output().unwrap();
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        }
        dir
    })
}

const F32: &str = "--dtype float32";
const BF16: &str = "--dtype bfloat16";
const LORA: &str = "--use_peft --lora_r 4";

/// A model with prompts on two small and two large pictures, by turns.
struct Lab {
    w: Workspace,
    prompts: Vec<Arc<Prompt>>,
}

fn open(change: &str) -> Lab {
    let dir = lab().display();
    let line = format!(
        "--model {dir}/model --dataset_name {dir}/small/train.jsonl:{dir}/large/train.jsonl \
         --output_dir {dir}/none --memory_budget 1GiB {change}"
    );
    let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    let options = Options::resolve(Known::Train, &words, std::iter::empty()).unwrap();
    let s = TrainSettings::from_options(&options).unwrap();
    let mut w = Workspace::open(&s.model, &s.machine, 1).unwrap();
    // The second factor of a new adapter is 0: it would change nothing.
    for p in w.model.params.all().iter().filter(|p| p.name.ends_with(".lora_B.weight")) {
        let values: Vec<f32> = (0..p.len()).map(|i| ((i * 37 % 19) as f32 - 9.0) * 3e-2).collect();
        p.set(&mut w.arena, &values).unwrap();
    }
    let rows = load_rows(&s.data).unwrap().rows;
    let prompt = |i: usize| Arc::new(w.encoder.encode_row(&rows[i]).unwrap());
    let prompts = [0, 8, 1, 9].map(prompt).to_vec();
    assert!(prompts[0].visual_tokens() < prompts[1].visual_tokens(), "pictures of two sizes");
    Lab { w, prompts }
}

fn sampling(temperature: f32) -> Arc<SamplingSettings> {
    Arc::new(SamplingSettings { temperature, ..Default::default() })
}

/// Five completions of each prompt, at most 40 tokens long: one page of the cache is not enough.
fn requests(lab: &Lab) -> Vec<Request> {
    let sampling = sampling(0.9);
    let request = |(i, prompt): (usize, &Arc<Prompt>)| Request {
        prompt: prompt.clone(),
        completions: 5,
        sampling: sampling.clone(),
        max_tokens: [40, 24, 33, 7][i],
        first_sample: 5 * i as u32,
        seed: None,
        adapter: true,
    };
    lab.prompts.iter().enumerate().map(request).collect()
}

impl Lab {
    /// One token in 25 ends a completion, so that they are of many lengths.
    fn settings(&self) -> EngineSettings {
        EngineSettings {
            eos: (100..112).collect(),
            ignore_eos: false,
            forbidden: self.w.forbidden_tokens(),
            seed: 11,
            step: 3,
            max_num_seqs: 256,
            max_num_batched_tokens: 4096,
            max_pages: None,
        }
    }

    fn try_generate(&self, settings: EngineSettings, requests: &[Request]) -> Result<Generated> {
        Engine::new(&self.w.model, &self.w.arena, &self.w.vision, settings).generate(requests)
    }

    fn generate(&self, settings: EngineSettings, requests: &[Request]) -> Generated {
        self.try_generate(settings, requests).unwrap()
    }
}

/// Tokens, and the bits of everything known of them.
type Bits = Vec<Vec<(u32, u32, u32, u32)>>;

fn bits(completions: &[Completion]) -> Bits {
    let of = |c: &Completion| {
        assert!(!c.ids.is_empty() && c.ids.len() == c.logps.len());
        assert_eq!(c.ids.len(), c.statistics.len());
        let known = c.logps.iter().zip(&c.statistics);
        let known = known.map(|(l, [e, h])| (l.to_bits(), e.to_bits(), h.to_bits()));
        c.ids.iter().zip(known).map(|(&t, (l, e, h))| (t, l, e, h)).collect()
    };
    completions.iter().map(of).collect()
}

fn all_bits(g: &Generated) -> Vec<Bits> {
    g.completions.iter().map(|c| bits(c)).collect()
}

fn every_limit_leaves_the_bits(change: &str) {
    let lab = open(change);
    let requests = requests(&lab);
    let big = lab.generate(lab.settings(), &requests);
    let want = all_bits(&big);
    assert_eq!((big.counts.prompts, big.counts.preemptions), (4, 0), "{change}");
    assert_eq!(big.counts.peak_sequences, 20, "{change}");
    let lengths: Vec<usize> = want.iter().flatten().map(Vec::len).collect();
    assert!(
        lengths.iter().any(|n| *n < 7) && lengths.iter().any(|n| *n > 17),
        "{change}: {lengths:?}"
    );
    for n in [1, 2, 3] {
        let got = lab.generate(EngineSettings { max_num_seqs: n, ..lab.settings() }, &requests);
        assert!(all_bits(&got) == want, "{change}: {n} completions at a time");
        assert_eq!(got.counts.peak_sequences, n, "{change}");
    }
    for n in [1, 7, 64] {
        let settings = EngineSettings { max_num_batched_tokens: n, ..lab.settings() };
        let got = lab.generate(settings, &requests);
        assert!(all_bits(&got) == want, "{change}: {n} rows a pass");
        assert!(n == 64 || got.counts.passes > big.counts.passes, "{change}: {n} rows a pass");
    }
    let size = |r: &Request| GroupSize {
        prompt: r.prompt.len(),
        completions: 5,
        max_tokens: r.max_tokens,
    };
    let least = requests.iter().map(|r| size(r).least_pages()).max().unwrap();
    let mut preemptions = Vec::new();
    for (more, rows) in [(0, 4096), (1, 4096), (2, 5), (4, 64)] {
        let settings = EngineSettings {
            max_pages: Some(least + more),
            max_num_batched_tokens: rows,
            ..lab.settings()
        };
        let got = lab.generate(settings, &requests);
        assert!(all_bits(&got) == want, "{change}: {more} pages more than the least");
        preemptions.push(got.counts.preemptions);
        assert!(got.counts.peak_pages <= least + more, "{change}");
    }
    assert!(preemptions[0] > 0 && preemptions[1] > 0, "{change}: {preemptions:?}");
}

#[test]
fn limits_change_no_bit() {
    every_limit_leaves_the_bits(&format!("{F32} {LORA}"));
}

#[test]
fn limits_change_no_bit_in_bfloat16() {
    every_limit_leaves_the_bits(&format!("{BF16} {LORA}"));
}

#[test]
fn order_company_and_threads_change_no_bit() {
    for change in [F32, BF16] {
        let lab = open(change);
        let requests = requests(&lab);
        let want = all_bits(&lab.generate(lab.settings(), &requests));
        let turned: Vec<Request> = requests.iter().rev().cloned().collect();
        let mut got = all_bits(&lab.generate(lab.settings(), &turned));
        got.reverse();
        assert!(got == want, "{change}: another order");
        for (i, r) in requests.iter().enumerate() {
            let got = lab.generate(lab.settings(), std::slice::from_ref(r));
            assert!(bits(&got.completions[0]) == want[i], "{change}: request {i} alone");
            let last = Request { completions: 1, first_sample: r.first_sample + 4, ..r.clone() };
            let got = lab.generate(lab.settings(), &[last]);
            assert!(bits(&got.completions[0])[0] == want[i][4], "{change}: one of request {i}");
        }
        for threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            // A new workspace: the vision tower runs in the pool too.
            let got = pool.install(|| {
                let lab = open(change);
                all_bits(&lab.generate(lab.settings(), &requests))
            });
            assert!(got == want, "{change}: {threads} threads");
        }
    }
}

#[test]
fn training_computes_the_same_bits() {
    for change in [F32.into(), BF16.into(), format!("{F32} {LORA}"), format!("{BF16} {LORA}")] {
        let lab = open(&change);
        let requests = requests(&lab);
        let made = lab.generate(lab.settings(), &requests);
        let group = |(r, completions): (&Request, &Vec<Completion>)| TrainGroup {
            prompt: r.prompt.clone(),
            completions: completions
                .iter()
                .map(|c| TrainCompletion {
                    ids: c.ids.clone(),
                    old_logps: c.logps.clone(),
                    statistics: c.statistics.clone(),
                    ..TrainCompletion::default()
                })
                .collect(),
        };
        let groups: Vec<TrainGroup> = requests.iter().zip(&made.completions).map(group).collect();
        let head = Arc::new(head_settings(&requests[0].sampling, &lab.w.forbidden_tokens()));
        let packs = [vec![groups.clone()], groups.chunks(1).map(<[_]>::to_vec).collect()];
        for packed in packs.into_iter().flatten().map(|g| pack(&g)) {
            let (logp, entropy) = log_probs(&lab.w.learner(0), &packed, &head, true).unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&logp) == bits(&packed.old), "{change}: log-probabilities");
            assert!(bits(&entropy) == bits(&packed.entropy), "{change}: entropies");
        }
        if change.contains(LORA) {
            let whole = pack(&groups);
            let (off, _) = log_probs(&lab.w.learner(0), &whole, &head, false).unwrap();
            assert!(off != whole.old, "{change}: the adapter does something");
        }
    }
}

#[test]
fn each_request_has_its_own_sampling() {
    for change in [F32, BF16] {
        let lab = open(change);
        let mut requests = requests(&lab);
        let set = |change: fn(&mut SamplingSettings)| {
            let mut s = SamplingSettings { temperature: 0.9, ..Default::default() };
            change(&mut s);
            Arc::new(s)
        };
        requests[0].sampling = set(|s| s.temperature = 0.0);
        requests[1].sampling = set(|s| (s.top_k, s.temperature) = (5, 1.4));
        requests[2].sampling = set(|s| (s.top_p, s.min_p) = (0.6, 0.02));
        requests[3].sampling = set(|s| s.repetition_penalty = 1.7);
        let together = all_bits(&lab.generate(lab.settings(), &requests));
        for (i, r) in requests.iter().enumerate() {
            let alone = lab.generate(lab.settings(), std::slice::from_ref(r));
            assert!(bits(&alone.completions[0]) == together[i], "{change}: request {i}");
        }
        assert!(together[0].iter().all(|c| *c == together[0][0]), "{change}: greedy is one");
        assert!(together[1][0] != together[1][1], "{change}: sampled are many");
    }
}

#[test]
fn a_stop_text_ends_a_completion_where_it_appears() {
    let lab = open(F32);
    let requests = requests(&lab);
    let settings = EngineSettings { ignore_eos: true, ..lab.settings() };
    let free = lab.generate(settings.clone(), &requests);
    assert!(free.completions.iter().flatten().all(|c| c.finish == Finish::Length));
    let stop = |ids: &[u32]| ids.last().is_some_and(|t| t % 16 == 0);
    let mut engine = Engine::new(&lab.w.model, &lab.w.arena, &lab.w.vision, settings);
    engine.stop = Some(&stop);
    let stopped = engine.generate(&requests).unwrap();
    let pairs = || free.completions.iter().flatten().zip(stopped.completions.iter().flatten());
    assert!(pairs().filter(|(_, c)| c.finish == Finish::Stop).count() > 5);
    for (whole, cut) in pairs() {
        let end = whole.ids.iter().position(|t| t % 16 == 0).map_or(whole.ids.len(), |i| i + 1);
        assert_eq!(cut.ids, whole.ids[..end]);
        assert_eq!(cut.logps, whole.logps[..end]);
        let last = cut.ids.last().unwrap() % 16 == 0;
        assert_eq!(cut.finish == Finish::Stop, last);
    }
}

#[test]
fn an_image_is_encoded_once() {
    for change in [F32, BF16] {
        let lab = open(change);
        // Two prompts on one picture, and one on another.
        let mut requests = requests(&lab);
        requests[2].prompt = requests[0].prompt.clone();
        requests.truncate(3);
        let first = lab.generate(lab.settings(), &requests);
        assert_eq!(first.vision_images, 2, "{change}");
        let second = lab.generate(lab.settings(), &requests);
        assert_eq!(second.vision_images, 0, "{change}");
        assert!(all_bits(&first) == all_bits(&second), "{change}");
        // In pieces of a few rows, too.
        let fresh = open(change);
        let small = EngineSettings { max_num_batched_tokens: 3, ..fresh.settings() };
        let pieces = fresh.generate(small, &requests);
        assert_eq!(pieces.vision_images, 2, "{change}");
        assert!(all_bits(&first) == all_bits(&pieces), "{change}");
    }
}

#[test]
fn a_small_vision_cache_costs_time_and_no_bits() {
    let lab = open(F32);
    let requests = requests(&lab);
    let want = all_bits(&lab.generate(lab.settings(), &requests));
    let hidden = lab.w.model.config.text.hidden_size;
    let rows = |i: usize| lab.prompts[i].visual_tokens();
    let cache = |rows: usize| open(&format!("{F32} --vision_cache_size {}", rows * hidden * 4));
    // Room for a large picture alone: the prompts go one after the other.
    let small = cache(rows(1));
    let one = |lab: &Lab| EngineSettings { max_num_batched_tokens: 16, ..lab.settings() };
    for r in requests.iter().zip(&want) {
        let got = small.generate(one(&small), std::slice::from_ref(r.0));
        assert!(bits(&got.completions[0]) == *r.1);
        assert_eq!(got.vision_images, 1, "what was there made way");
    }
    // All at once: as much of it as one pass needs.
    let got = small.generate(small.settings(), &requests);
    assert!(all_bits(&got) == want, "a cache for one picture");
    assert!(got.vision_images >= 4);
    let none = cache(rows(1) - 1);
    let error = none.try_generate(none.settings(), &requests).expect_err("no room for a picture");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("vision_cache_size"), "{error}");
}

/// A session for requests as [`requests`] makes them, with few places and pages.
fn service(requests: &[Request]) -> Service {
    let images = requests.iter().flat_map(|r| &r.prompt.visuals);
    Service {
        max_num_seqs: 7,
        max_num_batched_tokens: 48,
        context: requests.iter().map(|r| r.prompt.len() + r.max_tokens).max().unwrap(),
        max_pages: Some(24),
        grids: images.map(|i| i.grid_thw).collect(),
        draw: DrawShape { mixed: true, ..DrawShape::default() },
    }
}

#[test]
fn requests_that_come_and_go_change_no_bit() {
    for change in [format!("{F32} {LORA}"), format!("{BF16} {LORA}")] {
        let lab = open(&change);
        let requests = requests(&lab);
        let want = all_bits(&lab.generate(lab.settings(), &requests));
        let engine = Engine::new(&lab.w.model, &lab.w.arena, &lab.w.vision, lab.settings());
        let mut session = engine.serve(&service(&requests)).unwrap();
        let (mut numbers, mut doomed, mut heard) = (Vec::new(), Vec::new(), 0);
        let mut got: Vec<Option<Vec<Completion>>> = vec![None; requests.len()];
        for step in 0.. {
            let arrives = requests.get(step / 4).filter(|_| step % 4 == 0);
            if let Some(request) = arrives {
                numbers.push(session.add(request.clone()).unwrap());
                // Others, with adapters off and randomness of their own, that will be given up.
                let other = Request { adapter: false, seed: Some(5), ..request.clone() };
                doomed.push(session.add(other).unwrap());
            }
            if step % 4 == 3
                && let Some(number) = doomed.get(step / 4)
            {
                session.cancel(*number);
                session.cancel(*number);
            }
            for event in session.step().unwrap() {
                heard += 1;
                let ended = event.finish.is_some() && session.finished(event.request);
                if let Some(i) = numbers.iter().position(|n| *n == event.request).filter(|_| ended)
                    && let Some(all) = session.take(event.request)
                {
                    got[i] = Some(all);
                }
            }
            if step > 4 * requests.len() && !session.busy() {
                break;
            }
        }
        let got: Vec<Bits> = got.iter().map(|all| bits(all.as_ref().unwrap())).collect();
        assert!(got == want, "{change}: in the company of others");
        let tokens: usize = want.iter().flatten().map(Vec::len).sum();
        assert!(heard > tokens, "{change}: others were heard too");
        assert_eq!(session.pages(), (0, 24), "{change}: pages that nobody gave back");
        assert_eq!(session.load(), (0, 0), "{change}");

        // One completion ends early; the others do not notice. What is too long takes nothing.
        let longest = (0..5).max_by_key(|&i| want[0][i].len()).unwrap();
        let number = session.add(requests[0].clone()).unwrap();
        let heard = |events: Vec<Event>| events.iter().any(|e| e.completion == longest);
        while !heard(session.step().unwrap()) {}
        session.end(number, longest);
        while session.busy() {
            session.step().unwrap();
        }
        let all = session.take(number).unwrap();
        assert_eq!(all[longest].finish, Finish::Stop, "{change}");
        for (i, (have, want)) in bits(&all).iter().zip(&want[0]).enumerate() {
            assert!(have[..] == want[..have.len()], "{change}: completion {i}");
            assert_eq!(have.len() == want.len(), i != longest, "{change}: completion {i}");
        }
        for max_tokens in [24 * 16, 1 << 20] {
            let long = Request { max_tokens, ..requests[0].clone() };
            assert!(session.add(long).is_err(), "{change}: {max_tokens}");
        }
        assert_eq!(session.pages().0, 0, "{change}");
    }
}
