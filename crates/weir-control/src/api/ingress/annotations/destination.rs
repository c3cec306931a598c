//! `destination`: the hosts that requests go to whose backend is the McpBridge.
use super::given::Given;
use crate::api::istio::{
    read::{At, Headers},
    virtual_service::Destination,
};
use weir_config::reader::Field;

/// One line for each: `[WEIGHT%] HOST[:PORT] [SUBSET]`.
pub fn destinations(given: &Given<'_>) -> Vec<Destination> {
    let Some((field, text)) = given.text("destination") else { return Vec::new() };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let Some(read) = lines.map(|line| destination(field, line)).collect::<Option<Vec<_>>>() else { return Vec::new() };
    let (sum, given): (u64, bool) =
        read.iter().fold((0, false), |(sum, any), (weight, _)| (sum + weight.unwrap_or(100), any | weight.is_some()));
    if given && sum != 100 {
        let message = format!("the weights add up to {sum}%: each destination takes its share of that");
        field.warning("InvalidWeight", message, "let them add up to 100%");
    }
    read.into_iter().map(|(weight, to)| Destination { weight: weight.unwrap_or(100) as u32, ..to }).collect()
}

fn destination(field: &Field<'_>, line: &str) -> Option<(Option<u64>, Destination)> {
    let mut words = line.split_ascii_whitespace().peekable();
    let percent = words.next_if(|word| word.ends_with('%')).map(|word| word.trim_end_matches('%').parse::<u16>().ok());
    let (address, subset) = (words.next(), words.next());
    let (Some(address), None, None | Some(Some(_))) = (address, words.next(), percent) else {
        field.invalid(format!("\"{line}\" is not a destination"), "lines of [WEIGHT%] HOST[:PORT] [SUBSET], as 80% cart.static:8080 v1");
        return None;
    };
    // Hosts of Dubbo services have colons of their own.
    let split = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?)));
    let (host, port) = split.map_or((address, None), |(host, port)| (host, Some(port)));
    let to = Destination {
        host: host.to_ascii_lowercase().into(),
        subset: subset.unwrap_or_default().into(),
        port,
        weight: 0,
        headers: Headers::default(),
        at: At::of(field),
    };
    Some((percent.flatten().map(u64::from), to))
}
