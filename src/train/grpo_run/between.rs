//! Between two optimizer steps: evaluations and checkpoints that are due, and what is saved when the
//! user asks to stop in the middle of one. Computes nothing.

use super::GrpoRun;
use crate::base::{Error, Result};
use crate::settings::When;
use crate::train::checkpoint::{self, Exact, Shelf, Window};
use crate::train::runlog::RunLog;
use crate::train::step::updates_per_generation;

impl GrpoRun<'_> {
    /// Passes over the data so far.
    pub(super) fn epoch(&self) -> f64 {
        self.state.cursor as f64 / self.rows.len() as f64
    }

    /// Measures and saves what is due where the run stands, unless that was done.
    pub(super) fn between_steps(&mut self, log: &mut RunLog) -> Result<()> {
        let (step, s) = (self.state.step, self.settings);
        let due = |when: When| when.due(step, self.per_epoch, self.total);
        let measures = due(s.validation.when) || step == 0 && s.validation.on_start;
        let saves = due(s.output.save);
        if measures && !self.eval_rows.is_empty() && !log.evaluated(step) {
            self.measure(log)?;
            // One that was saved before the evaluation does not know of it.
            self.saved = None;
        }
        let best = self.state.best.is_some_and(|b| b.step == step);
        let saves = saves || s.output.save == When::Better && best;
        if saves && self.saved != Some((step, self.untouched())) {
            self.save(log)?;
        }
        Ok(())
    }

    /// Whether there are completions that no optimizer step has been taken on.
    fn untouched(&self) -> bool {
        self.current.as_ref().is_some_and(|r| r.window.used == 0)
    }

    /// Writes a checkpoint; what is left of the rollout goes with it.
    pub(super) fn save(&mut self, log: &mut RunLog) -> Result<()> {
        let (s, w) = (self.settings, self.workspace);
        self.state.window = self.open_window();
        self.state.pending = log.pending();
        log.flush()?;
        let saved = checkpoint::save(&self.shelf(), &w.model, &w.arena, &self.state, &log.history);
        self.state.window = None;
        self.state.pending = Vec::new();
        saved?;
        self.saved = Some((self.state.step, self.untouched()));
        if self.state.best.is_some_and(|b| b.step == self.state.step) && !s.logging.quiet {
            log.say(&format!("checkpoint-{} is the best so far", self.state.step))?;
        }
        Ok(())
    }

    fn shelf(&self) -> Shelf<'_> {
        let s = self.settings;
        Shelf {
            run_dir: &s.output.run_dir,
            max_steps: self.total,
            epoch: self.epoch(),
            keep: s.output.save_total_limit,
            only_model: s.output.save_only_model,
            reference: s.grpo.sync.and(self.frozen),
        }
    }

    /// The completions that are being trained on, if they are not used up.
    fn open_window(&self) -> Option<Window> {
        let rollout = self.current.as_ref()?;
        let mut window = rollout.window.clone();
        if window.used >= updates_per_generation(self.settings) {
            return None;
        }
        if window.used > 0 {
            // Known of the weights that drew them, and of use to the first step alone.
            window.completions.iter_mut().flatten().for_each(|c| c.statistics.clear());
        }
        window.metrics = rollout.metrics.iter().map(|(n, v)| (n.clone(), Exact(*v))).collect();
        window.seconds = rollout.seconds;
        Some(window)
    }

    /// Saves where the run was stopped: after the last whole optimizer step, with the completions that
    /// were drawn since. Returns what to tell.
    pub(super) fn save_stopped(&mut self, log: &mut RunLog) -> Result<()> {
        let untouched = self.untouched();
        let begun = self.state.step > 0 || untouched;
        if begun && self.saved != Some((self.state.step, untouched)) {
            self.save(log)?;
        }
        Ok(())
    }

    /// Takes the weights of the best checkpoint, if the run is to end with them.
    pub(super) fn best_folder(&self) -> Result<Option<std::path::PathBuf>> {
        let best =
            self.state.best.filter(|b| self.settings.output.load_best && b.step < self.total);
        let Some(best) = best else { return Ok(None) };
        let folder = self.shelf().folder(best.step);
        if folder.is_dir() {
            return Ok(Some(folder));
        }
        Err(Error::data("the best checkpoint is gone")
            .file(folder)
            .key("load_best_model_at_end")
            .hint("the run itself is complete: its last checkpoint has the last model"))
    }
}
