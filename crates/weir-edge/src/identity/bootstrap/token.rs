//! Bootstrap tokens, and the signatures that they verify.
use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use std::{fmt, str::FromStr};

/// `ID.SECRET`, as `kubeadm token create` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    secret: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("expected a bootstrap token like abcdef.0123456789abcdef, as `kubeadm token create` prints it")]
    Malformed,
    #[error("the signature of cluster-info does not match the token")]
    BadSignature,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let good = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        match text.trim().split_once('.') {
            Some((id, secret)) if good(id, 6) && good(secret, 16) => Ok(Token { id: id.into(), secret: secret.into() }),
            _ => Err(TokenError::Malformed),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

impl Token {
    /// As a bearer token.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Checks a detached JWS of a text (RFC 7515, appendix F), signed with HS256 by the secret.
    pub fn verify(&self, text: &str, signature: &str) -> Result<(), TokenError> {
        let (header, signature) = signature.trim().split_once("..").ok_or(TokenError::BadSignature)?;
        let decoded = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::BadSignature);
        let fields: Value = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::BadSignature)?;
        if fields["alg"] != "HS256" {
            return Err(TokenError::BadSignature);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(text.as_bytes()));
        hmac::verify(&key, signed.as_bytes(), &decoded(signature)?).map_err(|_| TokenError::BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_an_id_and_a_secret() {
        let token: Token = " abcdef.0123456789abcdef\n".parse().unwrap();
        assert_eq!((token.id.as_str(), token.bearer().as_str()), ("abcdef", "abcdef.0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "abcdef.…");
        for bad in ["", "abcdef", "abcdef.0123", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde-", "abcdefg.0123456789abcdef"] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_signature_is_that_of_the_token_and_the_text() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let other: Token = "abcdef.0123456789abcdee".parse().unwrap();
        let sign = |algorithm: &str, text: &str| {
            let header = BASE64URL_NOPAD.encode(format!("{{\"alg\":\"{algorithm}\",\"kid\":\"abcdef\"}}").as_bytes());
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
            let tag = hmac::sign(&key, format!("{header}.{}", BASE64URL_NOPAD.encode(text.as_bytes())).as_bytes());
            format!("{header}..{}", BASE64URL_NOPAD.encode(tag.as_ref()))
        };
        assert_eq!(token.verify("text", &sign("HS256", "text")), Ok(()));
        for (token, text, signature) in [
            (&token, "other", sign("HS256", "text")),
            (&other, "text", sign("HS256", "text")),
            (&token, "text", sign("none", "text")),
            (&token, "text", "a..b".into()),
            (&token, "text", String::new()),
            (&token, "text", sign("HS256", "text").replace("..", ".x.")),
        ] {
            assert_eq!(token.verify(text, &signature), Err(TokenError::BadSignature), "{text} {signature}");
        }
    }
}
