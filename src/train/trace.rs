//! `grpo-rt trace`: one chat through the model with everything written down, for people who port
//! the model or compare it with another implementation. No adapter dropout, no forbidden tokens.

use crate::base::{Error, HostTensor, Result, TensorData};
use crate::io::safetensors;
use crate::model::decoder::{TextInput, head, text};
use crate::model::net::Net;
use crate::model::params::Training;
use crate::model::processor::Visual;
use crate::model::prompt::VisualStack;
use crate::model::spec::Part;
use crate::ops::attention::{Segment, Span};
use crate::ops::gather_rows::GatherRows;
use crate::ops::linear_logprob::{HeadSettings, LinearLogprob};
use crate::ops::matmul::Matmul;
use crate::settings::{MachineSettings, TraceSettings};
use crate::train::prompts::read_messages;
use crate::train::workspace::Prepared;
use std::sync::Arc;

/// Named tensors of a trace: `input_ids [T]`, `position_ids [3,T]`, `pixel_values`,
/// `image_grid_thw [images,3]` (of videos `pixel_values_videos`, `video_grid_thw`), features of the
/// tower (`image_embeds`, `deepstack.<level>`), named activations, `logits [T,V]`, and with gradients `loss` (mean
/// negative log-likelihood of the last assistant message) and `grad.<name in the checkpoint>`.
///
/// # Errors
/// If the chat or the model cannot be read, or gradients are wanted of a chat that does not end with
/// an assistant's message.
pub fn trace(settings: &TraceSettings) -> Result<Vec<(String, HostTensor)>> {
    let (messages, media) = read_messages(&settings.messages)?;
    let machine = MachineSettings { threads: settings.threads, ..MachineSettings::default() };
    let mut prepared = Prepared::read(&settings.model, &machine)?;
    if settings.grad && prepared.training == Training::None {
        let all = vec![Part::Vision, Part::Connector, Part::Language, Part::Head];
        prepared.training = Training::Full(all);
    }
    let w = prepared.open(&settings.model, &machine, 0)?;
    let complete = messages.last().is_some_and(|m| m.role == "assistant");
    if settings.grad && !complete {
        return Err(Error::data("gradients need something to learn")
            .file(&settings.messages)
            .expected("an assistant's message at the end")
            .found("a chat that ends with another role"));
    }
    let prompt = w.encoder.encode(&messages, &media, !complete)?;
    let mut out = vec![
        (
            "input_ids".to_string(),
            integers(vec![prompt.len()], prompt.ids.iter().map(|&i| i as i32)),
        ),
        (
            "position_ids".to_string(),
            integers(
                vec![3, prompt.len()],
                (0..3).flat_map(|axis| prompt.positions.iter().map(move |p| p[axis])),
            ),
        ),
    ];
    let config = &w.model.config;
    let mut tape = w.model.params.tape();
    let mut net = Net::new(&mut tape, &w.model.params);
    let mut stack = VisualStack::default();
    let index = stack.place_prompt(&prompt);
    let features = match stack.pixels() {
        Some((pixels, grids)) => {
            push_pixels(&mut out, stack.visuals());
            config.vision.encode(&mut net, pixels, &grids)?
        }
        None => Vec::new(),
    };
    let levels = features.clone();
    let all = Span { start: 0, len: prompt.len() };
    let input = TextInput {
        index,
        vision: features,
        positions: prompt.positions.clone(),
        segments: Arc::new(vec![Segment { queries: all, keys: vec![all], causal: true }]),
        cache: None,
        read: None,
    };
    let hidden = text(&mut net, &config.text, &input)?;
    let weights = head(&mut net, &config.text)?;
    let logits = tape.op(Matmul { wide: true, ..Matmul::default() }, &[hidden, weights])?;
    tape.name(logits, "logits");
    let named: Vec<_> = (0..tape.slots().len() as u32)
        .map(crate::ops::Slot)
        .filter_map(|s| tape.slots()[s.0 as usize].name.clone().map(|n| (n, s)))
        .collect();
    for s in named.iter().map(|(_, s)| s).chain(&levels) {
        tape.keep(*s);
    }
    let mut loss = None;
    if settings.grad {
        let last = messages.len() - 1;
        let start = w.encoder.encode(&messages[..last], &media, true)?.len();
        let rows = answer_rows(&prompt.ids, start, w.encoder.chat.end_of_turn_id);
        let targets: Vec<i32> = rows.iter().map(|&r| prompt.ids[r as usize + 1] as i32).collect();
        let n = rows.len();
        let (rows, targets) = (tape.indices(rows), tape.indices(targets));
        let hidden = tape.op(GatherRows, &[hidden, rows])?;
        let op = LinearLogprob {
            head: Arc::new(HeadSettings { temperature: 1.0, forbidden: vec![] }),
            known: false,
            bonus: false,
        };
        let logp = tape.ops(op, &[hidden, weights, targets])?[0];
        tape.keep(logp);
        let slope = tape.input(HostTensor::f32([n, 1], vec![-1.0 / n as f32; n]));
        tape.backward(&[(logp, slope)])?;
        loss = Some(logp);
    }
    let plan = tape.plan();
    let run = tape.run(&plan, &w.arena, w.arena.shared_base())?;
    let level = |i: usize| match i {
        0 => "image_embeds".to_string(),
        _ => format!("deepstack.{}", i - 1),
    };
    let levels = levels.into_iter().enumerate().map(|(i, s)| (level(i), s));
    for (name, s) in named.into_iter().chain(levels) {
        out.push((name, HostTensor::f32(tape.ty(s).shape.clone(), run.f32(s)?)));
    }
    if let Some(logp) = loss {
        let logp = run.f64(logp)?;
        let mean = -logp.iter().sum::<f64>() / logp.len() as f64;
        out.push(("loss".into(), HostTensor::f32(Vec::new(), vec![mean as f32])));
        for p in w.model.params.trained() {
            if let Some(g) = p.place.grad {
                let name = format!("grad.{}", w.model.file_name(&p.name));
                out.push((name, HostTensor::f32(p.shape.clone(), w.arena.read(g)?)));
            }
        }
    }
    Ok(out)
}

