//! The load generators: wrk for HTTP/1.1, h2load for HTTP/2.
use super::peers::Rig;
use anyhow::{Context, Result};
use std::process::Command;

#[derive(Clone, Copy)]
pub struct Load {
    pub tls: bool,
    pub http2: bool,
    /// Bytes of the answer.
    pub body: usize,
    /// A script for wrk.
    pub script: Option<&'static str>,
}

/// The head of a page load in a browser.
pub const BROWSER: &str = r#"
wrk.path = "/team42/app/settings/profile?tab=security&lang=en"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
wrk.headers["Accept-Language"] = "en-US,en;q=0.5"
wrk.headers["Accept-Encoding"] = "gzip, deflate, br"
wrk.headers["Cookie"] = "session=4d2f6b8a9c0e1f3a5b7d9e0c2a4f6b8d; theme=dark; consent=1"
wrk.headers["Referer"] = "https://www.example.com/team42/app/settings"
wrk.headers["Connection"] = "keep-alive"
wrk.headers["Sec-Fetch-Dest"] = "document"
wrk.headers["Sec-Fetch-Mode"] = "navigate"
wrk.headers["Cache-Control"] = "max-age=0"
"#;

/// The key that the key-auth plugin of the measurements knows.
pub const KEY: &str = r#"
wrk.headers["x-api-key"] = "key-of-the-bench"
"#;

pub const POST: &str = r#"
wrk.method = "POST"
wrk.body = string.rep("x", 4096)
wrk.headers["Content-Type"] = "application/octet-stream"
"#;

#[derive(Clone, Default)]
pub struct Sample {
    pub requests: u64,
    pub errors: u64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Load {
    pub fn run(&self, port: u16, connections: u32, seconds: u32, rig: &Rig) -> Result<Sample> {
        let url = format!("{}://localhost:{port}/", if self.tls { "https" } else { "http" });
        if self.http2 { h2load(&url, connections, seconds, rig) } else { wrk(&url, self.script, connections, seconds, rig) }
    }
}

fn on_load_core(program: &str) -> Command {
    let mut c = Command::new("taskset");
    c.args(["-c", "1", program]);
    c
}

fn wrk(url: &str, script: Option<&str>, connections: u32, seconds: u32, rig: &Rig) -> Result<Sample> {
    let mut command = on_load_core("wrk");
    command.args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}")]);
    if let Some(script) = script {
        command.arg("-s").arg(rig.write("load.lua", script)?);
    }
    let out = command.arg(url).output().context("wrk")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = number_after(&text, "Non-2xx or 3xx responses:") + socket_errors(&text);
    Ok(Sample {
        requests: text
            .lines()
            .find_map(|l| l.trim().split_once(" requests in ").and_then(|(n, _)| n.parse().ok()))
            .with_context(|| text.clone())?,
        errors: errors as u64,
        per_second: number_after(&text, "Requests/sec:"),
        p50_ms: milliseconds_after(&text, "50%"),
        p99_ms: milliseconds_after(&text, "99%"),
    })
}

/// h2load makes one stream at a time on each connection, as wrk does; its log has a line per request: start, status, time.
fn h2load(url: &str, connections: u32, seconds: u32, rig: &Rig) -> Result<Sample> {
    let log = rig.path("h2load.log");
    let _ = std::fs::remove_file(&log);
    let out = on_load_core("h2load")
        .args(["-t1", "-m1", &format!("-c{connections}"), &format!("-D{seconds}"), &format!("--log-file={}", log.display()), url])
        .output()
        .context("h2load")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = std::fs::read_to_string(&log).with_context(|| text.clone())?;
    let mut times: Vec<f64> = lines.lines().filter_map(|l| l.split('\t').nth(2)?.parse().ok()).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default() / 1000.0;
    let failed = lines.lines().filter(|l| !l.split('\t').nth(1).is_some_and(|s| s.starts_with('2'))).count();
    let requests = times.len() as u64;
    Ok(Sample { requests, errors: failed as u64, per_second: requests as f64 / f64::from(seconds), p50_ms: at(0.5), p99_ms: at(0.99) })
}

fn number_after(text: &str, label: &str) -> f64 {
    let rest = text.split_once(label).map(|(_, r)| r.trim_start()).unwrap_or_default();
    rest.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn milliseconds_after(text: &str, label: &str) -> f64 {
    let rest = text.split_once(label).map(|(_, r)| r.trim_start()).unwrap_or_default();
    let word = rest.split_whitespace().next().unwrap_or_default();
    let (digits, unit) = word.split_at(word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len()));
    let scale = match unit {
        "us" => 1e-3,
        "s" => 1e3,
        _ => 1.0,
    };
    digits.parse::<f64>().unwrap_or_default() * scale
}

fn socket_errors(text: &str) -> f64 {
    let Some((_, line)) = text.split_once("Socket errors:") else { return 0.0 };
    let line = line.lines().next().unwrap_or_default();
    line.split([',', ' ']).filter_map(|w| w.parse::<f64>().ok()).sum()
}
