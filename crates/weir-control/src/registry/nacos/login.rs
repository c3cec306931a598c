//! Who we are to Nacos: a token for a user and password, or a signature by an access key.
use crate::{
    api::mcp_bridge::Nacos,
    registry::{
        Credentials,
        connect::{Connector, FollowError, Http},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;
use serde::Deserialize;
use sha1::{Digest, Sha1};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use url::form_urlencoded::byte_serialize;

const V1: &str = "/nacos/v1/auth/users/login";
const V3: &str = "/nacos/v3/auth/user/login";

pub struct Identity {
    login: Option<Login>,
    access_key: Option<(String, String)>,
}

struct Login {
    http: Http,
    paths: &'static [&'static str],
    form: String,
    token: Token,
    /// When to ask for another token.
    renew: Instant,
}

#[derive(Deserialize)]
struct Token {
    #[serde(rename = "accessToken")]
    token: String,
    #[serde(rename = "tokenTtl", default)]
    ttl: u64,
}

impl Identity {
    pub async fn new(nacos: &Nacos, credentials: &Credentials, connector: &Connector) -> Result<Identity, FollowError> {
        let access_key = nacos.access_key.clone().map(|key| (key.id, key.secret.0));
        let (Some(user), Some(password)) = (&credentials.nacos_username, &credentials.nacos_password) else {
            return Ok(Identity { login: None, access_key });
        };
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let form = format!("username={}&password={}", encoded(user), encoded(password));
        // Nacos 3 moved it.
        let paths: &[&str] = if nacos.version == 3 { &[V3, V1] } else { &[V1] };
        let mut http = Http::new(connector.clone(), HeaderMap::new());
        let token = ask(&mut http, paths, &form).await?;
        let renew = token.renew();
        Ok(Identity { login: Some(Login { http, paths, form, token, renew }), access_key })
    }

    /// Asks for another token before the one that is used ends.
    pub async fn renew(&mut self) -> Result<(), FollowError> {
        if let Some(login) = &mut self.login
            && Instant::now() >= login.renew
        {
            login.token = ask(&mut login.http, login.paths, &login.form).await?;
            login.renew = login.token.renew();
        }
        Ok(())
    }

    /// The headers of a request; `resource` is `GROUP@@SERVICE`, or empty.
    pub fn headers(&self, resource: &str) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = self.login.iter().map(|login| ("accessToken".into(), login.token.token.clone())).collect();
        if let Some((id, secret)) = &self.access_key {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            let data = if resource.is_empty() { now.to_string() } else { format!("{now}@@{resource}") };
            let signature = BASE64_STANDARD.encode(hmac_sha1(secret.as_bytes(), data.as_bytes()));
            headers.extend([("ak".into(), id.clone()), ("data".into(), data), ("signature".into(), signature)]);
        }
        headers
    }
}

impl Token {
    /// After most of its time.
    fn renew(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.ttl.clamp(10, 86_400) * 8 / 10)
    }
}

async fn ask(http: &mut Http, paths: &[&str], form: &str) -> Result<Token, FollowError> {
    let mut last = FollowError::Closed;
    for path in paths {
        match http.post(path, form.to_string()).await {
            Ok((_, body)) => return serde_json::from_slice(&body).map_err(FollowError::protocol),
            Err(e @ FollowError::Status { status: http::StatusCode::NOT_FOUND, .. }) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// RFC 2104.
fn hmac_sha1(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    match key.len() > block.len() {
        true => block[..20].copy_from_slice(&Sha1::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let inner = Sha1::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(data).finalize();
    Sha1::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_2202() {
        let hex = |key: &[u8], data: &[u8]| hmac_sha1(key, data).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&[0x0b; 20], b"Hi There"), "b617318655057264e28bc0b6fb378c8ef146be00");
        assert_eq!(hex(b"Jefe", b"what do ya want for nothing?"), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(hex(&[0xaa; 80], b"Test Using Larger Than Block-Size Key - Hash Key First"), "aa4ae5e15272d00e95705637ce8a3b55ed402112");
    }
}
