//! What a command prints of a hub: for people, or as JSON.
use super::place::Place;
use anyhow::Result;
use clap::Args;
use serde_json::Value;

#[derive(Args, Debug)]
pub struct Report {
    #[command(flatten)]
    pub place: Place,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Report {
    pub fn print(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<()> {
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(value)?),
            false => print!("{}", text(value)),
        }
        Ok(())
    }
}
