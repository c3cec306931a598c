//! What settings of the whole gateway change in listeners, connection managers and clusters.
use super::{Cx, Part, file_reference};
use crate::{
    api::settings::{CONFIG_MAPS, Limits, Paths, STDERR, STDOUT, Settings},
    object::Object,
};
use std::{sync::Arc, time::Duration};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        AccessLog, Compressor, EscapedSlashes, HttpConnectionManager, HttpFilter, HttpFilterConfig, Listener, LogFormat, LogSink,
        ResponseLimits, TcpProxy, UdpProxy,
    },
    node::Chars,
};

/// Whether a ConfigMap holds settings. In a cluster, the right to write ConfigMaps in some namespace is no right to change the whole gateway.
pub fn is_used(cx: &Cx<'_>, object: &Object) -> bool {
    let key = &object.key;
    CONFIG_MAPS.contains(&&*key.name) && (object.document.file().is_some() || cx.options.system_namespaces.contains(&key.namespace))
}

/// The settings of a ConfigMap. Those of a cluster write the access log to the standard streams, or to files that the operator permits.
pub fn translate(cx: &Cx<'_>, object: &Object, settings: &Settings, part: &mut Part) {
    if !is_used(cx, object) {
        let message = format!("the settings of a ConfigMap in the namespace {} are not used", object.key.namespace);
        let help = format!("move it to the namespace {}", cx.options.system_namespaces.join(" or "));
        return part.report(object, Chars::default(), "metadata.namespace", Diagnostic::warning("NotAccepted", message).help(help));
    }
    let mut settings = Box::new(settings.clone());
    if let Some(file) = settings.access_log_file.as_deref().filter(|file| !matches!(*file, "" | STDOUT | STDERR))
        && object.document.file().is_none()
    {
        match file_reference::resolve(cx, object, file) {
            Ok(path) => settings.access_log_file = Some(path.display().to_string()),
            Err(why) => {
                let help = "write /dev/stdout or /dev/stderr; --allow-file-references permits the files of a folder";
                part.report(object, Chars::default(), "data.mesh.accessLogFile", why.diagnostic().help(help));
                settings.access_log_file = None;
            }
        }
    }
    part.settings = Some(settings);
}

impl Settings {
    /// Changes a connection manager to what these settings say.
    pub fn apply_to_manager(&self, manager: &mut HttpConnectionManager) {
        self.limits.apply(manager);
        put(&mut manager.suppress_envoy_headers, self.no_envoy_headers);
        put(&mut manager.add_x_real_ip, self.real_ip);
        if let Some(hops) = self.trusted_hops {
            manager.xff_num_trusted_hops = hops;
        }
        if let Some(details) = self.client_certificates {
            manager.forward_client_cert_details = details;
        }
        if let Some(paths) = self.paths {
            manager.normalize_path = paths != Paths::None;
            manager.merge_slashes = matches!(paths, Paths::MergeSlashes | Paths::DecodeAndMergeSlashes);
            manager.escaped_slashes = match paths {
                Paths::DecodeAndMergeSlashes => EscapedSlashes::UnescapeAndForward,
                _ => EscapedSlashes::KeepUnchanged,
            };
        }
        if let Some(libraries) = self.compression.clone() {
            manager.http_filters.retain(|f| !matches!(f.config, HttpFilterConfig::Compressor(_)));
            // First for requests is last for responses: what plugins write is compressed, and they read no compressed body.
            if !libraries.is_empty() {
                manager.http_filters.insert(0, HttpFilter::new(HttpFilterConfig::Compressor(Arc::new(Compressor { libraries }))));
            }
        }
        self.apply_to_log(&mut manager.access_log);
    }

    /// What holds for every cluster; the idle timeout for those that were told none of their own.
    pub fn apply_to_upstreams(&self, limits: &mut ResponseLimits, idle: &mut Option<Duration>) {
        put(&mut limits.max_response_headers_bytes, self.response_head_bytes);
        put(&mut limits.max_headers_count, self.response_headers);
        put(&mut limits.max_interim_responses, self.interim_responses);
        put(idle, time(self.upstream_idle));
    }

    pub fn apply_to_listener(&self, listener: &mut Listener) {
        if let Some(on) = self.proxy_protocol {
            listener.proxy_protocol = on;
        }
        if let Some(most) = self.limits.connections {
            listener.max_connections = most;
        }
    }

    pub fn apply_to_tcp_proxy(&self, proxy: &mut TcpProxy) {
        put(&mut proxy.max_connect_attempts, self.max_connect_attempts);
        self.apply_to_log(&mut proxy.access_log);
    }

    pub fn apply_to_udp_proxy(&self, proxy: &mut UdpProxy) {
        put(&mut proxy.idle_timeout, self.limits.udp_idle);
        self.apply_to_log(&mut proxy.access_log);
    }

    pub fn apply_to_log(&self, logs: &mut Vec<AccessLog>) {
        let format = self.access_log_format.clone().or_else(|| match self.access_log_json? {
            true => Some(LogFormat::default_json()),
            false => Some(LogFormat::Text(LogFormat::DEFAULT_TEXT.into())),
        });
        if let Some(file) = &self.access_log_file {
            let sink = match &**file {
                "" => return logs.clear(),
                STDOUT => LogSink::Stdout,
                STDERR => LogSink::Stderr,
                file => LogSink::File(file.into()),
            };
            let before = logs.drain(..).next().map(|log| log.format);
            let format = before.unwrap_or_else(|| LogFormat::Text(LogFormat::DEFAULT_TEXT.into()));
            logs.push(AccessLog { sink, format });
        }
        for log in logs {
            if let Some(format) = &format {
                log.format.clone_from(format);
            }
        }
    }
}

impl Limits {
    fn apply(&self, manager: &mut HttpConnectionManager) {
        let limits = &mut manager.limits;
        put(&mut limits.max_request_headers_bytes, self.head_bytes);
        put(&mut limits.max_headers_count, self.headers);
        put(&mut limits.buffer_limit_bytes, self.buffer);
        put(&mut limits.max_requests_per_connection, self.requests);
        put(&mut limits.max_concurrent_streams, self.streams);
        put(&mut limits.initial_stream_window_bytes, self.stream_window);
        put(&mut limits.initial_connection_window_bytes, self.connection_window);
        let timeouts = &mut manager.timeouts;
        put(&mut timeouts.idle_timeout, time(self.idle));
        put(&mut timeouts.request_headers_timeout, time(self.head));
        put(&mut timeouts.request_timeout, time(self.request));
        put(&mut timeouts.stream_idle_timeout, time(self.stream_idle));
        put(&mut timeouts.route_timeout, time(self.route));
        put(&mut timeouts.stream_flush_timeout, time(self.stream_flush));
        put(&mut timeouts.delayed_close_timeout, time(self.delayed_close));
    }
}

/// As in Envoy, 0 switches a timeout off.
fn time(said: Option<Duration>) -> Option<Option<Duration>> {
    said.map(|d| (!d.is_zero()).then_some(d))
}

fn put<T: Copy>(at: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *at = said;
    }
}
