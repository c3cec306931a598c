//! Which user a token belongs to, as the API server has confirmed by answering it.
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Most tokens that are remembered. Pods have one each, which is replaced every hour or so.
const MOST: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// Seconds since 1970; 0: never.
    pub expires: u64,
    /// The uid of the pod that the token is bound to; empty: none.
    pub pod: String,
}

impl User {
    /// The user of a token that the API server has accepted. Its signature was checked there.
    pub fn of(token: &str, digest: &[u8; 32]) -> User {
        let claims =
            || -> Option<Value> { serde_json::from_slice(&BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?).ok() };
        // A subject is of its issuer only.
        let name = |claims: &Value| {
            let name = format!("{} {}", claims["iss"].as_str()?, claims["sub"].as_str()?);
            (!name.contains('\n')).then_some(name)
        };
        match claims().and_then(|claims| Some((name(&claims)?, claims))) {
            Some((name, claims)) => User {
                name,
                expires: claims["exp"].as_u64().unwrap_or_default(),
                pod: claims["kubernetes.io"]["pod"]["uid"].as_str().unwrap_or_default().into(),
            },
            // A token without readable claims is a user of its own.
            None => User { name: format!("token:{}", data_encoding::HEXLOWER.encode(&digest[..16])), expires: 0, pod: String::new() },
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        json!({ "user": self.name, "exp": self.expires, "pod": self.pod }).to_string().into_bytes()
    }

    pub fn read(bytes: &[u8]) -> Option<User> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Some(User {
            name: value["user"].as_str()?.to_string(),
            expires: value["exp"].as_u64()?,
            // Older versions did not write it.
            pod: value["pod"].as_str().unwrap_or_default().into(),
        })
    }

    pub fn is_valid(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }
}

/// Users by the digests of their tokens.
#[derive(Debug, Default)]
pub struct Users(HashMap<[u8; 32], User>);

impl Users {
    /// Remembers a user; whether it is news.
    pub fn remember(&mut self, digest: [u8; 32], user: User, now: u64) -> bool {
        if self.0.get(&digest) == Some(&user) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.retain(|_, user| user.is_valid(now));
        }
        if self.0.len() >= MOST {
            return false;
        }
        self.0.insert(digest, user);
        true
    }

    pub fn all(&self) -> Vec<([u8; 32], User)> {
        self.0.iter().map(|(digest, user)| (*digest, user.clone())).collect()
    }

    pub fn forget(&mut self, digest: &[u8; 32]) {
        self.0.remove(digest);
    }

    /// `None` for a token that the API server has not confirmed, or that has expired.
    pub fn get(&self, digest: &[u8; 32], now: u64) -> Option<&User> {
        self.0.get(digest).filter(|user| user.is_valid(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_user_of_their_claims_until_they_expire() {
        let token = |claims: &str| format!("h.{}.s", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let digest = [7; 32];
        let account = User::of(
            &token(r#"{"iss":"https://k","sub":"system:serviceaccount:n:a","exp":100,"kubernetes.io":{"pod":{"uid":"u"}}}"#),
            &digest,
        );
        assert_eq!(account, User { name: "https://k system:serviceaccount:n:a".into(), expires: 100, pod: "u".into() });
        assert_eq!(User::read(&account.to_bytes()).as_ref(), Some(&account));
        for odd in ["", "abc", "a.b.c", &token("[]"), &token(r#"{"sub":"a"}"#), &token(r#"{"iss":"i","sub":"a\nb"}"#)] {
            assert_eq!(User::of(odd, &digest).name, "token:07070707070707070707070707070707", "{odd}");
        }
        let mut users = Users::default();
        assert!(users.remember(digest, account.clone(), 1) && !users.remember(digest, account, 1));
        assert!(users.get(&digest, 99).is_some() && users.get(&digest, 100).is_none() && users.get(&[8; 32], 1).is_none());
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let mut users = Users::default();
        let digest = |i: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&i.to_le_bytes());
            digest
        };
        let user = |expires| User { name: "u".into(), expires, pod: String::new() };
        for i in 0..MOST {
            assert!(users.remember(digest(i), user(10), 1));
        }
        assert!(!users.remember(digest(MOST), user(20), 9));
        assert!(users.remember(digest(MOST), user(20), 10) && users.get(&digest(MOST), 11).is_some());
    }
}
