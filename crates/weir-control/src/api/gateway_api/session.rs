//! `sessionPersistence` of a rule, in the fields of v1.6 and in those before (`sessionName`, `cookieConfig`).
use weir_config::{
    model::{SessionCarrier, SessionPersistence},
    reader::{Field, Object},
    text::is_token,
};

pub fn decode(field: &Field<'_>) -> Option<SessionPersistence> {
    let object = field.object()?;
    object.unsupported(&["idleTimeout"]);
    let by_header = object.choice("type", &[("Cookie", false), ("Header", true)]).unwrap_or(false);
    let absolute_timeout = object.duration("absoluteTimeout").filter(|d| !d.is_zero());
    let older = object.get("sessionName").and_then(|f| token(&f));
    let carrier = if by_header {
        let own = object.object("header").and_then(|header| token(&header.required("name")?));
        let Some(name) = own.or(older) else {
            if !object.has("header") {
                object.required("header");
            }
            return None;
        };
        SessionCarrier::Header { name: name.to_ascii_lowercase() }
    } else {
        let given = [object.object("cookie"), object.object("cookieConfig")];
        let [new, old] = given.map(|cookie| cookie.map(|cookie| decode_cookie(&cookie, absolute_timeout.is_some())));
        let (name, path, permanent) = new.or(old).unwrap_or_default();
        // Without a name it has one that is made of the rule's.
        let path = path.unwrap_or_else(|| "/".into());
        SessionCarrier::Cookie { name: name.or(older).unwrap_or_default(), path, permanent }
    };
    Some(SessionPersistence { carrier, absolute_timeout })
}

fn decode_cookie(cookie: &Object<'_>, ends: bool) -> (Option<String>, Option<String>, bool) {
    let name = cookie.get("name").and_then(|f| token(&f));
    let path = cookie.get("path").and_then(|f| {
        let path = f.str()?;
        let fits = path.starts_with('/') && path.bytes().all(|b| b > b' ' && b < 0x7f && b != b';');
        if !fits {
            f.invalid("is not the path of a cookie", "an absolute path without spaces and ;");
        }
        fits.then(|| path.to_string())
    });
    let permanent = cookie.choice("lifetimeType", &[("Session", false), ("Permanent", true)]).unwrap_or(false);
    if permanent && !ends {
        cookie.field().error("MissingField", "a permanent cookie lasts for some time", "add absoluteTimeout beside it, as 1h");
    }
    (name, path, permanent)
}

/// The name of a cookie or header.
fn token(field: &Field<'_>) -> Option<String> {
    let text = field.str()?;
    let fits = is_token(text);
    if !fits {
        field.invalid(format!("\"{text}\" is not the name of a cookie or header"), "letters, digits, - and _");
    }
    fits.then(|| text.to_string())
}
