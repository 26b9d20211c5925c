//! Where processors keep their settings in a model folder: the files of transformers 4 and 5. Nothing here
//! knows what the settings mean.

use crate::base::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// File of the settings in transformers 4 and in every published checkpoint.
pub const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// File in which transformers 5 nests the settings, under `image_processor`.
pub const PROCESSOR_FILE: &str = "processor_config.json";

/// The settings under `nested` in processor_config.json (transformers 5), else the first of `files`
/// that is there, else preprocessor_config.json; with the name of the file.
pub fn read_settings(
    dir: &Path,
    nested: &str,
    files: &[&'static str],
) -> Result<(&'static str, Value)> {
    let read = |name: &str| -> Result<Option<Value>> {
        let path = dir.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot read the processor's settings", &path, &e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Error::data("the processor's settings are not JSON")
                .file(&path)
                .line(e.line())
                .found(e.to_string())
        })
    };
    if let Some(Value::Object(mut outer)) = read(PROCESSOR_FILE)?
        && let Some(inner) = outer.remove(nested)
    {
        return Ok((PROCESSOR_FILE, inner));
    }
    for file in files.iter().copied().chain([PREPROCESSOR_FILE]) {
        if let Some(config) = read(file)? {
            return Ok((file, config));
        }
    }
    Err(Error::data("the model folder has no image processor settings")
        .file(dir)
        .expected(format!("{PREPROCESSOR_FILE}, or {PROCESSOR_FILE} with the key `{nested}`"))
        .hint("copy the file from the published model into the folder"))
}
