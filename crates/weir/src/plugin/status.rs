//! How the plugins of a running gateway do.
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{fmt::Write as _, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, runtime, time::timeout};

/// Of an answer.
const MAX_BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a digest.
const SHOWN_DIGITS: usize = 12;

/// The plugins by the admin listener.
pub fn ask(admin: SocketAddr) -> Result<Vec<Value>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async { timeout(PATIENCE, fetch(admin)).await });
    let body = asked.with_context(|| format!("the gateway at {admin} does not answer"))??;
    let mut all: Value = serde_json::from_slice(&body).with_context(|| format!("{admin}/plugins"))?;
    match all["plugins"].take() {
        Value::Array(plugins) => Ok(plugins),
        _ => bail!("{admin} is not the admin listener of a gateway"),
    }
}

async fn fetch(admin: SocketAddr) -> Result<Bytes> {
    let hint = || format!("cannot reach the admin listener at {admin}: is the gateway running? --admin names another address");
    let stream = TcpStream::connect(admin).await.with_context(hint)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/plugins").header(header::HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("{admin} does not speak HTTP"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|e| anyhow::anyhow!("{admin}: {e}"))?.to_bytes();
    if status != StatusCode::OK {
        bail!("{admin} answers with {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

/// Those of that name: `NAMESPACE/NAME`, or `NAME` of any namespace.
pub fn named<'a>(all: &'a [Value], name: &str) -> impl Iterator<Item = &'a Value> {
    let is = move |plugin: &&Value| {
        let full = plugin["name"].as_str().unwrap_or_default();
        full == name || full.rsplit_once('/').is_some_and(|(_, last)| last == name)
    };
    all.iter().filter(is)
}

/// One line for each, with the reasons below.
pub fn table(all: &[Value], age: &dyn Fn(u64) -> String, now: u64) -> String {
    if all.is_empty() {
        return "the gateway has no plugins\n".into();
    }
    let head = ["NAME", "STATE", "GENERATION", "DIGEST", "SINCE", "CANARY", "STREAMS", "5XX", "TRAPS", "P50", "P99", "MEMORY"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(all.iter().map(|plugin| {
        vec![
            text(&plugin["name"]),
            text(&plugin["state"]),
            text(&plugin["generation"]),
            digest(&plugin["digest"]),
            since(&plugin["since"], age, now),
            canary(&plugin["canary"]),
            text(&plugin["streams"]),
            text(&plugin["responses_5xx"]),
            text(&plugin["traps"]),
            micros(&plugin["callback_p50_us"]),
            micros(&plugin["callback_p99_us"]),
            mib(&plugin["memory_bytes"]),
        ]
    }));
    let mut out = aligned(&rows);
    for plugin in all.iter().filter(|plugin| plugin["reason"].is_string()) {
        let _ = writeln!(out, "{}: {}", text(&plugin["name"]), text(&plugin["reason"]));
    }
    out
}

/// One plugin, and the versions that it has had.
pub fn details(plugin: &Value, age: &dyn Fn(u64) -> String, now: u64) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        if value != "-" {
            let _ = writeln!(out, "{name:<12} {value}");
        }
    };
    row("plugin", text(&plugin["name"]));
    row("state", format!("{} for {}", text(&plugin["state"]), since(&plugin["since"], age, now)));
    row("reason", text(&plugin["reason"]));
    row("canary", canary(&plugin["canary"]));
    row("generation", text(&plugin["generation"]));
    row("digest", text(&plugin["digest"]));
    row("abi", text(&plugin["abi"]));
    row("streams", text(&plugin["streams"]));
    row("5xx", text(&plugin["responses_5xx"]));
    row("traps", text(&plugin["traps"]));
    row("last trap", text(&plugin["last_trap"]));
    row("callbacks", text(&plugin["callbacks"]));
    row("p50", micros(&plugin["callback_p50_us"]));
    row("p99", micros(&plugin["callback_p99_us"]));
    row("instances", text(&plugin["instances"]));
    let each = plugin["memory_bytes"].as_u64().zip(plugin["instances"].as_u64()).and_then(|(bytes, n)| bytes.checked_div(n));
    row("memory", format!("{}, {} each", mib(&plugin["memory_bytes"]), mib(&each.into())));
    let head = ["GENERATION", "OUTCOME", "SINCE", "DIGEST", "STREAMS", "5XX", "TRAPS", "P50", "P99", "REASON"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(plugin["history"].as_array().into_iter().flatten().map(|version| {
        vec![
            text(&version["generation"]),
            text(&version["outcome"]).replace('_', " "),
            since(&version["since"], age, now),
            digest(&version["digest"]),
            text(&version["streams"]),
            text(&version["responses_5xx"]),
            text(&version["traps"]),
            micros(&version["callback_p50_us"]),
            micros(&version["callback_p99_us"]),
            text(&version["reason"]),
        ]
    }));
    out + "\n" + &aligned(&rows)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        // One line each.
        Value::String(text) => text.replace(['\n', '\r'], " "),
        other => other.to_string(),
    }
}

