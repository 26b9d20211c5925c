//! The settings of `data inspect` and `data convert`, and what contradicts them. Opens no file.

use super::*;
use crate::io::dataset::vivqa_x::SYSTEM_PROMPT;
use crate::options::Source;
use crate::settings::{ConvertSettings, InspectSettings};

impl InspectSettings {
    /// Checks the options of `data inspect` against each other.
    ///
    /// # Errors
    /// Of kind usage: options of a model without a model, samples without a page.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::Inspect);
        const OF_THE_MODEL: [&str; 12] = [
            "max_prompt_length",
            "max_completion_length",
            "min_pixels",
            "max_pixels",
            "max_anyres_num",
            "video_fps",
            "num_frames",
            "min_frames",
            "max_frames",
            "dynamic_sample",
            "video_min_pixels",
            "video_max_pixels",
        ];
        let modelled = o.path("model_name_or_path").is_some();
        if !modelled {
            let why = "without a model no prompt is made and no token counted";
            // A run's own file names them for the run.
            let typed = |name: &&&str| !matches!(o.source(name), Source::File(..));
            let typed: Vec<&str> = OF_THE_MODEL.iter().filter(typed).copied().collect();
            useless(o, &typed, why, "add --model_name_or_path")?;
        }
        let page = o.path("out");
        if page.is_none() {
            useless(o, &["num_samples"], "samples are shown on the page", "add --out page.html")?;
        }
        Ok(InspectSettings {
            data: data(o)?,
            model: if modelled { Some(model(o)?) } else { None },
            max_completion_length: count(o, "max_completion_length"),
            num_samples: count(o, "num_samples"),
            page,
            json: o.flag("json"),
        })
    }
}

impl ConvertSettings {
    /// Checks the options of `data convert` against each other.
    ///
    /// # Errors
    /// Of kind usage: no place to write to, or two; folders that do not match the files; two files
    /// that would become one.
    pub fn from_options(o: &Options) -> Result<Self> {
        assert_eq!(o.command(), Command::ConvertVivqaX);
        let inputs = o.paths("input");
        let folders = o.paths("image_folders");
        let image_folders = match folders.as_slice() {
            [] => {
                return Err(Error::usage("the images are not named")
                    .expected("the folders of COCO 2014, one for all files or one per file")
                    .hint("add --image_folders coco (with train2014 and val2014 in it)"));
            }
            [one] => vec![one.clone(); inputs.len()],
            many if many.len() == inputs.len() => folders,
            _ => {
                return Err(o
                    .wrong("image_folders", "the numbers of image folders and files differ")
                    .expected(format!("1 or {} folders", inputs.len())));
            }
        };
        let files = inputs.into_iter().zip(outputs(o)?).collect::<Vec<_>>();
        for (i, (_, out)) in files.iter().enumerate() {
            if files[..i].iter().any(|(_, earlier)| earlier == out) {
                return Err(o
                    .wrong("input", "two files would become one")
                    .found(out.display().to_string())
                    .hint("convert them one by one, each with an --out of its own"));
            }
        }
        let system = o.text("system_prompt").unwrap_or(SYSTEM_PROMPT).trim();
        Ok(ConvertSettings {
            files,
            image_folders,
            system_prompt: Some(system.to_string()).filter(|s| !s.is_empty()),
            strict: o.flag("strict_data"),
            overwrite: o.flag("overwrite_output_dir"),
            quiet: o.flag("quiet"),
        })
    }
}

/// The file that each input becomes.
fn outputs(o: &Options) -> Result<Vec<PathBuf>> {
    let inputs = o.paths("input");
    let named = |folder: PathBuf| {
        let file =
            |p: &PathBuf| folder.join(p.file_stem().unwrap_or_default()).with_extension("jsonl");
        inputs.iter().map(file).collect()
    };
    match (o.path("out"), o.path("output_dir")) {
        (Some(out), None) if inputs.len() == 1 => Ok(vec![out]),
        (Some(_), None) => Err(o
            .wrong("out", "several files cannot become one")
            .expected("output_dir, a folder for them all")),
        (None, Some(folder)) => Ok(named(folder)),
        (Some(_), Some(_)) => {
            Err(o.wrong("out", "`out` and `output_dir` are both given").hint("give one of the two"))
        }
        (None, None) => Err(Error::usage("there is no place to write to")
            .expected("out, a file; or output_dir, a folder")
            .hint("add --out train.jsonl")),
    }
}
