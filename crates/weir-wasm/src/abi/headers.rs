//! Header maps: 0 to 3 belong to the stream in effect, 4 to 7 to the answer at hand.
use super::context::missing;
use crate::{
    host::{MapType, Status, Stream},
    memory::{Call, Guest, check, give, give_with, view, with_scratch},
    pairs::Pairs,
    state::Host,
};
use std::rc::Rc;

enum Map {
    /// `None`: no stream is in effect.
    OfStream(Option<Rc<dyn Stream>>, MapType),
    /// Index into the answer's maps.
    OfAnswer(usize),
}

impl Map {
    fn find(host: &Host, map: u32) -> Result<Map, Status> {
        let kind = match map {
            0 => MapType::RequestHeaders,
            1 => MapType::RequestTrailers,
            2 => MapType::ResponseHeaders,
            3 => MapType::ResponseTrailers,
            4..=7 => return Ok(Map::OfAnswer(map as usize - 4)),
            _ => return Err(Status::BadArgument),
        };
        Ok(Map::OfStream(host.stream().cloned(), kind))
    }

    /// The stream's map, for an edit; answers cannot be edited.
    fn editable(host: &Host, map: u32) -> Result<(Rc<dyn Stream>, MapType), Status> {
        match Map::find(host, map)? {
            Map::OfStream(Some(stream), kind) => Ok((stream, kind)),
            _ => Err(Status::BadArgument),
        }
    }

    fn each(&self, host: &Host, each: &mut dyn FnMut(&[u8], &[u8])) {
        match self {
            Map::OfStream(stream, kind) => stream.iter().for_each(|s| s.headers(*kind, each)),
            Map::OfAnswer(i) => host.answer.maps[*i].iter().for_each(|(k, v)| each(k, v)),
        }
    }
}

/// Bytes of all names and values, as Envoy (the specification says the number of pairs).
pub(super) fn size(guest: &mut Guest<'_>, map: u32, out: u32) -> Call {
    let host = guest.data();
    let mut bytes = 0;
    Map::find(host, map)?.each(host, &mut |k, v| bytes += k.len() + v.len());
    Ok(view(guest)?.put_u32(out, u32::try_from(bytes).unwrap_or(u32::MAX))?)
}

pub(super) fn pairs(guest: &mut Guest<'_>, map: u32, pp: u32, lp: u32) -> Call {
    let host = guest.data_mut();
    let mut writer = std::mem::take(&mut host.pairs);
    writer.clear();
    let host = guest.data();
    Map::find(host, map)?.each(host, &mut |k, v| writer.push(k, v));
    let given = give_with(guest, writer.encoded_len(), pp, lp, |_, out| {
        writer.write_to(out);
        out.len()
    });
    guest.data_mut().pairs = writer;
    given
}

pub(super) fn set_pairs(guest: &mut Guest<'_>, map: u32, p: u32, l: u32) -> Call {
    let view = view(guest)?;
    let (stream, kind) = Map::editable(view.host, map)?;
    let fields = Pairs::decode(view.bytes(p, l)?).map_err(|_| Status::BadArgument)?;
    check(stream.set_headers(kind, fields))
}

pub(super) fn value(guest: &mut Guest<'_>, map: u32, p: u32, l: u32, pp: u32, lp: u32) -> Call {
    with_scratch(guest, |guest, value| {
        let view = view(guest)?;
        let name = view.bytes(p, l)?;
        let found = match Map::find(view.host, map)? {
            Map::OfStream(stream, kind) => stream.is_some_and(|s| s.header(kind, name, value)),
            Map::OfAnswer(i) => {
                let field = view.host.answer.maps[i].iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
                field.inspect(|(_, v)| value.extend_from_slice(v)).is_some()
            }
        };
        if !found {
            missing(view.host.abi)?;
        }
        give(guest, value, pp, lp)
    })
}

pub(super) fn add(guest: &mut Guest<'_>, map: u32, p: u32, l: u32, vp: u32, vl: u32) -> Call {
    let view = view(guest)?;
    let (stream, kind) = Map::editable(view.host, map)?;
    check(stream.add_header(kind, view.bytes(p, l)?, view.bytes(vp, vl)?))
}

pub(super) fn replace(guest: &mut Guest<'_>, map: u32, p: u32, l: u32, vp: u32, vl: u32) -> Call {
    let view = view(guest)?;
    let (stream, kind) = Map::editable(view.host, map)?;
    check(stream.replace_header(kind, view.bytes(p, l)?, view.bytes(vp, vl)?))
}

pub(super) fn remove(guest: &mut Guest<'_>, map: u32, p: u32, l: u32) -> Call {
    let view = view(guest)?;
    let (stream, kind) = Map::editable(view.host, map)?;
    check(stream.remove_header(kind, view.bytes(p, l)?))
}
