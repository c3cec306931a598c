//! docs/plugins/compatibility.md: the ABI as Weir implements it, from the rows beside the code, and what tests it.
use super::cell;
use std::fmt::Write;
use weir_proxy::plugin::{KEYS_OF_STATE, SPECIAL_KEYS, property};
use weir_wasm::compatibility::{
    ABSENT_CALLBACKS, ABSENT_FOREIGN_FUNCTIONS, CALLBACKS, FOREIGN_FUNCTIONS, OWN_PROPERTIES, OWN_SPECIAL_KEYS, Row, host_calls,
};

/// What plugins rely on beyond single names, and the tests that show it.
const BEHAVIOR: &[(&str, &[&str])] = &[
    (
        "Markers of the four ABI versions; none; an unknown one",
        &["wasm::start::versions", "plugin_code::what_cannot_run_follows_its_fail_strategy"],
    ),
    (
        "Each allocator; it is never asked for 0 bytes",
        &[
            "wasm::start::allocators",
            "wasm::start::an_empty_value_needs_no_allocation",
            "plugin_abi::modules_in_the_shapes_that_toolchains_make",
        ],
    ),
    ("`_initialize` and `main`, or `_start`, before any other export", &["plugin_abi::modules_in_the_shapes_that_toolchains_make"]),
    ("`proxy_on_vm_start` or `proxy_on_configure` returns false", &["plugin_code::what_cannot_run_follows_its_fail_strategy"]),
    ("A missing import is named in the error", &["plugin_code::what_cannot_run_follows_its_fail_strategy"]),
    ("Header actions 0 to 4, by ABI and end of stream", &["plugin_abi::actions_of_headers_by_abi_and_end"]),
    ("Body actions 0 to 3, by frames, size and protocol", &["plugin_phases::bodies_by_action_size_and_protocol"]),
    ("A pause in trailers", &["plugin_phases::trailers_are_seen_held_changed_and_added"]),
    (
        "A local response in each phase, twice, and after the headers were sent",
        &["plugin_phases::replies_in_every_phase", "plugin_replies::a_plugin_answers_in_place_of_any_answer"],
    ),
    (
        "Resume within a callback, in the answer of a callout, on a tick",
        &["plugin_abi::a_plugin_of_abi_0_1_0", "plugin_holds::a_held_head_lets_bodies_of_every_size_flow_once_it_is_resumed"],
    ),
    (
        "A body beyond its limit, in both directions",
        &[
            "plugin_stream::bodies_beyond_a_plugins_limit_are_refused_by_its_name",
            "plugin_holds::a_plugin_that_waits_for_a_whole_body_gets_it_or_a_clear_answer",
        ],
    ),
    ("Edits of a body: prepend, replace, append, in the middle", &["plugin_phases::edits_of_bodies_in_every_place"]),
    ("Limits of header maps, and malformed ones", &["plugin_phases::maps_beyond_their_limits_are_refused_and_change_nothing"]),
    ("Header values that are not UTF-8", &["plugin_phases::headers_of_any_bytes_and_repeated_ones"]),
    ("Repeated headers", &["plugin_phases::headers_of_any_bytes_and_repeated_ones"]),
    ("The encoding of properties by type", &["plugin_stream::properties_are_those_of_envoy"]),
    (
        "Unknown properties; filter state between plugins",
        &["plugin_shared::one_plugin_reads_what_another_has_set", "plugin_host_calls::properties_that_are_absent"],
    ),
    (
        "HTTP callouts: answers, unknown upstreams, bad requests, timeouts, resets, answers after the stream, two at once",
        &["plugin_callout::http_calls_by_every_name_and_with_every_end"],
    ),
    ("gRPC: unary with and without an error, streams", &["plugin_callout::grpc_calls_and_streams"]),
    ("Ticks that change and stop", &["plugin_shared::ticks_change_their_pace_and_stop"]),
    ("Compare-and-set across workers", &["plugin_shared::shared_data_counts_right_across_workers_and_outlives_versions"]),
    ("Queues between plugins", &["plugin_shared::queues_between_two_plugins"]),
    ("Rules of metrics", &["plugin_shared::rules_of_metrics_and_of_contexts"]),
    ("Misuse of the effective context", &["plugin_shared::rules_of_metrics_and_of_contexts"]),
    (
        "The order of `proxy_on_log`, `proxy_on_done` and `proxy_on_delete`; a client that leaves early",
        &["plugin_stream::the_end_of_a_stream_is_told_in_order_also_when_the_client_leaves_early"],
    ),
    (
        "A trap in each callback under each `failStrategy`; other streams",
        &[
            "plugin_shared::a_trap_in_any_callback_follows_the_fail_strategy_and_harms_no_other_plugin",
            "plugin_shared::streams_in_flight_share_the_fate_of_their_instance",
        ],
    ),
    ("An endless loop ends at its deadline", &["plugins::the_plain_go_sdk_and_what_becomes_of_panics_and_endless_loops"]),
    ("Memory beyond the limit is a trap", &["plugin_stream::memory_ends_at_the_plugins_cap_and_with_it_one_instance"]),
    (
        "`poll_oneoff` within the allocator",
        &["plugin_abi::modules_in_the_shapes_that_toolchains_make", "wasm::limits::the_allocator_may_poll_log_and_grow"],
    ),
    (
        "Redis: credentials, databases, large values, scripts, pauses, broken connections, calls from every callback, errors, TLS, clusters",
        &[
            "plugin_redis::every_way_to_name_and_ask_a_server",
            "plugin_redis::servers_that_pause_and_connections_that_break",
            "plugin_redis::redis_over_tls_with_a_user_a_password_and_a_database",
            "plugin_redis::a_redis_cluster_over_tls",
        ],
    ),
    (
        "Injected bytes keep their order and wait for a slow client",
        &["plugin_phases::injected_bytes_keep_their_order_and_wait_for_a_slow_reader"],
    ),
    (
        "`matchRules` by route, domain, service and prefix",
        &["plugin_rules::rules_of_higress_are_matched_by_its_sdk", "plugin_rules::a_plugin_sees_the_route_that_another_one_has_led_to"],
    ),
    (
        "Remote code and images: layouts, digests, servers that are late, hang or are not trusted",
        &[
            "plugin_images::every_layout_gives_the_module",
            "plugin_images::an_image_that_cannot_be_used_says_why",
            "plugin_code::code_is_fetched_over_http_and_checked_by_its_digest",
            "plugin_code::a_server_that_hangs_delays_nothing_but_its_plugin",
        ],
    ),
    (
        "New versions under load",
        &["plugins::a_hundred_new_versions_under_load_disturb_nobody", "plugins::a_new_configuration_takes_over_without_a_lost_request"],
    ),
    (
        "A bad version: the old one stays, or comes back",
        &["swap::a_bad_version_never_replaces_a_good_one", "plugin_rollout::a_changed_plugin_that_does_worse_gives_way_to_the_one_before"],
    ),
    ("A change of the configuration reuses the compiled module", &["plugins::a_new_configuration_takes_over_without_a_lost_request"]),
    ("A hundred plugins start together", &["plugin_shared::a_hundred_plugins_start_together_and_stay_small"]),
];