/// Patches and grids, those of images and of videos apart.
fn push_pixels(out: &mut Vec<(String, HostTensor)>, visuals: &[Arc<Visual>]) {
    for (pixels, grid, video) in
        [("pixel_values", "image_grid_thw", false), ("pixel_values_videos", "video_grid_thw", true)]
    {
        let of: Vec<_> = visuals.iter().filter(|v| v.seconds.is_empty() != video).collect();
        let Some(first) = of.first() else { continue };
        let patches: Vec<f32> = of.iter().flat_map(|v| &v.patches).copied().collect();
        let shape = [patches.len() / first.patch_dim, first.patch_dim];
        out.push((pixels.into(), HostTensor::f32(shape, patches)));
        let sizes = of.iter().flat_map(|v| v.grid_thw).map(|n| n as i32);
        out.push((grid.into(), integers(vec![of.len(), 3], sizes)));
    }
}

fn integers(shape: Vec<usize>, values: impl Iterator<Item = i32>) -> HostTensor {
    HostTensor::new(shape, TensorData::I32(values.collect()))
}

/// Rows that predict the answer from token `start` up to and with the end of its turn.
fn answer_rows(ids: &[u32], start: usize, end_of_turn: u32) -> Vec<i32> {
    let end =
        ids[start..].iter().position(|&t| t == end_of_turn).map_or(ids.len(), |n| start + n + 1);
    (start - 1..end - 1).map(|r| r as i32).collect()
}

/// [`trace`], written to the file that the settings name.
///
/// # Errors
/// As [`trace`], or if the file cannot be written.
pub fn trace_to_file(settings: &TraceSettings) -> Result<()> {
    let tensors = trace(settings)?;
    safetensors::save(&settings.out, &tensors, &Default::default())
}
