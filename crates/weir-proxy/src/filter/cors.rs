//! Cross-origin resource sharing (Fetch standard, section 3.2; Envoy's `CorsPolicy`).
use super::{FilterContext, Flow};
use crate::{
    detail::Detail,
    head_access::{FieldsMut, RequestView},
    info::Flags,
    reply::Reply,
    route::matcher::{Invalid, Patterns, Text},
};
use std::sync::Arc;
use weir_config::model::{self, StringMatch};
use weir_net::http::Headers;

pub struct Cors {
    config: Arc<CorsRt>,
    request: Request,
}

impl Cors {
    pub fn new(config: Arc<CorsRt>) -> Cors {
        Cors { config, request: Request::Plain }
    }

    /// Answers preflight requests.
    pub fn decode_headers(&mut self, cx: &FilterContext) -> Flow {
        let req = cx.stream.req.borrow();
        self.request = self.config.on_request(&*req);
        let mut headers = Headers::default();
        match self.request {
            Request::Plain | Request::Allowed => return Flow::Continue,
            Request::Preflight => self.config.preflight_response(&*req, &mut headers),
            Request::Refused => {}
        }
        let mut reply = Reply::new(200, Detail::CorsPreflight);
        reply.headers = headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        Flow::Reply(Box::new(reply), Flags::default())
    }

    pub fn encode_headers(&self, cx: &FilterContext) -> Flow {
        if self.request == Request::Allowed {
            self.config.on_response(&*cx.stream.req.borrow(), &mut cx.stream.resp.borrow_mut().headers);
        }
        Flow::Continue
    }
}

/// A compiled [`model::Cors`].
#[derive(Debug)]
pub struct CorsRt {
    origins: Box<[Text]>,
    any_origin: bool,
    methods: Box<str>,
    headers: Box<str>,
    expose: Box<str>,
    max_age: Option<Box<str>>,
    credentials: bool,
    forward_not_matching_preflights: bool,
}

/// What a request is in the eyes of CORS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing to do with it: no `origin`, or one that is not allowed.
    Plain,
    /// From an allowed origin: its response gets headers by [`CorsRt::on_response`].
    Allowed,
    /// To be answered at once: 200 without a body, with the headers of [`CorsRt::preflight_response`].
    Preflight,
    /// A preflight from elsewhere, to be answered at once without any such header.
    Refused,
}

impl CorsRt {
    /// The error is about a regular expression.
    pub fn compile(of: &model::Cors, patterns: &mut Patterns) -> Result<CorsRt, Invalid> {
        let origins = of.allow_origins.iter().map(|o| Text::compile(o, false, patterns)).collect::<Result<_, _>>()?;
        Ok(CorsRt {
            origins,
            any_origin: of.allow_origins.contains(&StringMatch::Exact("*".into())),
            methods: of.allow_methods.join(",").into(),
            headers: of.allow_headers.join(",").into(),
            expose: of.expose_headers.join(",").into(),
            max_age: of.max_age.map(|d| d.as_secs().to_string().into()),
            credentials: of.allow_credentials,
            forward_not_matching_preflights: of.forward_not_matching_preflights,
        })
    }

    fn allows(&self, origin: &[u8]) -> bool {
        self.any_origin || self.origins.iter().any(|o| o.matches(origin, false))
    }

    /// Looks at a request. A preflight is an OPTIONS with `origin` and `access-control-request-method`.
    pub fn on_request(&self, request: &dyn RequestView) -> Request {
        let Some(origin) = request.first("origin").filter(|o| !o.is_empty()) else { return Request::Plain };
        let preflight = request.method() == b"OPTIONS" && request.first("access-control-request-method").is_some_and(|m| !m.is_empty());
        match (self.allows(origin), preflight) {
            (true, true) => Request::Preflight,
            (true, false) => Request::Allowed,
            (false, true) if !self.forward_not_matching_preflights => Request::Refused,
            (false, _) => Request::Plain,
        }
    }

    /// The headers of the answer to an allowed preflight. `*` among methods or headers stands for what was asked for
    /// where credentials are allowed, since browsers then take it literally.
    pub fn preflight_response(&self, request: &dyn RequestView, out: &mut dyn FieldsMut) {
        self.origin(request, out);
        let mut list = |name: &str, value: &str, asked: &str| {
            let echo = self.credentials && value.split(',').any(|v| v.trim() == "*");
            match request.first(asked).filter(|_| echo) {
                Some(asked) => out.set(name, asked),
                None if !value.is_empty() => out.set(name, value.as_bytes()),
                None => {}
            }
        };
        list("access-control-allow-methods", &self.methods, "access-control-request-method");
        list("access-control-allow-headers", &self.headers, "access-control-request-headers");
        self.expose(out);
        if let Some(age) = &self.max_age {
            out.set("access-control-max-age", age.as_bytes());
        }
    }