const HEAD: &str = "\
# Compatibility of plugins

Made by `weir __docs plugins/compatibility` from the rows beside the code that implements them, in `crates/weir-wasm` and
`crates/weir-proxy/src/plugin`. The tests are in `crates/weir/tests/suite`, those of `wasm::` in `crates/weir-wasm/tests/conformance`.

Weir runs modules of ABI 0.1.0, 0.2.0, 0.2.1 and 0.2.100 (Higress). Every version may import every function. The version decides three
things: 0.1.0 returns `Ok` and an empty value for a missing header; 0.2.100 treats action 1 of a header callback as StopIteration, where
the others treat it as StopAllIterationAndWatermark; and 0.1.0 has header callbacks without `end_of_stream`.
";

/// A section of the page.
struct Section {
    title: &'static str,
    intro: &'static str,
    rows: Vec<(String, Row)>,
}

fn section<'a>(title: &'static str, intro: &'static str, rows: impl IntoIterator<Item = &'a Row>) -> Section {
    Section { title, intro, rows: rows.into_iter().map(|row| (row.name.to_string(), *row)).collect() }
}

fn sections() -> Vec<Section> {
    let (calls, wasi): (Vec<_>, Vec<_>) = host_calls().into_iter().partition(|(module, _)| *module == "env");
    let rows = |of: Vec<(&str, Row)>, module: &str| of.into_iter().filter(|(m, _)| *m == module).map(|(_, row)| row).collect::<Vec<_>>();
    let (calls, wasi) = (rows(calls, "env"), rows(wasi, "wasi_snapshot_preview1"));
    let properties = property::GROUPS.iter().flat_map(|(prefix, rows)| rows.iter().map(move |row| (format!("{prefix}{}", row.name), *row)));
    let own = OWN_PROPERTIES.iter().map(|row| (row.name.to_string(), *row));
    vec![
        section("Host calls", "Imports from module `env`.", &calls),
        section("WASI", "Imports from `wasi_snapshot_preview1` and `wasi_unstable`.", &wasi),
        section("Callbacks", "Exports that Weir calls. All are optional.", CALLBACKS),
        section("Callbacks that are not called", "", ABSENT_CALLBACKS),
        Section {
            title: "Properties",
            intro: "Texts are raw bytes; numbers, times and durations are 8 bytes, little-endian; booleans 1 byte; maps are pairs. Any other path is what \
                    a plugin has set (`wasm.<path>` of the filter state).",
            rows: properties.chain(own).collect(),
        },
        section("Properties that are absent", "`proxy_get_property` returns `NotFound`.", property::ABSENT),
        section(
            "Special keys",
            "Names for `proxy_set_property` that do more than store a value, and names of Higress that others read.",
            SPECIAL_KEYS.iter().chain(OWN_SPECIAL_KEYS).chain(KEYS_OF_STATE),
        ),
        section("Foreign functions", "Names for `proxy_call_foreign_function`.", FOREIGN_FUNCTIONS),
        section(
            "Foreign functions that are absent",
            "`NotFound`, as for any other name; counted by `weir_wasm_unknown_foreign_functions`, and logged with the name.",
            ABSENT_FOREIGN_FUNCTIONS,
        ),
    ]
}

