//! Every benchmark works. What it measures in this moment means nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_benchmark_gives_figures() {
    let output =
        Command::new(test_support::target_program("oxtap-bench")).args(["--smoke", "--json"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let benchmarks = found["benchmarks"].as_object().unwrap();
    let names: Vec<_> = benchmarks.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "budget",
            "chains",
            "control",
            "images",
            "limits",
            "logging",
            "memory",
            "nbd",
            "neighbour",
            "peers",
            "queues",
            "ring",
            "storage",
            "stuck"
        ]
    );
    for (name, report) in benchmarks {
        let figures = report["figures"].as_array().unwrap();
        assert!(!figures.is_empty(), "{name}");
        for figure in figures {
            assert!(figure["median"].is_number(), "{name}: {figure}");
        }
    }
}

#[test]
fn an_unknown_benchmark_is_refused_with_the_names_of_the_known() {
    let output = Command::new(test_support::target_program("oxtap-bench")).arg("speed").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(errors.contains("\"speed\"") && errors.contains("queues, nbd"), "{errors}");
}
