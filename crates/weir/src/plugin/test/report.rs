//! What the cases came to, for people and for programs.
use super::{cases::Case, expect::Difference};
use serde::Serialize;
use std::{
    io::{self, Write},
    time::Duration,
};

#[derive(Debug, Serialize)]
pub struct CaseReport {
    pub name: String,
    pub passed: bool,
    pub milliseconds: u64,
    pub differences: Vec<StepDifference>,
    /// What was logged meanwhile; the plugin's own lines are among it.
    pub log: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct StepDifference {
    /// One-based, where a case has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    #[serde(flatten)]
    pub difference: Difference,
}

impl CaseReport {
    pub(super) fn new(case: &Case, differences: Vec<(usize, Difference)>, took: Duration, log: Vec<String>) -> CaseReport {
        let several = case.steps.len() > 1;
        let place = |(i, difference)| StepDifference { step: several.then_some(i + 1), difference };
        CaseReport {
            name: case.name.clone(),
            passed: differences.is_empty(),
            milliseconds: took.as_millis() as u64,
            differences: differences.into_iter().map(place).collect(),
            log,
        }
    }
}

/// Lines shown from the beginning and from the end of a log; a crash in Go writes a hundred.
const SHOWN: (usize, usize) = (20, 5);

/// What the plugin said, and what was said of it: without times, and with all lines of one record under each other.
fn log(records: &[String], out: &mut impl Write) -> io::Result<()> {
    let of_plugin = |record: &&String| record.contains("][wasm] ");
    let without_time = |record: &'_ String| record.split_once("][").map_or(record.clone(), |(_, rest)| format!("[{rest}"));
    let text: Vec<String> = records.iter().filter(of_plugin).map(without_time).collect();
    let lines: Vec<&str> = text.iter().flat_map(|record| record.lines()).collect();
    let left_out = lines.len().saturating_sub(SHOWN.0 + SHOWN.1);
    for (i, line) in lines.iter().enumerate() {
        if left_out > 0 && i == SHOWN.0 {
            writeln!(out, "         … {left_out} more lines, with -o json")?;
        }
        if left_out == 0 || i < SHOWN.0 || i >= SHOWN.0 + left_out {
            writeln!(out, "         {line}")?;
        }
    }
    Ok(())
}

/// A line for each case, and under one that failed what differs and what was logged.
pub fn print(reports: &[CaseReport], out: &mut impl Write) -> io::Result<()> {
    for r in reports {
        writeln!(out, "{} {} ({} ms)", if r.passed { "ok    " } else { "FAILED" }, r.name, r.milliseconds)?;
        for StepDifference { step, difference: d } in &r.differences {
            let step = step.map(|s| format!("step {s}: ")).unwrap_or_default();
            writeln!(out, "       {step}{}\n         expected {}\n         got      {}", d.field, d.expected, d.actual)?;
        }
        if !r.passed && !r.log.is_empty() {
            writeln!(out, "       log")?;
            log(&r.log, out)?;
        }
    }
    let failed = reports.iter().filter(|r| !r.passed).count();
    writeln!(out, "{} passed, {failed} failed", reports.len() - failed)
}
