//! The request's head on its way in: normalised, checked, and given the headers that say whence it came.
use super::{After, Hcm, active_stream::ActiveStream, end::End, state::Expect};
use crate::{conn::ConnInfo, detail::Detail, info::Flags, reply::Reply};
use std::net::{IpAddr, SocketAddr};
use weir_config::model::ForwardClientCertDetails;
use weir_net::http::{
    Headers, Known, Method, RequestHead, Version, body,
    names::HOP_BY_HOP,
    path::{self, Normalized},
    text,
};

impl ActiveStream<'_> {
    /// Everything that is done to a head whatever its route.
    pub(super) fn admit(&mut self) -> Result<(), End> {
        let hcm = self.hcm.clone();
        let config = hcm.config();
        let mut req = self.s.req.borrow_mut();
        if req.method == Method::Connect {
            // Whoever asked takes what follows for a tunnel.
            self.response.after = After::Close;
            return Err(End::reply(403, Flags::default(), Detail::UpgradeFailed));
        }
        // HTTP/2 in an upgraded connection would carry requests past every route and plugin.
        let h2c = body::lists(&req.headers, Known::Upgrade, b"h2c");
        if h2c && self.h2 {
            return Err(End::reply(403, Flags::default(), Detail::UpgradeFailed));
        }
        let asterisk = req.method == Method::Options && req.target() == b"*";
        if !asterisk && req.path().first() != Some(&b'/') {
            hcm.stats.downstream_rq_non_relative_path.inc();
            return Err(End::reply(404, Flags::default(), Detail::AbsolutePathRejected));
        }
        normalize_path(&hcm, &mut req)?;
        if !self.h2 {
            // HTTP/1.0 knows of no upgrade (RFC 9110 section 7.8).
            let upgrade = req.headers.has(Known::Upgrade)
                && body::lists(&req.headers, Known::Connection, b"upgrade")
                && req.version == Version::Http11
                && !h2c;
            strip(&mut req.headers, Known::TransferEncoding.bit() | if upgrade { Known::Upgrade.bit() } else { 0 });
            if upgrade {
                req.headers.add(Known::Connection, &[b"upgrade"]);
            }
        }
        let https = self.c.conn.tls.is_some();
        if config.use_remote_address {
            // What proxies of one mesh tell each other is not a client's to say.
            req.headers.remove_prefixed(b"x-envoy-");
            let remote = client_address(&req.headers, config.xff_num_trusted_hops);
            if let Some(ip) = remote {
                self.s.info.borrow_mut().remote_address = Some(SocketAddr::new(ip, 0));
            }
            if config.add_x_real_ip {
                let told = remote.map(|ip| ip.to_string());
                req.headers.set(Known::RealIp, &[told.as_ref().map_or(&self.c.ip[..], |text| text.as_bytes())]);
            }
            if req.headers.has(Known::ForwardedFor) {
                let before = req.headers.all(Known::ForwardedFor).collect::<Vec<_>>().join(&b", "[..]);
                req.headers.set(Known::ForwardedFor, &[&before, b", ", &self.c.ip]);
            } else {
                req.headers.add(Known::ForwardedFor, &[&self.c.ip]);
            }
        }
        forward_client_cert(&mut req.headers, config.forward_client_cert_details, &self.c.conn);
        let trusted = !config.use_remote_address || config.xff_num_trusted_hops > 0;
        req.https = match req.headers.get(Known::ForwardedProto) {
            Some(v) if trusted && v.eq_ignore_ascii_case(b"https") => true,
            Some(v) if trusted && v.eq_ignore_ascii_case(b"http") => false,
            _ => {
                req.headers.set(Known::ForwardedProto, &[if https { b"https" } else { b"http" }]);
                https
            }
        };
        if config.generate_request_id && !(config.preserve_external_request_id && req.headers.has(Known::RequestId)) {
            req.headers.set(Known::RequestId, &[&self.w.uuid()]);
        }
        if req.headers.has(Known::Expect) {
            let continues = req.headers.get(Known::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
            if !continues {
                return Err(End::reply(417, Flags::default(), Detail::ExpectationFailed));
            }
            if req.version != Version::Http10 && !self.request.reader.is_done() {
                self.request.expect = Expect::Continue;
            }
            req.headers.remove(Known::Expect);
        }
        Ok(())
    }
}