fn digest(value: &Value) -> String {
    let text = text(value);
    text.get(..SHOWN_DIGITS).map_or(text.clone(), Into::into)
}

fn since(value: &Value, age: &dyn Fn(u64) -> String, now: u64) -> String {
    value.as_u64().map_or("-".into(), |at| age(now.saturating_sub(at)))
}

fn micros(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(micros) if micros < 1000.0 => format!("{micros:.1}us"),
        Some(micros) => format!("{:.1}ms", micros / 1000.0),
    }
}

fn mib(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |bytes| format!("{:.1}Mi", bytes / 1_048_576.0))
}

/// What a canary takes of which plugin.
fn canary(value: &Value) -> String {
    let Some(of) = value["of"].as_str() else { return "-".into() };
    let mut parts = Vec::new();
    if let Some(name) = value["by_header"]["name"].as_str() {
        let value = value["by_header"]["value"].as_str().map(|v| format!("={v}")).unwrap_or_default();
        parts.push(format!("{name}{value}"));
    }
    parts.extend(value["by_cookie"].as_str().map(|name| format!("cookie {name}")));
    let weight = value["weight"].as_u64().unwrap_or_default();
    if weight > 0 || parts.is_empty() {
        parts.push(format!("{weight}%"));
    }
    let routes: Vec<&str> = value["routes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let on = if routes.is_empty() { String::new() } else { format!(" on {}", routes.join(",")) };
    format!("{} of {of}{on}", parts.join(","))
}

/// Columns as wide as their widest entry.
fn aligned(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let widths: Vec<usize> = (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn age(seconds: u64) -> String {
        format!("{seconds}s")
    }

    #[test]
    fn plugins_are_shown_in_lines() {
        let all = [
            json!({ "name": "default/p", "state": "active", "generation": 2, "digest": "0123456789abcdef", "since": 90, "streams": 7,
                    "responses_5xx": 1, "traps": 0, "callbacks": 9, "callback_p50_us": 12.5, "callback_p99_us": 4200.0,
                    "instances": 2, "memory_bytes": 4_194_304,
                    "history": [
                        { "generation": 2, "digest": "0123456789abcdef", "since": 90, "outcome": "serving", "streams": 7 },
                        { "generation": 1, "digest": "ff", "since": 10, "outcome": "rolled_back", "reason": "it\ntrapped", "traps": 3 },
                    ] }),
            json!({ "name": "default/c", "state": "failed", "generation": 0, "since": 100, "reason": "no\ncode", "memory_bytes": 0,
                    "canary": { "of": "default/p", "by_header": { "name": "x-c", "value": "1" }, "weight": 10, "routes": ["HTTPRoute/a/b"] } }),
        ];
        let shown = table(&all, &age, 100);
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
        assert_eq!(lines[1], ["default/p", "active", "2", "0123456789ab", "10s", "-", "7", "1", "0", "12.5us", "4.2ms", "4.0Mi"]);
        assert_eq!(lines[2][5], "x-c=1,10% of default/p on HTTPRoute/a/b");
        assert_eq!(lines[3], ["default/c: no code"]);
        let shown = details(&all[0], &age, 100);
        assert!(
            shown.contains("memory       4.0Mi, 2.0Mi each") && shown.contains("rolled back") && shown.contains("it trapped"),
            "{shown}"
        );
        assert_eq!((named(&all, "p").count(), named(&all, "default/p").count(), named(&all, "other/p").count()), (1, 1, 0));
        assert_eq!(table(&[], &age, 0), "the gateway has no plugins\n");
    }
}
