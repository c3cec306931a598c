//! Whole answers: lists and single objects.
use super::{
    Newest, Stats,
    chain::{Chain, Verdict},
    context::Context,
};
use crate::apimachinery::{
    json::{Cursor, JsonError},
    list::{List, ListError},
    media::Encoding,
    object::{Envelope, Object},
    wire::Fields,
};
use bytes::Bytes;
use std::sync::atomic::Ordering::Relaxed;

/// The pieces of a list as its client sees it; `None`: as it came.
pub fn list(chain: &Chain, context: &Context, body: &Bytes, encoding: Encoding, newest: &Newest, stats: &Stats) -> Option<Vec<Bytes>> {
    filtered(chain, context, body, encoding, newest, stats).unwrap_or_else(|_| {
        stats.unreadable.fetch_add(1, Relaxed);
        None
    })
}

fn filtered(
    chain: &Chain,
    context: &Context,
    body: &Bytes,
    encoding: Encoding,
    newest: &Newest,
    stats: &Stats,
) -> Result<Option<Vec<Bytes>>, ListError> {
    newest.seen(version(body, encoding)?);
    if !chain.is_active(context) {
        return Ok(None);
    }
    let list = List::split(body, encoding)?;
    let mut verdicts = Vec::with_capacity(list.items.len());
    for item in &list.items {
        verdicts.push(match chain.concerns(item) {
            false => Verdict::Keep,
            true => verdict(chain, context, &Object::read(list.head.whole(item), encoding)?, stats),
        });
    }
    if verdicts.iter().all(|verdict| *verdict == Verdict::Keep) {
        return Ok(None);
    }
    let shown = |(item, verdict)| match verdict {
        Verdict::Keep => Some(list.head.whole(item)),
        Verdict::Replace(replaced) => Some(replaced.bytes),
        Verdict::Drop => None,
    };
    let objects: Vec<Bytes> = list.items.iter().zip(verdicts).filter_map(shown).collect();
    list.head.assemble(&objects).map(Some)
}

/// The resource version of a list, without a look at its items.
fn version(body: &[u8], encoding: Encoding) -> Result<u64, ListError> {
    let mut version = String::new();
    match encoding {
        Encoding::Protobuf => {
            for field in Fields::of(body, Envelope::read(body)?.raw).take(1) {
                let fields = Fields::of(body, field?.bytes()?);
                let texts = fields.clone();
                for field in fields {
                    let field = field?;
                    if field.number == 2 {
                        version = texts.text(&field)?.to_string();
                    }
                }
            }
        }
        _ => Cursor::new(body)?.object(|name, cursor| match name {
            "metadata" => cursor.object(|name, cursor| {
                match name {
                    "resourceVersion" => version = cursor.text()?,
                    _ => {
                        cursor.skip()?;
                    }
                }
                Ok::<_, JsonError>(())
            }),
            _ => cursor.skip().map(drop),
        })?,
    }
    Ok(version.parse().unwrap_or_default())
}

fn verdict(chain: &Chain, context: &Context, object: &Object, stats: &Stats) -> Verdict {
    let verdict = chain.apply(object, context, None);
    let counter = match &verdict {
        Ok(Verdict::Keep) => return Verdict::Keep,
        Ok(Verdict::Replace(_)) => &stats.changed,
        Ok(Verdict::Drop) => &stats.hidden,
        Err(_) => &stats.unreadable,
    };
    counter.fetch_add(1, Relaxed);
    verdict.unwrap_or(Verdict::Keep)
}

/// An object as its client sees it; `None`: as it came.
pub fn object(chain: &Chain, context: &Context, body: &Bytes, encoding: Encoding, stats: &Stats) -> Option<Vec<Bytes>> {
    let Ok(object) = Object::read(body.clone(), encoding) else {
        stats.unreadable.fetch_add(1, Relaxed);
        return None;
    };
    match verdict(chain, context, &object, stats) {
        // What a client asks for by name it gets.
        Verdict::Keep | Verdict::Drop => None,
        Verdict::Replace(replaced) => Some(vec![replaced.bytes]),
    }
}
