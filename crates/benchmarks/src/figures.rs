//! Figures: samples of several rounds, their median and spread, as a table or as JSON.

use serde_json::{Value, json};

/// One measured quantity.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    what: String,
    unit: &'static str,
    samples: Vec<f64>,
    /// What it should reach, in words.
    goal: Option<&'static str>,
}

/// What a benchmark found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
    plots: Vec<(String, String)>,
}

impl Report {
    /// Adds samples, one of each round, to the figure called `what`.
    pub(crate) fn add(&mut self, what: impl Into<String>, unit: &'static str, sample: f64) {
        let what = what.into();
        match self.figures.iter_mut().find(|figure| figure.what == what) {
            Some(figure) => figure.samples.push(sample),
            None => self.figures.push(Figure { what, unit, samples: vec![sample], goal: None }),
        }
    }

    /// Says what a figure should reach.
    pub(crate) fn expect(&mut self, what: &str, goal: &'static str) {
        self.figures.iter_mut().filter(|figure| figure.what == what).for_each(|figure| figure.goal = Some(goal));
    }

    /// The median of a figure.
    pub(crate) fn median(&self, what: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.what == what).map(|figure| figure.spread()[1])
    }

    /// A drawing of some of it, as SVG.
    pub(crate) fn draw(&mut self, name: impl Into<String>, svg: String) {
        self.plots.push((name.into(), svg));
    }

    /// Drawings and their names.
    pub(crate) fn plots(&self) -> &[(String, String)] {
        &self.plots
    }

    /// A sentence below the table.
    pub(crate) fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or_default();
        let line = |figure: &Figure| {
            let [low, median, high] = figure.spread().map(number);
            let goal = figure.goal.map(|goal| format!("   (goal: {goal})")).unwrap_or_default();
            format!("  {:width$}  {median:>10} {:<14} {low} .. {high}{goal}\n", figure.what, figure.unit)
        };
        let figures: String = self.figures.iter().map(line).collect();
        let notes: String = self.notes.iter().map(|note| format!("  {note}\n")).collect();
        figures + &notes
    }

    fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            let [low, median, high] = figure.spread();
            json!({
                "what": figure.what, "unit": figure.unit, "median": median, "low": low, "high": high,
                "samples": figure.samples, "goal": figure.goal,
            })
        };
        json!({ "figures": self.figures.iter().map(figure).collect::<Vec<_>>(), "notes": self.notes })
    }
}

impl Figure {
    /// The lowest, the median and the highest sample.
    fn spread(&self) -> [f64; 3] {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        [sorted[0], middle, sorted[sorted.len() - 1]]
    }
}

/// All reports as one object.
pub(crate) fn json(reports: &[(&'static str, Report)]) -> Value {
    let benchmarks: serde_json::Map<_, _> =
        reports.iter().map(|(name, report)| ((*name).to_owned(), report.json())).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "version": env!("CARGO_PKG_VERSION"), "cores": cores, "benchmarks": benchmarks })
}

/// Three or four digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_of_the_sorted_samples() {
        let spread = |samples: &[f64]| {
            let mut report = Report::default();
            samples.iter().for_each(|&sample| report.add("x", "s", sample));
            report.figures[0].spread()
        };
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [1.0, 2.5, 4.0]);
        assert_eq!(spread(&[7.0]), [7.0; 3]);
    }

    #[test]
    fn a_figure_is_one_line_with_median_and_spread() {
        let mut report = Report::default();
        [1.5, 1.75, 1.25].into_iter().for_each(|sample| report.add("two : one", "x", sample));
        report.expect("two : one", "1.6 x");
        let line = "  two : one        1.50 x              1.25 .. 1.75   (goal: 1.6 x)\n";
        assert_eq!(report.table(), line);
    }
}