/// Brings the path to its normal form, or refuses or redirects the request, as the configuration says.
fn normalize_path(hcm: &Hcm, req: &mut RequestHead) -> Result<(), End> {
    let rejected = || {
        hcm.stats.downstream_rq_failed_path_normalization.inc();
        End::reply(400, Flags::default(), Detail::PathNormalizationFailed)
    };
    // `normalize` checks the path alone for `#`.
    if req.query().is_some_and(|q| memchr::memchr(b'#', q).is_some()) {
        return Err(rejected());
    }
    match path::normalize(req.path(), hcm.path) {
        Normalized::Same => {}
        Normalized::New(new) => req.set_path(&new),
        Normalized::Reject => return Err(rejected()),
        Normalized::Redirect(new) => {
            let location = [&new[..], &req.target()[req.path().len()..]].concat();
            let reply = Reply::new(307, Detail::PathNormalizationFailed).header("location", &location);
            return Err(End::Reply(reply, Flags::default()));
        }
    }
    Ok(())
}

/// What upstreams are told of the client's certificate, and what of the client's own word for it.
fn forward_client_cert(headers: &mut Headers, details: ForwardClientCertDetails, conn: &ConnInfo) {
    use ForwardClientCertDetails::*;
    let shown = conn.tls.as_ref().and_then(|t| t.peer_certificate.as_ref());
    match (details, shown) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (AppendForward, Some(shown)) if headers.has(Known::ForwardedClientCert) => {
            let before = headers.all(Known::ForwardedClientCert).collect::<Vec<_>>().join(&b","[..]);
            headers.set(Known::ForwardedClientCert, &[&before, b",", &shown.forwarded]);
        }
        (AppendForward | SanitizeSet, Some(shown)) => {
            headers.set(Known::ForwardedClientCert, &[&shown.forwarded]);
        }
        _ => headers.remove(Known::ForwardedClientCert),
    }
}

/// The client's address by `x-forwarded-for`, where proxies in front are trusted.
fn client_address(headers: &Headers, hops: u32) -> Option<IpAddr> {
    let hops = (hops as usize).checked_sub(1)?;
    let all = headers.all(Known::ForwardedFor).collect::<Vec<_>>().join(&b","[..]);
    let text = all.rsplit(|c| *c == b',').nth(hops)?;
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// Removes what belongs to one connection only. `keep` are hop-by-hop headers that go on.
pub(super) fn strip(h: &mut Headers, keep: u64) {
    const NEEDED: u64 = Known::Host.bit() | Known::ContentLength.bit() | Known::TransferEncoding.bit();
    if !h.has_any(HOP_BY_HOP & !keep) {
        return;
    }
    // What passes trailers on may promise them as well (RFC 9110 section 10.1.4).
    let trailers = h.has(Known::Te) && body::lists(h, Known::Te, b"trailers");
    // `close` and `keep-alive` name no header; anything longer is rare and may be copied.
    let plain = |v: &[u8]| v.eq_ignore_ascii_case(b"keep-alive") || v.eq_ignore_ascii_case(b"close");
    if !h.all(Known::Connection).all(plain) {
        let named: Vec<u8> = h.all(Known::Connection).collect::<Vec<_>>().join(&b',');
        for token in named.split(|c| *c == b',').map(|t| t.trim_ascii()).filter(|t| text::is_token(t)) {
            if Known::of(token).bit() & (NEEDED | keep) == 0 || Known::of(token) == Known::Other {
                h.remove_named(token);
            }
        }
    }
    h.remove_any(HOP_BY_HOP & !keep);
    if trailers {
        h.add(Known::Te, &[b"trailers"]);
    }
}