pub fn page() -> String {
    let mut out = HEAD.to_string();
    for Section { title, intro, rows } in sections() {
        let _ = write!(
            out,
            "\n## {title}\n\n{intro}{}| name | ABI | what Weir does | test |\n| --- | --- | --- | --- |\n",
            if intro.is_empty() { "" } else { "\n\n" }
        );
        for (name, row) in rows {
            let _ = writeln!(out, "| `{name}` | {} | {} | {} |", row.abi, cell(row.does), code(row.test));
        }
    }
    out += "\n## Behavior\n\nAgainst the running gateway, over sockets.\n\n| | tests |\n| --- | --- |\n";
    for (what, tests) in BEHAVIOR {
        let tests: Vec<String> = tests.iter().map(|test| code(test)).collect();
        let _ = writeln!(out, "| {what} | {} |", tests.join("<br>"));
    }
    out
}

fn code(test: &str) -> String {
    if test.is_empty() { String::new() } else { format!("`{test}`") }
}

/// All tests that the page names.
pub fn tests() -> Vec<&'static str> {
    let rows = sections().into_iter().flat_map(|section| section.rows.into_iter().map(|(_, row)| row.test));
    rows.chain(BEHAVIOR.iter().flat_map(|(_, tests)| tests.iter().copied())).filter(|test| !test.is_empty()).collect()
}
