//! Metrics. A guest's id carries the kind in its low two bits, so that the rules need no table.
use crate::{
    host::{MetricType, Status},
    memory::{Call, Guest, check, view},
};

fn kind(kind: u32) -> Option<MetricType> {
    [MetricType::Counter, MetricType::Gauge, MetricType::Histogram].get(kind as usize).copied()
}

fn split(id: u32) -> Result<(MetricType, u32), Status> {
    Ok((kind(id & 3).ok_or(Status::NotFound)?, id >> 2))
}

pub(super) fn define(guest: &mut Guest<'_>, kind_: u32, p: u32, l: u32, out: u32) -> Call {
    let kind = kind(kind_).ok_or(Status::BadArgument)?;
    let mut view = view(guest)?;
    let id = view.host.services().define_metric(kind, view.text(p, l)?)?;
    Ok(view.put_u32(out, id << 2 | kind as u32)?)
}

pub(super) fn increment(guest: &mut Guest<'_>, id: u32, delta: i64) -> Call {
    let (kind, id) = split(id)?;
    match kind {
        MetricType::Counter if delta <= 0 => Err(Status::BadArgument.into()),
        MetricType::Histogram => Err(Status::BadArgument.into()),
        _ => check(guest.data().services().increment_metric(kind, id, delta)),
    }
}

pub(super) fn record(guest: &mut Guest<'_>, id: u32, value: u64) -> Call {
    let (kind, id) = split(id)?;
    check(guest.data().services().record_metric(kind, id, value))
}

pub(super) fn get(guest: &mut Guest<'_>, id: u32, out: u32) -> Call {
    let (kind, id) = split(id)?;
    if kind == MetricType::Histogram {
        return Err(Status::BadArgument.into());
    }
    let value = guest.data().services().metric(kind, id).ok_or(Status::NotFound)?;
    Ok(view(guest)?.put_u64(out, value)?)
}
