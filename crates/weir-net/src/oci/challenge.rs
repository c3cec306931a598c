//! `WWW-Authenticate` as registries send it (RFC 9110, 11.6.1).

/// One challenge: its scheme in lower case, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one field; what cannot be read ends the list.
pub fn challenges(field: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    let mut rest = field.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start();
        match after.strip_prefix('=') {
            Some(value) => {
                let Some((value, after)) = value_of(value.trim_start()) else { break };
                let Some(challenge) = all.last_mut() else { break };
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            None => {
                all.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    all
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return Some((text[..end].to_string(), &text[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_registries() {
        let read = |text: &str| {
            let shown = |c: Challenge| (c.scheme, c.parameters.into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(";"));
            challenges(text).into_iter().map(shown).collect::<Vec<_>>()
        };
        let one = |scheme: &str, parameters: &str| (scheme.to_string(), parameters.to_string());
        for (text, wanted) in [
            (
                r#"Bearer realm="https://a.test/token",service="r.test",scope="repository:a/b:pull,push""#,
                vec![one("bearer", "realm=https://a.test/token;service=r.test;scope=repository:a/b:pull,push")],
            ),
            (r#"Basic realm="x \"y\"""#, vec![one("basic", r#"realm=x "y""#)]),
            (
                "Negotiate, Basic realm=x, Bearer realm = \"y\" , a=b",
                vec![one("negotiate", ""), one("basic", "realm=x"), one("bearer", "realm=y;a=b")],
            ),
            ("Basic", vec![one("basic", "")]),
            (r#"Bearer realm="open"#, vec![one("bearer", "")]),
            ("= x", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
    }
}
