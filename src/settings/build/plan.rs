//! The settings of `plan`: those of the run that is planned, the device, and what is assumed of the
//! prompts. Opens no file.

use super::*;
use crate::device::known::{KNOWN_DEVICES, KnownDevice};

impl PlanSettings {
    /// Checks the options of `plan`, and as those of a run, against each other.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Plan);
        let name = text(o, "device");
        let device = match KnownDevice::named(&name) {
            Some(known) => PlanDevice::Known(known),
            None => PlanDevice::Present(name.parse().map_err(|e: Error| {
                let known: Vec<&str> = KNOWN_DEVICES.iter().map(|d| d.name).collect();
                e.key("device").hint(format!("or a known one: {}", known.join(", ")))
            })?),
        };
        let output = ("output_dir", ".".to_string());
        // Budget and target of the run are the device's; it is not opened by the name here.
        let cpu = ("device", "cpu".to_string());
        let mut run = o.for_command(Command::Train).with(&[output, cpu])?;
        if let PlanDevice::Known(d) = device {
            let given = o.count("memory_budget");
            if given.is_some_and(|budget| budget > d.usable()) {
                return Err(o
                    .wrong("memory_budget", format!("an {} has less memory", d.name))
                    .expected(format!("at most {} bytes", d.usable()))
                    .hint("leave it out: a plan takes what the device has"));
            }
            if given.is_none() {
                run = run.with(&[("memory_budget", d.usable().to_string())])?;
            }
        }
        TrainSettings::from_options(&run)?;
        Ok(PlanSettings { device, prompt: prompt(o)?, run, json: o.flag("json") })
    }
}

fn prompt(o: &Options) -> Result<AssumedPrompt> {
    let images = count(o, "prompt_images");
    if images == 0 {
        useless(o, &["prompt_image_size"], "there are no images", "raise --prompt_images")?;
    }
    let limit = o.count("max_prompt_length");
    if limit.is_some() {
        let why = "max_prompt_length says how long the prompt is";
        useless(o, &["prompt_tokens"], why, "give one of the two")?;
    }
    let text = text(o, "prompt_image_size");
    let side = |t: &str| t.trim().parse::<usize>().ok().filter(|n| *n > 0);
    let size = text.split_once(['x', 'X']).and_then(|(w, h)| Some((side(w)?, side(h)?)));
    let Some(size) = size else {
        return Err(o
            .wrong("prompt_image_size", "wrong value for `prompt_image_size`")
            .expected("width and height in pixels, such as 1024x768"));
    };
    Ok(AssumedPrompt {
        images,
        size,
        text: if limit.is_some() { None } else { Some(count(o, "prompt_tokens")) },
        limit,
    })
}
