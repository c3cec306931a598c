//! Questions to a hub that runs, over its admin socket.
use super::place::Place;
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::Write;
use weir_edge::admin::ask;

/// Writes an answer of the admin socket.
pub fn write(place: &Place, method: &str, path: &str, out: &mut impl Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(ask(&place.admin_socket(), method.parse()?, path, out))?)
}

/// The same, read.
pub fn json(place: &Place, method: &str, path: &str) -> Result<Value> {
    let mut body = Vec::new();
    write(place, method, path, &mut body)?;
    serde_json::from_slice(&body).context("the hub's answer is not JSON")
}
