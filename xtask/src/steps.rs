//! A run of several steps: each is announced, timed and remembered for the summary.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

/// The steps so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: String,
    duration: Duration,
    error: Option<Error>,
}

impl Steps {
    /// Runs one step; says whether it went well. A failed step does not end the run: the caller decides.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        println!("==> {name}");
        let start = Instant::now();
        let error = step().err();
        let duration = start.elapsed();
        match &error {
            None => println!("    {name}: ok in {}", seconds(duration)),
            Some(error) => println!("    {name}: FAILED after {}: {error:#}", seconds(duration)),
        }
        let went_well = error.is_none();
        self.done.push(Step { name: name.to_owned(), duration, error });
        went_well
    }

    /// The names of the failed steps.
    pub(crate) fn failed(&self) -> Vec<&str> {
        self.done.iter().filter(|step| step.error.is_some()).map(|step| step.name.as_str()).collect()
    }

    /// A table of all steps.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::from("steps:\n");
        for step in &self.done {
            let verdict = match &step.error {
                None => "ok".to_owned(),
                Some(error) => format!("FAILED: {}", first_line(&format!("{error:#}"))),
            };
            text.push_str(&format!("  {:<12} {:>9}  {verdict}\n", step.name, seconds(step.duration)));
        }
        let total: Duration = self.done.iter().map(|step| step.duration).sum();
        text.push_str(&format!("  {:<12} {:>9}\n", "all", seconds(total)));
        text
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_failed_step_is_remembered_and_the_next_one_runs() {
        let mut steps = Steps::default();
        assert!(!steps.run("first", || bail!("a reason\nand more")));
        assert!(steps.run("second", || Ok(())));
        assert_eq!(steps.failed(), ["first"]);
        let summary = steps.summary();
        assert!(summary.contains("FAILED: a reason\n"), "{summary}");
        assert!(summary.contains("second"), "{summary}");
    }
}
