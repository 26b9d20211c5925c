//! `grpo-rt data make-shapes`: draws the data set of shapes and says where it is.

use super::Outcome;
use super::output::{check_output_dir, print};
use crate::base::{Error, Result};
use crate::io::dataset::shapes::{self, ShapesOptions};
use crate::options::Options;
use crate::settings::MakeShapesSettings;

/// Draws the data set.
///
/// # Errors
/// Wrong options, or a folder that is not empty or cannot be written.
pub fn make_shapes(options: &Options) -> Result<Outcome> {
    let s = MakeShapesSettings::from_options(options)?;
    let image_size = u32::try_from(s.image_size).map_err(|_| {
        Error::usage("cannot draw pictures of this size").key("image_size").expected("28 to 2048")
    })?;
    check_output_dir(&s.output_dir, s.overwrite)?;
    let wanted =
        ShapesOptions { image_size, ..ShapesOptions::new(&s.output_dir, s.num_rows, s.seed) };
    let made = shapes::make_shapes(&wanted)?;
    if !s.quiet {
        print(&format!(
            "wrote {} ({} rows), {} (the same rows, answered in several ways) and {} ({} rows, of other images)\n",
            made.train.display(),
            made.train_rows,
            made.warmup.display(),
            made.test.display(),
            made.test_rows
        ));
    }
    Ok(Outcome::Done)
}