    fn expose(&self, out: &mut dyn FieldsMut) {
        if !self.expose.is_empty() {
            out.set("access-control-expose-headers", self.expose.as_bytes());
        }
    }

    /// The headers of the response to an [`Request::Allowed`] request. What the upstream said itself gives way.
    pub fn on_response(&self, request: &dyn RequestView, out: &mut dyn FieldsMut) {
        self.origin(request, out);
        self.expose(out);
    }

    fn origin(&self, request: &dyn RequestView, out: &mut dyn FieldsMut) {
        if let Some(origin) = request.first("origin") {
            out.set("access-control-allow-origin", origin);
            // The answer differs from origin to origin: caches must know.
            let mut varies = false;
            out.each("vary", &mut |v| {
                varies |= v == b"*" || v.split(|c| *c == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"origin"))
            });
            if !varies {
                out.add("vary", b"origin");
            }
        }
        if self.credentials {
            out.set("access-control-allow-credentials", b"true");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::head_access::fake;
    use std::time::Duration;

    fn cors(change: impl FnOnce(&mut model::Cors)) -> CorsRt {
        let mut of = model::Cors {
            allow_origins: vec![StringMatch::Exact("https://shop.test".into()), StringMatch::Regex("https://.*\\.shop\\.test".into())],
            allow_methods: vec!["GET".into(), "PUT".into()],
            allow_headers: vec!["x-a".into(), "x-b".into()],
            expose_headers: vec!["x-c".into()],
            max_age: Some(Duration::from_secs(60)),
            ..model::Cors::default()
        };
        change(&mut of);
        CorsRt::compile(&of, &mut Patterns::default()).unwrap()
    }

    fn preflight(origin: &str) -> fake::Request {
        let mut r = fake::Request::get("api.test", "/").with("origin", origin).with("access-control-request-method", "PUT");
        r.method = "OPTIONS";
        r
    }

    #[test]
    fn requests_are_told_apart() {
        let strict = cors(|_| {});
        let forward = cors(|c| c.forward_not_matching_preflights = true);
        let get = |origin| fake::Request::get("api.test", "/").with("origin", origin);
        assert_eq!(strict.on_request(&fake::Request::get("api.test", "/")), Request::Plain);
        assert_eq!(strict.on_request(&get("https://shop.test")), Request::Allowed);
        assert_eq!(strict.on_request(&get("https://evil.test")), Request::Plain);
        assert_eq!(strict.on_request(&preflight("https://a.shop.test")), Request::Preflight);
        assert_eq!(strict.on_request(&preflight("https://a.shop.test.evil")), Request::Refused);
        assert_eq!(forward.on_request(&preflight("https://evil.test")), Request::Plain);
        let mut plain_options = get("https://shop.test");
        plain_options.method = "OPTIONS";
        assert_eq!(strict.on_request(&plain_options), Request::Allowed);
        assert_eq!(cors(|c| c.allow_origins = vec![StringMatch::Exact("*".into())]).on_request(&get("null")), Request::Allowed);
    }

    #[test]
    fn answers_carry_what_the_policy_says() {
        let mut out = fake::List::default();
        cors(|_| {}).preflight_response(&preflight("https://shop.test"), &mut out);
        let expected = [
            ("access-control-allow-origin", "https://shop.test"),
            ("vary", "origin"),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-headers", "x-a,x-b"),
            ("access-control-expose-headers", "x-c"),
            ("access-control-max-age", "60"),
        ];
        assert_eq!(out, fake::List::of(&expected));

        let mut out = fake::List::default();
        let wild = cors(|c| {
            c.allow_credentials = true;
            c.allow_headers = vec!["*".into()];
        });
        wild.preflight_response(&preflight("https://shop.test").with("access-control-request-headers", "x-z"), &mut out);
        assert_eq!(out.text("access-control-allow-headers"), ["x-z"]);
        assert_eq!(out.text("access-control-allow-credentials"), ["true"]);

        let mut out = fake::List::of(&[("vary", "Accept, Origin"), ("access-control-allow-origin", "*")]);
        cors(|_| {}).on_response(&preflight("https://shop.test"), &mut out);
        assert_eq!(out.text("access-control-allow-origin"), ["https://shop.test"]);
        assert_eq!(out.text("access-control-expose-headers"), ["x-c"]);
        assert_eq!(out.text("vary"), ["Accept, Origin"]);
    }
}
