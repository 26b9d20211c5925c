//! Two small real runs in a folder, for tests that look at runs: `alpha` trains an adapter, `beta` all
//! weights; both keep checkpoints.

use super::program::{lab_with_model, run_in};
use std::path::{Path, PathBuf};

/// Options of every run of these tests; `--model` and data are in the folder of [`lab`].
pub const TRAIN: &str = "train --model new --dataset_name shapes/train.jsonl --reward_funcs exact,length \
    --num_generations 2 --batch_size 4 --max_completion_length 6 --logging_steps 1 --threads 2 \
    --output_dir out --quiet";

/// An empty folder with pictures and a new model.
pub fn lab(name: &str) -> PathBuf {
    lab_with_model(name, "--num_rows 8", 320)
}

/// The two runs, below `out` in the folder.
pub fn train(dir: &Path) {
    let adapter = "--run_id alpha --max_steps 6 --save_steps 3 --use_peft --lora_r 2";
    run_in(dir, &format!("{TRAIN} {adapter}"));
    run_in(
        dir,
        &format!("{TRAIN} --run_id beta --max_steps 4 --save_steps 2 --learning_rate 1e-4"),
    );
}
