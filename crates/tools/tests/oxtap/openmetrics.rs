//! A page of metrics as the library of Prometheus reads it: it knows nothing of how we write one.

use std::{collections::BTreeMap, io::Write, process::Stdio};

use serde::Deserialize;
use test_support::require_python_module;

/// What the parser makes of a page. A page that breaks a rule of the format, it does not read at all.
const SCRIPT: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
page = sys.stdin.buffer.read().decode()
json.dump([{'name': family.name, 'type': family.type, 'unit': family.unit, 'samples': [
    {'name': sample.name, 'labels': sample.labels, 'value': sample.value} for sample in family.samples
]} for family in families(page)], sys.stdout)
";

/// Every family, in the order of the page.
pub(crate) struct Page(Vec<Family>);

#[derive(Deserialize)]
pub(crate) struct Family {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Empty: none.
    pub(crate) unit: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    /// Asserts that the page is well formed and says of each family what it is, and that nothing in it is negative.
    pub(crate) fn read(text: &str) -> Page {
        let mut parser = require_python_module("prometheus_client");
        parser.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut parsing = parser.spawn().unwrap();
        parsing.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = parsing.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        let page = Page(serde_json::from_slice(&output.stdout).unwrap());
        for Family { name, kind, samples, .. } in &page.0 {
            assert_ne!(kind, "unknown", "{name}");
            assert!(samples.iter().all(|sample| sample.value >= 0.0), "{name}: {samples:?}");
        }
        // It leaves out what has the same name and labels as another sample.
        let count = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(page.0.iter().map(|family| family.samples.len()).sum::<usize>(), count);
        page
    }

    /// The family of this name.
    pub(crate) fn family(&self, name: &str) -> &Family {
        self.0.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The value of the one sample with this name and these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|found| found == value)
        };
        let is_meant = |sample: &&Sample| sample.name == name && labels.iter().all(|label| has(sample, label));
        let samples: Vec<_> = self.0.iter().flat_map(|family| &family.samples).filter(is_meant).collect();
        let [sample] = samples[..] else { panic!("{name} {labels:?}: {samples:?}") };
        sample.value
    }
}
